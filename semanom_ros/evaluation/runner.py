"""From recordings to a folder of figures: metrics.json, report.html, scores.csv and result bags."""

from __future__ import annotations

import json
import logging
import platform
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

from semanom_ros import __version__
from semanom_ros.core.scoring import timeline
from semanom_ros.errors import SemanomError
from semanom_ros.evaluation import components, operating_point, sequences, visibility
from semanom_ros.evaluation.detectors import Detectors, Method, Row
from semanom_ros.evaluation.drift_summary import drift_summary
from semanom_ros.evaluation.exports.export_protocol import Export
from semanom_ros.evaluation.gallery import choose, illustrate
from semanom_ros.evaluation.measurement import rounded
from semanom_ros.evaluation.metrics import AUPRO_LIMIT
from semanom_ros.evaluation.replay import Elsewhere, Replay, Topics, replay, write_scores
from semanom_ros.evaluation.report import write_report
from semanom_ros.recordings.importing import STILLS_APART_S
from semanom_ros.recordings.instance_masks import wanted_segments
from semanom_ros.settings import MethodSettings, Settings

log = logging.getLogger(__name__)

METRICS, REPORT, SCORES = 'metrics.json', 'report.html', 'scores.csv'
_WRITTEN, _VIDEO = {METRICS, REPORT, SCORES, 'bags'}, '.mp4'
_LIBRARIES = ('torch', 'faiss-cpu', 'open_clip_torch', 'timm', 'numpy', 'opencv-python-headless',
              'rosbags')


def evaluate(bags: Sequence[Path], detectors: Detectors, output: Path, topics: Topics | None = None, *,
             settings: Settings, baselines: Sequence[Method] = (), shown: Row | None = None,
             video: Path | None = None, live: Mapping[str, Any] | None = None,
             notes: Sequence[str] = (), elsewhere: Elsewhere | None = None,
             exports: Sequence[Export] = ()) -> dict[str, Any]:
    """Replays recordings and writes everything that is to be said about them.

    What an interrupted call with the same arguments finished is taken over; what it did not finish is not left behind.
    The output folder is put in place when it is complete; an older evaluation there is replaced.

    Args:
        bags: recordings, in order.
        detectors: our methods.
        output: folder.
        topics: what of the recordings is read, by default the only images and the usual truth; the masks of the
            segmenter `topic` are those that the settings name.
        settings: of the method, for the record, and of the detector's pictures.
        baselines: other methods for the table.
        shown: row whose results go into the result bags and the report's pictures; None: the last of `detectors`.
        video: MP4 for the report; moved into the folder.
        live: figures of a live run, for the report.
        notes: remarks for the report.
        elsewhere: who measures; None: this process.
        exports: get the frames and the results of `shown` as well, and are in place when all is.

    Returns:
        The content of metrics.json.

    Raises:
        SemanomError: a recording or topic will not do, or the folder is something else.
    """
    check_output(output, [*bags, *(database.path for database in detectors.databases.values())])
    staging = _staging(output)
    shown = shown or detectors.rows[-1]
    databases = {variant: database.manifest for variant, database in detectors.databases.items()}
    conditions = {'rows': [repr(row) for method in (detectors, *baselines) for row in method.rows],
                  'parameters': {**settings.method.values(), **settings.detector.values()}, 'version': __version__,
                  'encoder': detectors.embedder.encoder.weights_sha256,
                  'databases': {variant: [str(detectors.databases[variant].path), manifest.version, manifest.vectors]
                                for variant, manifest in databases.items()}}
    masks = wanted_segments(replace(settings.method.queries, variant=detectors.embedder.variant))
    wanted = replace(topics or Topics(), segments=tuple(masks), bit_depth=settings.method.encoder.bit_depth)
    with ExitStack() as stack:
        stack.enter_context(_cleared_on_failure(staging, resumable=not exports))
        entered = [stack.enter_context(export) for export in exports]
        found = replay(bags, [detectors, *baselines], shown, staging, wanted, conditions, settings.detector,
                       elsewhere, entered)
        rates = {row: method.false_alarm_rate for method in (detectors, *baselines) for row in method.rows}
        figures = {row: measurement.metrics(rates[row]) for row, measurement in found.measurements.items()}
        content = _content(found, figures, rates, detectors, baselines, settings.method)
        (staging / METRICS).write_text(json.dumps(content, indent=1, sort_keys=True) + '\n')
        write_scores(staging / SCORES, found)
        gallery = choose(found, found.measurements[shown])
        illustrate(gallery, found)
        if video is not None:
            shutil.move(video, staging / video.name)
        write_report(staging / REPORT, found, content, figures, shown, gallery, live=live,
                     video=None if video is None else staging / video.name,
                     notes=[*detectors.warnings, *notes, *_stills(found), *_left_out(found)])
        shutil.rmtree(staging / 'measured')
        (staging / 'fingerprint').unlink()
    replace_folder(staging, output)
    return content


@contextmanager
def _cleared_on_failure(staging: Path, resumable: bool) -> Iterator[None]:
    """Leaves nothing of an evaluation that failed, or was interrupted, but the recordings that it had finished."""
    try:
        yield
    except BaseException:
        measured = list((staging / 'measured').glob('*.npz')) if resumable else []
        if measured:
            log.warning('%d recordings are measured, and kept in %s: the same command goes on after them, another one '
                        'for the same folder removes them', len(measured), staging)
        else:
            shutil.rmtree(staging, ignore_errors=True)
        raise


