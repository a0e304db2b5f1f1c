"""Encoders: image batch to patch embeddings."""
