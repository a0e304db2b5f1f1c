"""Camera models: between pixels and directions."""
