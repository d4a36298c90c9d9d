"""The REST API, one module per resource: each has a ``router``, listed in ``routes.py``."""
