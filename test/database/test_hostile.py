"""A database's folder as an attacker or an unlucky copy leaves it: nothing elsewhere is touched, nothing is taken for
sound that is not, and what is wrong is one line."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import resource
import shutil
import socket
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from semanom_ros.core.curation import operations
from semanom_ros.core.curation.publishing import IndexSettings, Recipe
from semanom_ros.core.curation.writer import DatabaseWriter
from semanom_ros.core.database.manifest import LARGEST_VERSION, Manifest
from semanom_ros.core.database.nominal_database import NominalDatabase
from semanom_ros.core.database.published import read_manifest
from semanom_ros.core.database.storage import FRAME_TYPE, FrameRecord, NominalAddition, arrays_to_bytes
from semanom_ros.core.embedding.description import EmbeddingDescription
from semanom_ros.core.embedding.recorded_parameters import parameters_of
from semanom_ros.core.scoring.calibration import Calibration
from semanom_ros.errors import DatabaseError
from semanom_ros.settings import SearchSettings


@pytest.fixture
def database(tmp_path, record) -> Path:
    path = tmp_path / 'database'
    record(path, {'a': 12, 'b': 5}, Recipe(SearchSettings()))
    return path


def everything(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob('*') if path.is_file()}


def refused(work: Callable[[], object], *expected: str) -> str:
    with pytest.raises(DatabaseError) as caught:
        work()
    message = str(caught.value)
    assert '\n' not in message
    assert ';' in message, 'what to do is missing'
    for text in expected:
        assert text in message
    return message


def complaint_of(work: Callable[[], object]) -> str:
    """What the package's one error says; '' where it works."""
    try:
        work()
    except DatabaseError as error:
        return str(error)
    return ''


def rewrite(path: Path, content: dict[str, Any]) -> None:
    """A manifest whose own checksum is right: whoever can write it can write that, too."""
    content = {key: value for key, value in content.items() if key != 'sha256'}
    content['sha256'] = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
    path.write_text(json.dumps(content))


def replaced(path: Path, name: str, content: bytes) -> None:
    """Another file in a database, which its manifest vouches for."""
    (path / name).write_bytes(content)
    manifest = json.loads((path / 'manifest.json').read_text())
    manifest['files'][name] = {'size': len(content), 'sha256': hashlib.sha256(content).hexdigest()}
    rewrite(path / 'manifest.json', manifest)


def append(path: Path, description, drive) -> None:
    with DatabaseWriter.begin(path, description, append=True) as writer:
        for frame in drive('c', 3):
            writer.add(frame)
        writer.commit()


LINKS = ('v000002', 'v000003', 'v000009', 'staging', 'lock', 'manifest.json.new', 'v000001/recorded/link',
         'v000001/manifest.json.new', 'v000002/recorded', 'staging/journal', 'staging/description.json',
         'staging/recorded', 'staging/recorded/vectors.f32', 'v000001', 'v000001/recorded', 'v000001/manifest.json',
         'manifest.json')


@pytest.mark.parametrize('name', LINKS)
def test_no_writer_follows_a_link(database, description, drive, tmp_path, name, trial):
    """What is elsewhere stays as it is, whether writers go on or say that they do not."""
    elsewhere = tmp_path / 'elsewhere'
    link = database / name
    if link.exists():
        link.rename(elsewhere)  # moved to a larger disk, say
    else:
        (elsewhere / 'recorded').mkdir(parents=True)
        for file in ('precious', 'recorded/vectors.f32', 'journal', 'description.json'):
            (elsewhere / file).write_text('do not touch')
    link.parent.mkdir(parents=True, exist_ok=True)
    file = name.endswith(('lock', 'json', 'new', 'journal', 'f32')) and elsewhere.is_dir()
    link.symlink_to(elsewhere / 'precious' if file else elsewhere)
    before = everything(elsewhere) if elsewhere.is_dir() else elsewhere.read_bytes()
    changes = [lambda: append(database, description, drive), lambda: operations.calibrate(database),
               lambda: operations.compact(database, size=20), lambda: operations.calibrate(database)]
    with trial('Database', 'a link inside the folder, and a writer', times=len(changes)):
        for change in changes:
            assert '\n' not in complaint_of(change)
            assert (everything(elsewhere) if elsewhere.is_dir() else elsewhere.read_bytes()) == before


