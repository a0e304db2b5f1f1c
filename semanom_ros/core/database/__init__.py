"""The nominal database: build, append, merge, verify, search."""
