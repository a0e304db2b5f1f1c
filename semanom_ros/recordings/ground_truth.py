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
    camera = truth_topic.removeprefix(PREFIX).removesuffix(ANOMALY_MASK.removeprefix(PREFIX)).strip('/')
    return of_camera(topic, camera) if truth_topic == of_camera(ANOMALY_MASK, camera) else topic
