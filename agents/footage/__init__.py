"""Raw footage in Kafka: sealed under keys per camera and hour, read in one place, unreadable once a key is gone."""