def test_the_folder_itself_may_be_a_link(database, description, drive, tmp_path):
    (tmp_path / 'link').symlink_to(database)
    append(tmp_path / 'link', description, drive)
    operations.calibrate(tmp_path / 'link')
    assert operations.verify(tmp_path / 'link').version == 3


def test_only_what_was_listed_is_removed(database, record, tmp_path, trial):
    """Folders and files that are named like a writer's and are none's."""
    notes = ['v000009/notes.txt', 'v000001/notes.txt', 'v000001/recorded/notes.txt', 'v000005/recorded/vectors.f32']
    with trial('Database', 'files of others beside ours', times=len(notes) + 1):
        for name in notes:
            (database / name).parent.mkdir(exist_ok=True, parents=True)
            (database / name).write_text('mine')
        for _ in range(3):
            operations.compact(database, size=20)
        for name in notes[:3]:
            assert (database / name).read_text() == 'mine'
        assert not list(database.glob('v000001/recorded/*.f32')), 'ours are gone'
        (database / 'v000005' / 'thesis.tex').write_text('mine')
        refused(lambda: operations.calibrate(database), 'thesis.tex', 'move it away')
        assert (database / 'v000005' / 'thesis.tex').read_text() == 'mine'
        operations.verify(database)


def test_a_version_of_another_database_is_not_taken_for_the_next_one(database, record, tmp_path, trial):
    other = tmp_path / 'other'
    record(other, {'z': 9}, Recipe(SearchSettings()))
    operations.calibrate(other)
    shutil.copytree(other / 'v000002', database / 'v000002')
    before = everything(database)
    with trial('Database', 'a version of another database put into it'):
        refused(lambda: operations.calibrate(database), 'found a version that follows another', 'move it away')
        assert everything(database) == before


def test_another_database_in_its_place_is_not_changed(database, record, tmp_path, trial):
    """Its version has the same number, and even the same name."""
    loaded = NominalDatabase.open(database)
    shutil.rmtree(database)
    record(database, {'z': 9}, Recipe(SearchSettings()))
    before = everything(database)
    addition = NominalAddition(loaded.frames()[0].record, *loaded.frames()[0][1:])
    with trial('Database', 'another database with the same version number in its place'):
        refused(lambda: operations.accept(loaded, [addition]), 'found another version 1', 'expected 1 (loaded)')
        assert everything(database) == before


@pytest.mark.parametrize('name', ['lock', 'manifest.json', 'staging/journal', 'staging/recorded/vectors.f32'])
def test_a_file_with_two_names_is_not_written_over(database, description, drive, tmp_path, name, trial):
    """`cp -al`, and backups that share unchanged files: one of the two is changed, the other is the backup."""
    with DatabaseWriter.begin(database, description, append=True) as writer:
        writer.add(next(drive('c', 1)))
    shutil.copytree(database, tmp_path / 'backup', copy_function=os.link)
    (tmp_path / 'backup' / name).stat()
    with trial('Database', 'files shared with a backup by hard links'):
        before = everything(tmp_path / 'backup')
        append(database, description, drive)
        assert everything(tmp_path / 'backup') == before
        operations.verify(database)


def test_files_cut_or_written_over_while_they_are_open(database, unit_vectors, trial):
    """A map into memory would have the kernel end the process (SIGBUS)."""
    opened = NominalDatabase.open(database, SearchSettings())
    queries = unit_vectors(5, 3)
    before = opened.search(queries, places=np.zeros((5, 3), np.float32))
    names = [file for file in everything(database) if file.startswith('v')]
    with trial('Database', 'a file cut or written over while it is open', times=2 * len(names)):
        for change in (b'', b'\xff' * 100_000):
            for name in names:
                (database / name).write_bytes(change)
            after = opened.search(queries, places=np.zeros((5, 3), np.float32))
            np.testing.assert_array_equal(before[1], after[1])
            assert opened.example(int(before[1][0, 0]), 0.1).thumbnail == b''
            refused(lambda: opened.frames()[0], 'was changed while it was open')


