"""Results as a folder that FiftyOne (https://docs.voxel51.com) opens: samples with labels, fields and embeddings.

Written is FiftyOne's own format of serialized samples, in the form that needs no database to write and that
`fiftyone.types.FiftyOneDataset` reads: `metadata.json` names the fields, `samples.json` holds the samples.
"""

from __future__ import annotations

import base64
import io
import json
import math
import shutil
import zlib
from collections.abc import Sequence
from datetime import datetime, timezone
from pathlib import Path
from types import TracebackType
from typing import Any, TextIO

import cv2
import numpy as np
import numpy.typing as npt
import torch

from semanom_ros import __version__
from semanom_ros.core.frames import Frame
from semanom_ros.core.results import ALARM, Anomaly, FrameResult
from semanom_ros.errors import SemanomError
from semanom_ros.evaluation.metrics import ANOMALOUS
from semanom_ros.recordings.images import compress_pixels

METADATA, SAMPLES, DATA, FIELDS = 'metadata.json', 'samples.json', 'data', 'fields'
_OURS = 'semanom_ros'  # in the information about a dataset: its samples were judged, and nobody has labelled them
MAP_ALARM = 85
"""Value of the alarm level in the pictures of anomaly maps, whose 255 is three times that."""

_JPEG_QUALITY = 90
_PLAIN, _LABELS = 'fiftyone.core.fields', 'fiftyone.core.fields.EmbeddedDocumentField(fiftyone.core.labels.{})'
_SAMPLE_FIELDS = {
    'filepath': f'{_PLAIN}.StringField', 'tags': f'{_PLAIN}.ListField({_PLAIN}.StringField)',
    'metadata': f'{_PLAIN}.EmbeddedDocumentField(fiftyone.core.metadata.ImageMetadata)',
    'recording': f'{_PLAIN}.StringField', 'stamp_ns': f'{_PLAIN}.IntField', 'time': f'{_PLAIN}.StringField',
    'frame': f'{_PLAIN}.IntField', 'score': f'{_PLAIN}.FloatField', 'threshold': f'{_PLAIN}.FloatField',
    'p_value': f'{_PLAIN}.FloatField', 'held_back': f'{_PLAIN}.BooleanField', 'explanation': f'{_PLAIN}.StringField',
    'verdict': _LABELS.format('Classification'), 'truth': _LABELS.format('Classification'),
    'anomalies': _LABELS.format('Detections'), 'held_back_regions': _LABELS.format('Detections'),
    'mask': _LABELS.format('Segmentation'), 'truth_mask': _LABELS.format('Segmentation'),
    'anomaly_map': _LABELS.format('Heatmap'), 'embedding': f'{_PLAIN}.VectorField'}


class FiftyOneDataset:
    """Writes one folder; see Export. Frames go to the disk as they come.

    Each frame is a sample: `verdict`, `score`, `threshold`, `p_value`, `anomalies` (with score, p-value, track and
    embedding), `held_back_regions`, `mask`, `anomaly_map`, `truth` and `truth_mask`, `embedding` (the mean of the patch
    embeddings, unit length), `recording`, `stamp_ns`. What an unknown frame has no answer to is left out.
    """

    def __init__(self, path: Path) -> None:
        """
        Args:
            path: folder to write; an older export is replaced.
        """
        self._path = path.absolute()
        self._beside = self._path.with_name(f'.{self._path.name}.partial')
        self._samples: TextIO
        self._recording, self._number, self._written = '', 0, 0

    def __enter__(self) -> FiftyOneDataset:
        check_folder(self._path)
        shutil.rmtree(self._beside, ignore_errors=True)
        self._beside.mkdir(parents=True)
        self._samples = open(self._beside / SAMPLES, 'w')
        self._samples.write('{"samples": [')
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
                 ) -> None:
        try:
            if kind is None:
                self._samples.write(']}\n')
                (self._beside / METADATA).write_text(json.dumps({
                    'name': self._path.name, 'media_type': 'image', 'sample_fields': _SAMPLE_FIELDS,
                    'info': {_OURS: __version__, 'default_mask_targets': {'255': 'anomaly'},
                             'anomaly_map': f'{MAP_ALARM} is the alarm level, 255 three times that'}}))
            self._samples.close()
            if kind is None:
                if self._path.exists():
                    shutil.rmtree(self._path)
                self._beside.rename(self._path)
        finally:
            shutil.rmtree(self._beside, ignore_errors=True)

    def begin(self, recording: str) -> None:
        """See Export."""
        self._recording, self._number = recording, 0
        for folder in (DATA, f'{FIELDS}/mask', f'{FIELDS}/anomaly_map', f'{FIELDS}/truth_mask'):
            (self._beside / folder / recording).mkdir(parents=True, exist_ok=True)

    def add(self, frame: Frame, result: FrameResult, truth: npt.NDArray[np.uint8] | None) -> None:
        """See Export."""
        name = f'{self._recording}/{self._number:06d}_{frame.stamp_ns}'
        (self._beside / DATA / f'{name}.jpg').write_bytes(compress_pixels(frame.image, 'jpeg', _JPEG_QUALITY))
        sample: dict[str, Any] = {
            'filepath': f'{DATA}/{name}.jpg', 'tags': [], 'recording': self._recording, 'stamp_ns': frame.stamp_ns,
            'time': _iso(frame.stamp_ns), 'frame': self._number, 'held_back': result.held_back,
            'explanation': result.explanation, 'threshold': result.threshold,
            'verdict': {'_cls': 'Classification', 'label': result.verdict.words}}
        if truth is not None:
            wrong = truth == ANOMALOUS
            sample['truth'] = {'_cls': 'Classification', 'label': 'anomalous' if wrong.any() else 'nominal'}
            sample['truth_mask'] = {'_cls': 'Segmentation', 'mask_path': self._picture(
                'truth_mask', name, np.where(wrong, 255, 0))}
        if result.scores is not None:
            levels = np.clip(result.scores.finest * (MAP_ALARM / ALARM), 0, 255)
            sample |= {
                'score': _finite(result.score), 'p_value': _finite(result.p_value),
                'mask': {'_cls': 'Segmentation', 'mask_path': self._picture('mask', name, result.mask)},
                'anomaly_map': {'_cls': 'Heatmap', 'range': [0, 255],
                                'map_path': self._picture('anomaly_map', name, np.rint(levels))},
                'anomalies': {'_cls': 'Detections', 'detections': [
                    _detection(one, result) for one in result.anomalies]},
                'held_back_regions': {'_cls': 'Detections', 'detections': [
                    _box('held back', region.box, frame.size) for region in result.held_back_regions]}}
        if result.queries is not None:
            sample['embedding'] = _vector(_mean(result.queries.vectors[_owners(result)]))
        self._samples.write((',\n' if self._written else '\n') + json.dumps(sample))
        self._number += 1
        self._written += 1

    def _picture(self, field: str, name: str, pixels: npt.NDArray[Any]) -> str:
        """Writes a PNG of a field; its path below the folder."""
        path = f'{FIELDS}/{field}/{name}.png'
        if not cv2.imwrite(str(self._beside / path), pixels.astype(np.uint8)):
            raise SemanomError(f'{self._beside / path}: cannot be written; make room on the disk')
        return path


