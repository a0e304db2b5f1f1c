"""What was found when an engine ran beside the encoder that it was made of."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from semanom_ros.core.embedding.description import LARGEST_DIMENSION, LARGEST_SIDE
from semanom_ros.core.embedding.encoders.encoder import Encoder
from semanom_ros.core.fields import Fields, parse_json

FORMAT, SCHEMA_VERSION = 'semanom engine certificate', 1
_SHA256 = '[0-9a-f]{64}'


@dataclass(frozen=True)
class EncoderFacts:
    """What an engine was made of; each as in Encoder."""

    name: str
    weights: str
    weights_sha256: str
    settings: Mapping[str, Any]
    input_size: tuple[int, int]
    grid_size: tuple[int, int]
    dimension: int
    wants_standardizing: bool
    wants_calibration_by_place: bool

    @classmethod
    def of(cls, encoder: Encoder) -> EncoderFacts:
        """Those of a loaded encoder."""
        height, width = encoder.input_size
        rows, columns = encoder.grid_size
        return cls(encoder.name, encoder.weights, encoder.weights_sha256, dict(encoder.settings),
                   (int(height), int(width)), (int(rows), int(columns)), int(encoder.dimension),
                   encoder.wants_standardizing, encoder.wants_calibration_by_place)


@dataclass(frozen=True)
class Basis:
    """The version of a database that verdicts were compared with: what they come from.

    Attributes:
        version: of the database, for people; not compared.
        calibration_sha256, learned_sha256: of its files; '' where nothing was learned. What a person accepts as nominal
            leaves both as they are.
    """

    version: int
    calibration_sha256: str
    learned_sha256: str


@dataclass(frozen=True)
class Deviations:
    """How far an engine is from the original.

    Attributes:
        cosine_max, cosine_p99: of patch embeddings, 1 - cosine: the largest, and that which 99 % stay below.
        patch_score_max, patch_score_p99: of calibrated patch scores, the alarm level being 1.
        frame_score_max: likewise, of frame scores.
    """

    cosine_max: float
    cosine_p99: float
    patch_score_max: float
    patch_score_p99: float
    frame_score_max: float


@dataclass(frozen=True)
class Verdicts:
    """Verdicts at the alarm level, before the filter, of both.

    Attributes:
        false_alarm_rate, false_alarms_per_minute: that the level was asked for with.
        nominal_frames: recorded frames, each compared with what is not near it in time.
        transplanted_frames: recorded frames into which things were put that do not belong there.
        alarms: of all those, above the level by the original.
        differ: of all those, above the level by one and not by the other.
        nearest: the smallest distance of a frame score of the original from the level; scores are in units of it.
    """

    false_alarm_rate: float
    false_alarms_per_minute: float
    nominal_frames: int
    transplanted_frames: int
    alarms: int
    differ: int
    nearest: float


@dataclass(frozen=True)
class Certificate:
    """An engine, what it belongs to, and how it compares.

    Attributes:
        backend, precision: of the engine.
        encoder: what it was made of.
        device: see `device_identity`.
        libraries: versions.
        basis: the database.
        parameters: of search and score, that verdicts were compared with.
        deviations, verdicts: found.
        own_calibration: its scores have a calibration of their own, made with its embeddings.
        milliseconds, original_milliseconds: for one picture, medians of interleaved runs.
        probe: (D,) mean embedding of a fixed picture: what tells an engine that computes otherwise where it is loaded.
        files: size and SHA-256 of each of its files, by name.
        created: UTC, ISO 8601.
        package_version: of semanom_ros that wrote it.
    """

    backend: str
    precision: str
    encoder: EncoderFacts
    device: str
    libraries: Mapping[str, str]
    basis: Basis
    parameters: Mapping[str, Any]
    deviations: Deviations
    verdicts: Verdicts
    own_calibration: bool
    milliseconds: float
    original_milliseconds: float
    probe: tuple[float, ...]
    files: Mapping[str, tuple[int, str]]
    created: str
    package_version: str

    @property
    def name(self) -> str:
        """E.g. `openvino-int8`."""
        return f'{self.backend}-{self.precision}'

    @property
    def speedup(self) -> float:
        """How many times as fast as the original it was."""
        return self.original_milliseconds / self.milliseconds

    @property
    def agrees(self) -> bool:
        """Whether every verdict was the same."""
        return self.verdicts.differ == 0

    def with_files(self, files: Mapping[str, tuple[int, str]]) -> Certificate:
        """The same with the files that were written."""
        return replace(self, files=files)

    def describe(self) -> str:
        """For people, in a line."""
        found, verdicts = self.deviations, self.verdicts
        own = ', with a calibration of its own' if self.own_calibration else ''
        tried = verdicts.nominal_frames + verdicts.transplanted_frames
        return (f'{self.name}: {self.speedup:.1f} times as fast, embeddings within {found.cosine_max:.1e}, frame '
                f'scores within {100 * found.frame_score_max:.2g} % of the alarm level, {verdicts.differ} of '
                f'{tried} verdicts differ ({verdicts.alarms} alarms){own}')

    def dumps(self) -> bytes:
        """As JSON, with a checksum over the rest."""
        content = {'format': FORMAT, 'schema_version': SCHEMA_VERSION, **asdict(self)}
        return (json.dumps({**content, 'sha256': _checksum(content)}, indent=1, sort_keys=True) + '\n').encode()

    @classmethod
    def loads(cls, content: bytes) -> Certificate:
        """From JSON.

        Raises:
            ValueError: it is no certificate, or was changed.
        """
        parsed = parse_json(content)
        with Fields(parsed) as fields:
            fields.choice('format', (FORMAT,))
            fields.count('schema_version', SCHEMA_VERSION, SCHEMA_VERSION)
            expected = fields.matching('sha256', _SHA256, 'a SHA-256')
            if (found := _checksum(parsed)) != expected:
                fields.wrong('sha256', found, f'{expected}: it was changed after it was written')
            files = fields.mapping('files')
            with Fields(files, 'files') as entries:
                listed = {name: _file(entries, name) for name in files}
            probe = fields.get('probe')
            if not isinstance(probe, list) or not all(type(one) is float for one in probe):
                fields.wrong('probe', probe, 'a list of numbers')
            return cls(
                backend=fields.matching('backend', r'[A-Za-z0-9_]{1,64}', 'a name'),
                precision=fields.choice('precision', ('fp32', 'bf16', 'fp16', 'int8')),
                encoder=fields.item('encoder', _encoder), device=fields.text('device'),
                libraries=fields.mapping('libraries'), basis=fields.item('basis', _basis),
                parameters=fields.mapping('parameters'), deviations=fields.item('deviations', _deviations),
                verdicts=fields.item('verdicts', _verdicts), own_calibration=fields.flag('own_calibration'),
                milliseconds=_number(fields, 'milliseconds', 1e-6),
                original_milliseconds=_number(fields, 'original_milliseconds'), probe=tuple(probe), files=listed,
                created=fields.text('created'), package_version=fields.text('package_version'))


def _checksum(content: Mapping[str, Any]) -> str:
    rest = {key: value for key, value in content.items() if key != 'sha256'}
    return hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()


def _file(entries: Fields, name: str) -> tuple[int, str]:
    value = entries.get(name)
    if not isinstance(value, list) or len(value) != 2 or type(value[0]) is not int or not isinstance(value[1], str):
        entries.wrong(name, value, 'a size and a SHA-256')
    return value[0], value[1]


def _number(fields: Fields, name: str, least: float = 0.0) -> float:
    value = fields.get(name)
    if type(value) not in (int, float) or not least <= value:
        fields.wrong(name, value, f'a number, {least:g} or more')
    return float(value)


def _encoder(fields: Fields) -> EncoderFacts:
    return EncoderFacts(
        fields.text('name'), fields.text('weights'), fields.text('weights_sha256'), fields.mapping('settings'),
        fields.pair('input_size', LARGEST_SIDE), fields.pair('grid_size', LARGEST_SIDE),
        fields.count('dimension', 1, LARGEST_DIMENSION), fields.flag('wants_standardizing'),
        fields.flag('wants_calibration_by_place'))


def _basis(fields: Fields) -> Basis:
    return Basis(fields.count('version', 1), fields.matching('calibration_sha256', _SHA256, 'a SHA-256'),
                 fields.matching('learned_sha256', f'({_SHA256})?', 'a SHA-256, or nothing'))


def _deviations(fields: Fields) -> Deviations:
    return Deviations(*(_number(fields, name, -1.0) for name in (
        'cosine_max', 'cosine_p99', 'patch_score_max', 'patch_score_p99', 'frame_score_max')))


def _verdicts(fields: Fields) -> Verdicts:
    return Verdicts(
        _number(fields, 'false_alarm_rate'), _number(fields, 'false_alarms_per_minute'),
        fields.count('nominal_frames'), fields.count('transplanted_frames'), fields.count('alarms'),
        fields.count('differ'), _number(fields, 'nearest'))
