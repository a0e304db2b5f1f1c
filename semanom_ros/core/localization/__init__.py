"""Where: regions of an anomaly map, what of them is worth reporting, and their tracks."""
