"""Result bags: what the detector says about each frame, on the detector's own topics."""

from __future__ import annotations

from pathlib import Path
from types import TracebackType

from semanom_ros.core.frames import Frame
from semanom_ros.core.results import FrameResult
from semanom_ros.errors import CameraError
from semanom_ros.geometry.camera_model import CameraModel
from semanom_ros.recordings.bags import BagWriter
from semanom_ros.ros.messages import write_message
from semanom_ros.ros.outputs import OUTPUTS, Judged, Output
from semanom_ros.settings import DetectorSettings

CAMERA = 'camera'
PREFIX = f'/semanom_detector/{CAMERA}/'
RECORDED: tuple[Output, ...] = tuple(output for output in OUTPUTS if output.recorded)
"""The outputs that a result bag holds, as live ones are."""


class ResultBag:
    """Writes results of one recording; MCAP that Foxglove and RViz play beside the recording.

    Topics below `/semanom_detector/camera/`: RECORDED, made as the live ones. Use it as a context manager; nothing is
    left after an exception.
    """

    def __init__(self, path: Path, frame_id: str, camera: CameraModel | None = None,
                 settings: DetectorSettings | None = None) -> None:
        """
        Args:
            path: folder to be made.
            frame_id: of the source images.
            camera: for the bearings of anomalies; None: they are left out, as for images that it does not fit.
            settings: of markers and overlays; None: the defaults.

        Raises:
            BagError: it cannot be written.
        """
        self._writer = BagWriter(path)
        self._frame_id = frame_id
        self._camera = camera
        self._settings = settings or DetectorSettings()

    def __enter__(self) -> ResultBag:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 trace: TracebackType | None) -> None:
        self._writer.__exit__(kind, error, trace)

    def add(self, frame: Frame, result: FrameResult) -> None:
        """Adds what is said about the next frame, at its stamp."""
        judged = Judged(frame, result, self._frame_id, self._camera_of(result.image_size), self._settings)
        for output in RECORDED:
            if output.needs.met(judged):
                write_message(self._writer, PREFIX + output.name, output.make(judged), frame.stamp_ns)

    def _camera_of(self, image_size: tuple[int, int]) -> CameraModel | None:
        if self._camera is None:
            return None
        try:
            self._camera.scale(image_size)
        except CameraError:  # a CameraInfo of other images
            return None
        return self._camera
