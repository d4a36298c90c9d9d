"""How Alembic brings the tables up to date: ``env.py`` is its entry, ``versions`` the changes."""