def _stills(found: Replay) -> list[str]:
    """What a reader must know of figures over time."""
    names = [recording.name for recording in found.recordings if recording.stills]
    return [f'{", ".join(names)}: pictures that have nothing to do with each other, so nothing is tracked or confirmed '
            f'over time, and figures per minute count {60 // STILLS_APART_S} pictures as one.'] if names else []


def _left_out(found: Replay) -> list[str]:
    return [f'the recording {name} is not among the figures: {why}' for name, why in found.left_out.items()]


def _staging(output: Path) -> Path:
    """Where an evaluation grows."""
    return output.parent / f'.{output.name}.evaluating'


def check_output(output: Path, read: Sequence[Path] = ()) -> None:
    """Refuses a folder that holds anything but an evaluation, or where none can be written.

    Args:
        output: will be replaced.
        read: what an evaluation reads.

    Raises:
        SemanomError: what is there would be lost, or it is not writable.
    """
    try:
        _staging(output).mkdir(parents=True, exist_ok=True)
        with suppress(OSError):  # of an interrupted evaluation, which goes on
            _staging(output).rmdir()
    except OSError as error:
        raise SemanomError(f'{output}: not writable ({error.strerror}); give another --output') from error
    if output.is_dir() and not any(output.iterdir()):
        return
    for path in read:
        if output.resolve() in path.resolve().parents:
            raise SemanomError(f'{output}: found {path} in it, which is read, expected a folder that may be replaced; '
                               'give another --output')
    if (output / METRICS).is_file():
        foreign = sorted({path.name for path in output.iterdir() if path.suffix != _VIDEO} - _WRITTEN)
        if foreign:
            raise SemanomError(f'{output}: found {", ".join(foreign[:6])} beside the evaluation, which would be lost, '
                               'expected nothing else there; move it, or give another --output')
    elif output.exists():
        raise SemanomError(f'{output}: found something that is no evaluation (it has no {METRICS}), expected an empty '
                           'or new folder; give another --output')


def replace_folder(new: Path, old: Path) -> None:
    """Puts a complete folder in the place of another."""
    away = old.parent / f'.{old.name}.replaced'
    shutil.rmtree(away, ignore_errors=True)
    if old.exists():
        old.rename(away)
    new.rename(old)
    shutil.rmtree(away, ignore_errors=True)


def _content(found: Replay, figures: Mapping[Row, Mapping[str, Any]], rates: Mapping[Row, float | None],
             detectors: Detectors, baselines: Sequence[Method], settings: MethodSettings) -> dict[str, Any]:
    """metrics.json: the same bytes on every run but for `latency_ms`."""
    frames = next(iter(found.measurements.values())).frames
    known = frames[frames['truth'] >= 0]
    rows = {row: {'variant': row.variant, 'filter': row.filtered, **figures[row]} for row in figures}
    encoder, segmenter = detectors.embedder.encoder, detectors.embedder.segmenter
    databases = {variant: {'vectors': database.manifest.vectors, 'version': database.manifest.version,
                           'sources': [Path(source.path).name for source in database.manifest.sources]}
                 for variant, database in detectors.databases.items()}
    last = found.measurements[detectors.rows[-1]].frames
    by_recording = [last[np.array(found.recording_of) == index] for index in range(len(found.recordings))]
    content = {
        'frames': len(frames), 'frames_with_truth': len(known),
        'anomalous_frames': int((known['truth'] == 1).sum()) if len(known) else None,
        'results': [rows[row] for row in detectors.rows],
        'baselines': [{'name': row.baseline, **rows[row], **method.details()}
                      for method in baselines for row in method.rows],
        'encoder': f'{encoder.name} ({encoder.weights}) at {encoder.input_size[1]}x{encoder.input_size[0]}',
        'segmenter': segmenter.name if segmenter is not None else None,
        'database': databases[detectors.rows[-1].variant], 'databases': databases,
        'recordings': [{'name': r.name, 'image_topic': r.topic, 'truth_topic': r.truth_topic,
                        'truth_instances': list(found.topics.truth_instances), 'frames': r.frames,
                        'unreadable_images': r.unreadable, 'damage': r.damage, 'stills': r.stills,
                        'drift': drift_summary(own) if len(own) else None,
                        'results': [] if len(found.recordings) == 1 else [
                            {'variant': row.variant, 'filter': row.filtered, 'baseline': row.baseline,
                             **measurement.figures(rates[row])} for row, measurement in measured.items()]}
                       for r, own, measured in zip(found.recordings, by_recording, found.by_recording, strict=True)],
        'left_out': found.left_out,
        'parameters': settings.values(),
        'definitions': {
            'min_anomaly_pixels': found.topics.min_anomaly_pixels,
            'operating_point_confidence': operating_point.CONFIDENCE,
            'noticed_by_edges': {unit: list(edges) for unit, edges in visibility.EDGES.items()},
            'aupro_fpr_limit': AUPRO_LIMIT, 'component_thresholds': components.THRESHOLDS.tolist(),
            'component_smallest_truth_px': components.SMALLEST_TRUTH,
            'component_smallest_prediction_px': components.SMALLEST_PREDICTION,
            'alarm_join_s': timeline.JOIN_S, 'alarm_grace_s': sequences.GRACE_S,
            'bootstrap_stretch_s': sequences.STRETCH_S, 'bootstrap_resamples': sequences.RESAMPLES},
        'versions': versions(),
    }
    return rounded(content)


def versions() -> dict[str, str]:
    """Versions of this package, Python and the libraries that results depend on."""
    found = {'semanom_ros': __version__, 'python': platform.python_version()}
    for name in _LIBRARIES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found
