"""HTTP as the API speaks it: formats, errors, pages, conditions, bodies, TLS. No resource of its own."""
