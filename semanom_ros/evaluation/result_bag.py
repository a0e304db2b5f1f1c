"""Result bags: what the detector says about each frame, on the detector's own topics."""

from __future__ import annotations

from pathlib import Path
from types import TracebackType

import numpy as np

from semanom_ros.core.frames import Frame, FrameResult
from semanom_ros.errors import CameraError
from semanom_ros.geometry.camera_model import CameraModel
from semanom_ros.recordings.bags import BagWriter
from semanom_ros.recordings.images import header, image_to_compressed, image_to_message
from semanom_ros.rendering.overlay import render_overlay
from semanom_ros.ros.messages import anomaly_array, anomaly_score

CAMERA = 'camera'
PREFIX = f'/semanom_detector/{CAMERA}/'
OVERLAY, ANOMALIES, SCORE, MASK, MAP = 'overlay/compressed', 'anomalies', 'score', 'mask', 'anomaly_map'


class ResultBag:
    """Writes results of one recording; MCAP that Foxglove and RViz play beside the recording.

    Topics below `/semanom_detector/camera/`: `anomalies`, `score`, `overlay/compressed` (JPEG), `mask` (mono8), and
    `anomaly_map` (32FC1) with a value for each patch. Use it as a context manager; nothing is left after an exception.
    """

    def __init__(self, path: Path, frame_id: str, camera: CameraModel | None = None) -> None:
        """
        Args:
            path: folder to be made.
            frame_id: of the source images.
            camera: for the bearings of anomalies; None: they are left out.

        Raises:
            BagError: it cannot be written.
        """
        self._writer = BagWriter(path)
        self._frame_id = frame_id
        self._camera = camera

    def __enter__(self) -> ResultBag:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 trace: TracebackType | None) -> None:
        self._writer.__exit__(kind, error, trace)

    def add(self, frame: Frame, result: FrameResult) -> None:
        """Adds what is said about the next frame, at its stamp."""
        stamp = frame.stamp_ns
        head = header(stamp, self._frame_id)
        try:
            anomalies = anomaly_array(result, head, self._camera)
        except CameraError:  # a CameraInfo of another image size
            self._camera = None
            anomalies = anomaly_array(result, head, None)
        patches = np.ascontiguousarray(result.patch_map, np.float32)
        for name, message in (
                (ANOMALIES, anomalies), (SCORE, anomaly_score(result, head)),
                (OVERLAY, image_to_compressed(render_overlay(frame.image, result), stamp, self._frame_id)),
                (MASK, image_to_message(result.mask, 'mono8', stamp, self._frame_id)),
                (MAP, image_to_message(patches, '32FC1', stamp, self._frame_id))):
            self._writer.write(PREFIX + name, message, stamp)
