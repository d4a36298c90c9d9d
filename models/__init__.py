"""Pixels: decode, detect, mask, encode. No Kafka, no network."""
