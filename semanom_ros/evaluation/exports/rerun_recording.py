"""Results as a recording of Rerun (https://rerun.io): frames, maps, masks, boxes and scores on one timeline."""

from __future__ import annotations

import resource
import shutil
from pathlib import Path
from types import TracebackType
from uuid import uuid4

import numpy as np
import numpy.typing as npt
import rerun as rr
import rerun.blueprint as rrb

from semanom_ros.core.frames import Frame
from semanom_ros.core.results import ALARM, Anomaly, FrameResult, Verdict, region_mask
from semanom_ros.errors import SemanomError
from semanom_ros.evaluation.metrics import ANOMALOUS
from semanom_ros.recordings.images import compress_pixels

STAMPS, FRAMES = 'stamp', 'frame'
"""Timelines: of the images' stamps, and of how many there were."""

_APPLICATION = 'semanom_ros'
_JPEG_QUALITY = 90
_ROOM = 64 << 20
"""Bytes that must be left on the disk: the SDK, which only logs that it could not write, may then wait for ever."""

_WRITTEN_S = 20.0  # so long the disk may take for one frame
_MAGIC = b'RRF'
_TWICE = 2.0  # the alarm level, in which the colours of the map end
_ANOMALY, _HELD_BACK, _TRUTH = 1, 2, 3
_CLASSES = [(_ANOMALY, 'anomaly', (220, 38, 54)), (_HELD_BACK, 'held back', (245, 176, 20)),
            (_TRUTH, 'ground truth', (64, 196, 255))]
_LEVELS = {Verdict.NOMINAL: rr.TextLogLevel.INFO, Verdict.ANOMALOUS: rr.TextLogLevel.WARN,
           Verdict.UNKNOWN: rr.TextLogLevel.ERROR}


class RerunRecording:
    """Writes one `.rrd`; see Export. Frames go to the disk as they come.

    Below the name of each recording: `camera` (the image), `camera/mask`, `camera/anomalies`, `camera/held_back`,
    `camera/truth`; `map` in relation to the alarm level, as fine as it was computed; `nearest`, the most similar
    nominal example of the strongest anomaly; `score`, `threshold` and `p_value` as series; `verdict`, a line whenever
    it changes. What an unknown frame has no answer to is cleared.
    """

    def __init__(self, path: Path) -> None:
        """
        Args:
            path: file to write; an older one is replaced.
        """
        self._path = path.absolute()
        self._beside = _beside(self._path)
        self._stream = rr.RecordingStream(_APPLICATION, recording_id=uuid4())
        self._recordings: list[str] = []
        self._root, self._number = '', 0
        self._verdict: tuple[Verdict, bool] | None = None
        self._writing = True

    def __enter__(self) -> RerunRecording:
        check_file(self._path)
        rr.set_strict_mode(True)  # otherwise it goes on without what it could not log
        self._stream.save(self._beside)
        self._stream.log('/', rr.AnnotationContext(_CLASSES), static=True)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
                 ) -> None:
        try:
            if kind is None:
                self._stream.send_blueprint(_blueprint(self._recordings))
                self._await_written()
            if self._writing:
                self._stream.disconnect()
            if kind is None:
                self._beside.rename(self._path)
        finally:
            self._beside.unlink(missing_ok=True)

    def begin(self, recording: str) -> None:
        """See Export."""
        self._root, self._number, self._verdict = rr.escape_entity_path_part(recording), 0, None
        self._recordings.append(self._root)
        self._stream.log(f'{self._root}/scores/threshold', rr.SeriesLines(colors=(220, 38, 54), names='threshold'),
                         static=True)
        self._stream.log(f'{self._root}/scores/score', rr.SeriesLines(colors=(22, 128, 106), names='score'),
                         static=True)

    def add(self, frame: Frame, result: FrameResult, truth: npt.NDArray[np.uint8] | None) -> None:
        """See Export."""
        self._await_written()
        root, stream = self._root, self._stream
        stream.set_time(STAMPS, timestamp=np.datetime64(frame.stamp_ns, 'ns'))
        stream.set_time(FRAMES, sequence=self._number)
        self._number += 1
        stream.log(f'{root}/camera', rr.EncodedImage(
            contents=bytes(compress_pixels(frame.image, 'jpeg', _JPEG_QUALITY)), media_type='image/jpeg'))
        if truth is not None:
            stream.log(f'{root}/camera/truth', rr.SegmentationImage(
                np.where(truth == ANOMALOUS, _TRUTH, 0).astype(np.uint8), opacity=0.5))
        self._add_verdict(result)
        if result.scores is None:
            for part in ('camera/mask', 'camera/anomalies', 'camera/held_back', 'map', 'nearest'):
                stream.log(f'{root}/{part}', rr.Clear(recursive=False))
            return
        mask = np.where(region_mask(result.held_back_regions, frame.size) > 0, _HELD_BACK, 0)
        stream.log(f'{root}/camera/mask', rr.SegmentationImage(
            np.where(result.mask > 0, _ANOMALY, mask).astype(np.uint8), opacity=0.4))
        stream.log(f'{root}/camera/anomalies', rr.Boxes2D(
            array=np.array([one.box for one in result.anomalies], np.float32).reshape(-1, 4),
            array_format=rr.Box2DFormat.XYWH, class_ids=[_ANOMALY] * len(result.anomalies),
            labels=[_label(one) for one in result.anomalies]))
        held_back = np.array([region.box for region in result.held_back_regions], np.float32).reshape(-1, 4)
        stream.log(f'{root}/camera/held_back', rr.Boxes2D(
            array=held_back, array_format=rr.Box2DFormat.XYWH, class_ids=[_HELD_BACK] * len(held_back)))
        stream.log(f'{root}/map', rr.DepthImage(
            result.scores.finest, meter=1.0, colormap='inferno', depth_range=(0.0, _TWICE * ALARM)))
        stream.log(f'{root}/scores/score', rr.Scalars(result.score))
        stream.log(f'{root}/scores/threshold', rr.Scalars(result.threshold))
        stream.log(f'{root}/p_value', rr.Scalars(result.p_value))
        nearest = result.anomalies[0].nearest if result.anomalies else None
        stream.log(f'{root}/nearest', rr.EncodedImage(contents=nearest.thumbnail, media_type='image/jpeg')
                   if nearest is not None and nearest.thumbnail else rr.Clear(recursive=False))

    def _await_written(self) -> None:
        """So that a disk that is full is met here.

        Raises:
            SemanomError: it is.
        """
        room, limit = shutil.disk_usage(self._path.parent).free, resource.getrlimit(resource.RLIMIT_FSIZE)[0]
        if limit != resource.RLIM_INFINITY:
            room = min(room, limit - self._beside.stat().st_size)
        if room < _ROOM:
            raise SemanomError(f'{self._path}: found the disk full, or the file as long as it may be, expected '
                               f'{_ROOM >> 20} MiB left; make room, or raise the limit (ulimit -f)')
        try:
            self._stream.flush(timeout_sec=_WRITTEN_S)
        except RuntimeError as error:
            self._writing = False
            raise SemanomError(f'{self._path}: cannot be written ({error}); make room on the disk') from error

    def _add_verdict(self, result: FrameResult) -> None:
        """Where it is another one than before."""
        now = result.verdict, result.held_back
        if now != self._verdict:
            words = 'held back' if result.held_back else result.verdict.words
            why = f': {result.explanation}' if result.explanation else ''
            self._stream.log(f'{self._root}/verdict', rr.TextLog(f'{words}{why}', level=_LEVELS[result.verdict]))
        self._verdict = now