@pytest.mark.parametrize('kind', ['pipe', 'folder', 'link', 'zero', 'socket'])
def test_what_is_no_file_is_not_opened(database, kind, trial):
    """A named pipe that nobody writes to would keep the reader waiting for ever, /dev/zero would feed it."""
    names = ['manifest.json', *read_manifest(database).files]
    with trial('Database', 'pipes, devices, folders and links for files', times=len(names)):
        for name in names:
            file, kept = database / name, database / 'kept'
            file.rename(kept)
            if kind == 'pipe':
                os.mkfifo(file)
            elif kind == 'folder':
                file.mkdir()
            elif kind == 'socket':
                with socket.socket(socket.AF_UNIX) as sock, pytest.MonkeyPatch.context() as patch:
                    patch.chdir(file.parent)  # its address is short
                    sock.bind(file.name)
            else:
                file.symlink_to('/dev/zero' if kind == 'zero' else kept)
            for verify in (True, False):
                refused(lambda verify=verify: NominalDatabase.open(
                    database, SearchSettings(), verify=verify), str(file))
            file.rmdir() if kind == 'folder' else file.unlink()
            kept.rename(file)
    operations.verify(database)


@pytest.mark.parametrize('content', [
    b'', b'[' * 100_000, b'{"a":' * 100_000, b'{"format": NaN}', b'\xff\xfe', b'{"format": "semanom nominal database"}',
    b'{"format": "semanom nominal database", "schema_version": [2]}', b'null', b'1' * 5000])
def test_manifests_that_are_none(database, content, trial):
    (database / 'manifest.json').write_bytes(content)
    with trial('Database', 'a manifest that is none'):
        refused(lambda: NominalDatabase.open(database))


def test_a_manifest_of_absurd_size_is_not_read(database):
    with open(database / 'manifest.json', 'r+b') as file:
        file.truncate(1 << 40)
    refused(lambda: read_manifest(database), f'found {1 << 40} bytes, expected at most')


@pytest.fixture(scope='module')
def small(tmp_path_factory) -> tuple[Path, dict[str, Any]]:
    """A database with all that there can be in a manifest, and its manifest."""
    path = tmp_path_factory.mktemp('small') / 'database'
    description = EmbeddingDescription(
        encoder='timm:small', weights='random:0', weights_sha256='a' * 64, preprocessing_sha256='b' * 64,
        input_size=(64, 96), grid_size=(4, 6), dimension=4, variant='grid', settings={'layer': '-1'})
    generator = np.random.default_rng(0)
    with DatabaseWriter.begin(path, description) as writer:
        for stamp in range(24):
            vectors = generator.standard_normal((4, 4)).astype(np.float32)
            writer.add(NominalAddition(
                FrameRecord('/drive', 'c' * 64, '/camera', stamp * 10**9, (64, 96), stamp % 6 == 5),
                vectors / np.linalg.norm(vectors, axis=1, keepdims=True), np.ones((4, 4), np.int32),
                np.full((4, 2), 0.5, np.float32), b'\xff\xd8 a picture'))
        writer.commit(Recipe(SearchSettings(standardize=False), index=IndexSettings('IVF2,Flat', 2)))
    operations.keep_versions(path, 3)
    return path, json.loads((path / 'manifest.json').read_text())


def places_of(value: Any, way: tuple = ()) -> list[tuple]:
    """The way to every value in a JSON text."""
    found = [way] if way else []
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return found + [place for key, inner in items for place in places_of(inner, (*way, key))]


def use(path: Path) -> None:
    """All that a detector does with a database, evidence included."""
    database = NominalDatabase.open(path, SearchSettings(standardize=False))
    queries = np.eye(4, dtype=np.float32)[:, :database.manifest.description.dimension]
    _, indices = database.search(queries)
    for index in range(len(database)):
        example = database.example(index, 0.0)
        assert example.topic == '/camera'
    database.neighbours_of(indices[:, 0], 1)
    database.statistics.scale.sum()
    Calibration.from_arrays(database.calibration).describe()
    list(database.frames())
    assert database.learned == {}


VALUES = st.one_of(
    st.none(), st.booleans(), st.integers(-2**70, 2**70), st.integers(-3, 3), st.floats(), st.text(max_size=8),
    st.sampled_from(['', '../x', '/etc/passwd', 'v000001/../../x', 'v000001', 'v000001/recorded', 'held_out', '\0']),
    st.lists(st.integers(-2, 2**40), max_size=3), st.dictionaries(st.text(max_size=3), st.integers(), max_size=2))


