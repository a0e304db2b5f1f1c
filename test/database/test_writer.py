"""Recording: round trip, resume, append, one writer at a time, memory."""

from __future__ import annotations

import resource
import tracemalloc
from contextlib import contextmanager
from io import FileIO

import cv2
import numpy as np
import pytest
import torch

from semanom_ros.core.curation import publishing
from semanom_ros.core.curation.publishing import Recipe
from semanom_ros.core.curation.writer import DatabaseWriter
from semanom_ros.core.database.nominal_database import NominalDatabase
from semanom_ros.core.database.storage import (
    FrameRecord,
    NominalAddition,
    NominalFrame,
    PartWriter,
    Statistics,
    sha256_of,
    thumbnail,
)
from semanom_ros.errors import DatabaseError
from semanom_ros.settings import ScoreSettings, SearchSettings


def addition(stamp, vectors, held_out=False, picture=b'', size=(4, 4)):
    """A frame at one place of the image."""
    count = len(vectors)
    return NominalAddition(FrameRecord('/bag', '0' * 64, '/camera', stamp, size, held_out), vectors,
                           np.zeros((count, 4), np.int32), np.zeros((count, 2), np.float32), picture)


def test_what_is_recorded_comes_back(tmp_path, record, drive, description):
    database = record(tmp_path / 'database', {'a': 9, 'b': 5})
    expected = [*drive('a', 9), *drive('b', 5)]
    kept = [frame for frame in expected if not frame.record.held_out]
    assert len(database.frames()) == len(kept) == 11
    for opened in (database, NominalDatabase.open(tmp_path / 'database')):
        for held_out, frames in ((False, opened.frames()), (True, opened.held_out())):
            wanted = [frame for frame in expected if frame.record.held_out == held_out]
            for found, frame in zip(frames, wanted, strict=True):
                assert found.record == frame.record
                np.testing.assert_array_equal(found.vectors, frame.vectors)
                np.testing.assert_array_equal(found.boxes, frame.boxes)
                np.testing.assert_array_equal(found.positions, frame.positions)
        assert opened.manifest.description == description
        assert opened.manifest.version == 1
        assert opened.frames()[-1].record == opened.frames()[10].record == kept[-1].record
        assert len(opened.frames()[2:5]) == 3
        with pytest.raises(IndexError):
            opened.frames()[11]


def test_the_evidence_for_a_vector(tmp_path, record, drive):
    database = record(tmp_path / 'database', {'a': 9})
    kept = [frame for frame in drive('a', 9) if not frame.record.held_out]
    for number, (frame, vectors, boxes, _, stored) in enumerate(kept):
        distances, indices = database.search(vectors[4:5])
        example = database.example(int(indices[0, 0]), float(distances[0, 0]))
        assert int(indices[0, 0]) == 6 * number + 4
        assert (example.source, example.topic, example.stamp_ns) == (frame.source, frame.topic, frame.stamp_ns)
        assert example.box == tuple(boxes[4])
        assert example.distance == distances[0, 0]
        assert example.thumbnail == stored  # byte for byte: nothing is decoded and encoded again
        assert example.image_size == (480, 640)


def test_a_thumbnail_is_a_small_jpeg():
    picture = np.full((30, 40, 3), (40, 90, 200), np.uint8)
    shown = cv2.imdecode(np.frombuffer(thumbnail(picture, 20), np.uint8), cv2.IMREAD_COLOR)
    assert shown.shape == (15, 20, 3)
    assert np.abs(shown[..., ::-1].astype(int) - picture[:15, :20]).max() < 12  # JPEG, RGB
    assert thumbnail(picture, 0) == b''


