"""Result bags: what the detector says about each frame, on its own topics, and everything that RViz shows beside it."""

from __future__ import annotations

import logging
import math
from contextlib import suppress
from pathlib import Path
from types import TracebackType

from semanom_ros.core.frames import Frame
from semanom_ros.core.results import FrameResult
from semanom_ros.errors import BagError, CameraError, TransformError
from semanom_ros.geometry.camera_model import CameraModel
from semanom_ros.geometry.ground_plane import GroundPlane
from semanom_ros.geometry.transform_tree import TransformTree
from semanom_ros.parameter_files import DETECTOR
from semanom_ros.recordings.bags import CAMERA_INFO, BagReader, BagWriter, camera_info_topic
from semanom_ros.recordings.stamps import Stamps
from semanom_ros.ros import foxglove
from semanom_ros.ros.messages import write_message
from semanom_ros.ros.outputs import OUTPUTS, Judged, Output
from semanom_ros.ros.rviz import FILE, rviz_config, template
from semanom_ros.settings import DetectorSettings

logger = logging.getLogger(__name__)

CAMERA = 'camera'
NODE = f'/{DETECTOR}'
PREFIX = f'{NODE}/{CAMERA}/'
RECORDED: tuple[Output, ...] = tuple(output for output in OUTPUTS if output.recorded)
"""The outputs that a result bag holds, as live ones are."""
_COMPRESSED = '/compressed'
_TF, _TF_STATIC, _TF_TYPE = '/tf', '/tf_static', 'tf2_msgs/msg/TFMessage'


class ResultBag:
    """Writes results of one recording; MCAP that Foxglove and RViz play.

    Topics below `/semanom_detector/camera/`: RECORDED, made as the live ones. The camera's pictures, as JPEG on
    `IMAGE_TOPIC/compressed`, its CameraInfo and the transforms of the recording stand beside them, at the frames' own
    stamps, so that the bag can be sent alone. Pictures are in it as JPEG only: raw they would make it twenty times as
    large. `semanom.rviz` and `foxglove_layout.json` in its folder are the package's layouts on these topics. Use it as
    a context manager; nothing is left after an exception.
    """

    def __init__(self, path: Path, frame_id: str, camera: CameraModel | None = None,
                 settings: DetectorSettings | None = None, recording: Path | None = None,
                 image_topic: str = '/camera/image_raw') -> None:
        """
        Args:
            path: folder to be made.
            frame_id: of the source images.
            camera: for the bearings of anomalies; None: they are left out, as for images that it does not fit.
            settings: of markers and overlays; None: the defaults.
            recording: that the frames come from, for CameraInfo and transforms; None: they are left out.
            image_topic: of its images.

        Raises:
            BagError: it cannot be written.
            SemanomError: the package lacks its layout.
        """
        self._layout = template()  # rather now than after hours
        self._writer = BagWriter(path)
        self._frame_id = frame_id
        self._camera = camera
        self._settings = settings or DetectorSettings()
        self._recording = recording
        self._image_topic = image_topic.removesuffix(_COMPRESSED)
        self._topics = {self._image_topic + _COMPRESSED}
        self._transforms = TransformTree(math.inf)
        self._unplaced = False

    def __enter__(self) -> ResultBag:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 trace: TracebackType | None) -> None:
        self._writer.__exit__(kind, error, trace)
        if kind is None:
            transforms = self._topics & {_TF, _TF_STATIC}
            layout = rviz_config(self._layout, NODE, [CAMERA], [self._image_topic], recorded=self._topics,
                                 fixed_frame='' if transforms else self._frame_id)
            (self._writer.path / FILE).write_text(layout)
            (self._writer.path / foxglove.FILE).write_text(foxglove.foxglove_layout(
                NODE, [CAMERA], [self._image_topic], recorded=self._topics))

    def add(self, frame: Frame, result: FrameResult) -> None:
        """Adds the next frame and what is said about it, at its stamp."""
        if self._recording is not None:
            self._copy_surroundings(self._recording, frame.stamp_ns)
            self._recording = None
        self._writer.write_image(self._image_topic + _COMPRESSED, frame.image, 'rgb8', frame.stamp_ns, self._frame_id,
                                 compress=True)
        judged = Judged(frame, result, self._frame_id, self._camera_of(result.image_size), self._settings,
                        self._ground(frame.stamp_ns))
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
                    if topic in (_TF, _TF_STATIC):
                        self._transforms.add_message(message, topic == _TF_STATIC)
                    self._writer.write(topic, message, max(0, time_ns))
                    self._topics.add(topic)

    def _ground(self, stamp_ns: int) -> GroundPlane | None:
        frame = self._settings.ground_frame
        if not frame:
            return None
        try:
            return GroundPlane(frame, self._transforms.lookup(frame, self._frame_id, stamp_ns))
        except TransformError as error:
            if not self._unplaced:
                logger.warning('distances are left out: %s', error)
            self._unplaced = True
            return None

    def _camera_of(self, image_size: tuple[int, int]) -> CameraModel | None:
        if self._camera is None:
            return None
        try:
            self._camera.scale(image_size)
        except CameraError:  # a CameraInfo of other images
            return None
        return self._camera
