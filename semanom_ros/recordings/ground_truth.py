"""Topics of ground truth in recordings."""

PREFIX = '/ground_truth/'
"""Of all of them: none is a camera."""

ANOMALY_MASK = PREFIX + 'anomaly_mask'
"""mono8 Image with the image's stamp: 0 nominal, 128 ignore, 255 anomalous."""

INSTANCES = PREFIX + 'instances'
"""Image with the number of the instance of each pixel; 0: none."""

SCENARIO = PREFIX + 'scenario'
"""JSON in a String: what a simulated drive has staged."""
