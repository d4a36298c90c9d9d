"""Delivery under faults: real processes under load, one fault at a time, every frame counted. ``make drills``."""
