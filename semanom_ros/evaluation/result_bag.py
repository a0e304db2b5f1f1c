"""Result bags: what the detector says about each frame, on its own topics, and everything that RViz shows beside it."""

from __future__ import annotations

from collections.abc import Collection
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any

import yaml

from semanom_ros.core.frames import Frame
from semanom_ros.core.results import FrameResult
from semanom_ros.errors import BagError, CameraError
from semanom_ros.geometry.camera_model import CameraModel
from semanom_ros.recordings.bags import CAMERA_INFO, BagReader, BagWriter, camera_info_topic
from semanom_ros.recordings.stamps import Stamps
from semanom_ros.ros.messages import write_message
from semanom_ros.ros.outputs import OUTPUTS, Judged, Output
from semanom_ros.settings import DetectorSettings

CAMERA = 'camera'
PREFIX = f'/semanom_detector/{CAMERA}/'
LAYOUT = 'semanom.rviz'
RECORDED: tuple[Output, ...] = tuple(output for output in OUTPUTS if output.recorded)
"""The outputs that a result bag holds, as live ones are."""
_LAYOUT_CAMERA = '/camera/image_raw'
"""The camera's topic in the package's own layout."""
_COMPRESSED = '/compressed'
_TF, _TF_STATIC, _TF_TYPE = '/tf', '/tf_static', 'tf2_msgs/msg/TFMessage'


class ResultBag:
    """Writes results of one recording; MCAP that Foxglove and RViz play.

    Topics below `/semanom_detector/camera/`: RECORDED, made as the live ones. The camera's pictures, as JPEG on
    `IMAGE_TOPIC/compressed`, its CameraInfo and the transforms of the recording stand beside them, at the frames' own
    stamps, so that the bag can be sent alone. Pictures are in it as JPEG only: raw they would make it twenty times as
    large. `semanom.rviz` in its folder is the package's layout on these topics. Use it as a context manager; nothing is
    left after an exception.
    """

    def __init__(self, path: Path, frame_id: str, camera: CameraModel | None = None,
                 settings: DetectorSettings | None = None, recording: Path | None = None,
                 image_topic: str = _LAYOUT_CAMERA) -> None:
        """
        Args:
            path: folder to be made.
            frame_id: of the source images.
            camera: for the bearings of anomalies; None: they are left out, as for images that it does not fit.
            settings: of markers and overlays; None: the defaults.
            recording: that the frames come from, for CameraInfo and transforms; None: they are left out.
            image_topic: of its images.

        Raises:
            BagError: it cannot be written, or the package lacks its layout.
        """
        _layout_file()  # rather now than after hours
        self._writer = BagWriter(path)
        self._frame_id = frame_id
        self._camera = camera
        self._settings = settings or DetectorSettings()
        self._recording = recording
        self._image_topic = image_topic.removesuffix(_COMPRESSED)
        self._topics = {self._image_topic + _COMPRESSED}

    def __enter__(self) -> ResultBag:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 trace: TracebackType | None) -> None:
        self._writer.__exit__(kind, error, trace)
        if kind is None:
            write_layout(self._writer.path, self._topics, self._image_topic, self._frame_id)

    def add(self, frame: Frame, result: FrameResult) -> None:
        """Adds the next frame and what is said about it, at its stamp."""
        if self._recording is not None:
            self._copy_surroundings(self._recording, frame.stamp_ns)
            self._recording = None
        self._writer.write_image(self._image_topic + _COMPRESSED, frame.image, 'rgb8', frame.stamp_ns, self._frame_id,
                                 compress=True)
        judged = Judged(frame, result, self._frame_id, self._camera_of(result.image_size), self._settings)
        for output in RECORDED:
            if output.needs.met(judged):
                write_message(self._writer, PREFIX + output.name, output.make(judged), frame.stamp_ns)
                self._topics.add(PREFIX + output.name)

    def _copy_surroundings(self, recording: Path, first_ns: int) -> None:
        """CameraInfo and transforms, at their own stamps: those of the frames, whatever the bag time was."""
        with BagReader(recording) as reader:
            wanted = {_TF: _TF_TYPE, _TF_STATIC: _TF_TYPE, camera_info_topic(self._image_topic): CAMERA_INFO}
            topics = [topic for topic, type in wanted.items() if reader.topics.get(topic) == type]
            stamps = Stamps()
            with suppress(BagError):  # of a recording that breaks off; whoever reads its pictures says so
                for topic, time_ns, message in reader.messages(topics) if topics else ():
                    if topic == _TF_STATIC:
                        time_ns = first_ns
                    elif topic != _TF:
                        time_ns = stamps.of_message(topic, message, time_ns)
                    elif message.transforms:
                        time_ns = stamps.of_message(topic, message.transforms[0], time_ns)
                    self._writer.write(topic, message, max(0, time_ns))
                    self._topics.add(topic)

    def _camera_of(self, image_size: tuple[int, int]) -> CameraModel | None:
        if self._camera is None:
            return None
        try:
            self._camera.scale(image_size)
        except CameraError:  # a CameraInfo of other images
            return None
        return self._camera


def write_layout(folder: Path, topics: Collection[str], image_topic: str, frame_id: str) -> None:
    """Writes the package's layout of RViz into the folder of a recording with results.

    Args:
        folder: of the recording.
        topics: that are in it; a picture that is there as JPEG only is shown from that.
        image_topic: of the camera.
        frame_id: of its images, the fixed frame where there are no transforms.
    """
    layout = yaml.safe_load(_layout_file().read_text())
    for display in _mappings(layout):
        topic = display.get('Topic')
        if isinstance(topic, dict) and 'Value' in topic:
            name = image_topic.removesuffix(_COMPRESSED) if topic['Value'] == _LAYOUT_CAMERA else topic['Value']
            # RViz takes what ends so through image_transport
            topic['Value'] = name + _COMPRESSED if name not in topics and name + _COMPRESSED in topics else name
    if _TF not in topics and _TF_STATIC not in topics:
        layout['Visualization Manager']['Global Options']['Fixed Frame'] = frame_id
    (folder / LAYOUT).write_text(yaml.safe_dump(layout, sort_keys=False))


def _layout_file() -> Path:
    for parent in Path(__file__).resolve().parents:
        for place in (parent / 'config' / LAYOUT, parent / 'share' / 'semanom_ros' / 'config' / LAYOUT):
            if place.is_file():
                return place
    raise BagError(f'{Path(__file__).parent}: found no config/{LAYOUT} in a share folder above it; install the package '
                   'again')


def _mappings(node: Any) -> list[dict[str, Any]]:
    """All mappings in a YAML document."""
    if isinstance(node, list):
        return [found for item in node for found in _mappings(item)]
    if isinstance(node, dict):
        return [node, *(found for item in node.values() for found in _mappings(item))]
    return []
