"""Topics of ground truth in recordings."""

PREFIX = '/ground_truth/'
"""Of all of them: none is a camera."""

ANOMALY_MASK = PREFIX + 'anomaly_mask'
"""mono8 Image with the image's stamp: 0 nominal, 128 ignore, 255 anomalous."""

INSTANCES = PREFIX + 'instances'
"""Image with the number of the instance of each pixel; 0: none."""

SCENARIO = PREFIX + 'scenario'
"""JSON in a String: what a simulated drive has staged."""


def of_camera(topic: str, camera: str) -> str:
    """The topic of one of several cameras: `/ground_truth/left/anomaly_mask`."""
    return f'{PREFIX}{camera}/{topic.removeprefix(PREFIX)}'


def beside(topic: str, truth_topic: str) -> str:
    """The topic that tells of the same camera as a topic of masks; `topic` itself where that cannot be told."""
    folder, _, name = truth_topic.rpartition('/')
    return f'{folder}/{topic.removeprefix(PREFIX)}' if f'/{name}' == ANOMALY_MASK.removeprefix(
        PREFIX.rstrip('/')) and truth_topic.startswith(PREFIX) else topic
