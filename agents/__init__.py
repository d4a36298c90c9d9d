"""Processes: everything that talks to the outside. Verbs; run them with ``sfumato <verb>``."""
