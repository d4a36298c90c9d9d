"""The dossier: a record of processing activities and an annex to a DPIA, from the running system."""
