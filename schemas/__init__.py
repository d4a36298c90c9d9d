"""The contracts: what travels on each Kafka topic. No I/O here."""
