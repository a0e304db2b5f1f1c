"""Engines of a database: kept in its folder, chosen, and refused where their certificate does not hold.

    engines/openvino-int8.json             the certificate; replaced in one step: the moment of publication
    engines/openvino-int8-4f1d09c2a7b3/    the files that it lists

They are no part of a version: making one changes none, and every reader of the database may do without.
"""

from __future__ import annotations

import hashlib
import logging
import re
from collections.abc import Mapping
from pathlib import Path

import numpy.typing as npt

from semanom_ros.core.database.folder_files import FILE, FOLDER, expect, kind_of, make_folder, read_inside, remove_files
from semanom_ros.core.database.manifest import MANIFEST, Manifest
from semanom_ros.core.database.published import read_manifest
from semanom_ros.core.database.storage import (
    UNREADABLE,
    Lock,
    arrays_to_bytes,
    read_arrays,
    sync,
    write_durably,
    write_hashed,
)
from semanom_ros.core.embedding.backends.backend import Request, versions
from semanom_ros.core.embedding.backends.certificate import Basis, Certificate, EncoderFacts
from semanom_ros.core.embedding.backends.engine import EngineEncoder, check_can_serve, load_engine
from semanom_ros.core.embedding.device import device_identity, resolve_device
from semanom_ros.core.embedding.embedder import Embedder
from semanom_ros.core.embedding.encoders.network import NetworkEncoder
from semanom_ros.core.embedding.recorded_parameters import asked_parameters, contradiction, unsaid
from semanom_ros.core.embedding.registry import load_backend, load_encoder, load_segmenter
from semanom_ros.errors import DatabaseError, EncoderError, SemanomError
from semanom_ros.parameters import Affects
from semanom_ros.settings import EncoderSettings, MethodSettings

ENGINES = 'engines'
OWN_CALIBRATION = 'calibration.npz'
TORCH, AUTO = 'torch', 'auto'
LARGEST_CERTIFICATE, LARGEST_ENGINE = 4 << 20, 16 << 30
_NAME = r'[A-Za-z0-9_]{1,64}-(fp32|bf16|fp16|int8)'
_FILE_NAME = r'[A-Za-z0-9_-][A-Za-z0-9._-]{0,63}'

log = logging.getLogger(__name__)


def basis_of(manifest: Manifest) -> Basis:
    """What verdicts of a version come from.

    Raises:
        DatabaseError: it is not calibrated.
    """
    if not manifest.calibration:
        raise DatabaseError(f'version {manifest.version}: found no calibration, expected one for verdicts to be '
                            'compared; record a longer drive, or run semanom db calibrate')
    learned = manifest.files[manifest.learned.file].sha256 if manifest.learned else ''
    return Basis(manifest.version, manifest.files[manifest.calibration].sha256, learned)


def certificates(root: Path) -> dict[str, Certificate | str]:
    """Of a database's engines, by their names; in place of one that is unreadable, why."""
    folder, found = Path(root) / ENGINES, dict[str, Certificate | str]()
    if kind_of(folder) != FOLDER:
        return found
    for path in sorted(folder.glob('*.json')):
        if re.fullmatch(_NAME, path.stem):
            try:
                found[path.stem] = read_certificate(root, path.stem)
            except DatabaseError as error:
                found[path.stem] = str(error)
    return found