def test_frames_without_thumbnail_vectors_or_held_out_thumbnail(tmp_path, description, unit_vectors):
    with DatabaseWriter.begin(tmp_path / 'database', description) as writer:
        for stamp, count, held_out in ((0, 2, False), (1, 0, False), (2, 3, False), (3, 2, True)):
            picture = thumbnail(np.zeros((8, 8, 3), np.uint8), 8) if held_out else b''
            writer.add(addition(stamp, unit_vectors(count, stamp), held_out, picture))
        writer.commit()
    database = NominalDatabase.open(tmp_path / 'database')
    assert [len(frame.vectors) for frame in database.frames()] == [2, 0, 3]
    assert database.frame_indices(np.arange(5)).tolist() == [0, 0, 2, 2, 2]
    assert database.example(4, 0.0).thumbnail == b''
    assert (tmp_path / 'database' / 'v000001' / 'held_out' / 'thumbnails.bin').stat().st_size == 0


def test_only_frames_without_vectors_are_held_out(tmp_path, description, unit_vectors):
    with DatabaseWriter.begin(tmp_path / 'database', description) as writer:
        writer.add(addition(0, unit_vectors(1, 0)))
        writer.add(addition(1, unit_vectors(0, 0), held_out=True))
        writer.commit()
    database = NominalDatabase.open(tmp_path / 'database')
    assert [frame.vectors.shape for frame in database.held_out()] == [(0, 16)]


def test_torch_tensors_are_taken(tmp_path, description, unit_vectors):
    vectors = torch.from_numpy(unit_vectors(3, 0)).requires_grad_()
    with DatabaseWriter.begin(tmp_path / 'database', description) as writer:
        writer.add(NominalAddition(FrameRecord('/bag', '0' * 64, '/camera', 0, (4, 4)), vectors,
                                   torch.ones(3, 4, dtype=torch.int64), torch.zeros(3, 2, dtype=torch.float64)))
        writer.commit()
    database = NominalDatabase.open(tmp_path / 'database')
    np.testing.assert_array_equal(database.frames()[0].vectors, vectors.detach().numpy())
    assert database.frames()[0].boxes.dtype == np.int32
    with DatabaseWriter.begin(tmp_path / 'database', description, append=True) as writer, \
            pytest.raises(ValueError, match=r'expected \(n, 16\), \(n, 4\), \(n, 2\)'):
        writer.add(addition(1, vectors)._replace(boxes=np.zeros((2, 4))))


def test_the_same_frame_is_taken_once(tmp_path, record, drive, description):
    path = tmp_path / 'database'
    with DatabaseWriter.begin(path, description) as writer:
        frame = next(drive('a', 1))
        assert not writer.has(*frame.record.key)
        assert writer.add(frame)
        assert writer.has(*frame.record.key)
        assert not writer.add(frame)
        elsewhere = FrameRecord('/moved/a', *frame.record.key, image_size=(480, 640))  # the same bag under another path
        assert not writer.add(frame._replace(record=elsewhere))
        writer.commit()
    with DatabaseWriter.begin(path, description, append=True) as writer:
        assert writer.has(*frame.record.key)
        assert not writer.add(frame)
        assert writer.commit().version == 1  # nothing new, no new version
    assert not (path / 'staging').exists()


def test_append_makes_a_version_and_leaves_indices(tmp_path, record, content_of):
    path = tmp_path / 'database'
    before = record(path, {'a': 9}, Recipe(SearchSettings()))
    files = {file: file.stat().st_mtime_ns for file in (path / 'v000001').rglob('*') if file.parent.name != 'v000001'}
    after = record(path, {'a': 12, 'b': 4}, Recipe(SearchSettings()), append=True)
    assert (before.manifest.version, after.manifest.version) == (1, 2)
    assert content_of(before).items() <= content_of(after).items()
    assert after.manifest.vectors == 6 * (9 + 3)
    vectors = before.frames()[3].vectors
    assert (after.search(vectors)[1] == before.search(vectors)[1]).all()
    assert len(after.calibration['frame_scores']) == 3 + 1
    assert {file: file.stat().st_mtime_ns for file in files} == files, 'what was there was written again'
    # what was opened before stays usable: its files are mapped, and kept for one version
    assert len(before.calibration['frame_scores']) == 2
    assert before.example(0, 0.0).thumbnail


