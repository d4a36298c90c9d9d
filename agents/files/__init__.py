"""Raw footage and results at rest, and how files come from elsewhere."""
