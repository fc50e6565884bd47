"""Kafka as every service uses it: batches in, batches out, nothing acknowledged too early."""
