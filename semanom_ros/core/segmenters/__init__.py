"""Segmenters: image and patch embeddings to instance masks."""
