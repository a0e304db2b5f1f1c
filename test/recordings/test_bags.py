"""Recordings as recorders leave them: both storages, split, compressed, cut off, without metadata."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rosbags.rosbag2 as rosbag2
import sensor_msgs
import yaml
import zstandard
from rosbags.highlevel import AnyReader

from semanom_ros.errors import BagError, ImageError
from semanom_ros.recordings.bags import CAMERA_INFO, COMPRESSED_IMAGE, IMAGE, STORAGES, BagReader, BagWriter, typestore
from semanom_ros.recordings.images import image_from_message

SECOND = 10**9
FRAMES = 12


def picture(number: int, camera: int = 0) -> np.ndarray:
    rng = np.random.default_rng(100 * camera + number)
    return rng.integers(0, 256, (32, 48, 3), dtype=np.uint8)


def camera_info(stamp_ns: int):
    types = typestore().types
    roi = types['sensor_msgs/msg/RegionOfInterest'](0, 0, 0, 0, False)
    header = types['std_msgs/msg/Header'](types['builtin_interfaces/msg/Time'](*divmod(stamp_ns, SECOND)), 'optical')
    return types[CAMERA_INFO](header, 32, 48, 'plumb_bob', np.zeros(5), np.arange(9.0), np.eye(3).ravel(),
                              np.zeros(12), 0, 0, roi)


def string(text: str):
    return typestore().types['std_msgs/msg/String'](text)


def write(path: Path, storage: str = 'mcap', first: int = 0, cameras: int = 1, compress: bool = False) -> Path:
    """A recording of FRAMES frames at 1 Hz."""
    with BagWriter(path, storage) as writer:
        for number in range(first, first + FRAMES):
            stamp = (number + 1) * SECOND
            for camera in range(cameras):
                topic = f'/camera{camera}/image_raw' + ('/compressed' if compress else '')
                writer.write_image(topic, picture(number, camera), 'bgr8', stamp, 'optical', compress)
                writer.write(f'/camera{camera}/camera_info', camera_info(stamp), stamp)
            writer.write('/chatter', string(f'{number}'), stamp)
    return path


def storage_file(bag: Path) -> Path:
    return next(p for p in bag.iterdir() if p.suffix in ('.mcap', '.db3'))


def cut(bag: Path, share: float) -> Path:
    """Loses the end of a recording's file."""
    file = storage_file(bag)
    os.truncate(file, int(share * file.stat().st_size))
    return bag


def read_until_damage(reader: BagReader, topic: str = '') -> tuple[list[int], str]:
    """Numbers of the frames read, and what was said about the damage at their end ('' if nothing)."""
    numbers, said = [], ''
    try:
        for frame in reader.images(topic):
            number = frame.stamp_ns // SECOND - 1
            assert (frame.image == picture(number)).all()
            numbers.append(number)
    except BagError as error:
        said = str(error)
    assert '\n' not in said
    return numbers, said