@given(data=st.data())
def test_any_field_of_the_manifest_changed(small, tmp_path_factory, trial, data):
    """One error, or a database that works: nothing waits to fail until evidence is looked up."""
    path, original = small
    content = json.loads(json.dumps(original))
    place = data.draw(st.sampled_from(places_of(original)))
    parent: Any = content
    for key in place[:-1]:
        parent = parent[key]
    if data.draw(st.booleans()):
        parent[place[-1]] = data.draw(VALUES)
    elif data.draw(st.booleans()) or not isinstance(parent, dict):
        del parent[place[-1]]
    else:
        parent[data.draw(st.text(max_size=5))] = parent.pop(place[-1])
    with trial('Database', 'any field of the manifest changed, dropped or renamed'):
        try:
            rewrite(path / 'manifest.json', content)
            assert '\n' not in complaint_of(lambda: use(path))
        finally:
            rewrite(path / 'manifest.json', original)


@given(data=st.data())
def test_any_number_of_the_provenance_changed(small, trial, data):
    """frames.npy, with checksums that fit."""
    path, manifest = small
    name = data.draw(st.sampled_from([name for name in manifest['files'] if name.endswith('frames.npy')]))
    original = (path / name).read_bytes()
    frames = np.load(path / name)
    field = data.draw(st.sampled_from(FRAME_TYPE.names))
    limits = np.iinfo(frames[field].dtype)
    row = data.draw(st.integers(0, len(frames) - 1))
    frames[field][row] = data.draw(st.one_of(st.integers(limits.min, limits.max), st.integers(-2, 200)))
    np.save(path / name, frames)
    with trial('Database', 'any number of the provenance changed'):
        try:
            replaced(path, name, (path / name).read_bytes())
            assert '\n' not in complaint_of(lambda: use(path))
        finally:
            (path / name).write_bytes(original)
            rewrite(path / 'manifest.json', manifest)


