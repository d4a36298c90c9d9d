"""Who calls the API, what they may do, how often, and what is written down of it."""