def test_a_finished_database_is_not_overwritten(tmp_path, record, description):
    record(tmp_path / 'database', {'a': 4})
    with pytest.raises(DatabaseError, match=r'found a finished database \(version 1\), expected none; .*--append'):
        DatabaseWriter.begin(tmp_path / 'database', description)
    NominalDatabase.open(tmp_path / 'database')


def test_nothing_to_compare_with(tmp_path, description, drive):
    with DatabaseWriter.begin(tmp_path / 'database', description) as writer, \
            pytest.raises(DatabaseError, match='found no nominal frame to store, expected at least one'):
        writer.commit()
    with DatabaseWriter.begin(tmp_path / 'database', description) as writer:
        for frame in drive('a', 8):
            if frame.record.held_out:
                writer.add(frame)
        with pytest.raises(DatabaseError, match='expected at least one'):
            writer.commit()


def test_two_writers_do_not_meet(tmp_path, description, drive, record):
    first = DatabaseWriter.begin(tmp_path / 'database', description)
    with pytest.raises(DatabaseError, match=r'found a writer at work \(process \d+\), expected none'):
        DatabaseWriter.begin(tmp_path / 'database', description)
    first.add(next(drive('a', 1)))
    first.close()
    with DatabaseWriter.begin(tmp_path / 'database', description) as second:
        assert second.frames == 1


def test_an_interrupted_recording_goes_on(tmp_path, description, drive, record, content_of):
    path = tmp_path / 'database'
    frames = list(drive('a', 12))
    for number in range(0, 12, 3):
        with DatabaseWriter.begin(path, description) as writer:
            assert writer.frames + writer.held_out_frames == number
            for frame in frames[:number + 3]:
                assert writer.has(*frame.record.key) == (frame in frames[:number])
                writer.add(frame)
    with DatabaseWriter.begin(path, description) as writer:
        writer.commit()
    resumed = NominalDatabase.open(path)
    whole = record(tmp_path / 'whole', {'a': 12})
    assert content_of(resumed) == content_of(whole)
    # what was gathered while writing is what is on the disk, wherever the recording was interrupted
    names = ('vectors.f32', 'boxes.i32', 'positions.f32', 'frames.npy', 'thumbnails.bin', 'names.json')
    assert {f'v000001/recorded/{name}' for name in names} < set(resumed.manifest.files)
    for name, entry in resumed.manifest.files.items():
        assert (entry.size, entry.sha256) == ((path / name).stat().st_size, sha256_of(FileIO(path / name))), name
        if not name.endswith('.npz'):  # zip archives hold dates
            assert entry == whole.manifest.files[name]


@pytest.mark.parametrize('name', ['recorded/vectors.f32', 'recorded/boxes.i32', 'recorded/positions.f32',
                                  'recorded/thumbnails.bin', 'held_out/vectors.f32', 'journal'])