def check_file(path: Path) -> None:
    """Refuses a place where no file can be written, and a file that is no recording of Rerun.

    Raises:
        SemanomError: what is there would be lost, or the folder that it is to be in is not there.
        OSError: that folder is not writable.
    """
    if path.is_dir():
        raise SemanomError(f'{path}: found a folder, expected a file to write; give --rerun {path / "out.rrd"}')
    if not path.parent.is_dir():
        raise SemanomError(f'{path}: found no folder {path.parent}, expected one to write into; make it')
    if path.exists() and not (path.is_file() and _begins_as_one(path)):
        raise SemanomError(f'{path}: found something that is no recording of Rerun, expected one or a new file; give '
                           'another --rerun')
    beside = _beside(path)
    beside.touch()
    beside.unlink()


def _beside(path: Path) -> Path:
    """Where a recording grows."""
    return path.with_name(f'.{path.name}.partial')


def _begins_as_one(path: Path) -> bool:
    with open(path, 'rb') as file:
        return file.read(len(_MAGIC)) == _MAGIC


def _label(anomaly: Anomaly) -> str:
    track = f' track {anomaly.track_id}' if anomaly.track_id else ''
    return f'{anomaly.label or "anomaly"} {anomaly.score:.2f}{track}'


def _blueprint(recordings: list[str]) -> rrb.Blueprint:
    """A tab for each recording: the camera beside map and nearest example, the scores and the verdicts below."""
    tabs = [rrb.Vertical(
        rrb.Horizontal(
            rrb.Spatial2DView(origin=f'/{root}/camera', name='camera'),
            rrb.Vertical(rrb.Spatial2DView(origin=f'/{root}/map', name='anomaly map'),
                         rrb.Spatial2DView(origin=f'/{root}/nearest', name='nearest nominal example')),
            column_shares=[2, 1]),
        rrb.Horizontal(rrb.TimeSeriesView(origin=f'/{root}/scores', name='score'),
                       rrb.TextLogView(origin=f'/{root}/verdict', name='verdict'), column_shares=[2, 1]),
        row_shares=[2, 1], name=root) for root in recordings]
    return rrb.Blueprint(rrb.Tabs(*tabs), rrb.TimePanel(timeline=STAMPS, state='collapsed'))
