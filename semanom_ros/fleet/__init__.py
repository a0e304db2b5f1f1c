"""Recordings embedded and evaluated by many workers: processes of this machine, or actors of a Ray cluster."""
