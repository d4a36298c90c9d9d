"""Changes of the tables in order, one module each, run by :meth:`sfumato.agents.database.Database.migrate`."""
