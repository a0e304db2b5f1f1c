"""The built-in simulated drive and its anomalies."""
