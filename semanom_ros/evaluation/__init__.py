"""Bag replay, metrics, baselines and the report."""