def check_folder(path: Path) -> None:
    """Refuses a folder that holds anything but an export of ours.

    Raises:
        SemanomError: what is there would be lost.
    """
    if path.is_dir():
        names = {one.name for one in path.iterdir()}
        if not names or (_is_ours(path) and names <= {METADATA, SAMPLES, DATA, FIELDS}):
            return
    if path.exists():
        raise SemanomError(f'{path}: found something that is no export for FiftyOne by semanom evaluate, or more than '
                           'that, expected an empty or new folder; give another --fiftyone')


def _is_ours(folder: Path) -> bool:
    """Whether `metadata.json` says so; what FiftyOne itself exports has files of the same names."""
    try:
        return _OURS in json.loads((folder / METADATA).read_text())['info']
    except (OSError, ValueError, KeyError, TypeError):
        return False


def _detection(anomaly: Anomaly, result: FrameResult) -> dict[str, Any]:
    found = {**_box(anomaly.label or 'anomaly', anomaly.box, result.image_size), 'score': anomaly.score,
             'p_value': _finite(anomaly.p_value), 'raw_score': _finite(anomaly.raw_score)}
    if anomaly.track_id:
        found['index'] = anomaly.track_id
    if anomaly.nearest is not None:
        found['nearest'] = f'{anomaly.nearest.source} {anomaly.nearest.topic} {anomaly.nearest.stamp_ns}'
    if result.queries is not None:
        x, y, w, h = anomaly.box
        height, width = result.image_size
        rows, columns = result.queries.owners.shape
        near = result.queries.owners[y * rows // height:((y + h) * rows - 1) // height + 1,
                                     x * columns // width:((x + w) * columns - 1) // width + 1]
        found['embedding'] = _vector(_mean(result.queries.vectors[torch.from_numpy(near.ravel().copy())]))
    return found


def _box(label: str, box: Sequence[int], size: tuple[int, int]) -> dict[str, Any]:
    x, y, w, h = box
    height, width = size
    return {'_cls': 'Detection', 'label': label, 'bounding_box': [x / width, y / height, w / width, h / height]}


def _owners(result: FrameResult) -> torch.Tensor:
    assert result.queries is not None
    return torch.from_numpy(result.queries.owners.ravel())


def _mean(vectors: torch.Tensor) -> npt.NDArray[np.float32]:
    """(D,) float32, unit length, of (N, D)."""
    return np.asarray(torch.nn.functional.normalize(vectors.float().mean(dim=0), dim=0).cpu(), np.float32)


def _vector(values: npt.NDArray[np.float32]) -> dict[str, Any]:
    """As FiftyOne serializes an array: NumPy's file format, compressed, in MongoDB's JSON for bytes."""
    file = io.BytesIO()
    np.save(file, values, allow_pickle=False)
    return {'$binary': {'base64': base64.b64encode(zlib.compress(file.getvalue())).decode(), 'subType': '00'}}


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _iso(stamp_ns: int) -> str:
    moment = datetime.fromtimestamp(stamp_ns // 10**9, timezone.utc)
    return f'{moment:%Y-%m-%dT%H:%M:%S}.{stamp_ns % 10**9 // 10**6:03d}Z'