@pytest.mark.parametrize('harm', ['cut', 'flip', 'extend'])
def test_a_recording_damaged_on_the_disk_goes_on_before_the_damage(tmp_path, description, drive, record, content_of,
                                                                   name, harm):
    path = tmp_path / 'database'
    with DatabaseWriter.begin(path, description) as writer:
        for frame in drive('a', 9):
            writer.add(frame)
    file = path / 'staging' / name
    bytes_ = bytearray(file.read_bytes())
    if harm == 'cut':
        bytes_ = bytes_[:len(bytes_) * 2 // 3]
    elif harm == 'flip':
        bytes_[len(bytes_) * 2 // 3] ^= 1
    else:
        bytes_ += b'{"source": "what was not finished'
    file.write_bytes(bytes_)
    with DatabaseWriter.begin(path, description) as writer:
        kept = writer.frames + writer.held_out_frames
        assert (kept == 9) if harm == 'extend' else (2 <= kept < 9)
        for frame in drive('a', 9):
            writer.add(frame)
        writer.commit()
    assert content_of(NominalDatabase.open(path)) == content_of(record(tmp_path / 'whole', {'a': 9}))


def test_a_recording_with_other_settings_is_refused(tmp_path, description, drive, record):
    from dataclasses import replace
    other = replace(description, weights_sha256='f' * 64)
    with DatabaseWriter.begin(tmp_path / 'half', description) as writer:
        writer.add(next(drive('a', 1)))
    with pytest.raises(DatabaseError) as caught:
        DatabaseWriter.begin(tmp_path / 'half', other)
    assert str(caught.value) == (
        f'{tmp_path / "half"}: weights_sha256 of the unfinished recording: found {"a" * 64}, expected {"f" * 64} '
        f'(in use now); finish it with those settings or delete {tmp_path / "half" / "staging"}')
    record(tmp_path / 'whole', {'a': 4})
    with pytest.raises(DatabaseError, match=r'weights_sha256 of the database: found a+, expected f+ '):
        DatabaseWriter.begin(tmp_path / 'whole', other, append=True)
    assert not (tmp_path / 'whole' / 'staging').exists()
    # refused, it lets others in
    DatabaseWriter.begin(tmp_path / 'whole', description, append=True).close()


def test_a_failing_calibration_loses_nothing(tmp_path, description, drive, monkeypatch):
    def fails(*_):
        raise RuntimeError('no scores')

    with DatabaseWriter.begin(tmp_path / 'database', description) as writer:
        for frame in drive('a', 8):
            writer.add(frame)
        with monkeypatch.context() as patch:
            patch.setattr(publishing, 'calibrate', fails)
            with pytest.raises(RuntimeError, match='no scores'):
                writer.commit(Recipe(SearchSettings()))
    with pytest.raises(DatabaseError, match='unfinished recording'):
        NominalDatabase.open(tmp_path / 'database')
    with DatabaseWriter.begin(tmp_path / 'database', description) as writer:
        assert writer.frames + writer.held_out_frames == 8
        assert writer.commit(Recipe(SearchSettings())).frames == 6


@pytest.mark.parametrize('recipe', [
    Recipe(SearchSettings()), Recipe(SearchSettings(), ScoreSettings(calibrate_by_region=False)),
    Recipe(SearchSettings(standardize=False, position_weight=0.3),
           ScoreSettings(neighbours=3, calibrate_by_region=False))])
def test_a_recording_is_calibrated_for_those_who_will_use_it(tmp_path, record, opened_as_calibrated, recipe):
    """In the very view that a detector with these settings opens."""
    record(tmp_path / 'database', {'a': 12}, recipe)
    database = opened_as_calibrated(tmp_path / 'database', recipe)
    assert database.manifest.calibrated
    assert len(database.calibration['frame_scores']) == 3
    by_region = recipe.score.calibrate_by_region
    assert ('region_mean' in database.calibration) == by_region
    assert (database.calibration['frame_scores'] > 0).all() or by_region


def test_python_objects_are_not_stored(tmp_path, record, monkeypatch):
    monkeypatch.setattr(publishing, 'calibrate', lambda *_: {'x': np.array([{}], object)})
    with pytest.raises(ValueError, match='Python objects'):
        record(tmp_path / 'pickled', {'a': 4}, Recipe(SearchSettings()))


def test_a_full_disk_is_one_line(tmp_path, description, drive, monkeypatch, trial):
    with trial('Database', 'a full disk while recording', times=2):
        import errno

        from semanom_ros.core.database import storage

        def full(*_):
            raise OSError(errno.ENOSPC, 'No space left on device')

        with DatabaseWriter.begin(tmp_path / 'database', description) as writer:
            frames = list(drive('a', 4))
            writer.add(frames[0])
            with monkeypatch.context() as patch:
                patch.setattr(storage.PartWriter, 'append', full)
                with pytest.raises(DatabaseError, match=r'not written \(No space left on device\); make room'):
                    writer.add(frames[1])
            assert not writer.has(*frames[1].record.key)
            with monkeypatch.context() as patch:
                patch.setattr(storage.PartWriter, 'finish', full)
                with pytest.raises(DatabaseError, match='not written'):
                    writer.commit()
        with DatabaseWriter.begin(tmp_path / 'database', description) as writer:
            for frame in frames:
                writer.add(frame)
            assert writer.commit().frames == 3


@contextmanager
def files_of_at_most(size):
    """The kernel refuses to let files grow beyond that, in the middle of a write: as a full disk does."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize('size', [900, 1500, 1900])
def test_a_disk_that_fills_up_within_a_frame_loses_nothing(tmp_path, description, drive, record, content_of, size,
                                                           trial):
    with trial('Database', 'a full disk while recording'):
        path = tmp_path / 'database'

        def work():
            with DatabaseWriter.begin(path, description) as writer:
                kept = writer.frames + writer.held_out_frames
                for frame in drive('a', 12):
                    writer.add(frame)
                writer.commit(Recipe(SearchSettings()))
                return kept

        with files_of_at_most(size), pytest.raises(DatabaseError, match=r'not written \(File too large\)'):
            work()
        assert 0 < work() < 12
        assert content_of(NominalDatabase.open(path)) == content_of(record(tmp_path / 'whole', {'a': 12}))


def test_memory_does_not_grow_with_the_recording(tmp_path, description, unit_vectors):
    """100,000 vectors, 6.4 MB of them: writing holds none in memory, opening those alone that are searched."""
    vectors = unit_vectors(1000, 0)
    tracemalloc.start()
    with DatabaseWriter.begin(tmp_path / 'database', description) as writer:
        for stamp in range(100):
            writer.add(addition(stamp, vectors, size=(480, 640)))
        writing = tracemalloc.get_traced_memory()[1]
        tracemalloc.reset_peak()
        writer.close()
    tracemalloc.stop()
    assert writing < 1e6
    with DatabaseWriter.begin(tmp_path / 'database', description) as writer:
        writer.commit()
    tracemalloc.start()
    database = NominalDatabase.open(tmp_path / 'database')
    total = sum(frame.vectors.nbytes for frame in database.frames())
    opening = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert total == 100_000 * 16 * 4
    assert opening < 2.2e6 + 24 * 100_000  # the buffer of the checksums, provenance, boxes and positions
    distances, _ = database.search(vectors[:2])
    assert distances.max() < 1e-6


def test_thumbnails_are_jpeg_files_one_after_the_other(tmp_path, record):
    record(tmp_path / 'database', {'a': 4})
    packed = (tmp_path / 'database' / 'v000001' / 'recorded' / 'thumbnails.bin').read_bytes()
    frames = np.load(tmp_path / 'database' / 'v000001' / 'recorded' / 'frames.npy', allow_pickle=False)
    assert packed.count(b'\xff\xd8\xff') == len(frames) == 3
    one = packed[frames['thumbnail'][1]:][:frames['thumbnail_size'][1]]
    assert cv2.imdecode(np.frombuffer(one, np.uint8), cv2.IMREAD_COLOR).shape == (12, 16, 3)


def test_statistics_and_checksums_grow_with_the_part(tmp_path, unit_vectors):
    """Those gathered frame by frame are those of all vectors and of the files: nothing is read again for them."""
    writer, rows = PartWriter(tmp_path / 'recorded', 16), []
    for stamp in range(40):
        vectors = unit_vectors(stamp % 7, stamp)
        rows.append(vectors)
        frame = addition(stamp, vectors, size=(480, 640))
        writer.append(NominalFrame(*frame[:4]), bytes([stamp]) * stamp)
    entries = writer.finish()
    assert {path.name for path in (tmp_path / 'recorded').iterdir()} == set(entries)
    for name, entry in entries.items():
        file = tmp_path / 'recorded' / name
        assert (entry.size, entry.sha256) == (file.stat().st_size, sha256_of(FileIO(file))), name
    everything = np.concatenate(rows)
    with np.load(tmp_path / 'recorded' / 'statistics.npz', allow_pickle=False) as stored:
        found = Statistics(int(stored['count']), stored['mean'], stored['squares'])
    assert found.count == len(everything)
    np.testing.assert_allclose(found.mean, everything.astype(np.float64).mean(axis=0), rtol=0, atol=1e-12)
    np.testing.assert_allclose(found.squares, everything.astype(np.float64).var(axis=0) * len(everything), rtol=0,
                               atol=1e-12)