def read_certificate(root: Path, name: str) -> Certificate:
    """That of an engine.

    Raises:
        DatabaseError: it is unreadable, was changed, or is another engine's.
    """
    path = Path(root) / ENGINES / f'{name}.json'
    try:
        certificate = Certificate.loads(read_inside(Path(root), f'{ENGINES}/{name}.json', LARGEST_CERTIFICATE))
        if certificate.name != name:
            raise ValueError(f'backend: found {certificate.name}, expected {name}')
        for file in certificate.files:
            if not re.fullmatch(rf'{re.escape(name)}-[0-9a-f]{{12}}/{_FILE_NAME}', file):
                raise ValueError(f'files: found {file!r:.80}, expected those of {name}')
    except (OSError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise DatabaseError(f'{path}: unreadable ({reason}); {_again(root, *name.rsplit("-", 1))}') from error
    return certificate


def write_engine(root: Path, certificate: Certificate, files: Mapping[str, bytes],
                 calibration: Mapping[str, npt.NDArray] | None = None) -> Certificate:
    """Puts an engine into a database's folder in one step; killed before, the one of before stays.

    Args:
        root: the database.
        certificate: of the engine, but for its files.
        files: of the engine.
        calibration: arrays of its own calibration.

    Raises:
        DatabaseError: another writer is at work, something else lies there, or it cannot be written.
    """
    root = Path(root)
    contents = {**files, **({OWN_CALIBRATION: arrays_to_bytes(calibration)} if calibration is not None else {})}
    digest = hashlib.sha256()
    for name in sorted(contents):
        digest.update(name.encode() + contents[name])
    folder = root / ENGINES / f'{certificate.name}-{digest.hexdigest()[:12]}'
    try:
        lock = Lock(root)
        try:
            make_folder(root / ENGINES)
            expect(root / ENGINES / f'{certificate.name}.json', FILE)
            listed = {}
            if contents:
                make_folder(folder)
                for name, content in contents.items():
                    entry = write_hashed(folder / name, content)
                    listed[f'{folder.name}/{name}'] = entry.size, entry.sha256
                sync(folder)
            made = certificate.with_files(listed)
            write_durably(root / ENGINES / f'{made.name}.json', made.dumps())
            _remove_others(root, made.name, folder.name)
            return made
        finally:
            lock.release()
    except OSError as error:
        raise DatabaseError(f'{error.filename or root}: not written ({error.strerror}); make room or give rights to '
                            'write there, then try again: the database is as it was') from error


def _remove_others(root: Path, name: str, kept: str) -> None:
    """Files of an engine that its certificate does not list: of the one before, and of interrupted writers."""
    for folder in (root / ENGINES).iterdir():
        if folder.name != kept and re.fullmatch(rf'{re.escape(name)}-[0-9a-f]{{12}}', folder.name):
            remove_files(folder, lambda file: re.fullmatch(_FILE_NAME, file))
            if kind_of(folder) == FOLDER and not any(folder.iterdir()):
                folder.rmdir()


def read_files(root: Path, certificate: Certificate) -> dict[str, bytes]:
    """The files of an engine, by name, as the certificate lists them.

    Raises:
        DatabaseError: one is missing, changed, or no file.
    """
    found, again = {}, _again(root, certificate.backend, certificate.precision)
    for name, (size, sha256) in certificate.files.items():
        path = Path(root) / ENGINES / name
        try:
            content = read_inside(Path(root), f'{ENGINES}/{name}', min(size, LARGEST_ENGINE))
        except OSError as error:
            raise DatabaseError(f'{path}: unreadable ({error.strerror}); {again}') from error
        if len(content) != size:
            raise DatabaseError(f'{path}: found {len(content)} bytes, expected {size}; {again}')
        if (digest := hashlib.sha256(content).hexdigest()) != sha256:
            raise DatabaseError(f'{path}: found SHA-256 {digest}, expected {sha256}; it was changed after it was '
                                f'written: {again}')
        found[name.rpartition('/')[2]] = content
    return found


def objection(root: Path, certificate: Certificate, manifest: Manifest, settings: MethodSettings | None = None) -> str:
    """Why a certificate does not hold, in a line; '' where it does.

    Args:
        root, manifest: the database.
        certificate: of one of its engines.
        settings: of whoever wants to use it; None: for people, who only look.
    """
    again = _again(root, certificate.backend, certificate.precision)
    whose, made = f'{root}: engine {certificate.name}', manifest.description
    for field, found, expected in (
            ('encoder', certificate.encoder.name, made.encoder),
            ('weights_sha256', certificate.encoder.weights_sha256, made.weights_sha256),
            ('input_size', certificate.encoder.input_size, made.input_size)):
        if found != expected:
            return f'{whose}: {field}: found {found}, expected {expected} as the database; {again}'
    basis = basis_of(manifest) if manifest.calibration else Basis(manifest.version, '', '')
    for field, digest, expected_digest in (
            ('calibration', certificate.basis.calibration_sha256, basis.calibration_sha256),
            ('what was learned', certificate.basis.learned_sha256, basis.learned_sha256)):
        if digest != expected_digest:
            return (f'{whose}: {field}: found the one of version {certificate.basis.version} of a database '
                    f'({digest[:12] or "none"}), expected that of version {manifest.version} '
                    f'({expected_digest[:12] or "none"}); {again}')
    if not certificate.agrees and not certificate.own_calibration:
        verdicts = certificate.verdicts
        return (f'{whose}: found {verdicts.differ} of {verdicts.nominal_frames + verdicts.transplanted_frames} '
                f'verdicts that differ from the original, expected none; {again} --calibrate, which gives it a '
                'calibration of its own, or choose another precision')
    if settings is None:
        return ''
    asked = {**settings.search.values(), **settings.score.values()}
    for name, value in certificate.parameters.items():
        if asked.get(name) != value:
            return (f'{whose}: parameter {name}: found {value}, which it was certified with, expected '
                    f'{asked.get(name)}; run semanom db calibrate {root} --set {name}={asked.get(name)}, then '
                    f'{again.removeprefix("run ")}')
    device = device_identity(resolve_device(settings.encoder.device))
    if certificate.device != device:
        return f'{whose}: device: found {certificate.device}, expected {device}, which is here; {again}'
    backend = load_backend(certificate.backend)
    for library, version in versions(backend).items():
        if certificate.libraries.get(library) != version:
            return (f'{whose}: {library}: found version {certificate.libraries.get(library)}, expected {version}, '
                    f'which is installed; {again}')
    return ''


def load_embedder(settings: MethodSettings, *databases: Path) -> Embedder:
    """What the settings name, with an engine of the database where one is asked for or there.

    Args:
        settings: of the method; see the parameters `backend` and `precision`.
        databases: that embeddings will be compared with, or added to; one that is not there yet begins with PyTorch.

    Raises:
        EncoderError, SegmenterError: a model or its weights are unusable.
        ParameterError: no such device, or a file that a model needs is unusable.
        DatabaseError: an engine is asked for that is not there, or whose certificate does not hold.
    """
    asked = settings.encoder
    if asked.backend == TORCH:
        return Embedder.load(settings)
    there = [path for path in databases if kind_of(Path(path) / MANIFEST)]
    if not there:
        if asked.backend != AUTO:
            load_backend(asked.backend)
            log.info('no database yet that an engine of %s could be certified for: it begins with PyTorch',
                     asked.backend)
            settings = settings.changed({'precision': 'auto' if asked.precision == 'int8' else asked.precision})
        return Embedder.load(settings)
    encoder = _engine(settings, there)
    if encoder is None:
        return Embedder.load(settings)
    queries = settings.queries
    segmenter = load_segmenter(queries, encoder.device) if queries.variant == 'instance' else None
    return Embedder(encoder, segmenter, queries.segment_embedding, queries.segmenter_every_n,
                    asked_parameters(settings))


def _engine(settings: MethodSettings, databases: list[Path]) -> EngineEncoder | None:
    """The engine to use; None for PyTorch."""
    asked, root = settings.encoder, databases[0]
    named = asked.backend != AUTO
    found = {name: one for name, one in certificates(root).items()
             if (not named or name.startswith(f'{asked.backend}-'))
             and asked.precision in ('auto', name.rpartition('-')[2])}
    why = _not_for_engines(settings, databases)
    if named:
        load_backend(asked.backend)
        if why:
            raise DatabaseError(f'{root}: backend {asked.backend}: {why}')
        if not found:
            precision = asked.precision if asked.precision != 'auto' else ''
            raise DatabaseError(f'{root}: found no engine {asked.backend}{precision and f"-{precision}"}, expected a '
                                f'certified one; {_again(root, asked.backend, precision)}')
    elif why or not found:
        if found:
            log.warning('%s: its engines are not used: %s', root, why)
        return None
    manifest = read_manifest(root)
    said = {name: value for name, value in settings.values(Affects.EMBEDDING).items() if not unsaid(name, value)}
    if different := contradiction(said, manifest.description):
        if named:
            name, value, expected = different
            raise DatabaseError(f'{root}: parameter {name}: found {value}, expected {expected}, which the database was '
                                'made with; correct it')
        return None  # PyTorch says more of it
    refused, good = [], []
    for one in found.values():
        try:
            why = one if isinstance(one, str) else objection(root, one, manifest, settings)
        except EncoderError as error:
            why = str(error)
        if why:
            refused.append(why)
        elif not isinstance(one, str) and (named or one.speedup > 1):
            good.append(one)
    for one in sorted(good, key=lambda one: -one.speedup):
        try:
            encoder = open_engine(root, one, asked)
        except SemanomError as error:
            refused.append(str(error))
            continue
        log.info('%s: the encoder runs as %s', root, one.describe())
        alarm, verdicts = settings.alarm, one.verdicts
        if (alarm.false_alarm_rate, alarm.false_alarms_per_minute) != (
                verdicts.false_alarm_rate, verdicts.false_alarms_per_minute) and not one.own_calibration:
            log.warning('%s: engine %s was certified at a false alarm rate of %g (%g alarms a minute), not at what is '
                        'asked: a frame within %.2g %% of the level may be judged otherwise than by PyTorch', root,
                        one.name, verdicts.false_alarm_rate, verdicts.false_alarms_per_minute,
                        100 * one.deviations.frame_score_max)
        return encoder
    if named:
        raise DatabaseError(refused[0])
    for line in refused:
        log.warning('%s; PyTorch is used', line)
    return None


def _not_for_engines(settings: MethodSettings, databases: list[Path]) -> str:
    """What is asked for that an engine has not, and what to do; '' where there is nothing."""
    if len(databases) > 1:
        return 'found several databases, expected one, which an engine is certified for; give one at a time'
    if settings.queries.label_vocabulary:
        return 'found a label_vocabulary, which an engine, that embeds no texts, cannot serve; leave it empty'
    if settings.queries.variant == 'instance' and settings.queries.segment_embedding == 'crop':
        return 'found segment_embedding crop, which an engine, that embeds patches alone, cannot serve; set patches'
    return ''


def open_engine(root: Path, certificate: Certificate, asked: EncoderSettings) -> EngineEncoder:
    """Reads, verifies and loads an engine.

    Raises:
        SemanomError: it is damaged, its library is missing, or it computes otherwise than it did.
    """
    backend, device = load_backend(certificate.backend), resolve_device(asked.device)
    check_can_serve(certificate.backend, backend, certificate.precision, device)
    files = read_files(root, certificate)
    network = None
    if backend.keeps_network:
        original = load_encoder(asked.changed({'precision': certificate.precision, 'backend': TORCH}))
        if not isinstance(original, NetworkEncoder):
            raise EncoderError(f'encoder {original.name}: found {type(original).__name__}, expected a network of '
                               'PyTorch; set backend torch')
        if EncoderFacts.of(original) != certificate.encoder:
            raise DatabaseError(f'{root}: engine {certificate.name}: found other weights or settings of '
                                f'{original.name} than it was certified with, expected those; name them, or '
                                f'{_again(root, certificate.backend, certificate.precision)}')
        network = original.module
    request = Request(certificate.encoder.name, certificate.precision, device, certificate.encoder.input_size)
    encoder = load_engine(certificate.encoder, certificate.backend, request, files, network)
    encoder.check(certificate)
    return encoder


def calibration_for(root: Path, manifest: Manifest, encoder: object) -> dict[str, npt.NDArray] | None:
    """The calibration that an engine has of its own; None for what the database's is for.

    Raises:
        DatabaseError: the encoder is an engine whose certificate does not hold for that version, or the file is
            unreadable.
    """
    certificate = encoder.certificate if isinstance(encoder, EngineEncoder) else None
    if certificate is None:
        return None
    if why := objection(root, certificate, manifest):
        raise DatabaseError(why)
    if not certificate.own_calibration:
        return None
    file = next(name for name in certificate.files if name.endswith(f'/{OWN_CALIBRATION}'))
    try:
        return read_arrays(root, f'{ENGINES}/{file}')
    except UNREADABLE as error:
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise DatabaseError(f'{Path(root) / ENGINES / file}: unreadable ({reason}); '
                            f'{_again(root, certificate.backend, certificate.precision)} --calibrate') from error


def _again(root: Path, backend: str, precision: str = '') -> str:
    wanted = f' --precision {precision}' if precision else ''
    return f'run semanom export --database {root} --backend {backend}{wanted}'
