"""Prints parcel labels for the workflow, and imports nothing of jetloom: a worker needs a NATS client, and no more."""
