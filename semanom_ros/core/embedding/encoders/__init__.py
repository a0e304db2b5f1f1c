"""Encoders: image batch to patch embeddings. A module is a family of them; `registry` finds and loads it."""