@pytest.mark.parametrize(('name', 'content'), [
    ('vectors.f32', lambda old: np.full(len(old) // 4, np.nan, '<f4').tobytes()),
    ('vectors.f32', lambda old: np.full(len(old) // 4, 9, '<f4').tobytes()),
    ('positions.f32', lambda old: np.full(len(old) // 4, np.nan, '<f4').tobytes()),
    ('boxes.i32', lambda old: np.full(len(old) // 4, -1, '<i4').tobytes()),
    ('boxes.i32', lambda old: np.full(len(old) // 4, 2**31 - 1, '<i4').tobytes()),
    ('names.json', lambda old: b'{"sources": [], "topics": []}'),
    ('names.json', lambda old: b'{"sources": [["a", 3]], "topics": [null]}'),
    ('names.json', lambda old: b'[' * 50_000),
    ('thumbnails.bin', lambda old: b''),
    ('frames.npy', lambda old: old.replace(b'(20,)', b'(-1,)')),
    ('frames.npy', lambda old: old.replace(b'(20,)', b'(99,)')),
    ('frames.npy', lambda old: old.replace(b"'<i4'", b"'|O4'")),
    ('statistics.npz', lambda old: arrays_to_bytes(
        {'count': np.array(3), 'mean': np.zeros(3), 'squares': np.zeros(3)})),
    ('statistics.npz', lambda old: arrays_to_bytes(
        {'count': np.array(3), 'mean': np.full(4, np.nan), 'squares': np.zeros(4)})),
    ('calibration.npz', lambda old: arrays_to_bytes({'x': np.zeros(3)})),
    ('calibration.npz', lambda old: b'PK'),
])
def test_contents_that_fit_nothing_are_found_at_load(small, trial, name, content):
    """Their checksums are right; without them the fault would show on the first anomalous frame."""
    path, manifest = small
    (file, *_) = sorted((file for file in manifest['files'] if file.endswith(name)), key=lambda f: 'held_out' in f)
    original = (path / file).read_bytes()
    with trial('Database', 'contents that fit nothing, with right checksums'):
        try:
            replaced(path, file, content(original))
            refused(lambda: (operations.verify(path), use(path)))
        finally:
            (path / file).write_bytes(original)
            rewrite(path / 'manifest.json', manifest)


def test_an_archive_that_would_not_fit_into_memory(small, trial):
    path, manifest = small
    original = (path / manifest['calibration']).read_bytes()
    with zipfile.ZipFile(path / 'bomb', 'w', zipfile.ZIP_DEFLATED) as archive:
        archive.writestr('frame_scores.npy', b'\0' * (64 << 20))
    with trial('Database', 'an archive that unpacks to a thousand times its size'):
        try:
            replaced(path, manifest['calibration'], (path / 'bomb').read_bytes())
            refused(lambda: NominalDatabase.open(path), 'calibration.npz: unreadable', 'say they hold more')
        finally:
            (path / 'bomb').unlink()
            (path / manifest['calibration']).write_bytes(original)
            rewrite(path / 'manifest.json', manifest)


def flat(dimension: int, count: int) -> Any:
    index = faiss.IndexFlatL2(dimension)
    index.add(np.zeros((count, dimension), np.float32))
    return index


def inverted(dimension: int, count: int, ids: Any = None, metric: int = faiss.METRIC_L2) -> Any:
    vectors = np.random.default_rng(0).standard_normal((count, dimension)).astype(np.float32)
    index = faiss.index_factory(dimension, 'IVF2,Flat', metric)
    index.train(vectors)
    index.add_with_ids(vectors, np.arange(count) if ids is None else ids)
    return index


@pytest.mark.parametrize('made', [
    lambda n: flat(4, n), lambda n: inverted(5, n), lambda n: inverted(4, n - 1), lambda n: inverted(4, n + 1),
    lambda n: inverted(4, n, np.arange(n) + 10**9), lambda n: inverted(4, n, np.zeros(n, np.int64)),
    lambda n: inverted(4, n, metric=faiss.METRIC_INNER_PRODUCT), lambda n: faiss.IndexPreTransform(flat(4, n))])
def test_an_index_of_another_kind(small, made, trial):
    path, manifest = small
    name = manifest['index']['file']
    original = (path / name).read_bytes()
    with trial('Database', 'an index of another kind, dimension, size or content'):
        try:
            replaced(path, name, faiss.serialize_index(made(manifest['index']['vectors'])).tobytes())
            refused(lambda: use(path), name, 'semanom db index')
            refused(lambda: operations.verify(path), name)
        finally:
            (path / name).write_bytes(original)
            rewrite(path / 'manifest.json', manifest)


def test_an_index_that_names_a_file_elsewhere(small, tmp_path, trial):
    """FAISS would open it, whatever it is: here a pipe, which would keep it waiting for ever."""
    path, manifest = small
    name = manifest['index']['file']
    original = (path / name).read_bytes()
    index = inverted(4, manifest['index']['vectors'])
    lists = faiss.OnDiskInvertedLists(index.nlist, index.code_size, str(tmp_path / 'lists'))
    lists.merge_from_1(index.invlists)
    index.replace_invlists(lists)
    content = faiss.serialize_index(index).tobytes()
    (tmp_path / 'lists').unlink()
    os.mkfifo(tmp_path / 'lists')
    with trial('Database', 'an index that names a file elsewhere'):
        try:
            replaced(path, name, content)
            refused(lambda: use(path), 'unreadable as a FAISS index')
        finally:
            (path / name).write_bytes(original)
            rewrite(path / 'manifest.json', manifest)


@pytest.mark.parametrize(('place', 'value'), [(-1, 2**31), (-2, 2**31), (0, 2**40)])
def test_an_index_that_says_it_holds_gigabytes(small, trial, place, value):
    """Of its inverted lists: how many there are, and how many vectors the first holds."""
    path, manifest = small
    name = manifest['index']['file']
    original = (path / name).read_bytes()
    content = bytearray(faiss.serialize_index(inverted(4, manifest['index']['vectors'])).tobytes())
    start = content.index(b'ilar') + 4  # lists, bytes of a code, a word, how many sizes, the sizes
    start += 0 if place == 0 else 8 + 8 + 4 + 8 + 8 * (-1 - place)
    content[start:start + 8] = value.to_bytes(8, 'little')
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with trial('Database', 'an index that says it holds gigabytes'):
        try:
            replaced(path, name, bytes(content))
            refused(lambda: use(path), 'unreadable as a FAISS index')
            assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000
        finally:
            (path / name).write_bytes(original)
            rewrite(path / 'manifest.json', manifest)


def test_the_last_version_that_there_can_be_stays_readable(database, trial):
    manifest = json.loads((database / 'manifest.json').read_text())
    rewrite(database / 'manifest.json', {**manifest, 'version': LARGEST_VERSION})
    with trial('Database', 'the last version number that there can be'):
        refused(lambda: operations.calibrate(database), f'found version {LARGEST_VERSION}')
        assert operations.verify(database).version == LARGEST_VERSION


def test_settings_of_an_encoder_that_call_a_layer_otherwise(database):
    made = read_manifest(database).description
    assert 'encoder_layer' not in parameters_of(dataclasses.replace(made, settings={
        'features': 'tokens', 'layer': 'the last'}, parameters={}))


def test_a_journal_without_an_end_of_line(database, description, drive, trial):
    with DatabaseWriter.begin(database, description, append=True) as writer:
        writer.add(next(drive('c', 1)))
    with open(database / 'staging' / 'journal', 'r+b') as journal:
        journal.truncate(1 << 30)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with trial('Database', 'a journal that was tampered with'):
        with DatabaseWriter.begin(database, description, append=True) as writer:
            assert writer.frames == 1
        assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000


def test_an_unfinished_recording_that_was_tampered_with(tmp_path, description, drive, trial):
    path = tmp_path / 'database'
    with DatabaseWriter.begin(path, description) as writer:
        for frame in list(drive('a', 4))[:3]:
            writer.add(frame)
    journal = path / 'staging' / 'journal'
    lines = journal.read_bytes().splitlines(keepends=True)
    changed = [b'[' * 100_000 + b'\n', json.dumps({**json.loads(lines[1]), 'vectors': 2**60}).encode() + b'\n',
               json.dumps({**json.loads(lines[1]), 'vectors': -1}).encode() + b'\n', b'null\n',
               json.dumps({**json.loads(lines[1]), 'image_size': 'x'}).encode() + b'\n']
    with trial('Database', 'a journal that was tampered with', times=len(changed)):
        for line in changed:
            copy = tmp_path / 'copy'
            shutil.copytree(path, copy)
            (copy / 'staging' / 'journal').write_bytes(lines[0] + line + lines[2])
            with DatabaseWriter.begin(copy, description) as writer:
                assert writer.frames == 1, 'what follows the last whole frame is cut off'
            shutil.rmtree(copy)


@pytest.mark.parametrize('room', [0, 200, 3000])
def test_a_full_disk_when_a_frame_is_accepted_or_a_recording_begins(database, description, drive, room, trial):
    """What the detector's service and the recorder answer with: the package's one error, in one line."""
    opened = NominalDatabase.open(database)
    addition = NominalAddition(opened.frames()[0].record, *opened.frames()[0][1:])
    before, limit = everything(database), resource.getrlimit(resource.RLIMIT_FSIZE)
    with trial('Database', 'a full disk, and an accepted frame or a recording', times=2) as tally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (room, limit[1]))
        try:
            refused(lambda: operations.accept(opened, [addition]), 'not written (File too large); make room')
            refused(lambda: append(database, description, drive), 'File too large')
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limit)
        tally.lost += sum((database / name).read_bytes() != content for name, content in before.items()
                          if name != 'lock')
        operations.verify(database)
        assert operations.accept(opened, [addition]).manifest.version == 2
        append(database, description, drive)
    assert tally.lost == 0


def test_what_did_not_come_about_leaves_nothing(database, record, tmp_path, description, drive):
    other = dataclasses.replace(description, dimension=32)
    with DatabaseWriter.begin(tmp_path / 'other', other):
        pass
    assert not (tmp_path / 'other').exists()
    record(tmp_path / 'z', {'z': 9})
    manifest = Manifest.read(tmp_path / 'z' / 'manifest.json')
    made = dataclasses.replace(manifest.description, encoder='another')
    (tmp_path / 'z' / 'manifest.json').write_text(manifest.replace(description=made).dumps())
    refused(lambda: operations.merge(tmp_path / 'all', [database, tmp_path / 'z']), 'encoder: found another')
    assert not (tmp_path / 'all').exists()
    (tmp_path / 'empty').mkdir()
    refused(lambda: operations.merge(tmp_path / 'empty', [database, tmp_path / 'z']))
    assert not list((tmp_path / 'empty').iterdir())
