"""Segmenters: image and patch embeddings in, instance masks out. `registry` finds their families and loads them."""
