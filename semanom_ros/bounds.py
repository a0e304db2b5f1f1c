"""How much of what files and messages announce is believed."""

MAX_PIXELS = 1 << 26
"""Pixels of the largest picture that is decoded, 8192 x 8192: a file of a hundred bytes can announce a thousand times
that."""