@pytest.mark.parametrize('storage', STORAGES)
def test_what_is_written_is_read(tmp_path: Path, storage: str) -> None:
    bag = write(tmp_path / 'drive', storage, cameras=2)
    with BagReader(bag) as reader:
        assert reader.topics == {
            '/camera0/image_raw': IMAGE, '/camera0/camera_info': CAMERA_INFO,
            '/camera1/image_raw': IMAGE, '/camera1/camera_info': CAMERA_INFO, '/chatter': 'std_msgs/msg/String'}
        assert set(reader.counts.values()) == {FRAMES}
        assert reader.damage == ''
        times = [time_ns for _, _, time_ns, _ in reader.raw()]
        assert (times, times[0], times[-1]) == (sorted(times), SECOND, FRAMES * SECOND)
        frames = list(reader.images(['/camera0/image_raw', '/camera1/image_raw']))
        assert [(f.stamp_ns, f.topic) for f in frames] == [
            ((n + 1) * SECOND, f'/camera{c}/image_raw') for n in range(FRAMES) for c in (0, 1)]
        assert all((f.image == picture(n // 2, n % 2)).all() for n, f in enumerate(frames))
        assert {(f.source, f.camera) for f in frames} == {(str(bag), f'/camera{c}/image_raw') for c in (0, 1)}
        info = reader.camera_info('/camera0/image_raw')
        assert (info.header.frame_id, info.k[5]) == ('optical', 5.0)
        chatter = [(time_ns, message.data) for _, time_ns, message in reader.messages(['/chatter'])]
        assert chatter == [((n + 1) * SECOND, str(n)) for n in range(FRAMES)]
        rows = list(reader.raw())
        assert len(rows) == 5 * FRAMES
        assert rows[0][:3] == ('/camera0/image_raw', IMAGE, SECOND)


@pytest.mark.parametrize('storage', STORAGES)
def test_a_folder_its_metadata_and_its_file_are_the_same_recording(tmp_path: Path, storage: str) -> None:
    bag = write(tmp_path / 'drive', storage)
    prints = set()
    for path in (bag, str(bag), bag / 'metadata.yaml', storage_file(bag)):
        with BagReader(path) as reader:
            assert read_until_damage(reader) == (list(range(FRAMES)), '')
            prints.add(reader.fingerprint())
    assert len(prints) == 1


def test_the_fingerprint_is_of_the_recording_and_not_of_its_metadata_file(tmp_path: Path) -> None:
    bag = write(tmp_path / 'drive')
    with BagReader(bag) as reader:
        before = reader.fingerprint()
    with open(bag / 'metadata.yaml', 'a') as file:
        file.write('\n')
    with BagReader(bag) as reader:
        assert reader.fingerprint() == before
    with BagReader(bag.rename(tmp_path / 'moved')) as reader:
        assert reader.fingerprint() == before
    with BagReader(write(tmp_path / 'other', first=1)) as reader:
        assert reader.fingerprint() != before


def test_the_fingerprint_of_a_large_recording_is_that_of_its_size_beginning_and_end(tmp_path: Path) -> None:
    bag = tmp_path / 'drive'
    with BagWriter(bag) as writer:
        for number in range(1000):
            writer.write_image('/camera/image', picture(number), 'bgr8', (number + 1) * SECOND, 'optical')
    file, mebibyte = storage_file(bag), 1 << 20
    content = file.read_bytes()
    assert len(content) > 3 * mebibyte
    expected = hashlib.sha256(len(content).to_bytes(8, 'little') + content[:mebibyte] + content[-mebibyte:])
    with BagReader(bag) as reader:
        assert reader.fingerprint() == expected.hexdigest()


@pytest.mark.parametrize('storage', STORAGES)
def test_metadata_is_that_of_rosbag2(tmp_path: Path, storage: str) -> None:
    bag = write(tmp_path / 'drive', storage)
    info = yaml.safe_load((bag / 'metadata.yaml').read_text())['rosbag2_bagfile_information']
    assert (info['version'], info['storage_identifier'], info['message_count']) == (9, storage, 3 * FRAMES)
    assert info['starting_time']['nanoseconds_since_epoch'] == SECOND
    assert info['duration']['nanoseconds'] == (FRAMES - 1) * SECOND
    assert info['relative_file_paths'] == [storage_file(bag).name]
    prefix = next(folder for folder in Path(sensor_msgs.__file__).parents if (folder / 'share/sensor_msgs').is_dir())
    for topic in info['topics_with_message_count']:
        meta = topic['topic_metadata']
        package, _, name = meta['type'].split('/')
        hashes = json.loads((prefix / 'share' / package / 'msg' / f'{name}.json').read_text())['type_hashes']
        assert meta['type_description_hash'] == next(h['hash_string'] for h in hashes if h['type_name'] == meta['type'])
        assert meta['offered_qos_profiles'][0]['reliability'] == 'reliable'
    with AnyReader([bag]) as reader:  # verifies the hashes against the definitions in the file
        assert reader.message_count == 3 * FRAMES


def test_static_transforms_are_latched(tmp_path: Path) -> None:
    types = typestore().types
    with BagWriter(tmp_path / 'drive') as writer:
        writer.write('/tf_static', types['tf2_msgs/msg/TFMessage']([]), SECOND)
        writer.declare('/description', 'std_msgs/msg/String', latched=True)
        writer.write('/description', string('robot'), SECOND)
        writer.write('/tf', types['tf2_msgs/msg/TFMessage']([]), SECOND)
    info = yaml.safe_load((tmp_path / 'drive' / 'metadata.yaml').read_text())['rosbag2_bagfile_information']
    durability = {t['topic_metadata']['name']: t['topic_metadata']['offered_qos_profiles'][0]['durability']
                  for t in info['topics_with_message_count']}
    assert durability == {'/tf_static': 'transient_local', '/description': 'transient_local', '/tf': 'volatile'}


def test_messages_of_this_package_and_serialized_ones_of_rclpy_are_written(tmp_path: Path) -> None:
    from rclpy.serialization import serialize_message
    from sensor_msgs.msg import Image
    from std_msgs.msg import Header

    types = typestore().types
    header = types['std_msgs/msg/Header'](types['builtin_interfaces/msg/Time'](1, 2), 'optical')
    drift = types['semanom_ros/msg/Drift'](1, types['builtin_interfaces/msg/Time'](0, 0), -0.5, '')
    score = types['semanom_ros/msg/AnomalyScore'](header, 1.5, 0.5, 0.25, 1.0, 2, True, False, 0, '', drift)
    image = Image(header=Header(frame_id='a'), height=1, width=1, encoding='mono8', step=1, data=[7])
    with BagWriter(tmp_path / 'drive') as writer:
        writer.write('/score', score, SECOND)
        writer.write_cdr('/image', IMAGE, serialize_message(image), 2 * SECOND)
    with BagReader(tmp_path / 'drive') as reader:
        found = {topic: message for topic, _, message in reader.messages()}
    assert (found['/score'].p_value, found['/score'].anomalous, found['/score'].header.stamp.nanosec) == (0.25, True, 2)
    assert image_from_message(found['/image']).tolist() == [[[7, 7, 7]]]


def test_an_unfinished_recording_leaves_nothing_behind(tmp_path: Path) -> None:
    with pytest.raises(ImageError), BagWriter(tmp_path / 'drive') as writer:
        writer.write_image('/image', np.zeros((0, 4, 3), np.uint8), 'rgb8', 1, 'optical')
    assert list(tmp_path.iterdir()) == []


def test_writer_refuses_what_it_cannot_do(tmp_path: Path) -> None:
    write(tmp_path / 'drive')
    with pytest.raises(BagError, match='exists already'):
        BagWriter(tmp_path / 'drive')
    with pytest.raises(BagError, match='expected one of mcap, sqlite3'):
        BagWriter(tmp_path / 'other', 'rocksdb')
    (tmp_path / 'file').touch()
    with pytest.raises(BagError, match='cannot be written'):
        BagWriter(tmp_path / 'file' / 'drive')
    with pytest.raises(BagError, match='nonsense/msg/Type'), BagWriter(tmp_path / 'third') as writer:
        writer.declare('/topic', 'nonsense/msg/Type')


@pytest.mark.parametrize('storage', STORAGES)
def test_split_recording_is_read_in_the_order_it_was_written(tmp_path: Path, storage: str) -> None:
    bag = tmp_path / 'drive'
    bag.mkdir()
    suffix = '.mcap' if storage == 'mcap' else '.db3'
    infos = []
    for part in range(11):  # ..._10 sorts before ..._2 as text
        write(tmp_path / f'part{part}', storage, first=part * FRAMES)
        shutil.move(storage_file(tmp_path / f'part{part}'), bag / f'drive_{part}{suffix}')
        infos.append(yaml.safe_load((tmp_path / f'part{part}' / 'metadata.yaml').read_text()))
    merged = infos[0]['rosbag2_bagfile_information']
    merged['relative_file_paths'] = [f'drive_{part}{suffix}' for part in range(11)]
    merged['message_count'] = 33 * FRAMES
    for topic in merged['topics_with_message_count']:
        topic['message_count'] = 11 * FRAMES
    (bag / 'metadata.yaml').write_text(yaml.safe_dump(infos[0]))
    for _ in range(2):
        with BagReader(bag) as reader:
            assert [f.name for f in reader.files] == merged['relative_file_paths']
            assert reader.counts['/camera0/image_raw'] == 11 * FRAMES
            assert read_until_damage(reader) == (list(range(11 * FRAMES)), '')
        (bag / 'metadata.yaml').unlink(missing_ok=True)  # as a recorder leaves it that lost power


@pytest.mark.parametrize(('storage', 'mode'), [('mcap', 'FILE'), ('mcap', 'MESSAGE'), ('mcap', 'STORAGE'),
                                               ('sqlite3', 'FILE'), ('sqlite3', 'MESSAGE')])
def test_compressed_recordings_are_read(tmp_path: Path, storage: str, mode: str) -> None:
    source = write(tmp_path / 'source')
    writer = rosbag2.Writer(tmp_path / 'drive', version=9, storage_plugin=STORAGES[storage])
    writer.set_compression(rosbag2.CompressionMode[mode], rosbag2.CompressionFormat.ZSTD)
    with BagReader(source) as reader, writer:
        connections = {t: writer.add_connection(t, k, typestore=typestore()) for t, k in reader.topics.items()}
        for topic, _, time_ns, cdr in reader.raw():
            writer.write(connections[topic], time_ns, cdr)
    with BagReader(tmp_path / 'drive') as reader:
        assert read_until_damage(reader) == (list(range(FRAMES)), '')
    (file,) = (path for path in (tmp_path / 'drive').iterdir() if path.name != 'metadata.yaml')
    for path in (file, tmp_path / 'drive'):  # and without its metadata, as it was copied
        (tmp_path / 'drive' / 'metadata.yaml').unlink(missing_ok=True)
        with BagReader(path) as reader:
            assert read_until_damage(reader) == (list(range(FRAMES)), '')


@pytest.mark.parametrize('storage', STORAGES)
@pytest.mark.parametrize('metadata', [True, False])
@pytest.mark.parametrize('share', [0.97, 0.5])
def test_a_cut_recording_is_read_as_far_as_it_goes(tmp_path: Path, storage: str, metadata: bool, share: float,
                                                   trial: Any) -> None:
    bag = tmp_path / 'drive'
    with BagWriter(bag, storage) as writer:
        for number in range(700):  # several chunks, many pages
            writer.write_image('/camera/image_raw', picture(number), 'bgr8', (number + 1) * SECOND, 'optical')
    cut(bag, share)
    if not metadata:
        (bag / 'metadata.yaml').unlink()
    with trial('Recordings', 'a file cut off', 2):
        for path in (bag, storage_file(bag)):
            with BagReader(path) as reader:
                assert 'breaks off after' in reader.damage
                numbers, said = read_until_damage(reader)
            assert numbers == list(range(len(numbers)))
            counted = reader.counts['/camera/image_raw']
            assert counted - len(numbers) in (0, 1)
            assert len(numbers) >= 700 * share - 240  # rosbags' MCAP chunks hold 1 MiB: 226 of these
            assert 'breaks off after' in said


@pytest.mark.parametrize('storage', STORAGES)
def test_damage_in_one_file_does_not_hide_the_others(tmp_path: Path, storage: str, trial: Any) -> None:
    bag = tmp_path / 'drive'
    bag.mkdir()
    suffix = '.mcap' if storage == 'mcap' else '.db3'
    for part in range(3):
        write(tmp_path / f'part{part}', storage, first=part * FRAMES)
        if part == 1:
            cut(tmp_path / 'part1', 0.8)
        shutil.move(storage_file(tmp_path / f'part{part}'), bag / f'drive_{part}{suffix}')
    with trial('Recordings', 'damage in one file of a split recording'):
        with BagReader(bag) as reader:
            numbers, said = read_until_damage(reader)
        assert numbers[:FRAMES] == list(range(FRAMES))
        assert numbers[-FRAMES:] == list(range(2 * FRAMES, 3 * FRAMES))
        assert f'drive_1{suffix} breaks off' in said


def test_damage_inside_a_chunk_is_reported(tmp_path: Path, trial: Any) -> None:
    bag = write(tmp_path / 'drive')
    file = storage_file(bag)
    data = bytearray(file.read_bytes())
    data[100:300] = bytes(200)
    file.write_bytes(data)
    with trial('Recordings', 'damage inside of a chunk'):
        with BagReader(bag) as reader:
            numbers, said = read_until_damage(reader)
        assert numbers == []
        assert '1 of 1 chunks cannot be read' in said


CRASHING_RECORDER = '''
import os, signal, sqlite3, sys
connection = sqlite3.connect(sys.argv[1])
connection.execute('PRAGMA journal_mode = WAL')
connection.execute('PRAGMA wal_autocheckpoint = 0')
for id, in connection.execute('SELECT id FROM messages ORDER BY id DESC LIMIT 6').fetchall():
    row = connection.execute('SELECT topic_id, timestamp, data FROM messages WHERE id = ?', (id,)).fetchone()
    connection.execute('INSERT INTO messages (topic_id, timestamp, data) VALUES (?, ?, ?)', row)
connection.commit()
os.kill(os.getpid(), signal.SIGKILL)
'''


def test_journal_of_a_killed_sqlite_recorder_is_replayed(tmp_path: Path, trial: Any) -> None:
    bag = write(tmp_path / 'drive', 'sqlite3')
    killed = subprocess.run([sys.executable, '-c', CRASHING_RECORDER, storage_file(bag)], check=False)
    assert killed.returncode == -signal.SIGKILL
    assert storage_file(bag).with_name(storage_file(bag).name + '-wal').stat().st_size
    with trial('Recordings', 'the journal of a recorder that was killed'), BagReader(bag) as reader:
        assert set(reader.counts.values()) == {FRAMES + 2}
        assert len(list(reader.images())) == FRAMES + 2


def test_a_recording_of_humble_without_definitions_is_read(tmp_path: Path) -> None:
    bag = write(tmp_path / 'drive', 'sqlite3')
    connection = sqlite3.connect(storage_file(bag))
    connection.executescript('DROP TABLE message_definitions; UPDATE schema SET schema_version = 3;'
                             'ALTER TABLE topics DROP COLUMN type_description_hash;')
    connection.execute("UPDATE topics SET type = 'my_msgs/msg/Own' WHERE name = '/chatter'")
    connection.commit()
    connection.close()
    with BagReader(storage_file(bag)) as reader:
        assert read_until_damage(reader) == (list(range(FRAMES)), '')
        assert reader.camera_info('/camera0/image_raw').k[5] == 5.0
        with pytest.raises(BagError, match='no definition of my_msgs/msg/Own'):
            list(reader.messages(['/chatter']))


def test_definitions_of_the_recording_win(tmp_path: Path) -> None:
    own = {'rosgraph_msgs/msg/Clock': typestore().fielddefs['std_msgs/msg/String']}  # another Clock than ours
    from rosbags.typesys import Stores, get_typestore
    store = get_typestore(Stores.EMPTY)
    store.register(own)
    with rosbag2.Writer(tmp_path / 'drive', version=9, storage_plugin=STORAGES['mcap']) as writer:
        connection = writer.add_connection('/clock', 'rosgraph_msgs/msg/Clock', typestore=store)
        message = store.types['rosgraph_msgs/msg/Clock']('noon')
        writer.write(connection, 1, store.serialize_cdr(message, 'rosgraph_msgs/msg/Clock'))
    with BagReader(tmp_path / 'drive') as reader:
        assert [m.data for _, _, m in reader.messages()] == ['noon']


def test_image_topics(tmp_path: Path) -> None:
    with BagReader(write(tmp_path / 'one', compress=True)) as reader:
        assert reader.image_topic() == '/camera0/image_raw/compressed'
        assert reader.image_topic('/camera0/image_raw') == '/camera0/image_raw/compressed'
        assert reader.camera_info('/camera0/image_raw/compressed').header.frame_id == 'optical'
        assert reader.camera_info('/other/image_raw') is None
        with pytest.raises(BagError, match=r'no topic /front.*/camera0/image_raw/compressed \(CompressedImage\)'):
            reader.images('/front')
        with pytest.raises(BagError, match=r'found std_msgs/msg/String on /chatter.*/camera0/image_raw/compressed'):
            reader.images('/chatter')
        with pytest.raises(BagError, match='no topic /nowhere'):
            reader.messages(['/nowhere'])
    with BagReader(write(tmp_path / 'two', cameras=2)) as reader, \
            pytest.raises(BagError, match=r'/camera0/image_raw \(Image\), /camera1/image_raw \(Image\), expected one'):
        reader.images()
    with BagWriter(tmp_path / 'truth') as writer:
        writer.write_image('/camera/image', picture(0), 'rgb8', 1, 'optical')
        writer.write_image('/ground_truth/anomaly_mask', np.zeros((4, 4), np.uint8), 'mono8', 1, 'optical')
        writer.write_cdr('/depth/compressedDepth', COMPRESSED_IMAGE, b'\0\1\0\0', 1)
        writer.declare('/camera/empty', IMAGE)
    with BagReader(tmp_path / 'truth') as reader:
        assert set(reader.image_topics) == {'/camera/image', '/camera/empty'}
        assert [f.image.shape for f in reader.images('/ground_truth/anomaly_mask')] == [(4, 4, 3)]
        with pytest.raises(BagError, match='found no message on /camera/empty'):
            reader.images('/camera/empty')


def test_unwanted_pictures_are_not_decoded(tmp_path: Path) -> None:
    with BagReader(write(tmp_path / 'drive')) as reader:
        asked = []

        def wanted(topic: str, stamp_ns: int) -> bool:
            asked.append((topic, stamp_ns))
            return stamp_ns % (3 * SECOND) == 0

        assert [f.stamp_ns // SECOND for f in reader.images(wanted=wanted)] == [3, 6, 9, 12]
        assert asked == [('/camera0/image_raw', (n + 1) * SECOND) for n in range(FRAMES)]


def test_a_bad_image_costs_one_frame(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    types = typestore().types
    stamp = types['builtin_interfaces/msg/Time'](1, 0)
    bad = types[IMAGE](types['std_msgs/msg/Header'](stamp, ''), 32, 48, 'bgr8', 0, 0, np.zeros(3, np.uint8))
    with BagWriter(tmp_path / 'drive') as writer:
        for number in range(4):
            writer.write_image('/image', picture(number), 'bgr8', (number + 1) * SECOND, 'optical')
            writer.write('/image', bad, (number + 1) * SECOND + 1)
    with BagReader(tmp_path / 'drive') as reader:
        assert [f.stamp_ns // SECOND for f in reader.images()] == [1, 2, 3, 4]
        assert reader.bad_images == 4
    assert 'step 0, expected at least 144' in caplog.messages[0]
    assert '4 images of /image skipped' in caplog.messages[1]


def test_a_message_that_does_not_fit_its_type_is_skipped(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with BagWriter(tmp_path / 'drive') as writer:
        writer.write_cdr('/image', IMAGE, b'\0\1\0\0' + bytes(7), 1)
    with BagReader(tmp_path / 'drive') as reader:
        assert list(reader.images()) == []
        assert reader.bad_images == 1
    assert caplog.messages[0].count('/image at 0.000000001 skipped: it is no sensor_msgs/msg/Image') == 1


def unreadable(folder: Path, kind: str) -> Path:
    path = folder / 'drive'
    if kind == 'missing':
        return path
    if kind == 'folder without files':
        path.mkdir()
    elif kind == 'picture':
        (path := folder / 'picture.png').write_bytes(b'\x89PNG')
    elif kind in ('empty file', 'noise', 'header only'):
        data = {'empty file': b'', 'noise': os.urandom(2000), 'header only': b'\x89MCAP0\r\n'}[kind]
        (path := folder / 'drive.mcap').write_bytes(data)
    elif kind == 'noise in sqlite3':
        (path := folder / 'drive.db3').write_bytes(os.urandom(2000))
    elif kind == 'whole file compressed and cut':
        path.mkdir()
        (path / 'drive.mcap.zstd').write_bytes(b'\x28\xb5\x2f\xfd')
    return path


@pytest.mark.parametrize('kind', ['missing', 'folder without files', 'picture', 'empty file', 'noise', 'header only',
                                  'noise in sqlite3', 'whole file compressed and cut'])
def test_what_is_no_recording_is_refused_in_one_line(tmp_path: Path, kind: str, trial: Any) -> None:
    with trial('Recordings', 'what is no recording'):
        with pytest.raises(BagError) as caught:
            BagReader(unreadable(tmp_path, kind))
        assert str(tmp_path) in str(caught.value)
        assert '\n' not in str(caught.value)


@pytest.mark.parametrize('storage', STORAGES)
def test_an_empty_recording_has_no_images(tmp_path: Path, storage: str) -> None:
    with BagWriter(tmp_path / 'drive', storage):
        pass
    with BagReader(tmp_path / 'drive') as reader:
        assert reader.topics == {}
        assert list(reader.raw()) == []
        with pytest.raises(BagError, match='found no image topic, nor any other topic'):
            reader.images()


@pytest.mark.parametrize('text', ['', 'rosbag2_bagfile_information: []', ': :', '{'])
def test_files_are_read_beside_a_broken_metadata_file(tmp_path: Path, text: str, trial: Any) -> None:
    bag = write(tmp_path / 'drive')
    (bag / 'metadata.yaml').write_text(text)
    fault = 'metadata.yaml that is of another version, incomplete or wrong'
    with trial('Recordings', fault), BagReader(bag) as reader:
        assert read_until_damage(reader) == (list(range(FRAMES)), '')


@pytest.mark.parametrize('kind', ['pipe', 'endless'])
def test_a_metadata_file_without_an_end_costs_nothing(tmp_path: Path, kind: str, trial: Any) -> None:
    bag = write(tmp_path / 'drive')
    (bag / 'metadata.yaml').unlink()
    if kind == 'pipe':
        os.mkfifo(bag / 'metadata.yaml')
    else:
        (bag / 'metadata.yaml').symlink_to('/dev/zero')
    with trial('Recordings', 'metadata.yaml without an end'), BagReader(bag) as reader:
        assert read_until_damage(reader) == (list(range(FRAMES)), '')


@pytest.mark.parametrize('names', [('0.mcap', 'a.mcap'), ('a².mcap', 'a³.mcap'), ('B_0.MCAP', 'B_1.MCAP'),
                                   ('a_9.mcap', 'a_10.mcap')])
def test_files_of_any_name_are_read_in_the_order_of_their_numbers(tmp_path: Path, names: tuple[str, str], trial: Any
                                                                  ) -> None:
    written = next(write(tmp_path / 'drive').glob('*.mcap'))
    for name in names:
        (tmp_path / 'files' / name).parent.mkdir(exist_ok=True)
        (tmp_path / 'files' / name).write_bytes(written.read_bytes())
    with trial('Recordings', 'files that are named in unusual ways'), BagReader(tmp_path / 'files') as reader:
        assert [path.name for path in reader.files] == list(names)
        assert read_until_damage(reader) == (2 * list(range(FRAMES)), '')


def test_a_file_beside_what_it_was_packed_into_is_read_once(tmp_path: Path, trial: Any) -> None:
    bag = write(tmp_path / 'drive')
    (bag / 'metadata.yaml').unlink()
    file = next(bag.glob('*.mcap'))
    file.with_name(f'{file.name}.zstd').write_bytes(zstandard.compress(file.read_bytes()))
    with trial('Recordings', 'a file beside its packed twin'), BagReader(bag) as reader:
        assert read_until_damage(reader) == (list(range(FRAMES)), '')


def test_real_drives(driving_data: Path) -> None:
    for name, count in (('camvid_nominal', 222), ('camvid_nominal_raw', 37)):
        with BagReader(driving_data / 'bags' / name) as reader:
            stamps = [frame.stamp_ns for frame in reader.images(wanted=lambda topic, stamp: stamp % (7 * SECOND) == 0)]
            assert reader.counts[reader.image_topic()] == count
            assert stamps == sorted(stamps)
            assert len(stamps) > 2
            assert reader.camera_info(reader.image_topic()).width == 480
