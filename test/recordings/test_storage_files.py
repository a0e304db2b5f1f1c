"""Recordings of other systems, other tools and other times: read, or named for what they are in one line."""

from __future__ import annotations

import gzip
import logging
import os
import shutil
import sqlite3
import struct
import subprocess
import sys
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import lz4.frame
import numpy as np
import pytest
import yaml
import zstandard
from mcap.data_stream import RecordBuilder
from mcap.records import Chunk, Header
from mcap.writer import IndexType
from mcap.writer import Writer as McapWriter
from rosbags.rosbag1 import Writer as Ros1Writer
from rosbags.typesys import Stores, get_typestore
from rosbags.typesys.store import Typestore

from semanom_ros.errors import BagError
from semanom_ros.recordings import bags
from semanom_ros.recordings.bags import COMPRESSED_IMAGE, IMAGE, BagReader, BagWriter
from semanom_ros.recordings.compression import LARGEST
from semanom_ros.recordings.definitions import typestore
from semanom_ros.recordings.mcap_file import MAGIC
from semanom_ros.recordings.storage_file import Span

from .conftest import SECOND, Drives, picture

FRAMES = 12
MASK = '/ground_truth/anomaly_mask'
ROS1 = get_typestore(Stores.ROS1_NOETIC)
LFS = (b'version https://git-lfs.github.com/spec/v1\noid sha256:4d7a214614ab2935c943f9e0ff69d22eadbb8f32b1258daaa5e2c'
       b'a24d17e2393\nsize 987654\n')


@pytest.fixture(autouse=True)
def everything_is_said(caplog: pytest.LogCaptureFixture) -> None:
    bags._warn_once.cache_clear()


def header(store: Typestore, number: int, stamp_ns: int | None = None) -> Any:
    stamp = store.types['builtin_interfaces/msg/Time'](*divmod((number + 1) * SECOND if stamp_ns is None else stamp_ns,
                                                              SECOND))
    fields = [number] if store is ROS1 else []
    return store.types['std_msgs/msg/Header'](*fields, stamp, 'optical')


def image(store: Typestore, number: int, stamp_ns: int | None = None) -> Any:
    return store.types[IMAGE](header(store, number, stamp_ns), 48, 64, 'rgb8', 0, 192, picture(number).ravel())


def camera_info(store: Typestore, number: int) -> Any:
    roi = store.types['sensor_msgs/msg/RegionOfInterest'](0, 0, 0, 0, False)
    return store.types['sensor_msgs/msg/CameraInfo'](header(store, number), 48, 64, 'plumb_bob', np.zeros(5),
                                                     np.arange(9.0), np.eye(3).ravel(), np.arange(12.0), 0, 0, roi)


def ros1_bag(path: Path, compression: str | None = None, frames: int = FRAMES) -> Path:
    writer = Ros1Writer(path)
    if compression:
        writer.set_compression(Ros1Writer.CompressionFormat[compression])
    writer.chunk_threshold = 30_000
    with writer:
        topics = {topic: writer.add_connection(topic, type, typestore=ROS1) for topic, type in (
            ('/camera/image_raw', IMAGE), ('/camera/camera_info', 'sensor_msgs/msg/CameraInfo'),
            ('/chatter', 'std_msgs/msg/String'))}
        for number in range(frames):
            for topic, message in (('/camera/image_raw', image(ROS1, number)),
                                   ('/camera/camera_info', camera_info(ROS1, number)),
                                   ('/chatter', ROS1.types['std_msgs/msg/String'](str(number)))):
                writer.write(topics[topic], (number + 1) * SECOND, ROS1.serialize_ros1(message, message.__msgtype__))
    return path


Channels = tuple[tuple[str, str, str, str, bytes, bytes], ...]


def mcap(path: Path, profile: str = 'ros2', encoding: str = 'cdr', type: str = IMAGE, channels: Channels = (),
         finish: bool = True, **options: Any) -> Path:
    """FRAMES pictures; other channels are (topic, encoding, schema's name, encoding and text, message)."""
    store = ROS1 if encoding == 'ros1' else typestore()
    definition = store.generate_msgdef(IMAGE, ros_version=1 if store is ROS1 else 2)[0].encode()
    with open(path, 'wb') as file:
        writer = McapWriter(file, chunk_size=30_000, **options)
        writer.start(profile, 'another')
        numbers = {'/camera/image_raw': writer.register_channel(
            '/camera/image_raw', encoding, writer.register_schema(type, f'{profile or "ros2"}msg', definition))}
        for topic, kind, schema, schema_kind, text, _ in channels:
            schema_id = writer.register_schema(schema, schema_kind, text) if schema else 0
            numbers[topic] = writer.register_channel(topic, kind, schema_id)
        for number in range(FRAMES):
            time_ns, message = (number + 1) * SECOND, image(store, number)
            data = (store.serialize_ros1 if store is ROS1 else store.serialize_cdr)(message, IMAGE)
            for topic, content in (('/camera/image_raw', bytes(data)), *((one[0], one[5]) for one in channels)):
                writer.add_message(numbers[topic], time_ns, content, time_ns)
        if finish:
            writer.finish()
    return path


def read(path: Path, topic: str = '') -> tuple[list[int], str]:
    """Numbers of the frames read, whose pixels are right, and what was said about damage at their end."""
    numbers, said = [], ''
    with BagReader(path) as reader:
        try:
            for frame in reader.images(topic):
                numbers.append(frame.stamp_ns // SECOND - 1)
                assert (frame.image == picture(numbers[-1])).all()
        except BagError as error:
            said = str(error)
    assert '\n' not in said
    return numbers, said


ALL = (list(range(FRAMES)), '')


def refused(path: Path, topic: str = '') -> str:
    with pytest.raises(BagError) as caught, BagReader(path) as reader:
        list(reader.images(topic))
    assert '\n' not in str(caught.value)
    assert str(path) in str(caught.value)
    return str(caught.value)


# -- ROS 1


@pytest.mark.parametrize('compression', [None, 'BZ2', 'LZ4'])
def test_ros1_bags_are_read(tmp_path: Path, trial: Any, compression: str | None) -> None:
    with trial('Recordings', 'a recording of ROS 1'):
        bag = ros1_bag(tmp_path / 'drive.bag', compression)
        assert read(bag) == ALL
        with BagReader(bag) as reader:
            assert reader.topics['/camera/image_raw'] == IMAGE
            assert set(reader.counts.values()) == {FRAMES}
            times = [time_ns for _, _, time_ns, _ in reader.raw()]
            assert (times, times[0], times[-1]) == (sorted(times), SECOND, FRAMES * SECOND)
            info = reader.camera_info('/camera/image_raw')
            assert (info.k[5], info.p[11], info.header.frame_id) == (5.0, 11.0, 'optical')
            assert [message.data for _, _, message in reader.messages(['/chatter'])] == list(map(str, range(FRAMES)))
            assert list(reader.stamps(['/camera/image_raw'])) == [(n + 1) * SECOND for n in range(FRAMES)]


def test_ros1_bags_of_recorders_that_were_cut_off_are_read(tmp_path: Path, trial: Any) -> None:
    data = ros1_bag(tmp_path / 'drive.bag').read_bytes()
    unclosed = bytearray(data)
    place = data.index(b'index_pos=') + len(b'index_pos=')
    unclosed[place:place + 8] = bytes(8)
    with trial('Recordings', 'a recording of ROS 1 that is cut off or not closed', 2):
        for name, content, most_lost in (('cut.bag', data[:len(data) // 2], FRAMES // 2 + 3),
                                         ('drive.bag.active', unclosed[:-9000], 3)):
            (tmp_path / name).write_bytes(content)
            numbers, said = read(tmp_path / name)
            assert numbers == list(range(len(numbers)))
            assert len(numbers) >= FRAMES - most_lost
            assert 'rosbag reindex' in said


def test_ros1_bags_that_cannot_be_read_are_named(tmp_path: Path, trial: Any) -> None:
    data = ros1_bag(tmp_path / 'one.bag').read_bytes()
    (tmp_path / 'old.bag').write_bytes(data.replace(b'#ROSBAG V2.0', b'#ROSBAG V1.2', 1))
    with trial('Recordings', 'a recording of ROS 1', 2):
        assert "version '1.2', expected 2.0; `rosbag fix`" in refused(tmp_path / 'old.bag')
        assert 'found old.bag, one.bag, expected one ROS 1 bag' in refused(tmp_path)


def test_the_default_output_of_rosbags_convert_is_read(tmp_path: Path, trial: Any) -> None:
    """Its CameraInfo has the fields of ROS 1: D, K, R, P."""
    ros1_bag(tmp_path / 'drive.bag')
    with trial('Recordings', 'a recording converted from ROS 1', 2):
        for storage in ('sqlite3', 'mcap'):
            converted = tmp_path / storage
            subprocess.run([sys.executable, '-m', 'rosbags.convert', '--src', tmp_path / 'drive.bag', '--dst',
                            converted, '--dst-storage', storage], check=True)
            assert read(converted) == ALL
            with BagReader(converted) as reader:
                info = reader.camera_info('/camera/image_raw')
            assert (info.k[5], info.p[11], len(info.d)) == (5.0, 11.0, 5)


# -- MCAP of others


@pytest.mark.parametrize(('profile', 'encoding', 'type'), [
    ('ros1', 'ros1', 'sensor_msgs/Image'), ('', 'cdr', IMAGE), ('ros2', 'cdr', 'sensor_msgs/Image')])
def test_mcap_of_any_profile_is_read(tmp_path: Path, trial: Any, profile: str, encoding: str, type: str) -> None:
    with trial('Recordings', 'MCAP of another profile'):
        assert read(mcap(tmp_path / 'drive.mcap', profile, encoding, type)) == ALL


FOREIGN: Channels = (
    ('/json', 'json', 'Log', 'jsonschema', b'{}', b'{}'),
    ('/protobuf', 'protobuf', 'foxglove.CompressedImage', 'protobuf', bytes(range(256)), b'\x01'),
    ('/flatbuffer', 'flatbuffer', 'Log', 'flatbuffer', b'\xff\xfe', b'\xff'), ('/bytes', '', '', '', b'', b'abc'),
    ('/ros1', 'ros1', 'std_msgs/String', 'ros1msg', b'string data', struct.pack('<I', 2) + b'hi'))


def test_channels_of_other_serializations_stand_beside_the_camera(tmp_path: Path, trial: Any) -> None:
    with trial('Recordings', 'channels of other serializations beside the camera', len(FOREIGN)):
        bag = mcap(tmp_path / 'drive.mcap', channels=FOREIGN)
        assert read(bag) == ALL
        with BagReader(bag) as reader:
            assert set(reader.topics) == {'/camera/image_raw', '/ros1'}
            assert {message.data for _, _, message in reader.messages(['/ros1'])} == {'hi'}
            assert reader.foreign['/json'] == 'Log in json'
        assert 'found foxglove.CompressedImage in protobuf on /protobuf' in refused(bag, '/protobuf')
        only = mcap(tmp_path / 'only.mcap', encoding='protobuf', type='foxglove.CompressedImage')
        assert '/camera/image_raw (foxglove.CompressedImage in protobuf), expected sensor_msgs' in refused(only)


@pytest.mark.parametrize('write', [ros1_bag, mcap, lambda path: mcap(path, use_chunking=False)])
def test_a_span_of_bag_time_is_read_alone(tmp_path: Path, write: Callable[[Path], Path]) -> None:
    bag = write(tmp_path / 'drive')
    with BagReader(bag) as reader:
        stamps = [frame.stamp_ns for frame in reader.images(span=Span(3 * SECOND, 5 * SECOND))]
        assert stamps == [3 * SECOND, 4 * SECOND, 5 * SECOND]
        assert not list(reader.images(span=Span(0, SECOND - 1)))


@pytest.mark.parametrize('options', [
    {'use_chunking': False}, {'index_types': IndexType.NONE, 'use_statistics': False, 'repeat_channels': False,
                              'repeat_schemas': False}])
def test_mcap_without_chunks_or_index_is_read(tmp_path: Path, options: dict[str, Any]) -> None:
    assert read(mcap(tmp_path / 'drive.mcap', **options)) == ALL


@pytest.mark.parametrize('options', [{}, {'use_chunking': False}])
def test_mcap_that_is_being_written_is_read_as_far_as_it_goes(tmp_path: Path, trial: Any, options: dict[str, Any]
                                                             ) -> None:
    with trial('Recordings', 'a file without an end'):
        numbers, said = read(mcap(tmp_path / 'drive.mcap', finish=False, **options))
        assert numbers == list(range(len(numbers)))
        assert len(numbers) >= FRAMES - 4
        assert 'its end is missing' in said


# -- compressed as a whole, or not there at all


@pytest.mark.parametrize('storage', ['mcap', 'sqlite3'])
@pytest.mark.parametrize('metadata', [False, True])
def test_compressed_files_are_read_where_they_lie(tmp_path: Path, drives: Drives, trial: Any, storage: str,
                                                  metadata: bool) -> None:
    bag = drives('drive', FRAMES, storage)
    (file,) = (path for path in bag.iterdir() if path.name != 'metadata.yaml')
    (packed := file.with_name(file.name + '.zstd')).write_bytes(zstandard.compress(file.read_bytes()))
    file.unlink()
    if not metadata:
        (bag / 'metadata.yaml').unlink()
    with trial('Recordings', 'files compressed as a whole', 3):
        for path in (packed, bag):
            assert read(path) == ALL
        cut = tmp_path / packed.name
        cut.write_bytes(packed.read_bytes()[:12])
        assert 'of which nothing can be unpacked' in refused(cut)


@pytest.mark.parametrize('name', ['drive.mcap', 'drive.db3', 'drive.bag', 'drive.mcap.zstd', 'drive/drive_0.mcap'])
def test_pointers_of_git_lfs_are_named(tmp_path: Path, trial: Any, name: str) -> None:
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(LFS)
    if path.parent != tmp_path:
        (path.parent / 'metadata.yaml').write_bytes(LFS)
    with trial('Recordings', 'pointers of Git LFS'):
        for given in {path, path.parent} - {tmp_path}:
            with pytest.raises(BagError) as caught:
                BagReader(given)
            said = str(caught.value)
        assert 'a pointer of Git LFS, expected the file of 987654 bytes that it stands for; run `git lfs pull`' in said


@pytest.mark.parametrize(('name', 'content', 'said'), [
    ('drive.mcap.gz', gzip.compress(b'x', mtime=0), 'found a gzip archive, expected a recording; unpack it first'),
    ('drive.zip', b'PK\x03\x04....', 'found a zip archive'), ('drive.db3', b'', 'found an empty file'),
    ('drive.mcap', b'x' * 99, 'found neither MCAP nor SQLite nor a ROS 1 bag in it (78 78'),
    ('notes.txt', b'x' * 99, 'found no recording')])
def test_other_files_are_named(tmp_path: Path, trial: Any, name: str, content: bytes, said: str) -> None:
    (tmp_path / name).write_bytes(content)
    with trial('Recordings', 'what is no recording'):
        assert said in refused(tmp_path / name)


def test_special_files_and_folders_are_named(tmp_path: Path, drives: Drives, trial: Any) -> None:
    os.mkfifo(tmp_path / 'fifo.mcap')
    (tmp_path / 'folder.mcap').mkdir()
    drives('drive', 1)
    database = sqlite3.connect(tmp_path / 'other.db3')
    database.execute('CREATE TABLE settings (name)')
    database.close()
    with trial('Recordings', 'what is no recording', 5):
        assert 'neither a file nor a folder' in refused(tmp_path / 'fifo.mcap')
        assert 'neither a file nor a folder' in refused(Path('/dev/zero'))
        assert 'neither a .mcap nor a .db3 nor a .bag file' in refused(tmp_path / 'folder.mcap')
        assert 'without the tables topics and messages' in refused(tmp_path / 'other.db3')
        (tmp_path / 'other.db3').unlink()
        assert 'but the recordings drive; name one of them' in refused(tmp_path)


@pytest.mark.parametrize('name', ['a#b', 'a%20b', 'a?mode=rw', 'a b', 'ä&ö'])
def test_sqlite_files_are_read_whatever_their_path(tmp_path: Path, drives: Drives, trial: Any, name: str) -> None:
    bag = drives('drive', FRAMES, 'sqlite3').rename(tmp_path / name)
    with trial('Recordings', 'paths with # % ? and others', 2):
        assert read(bag) == ALL
        assert read(bag / 'drive.db3') == ALL


def test_sqlite_is_not_written_to_another_place(tmp_path: Path) -> None:
    with pytest.raises(BagError, match='found one of # % \\? in the path'):
        BagWriter(tmp_path / 'a#b', 'sqlite3')
    assert list(tmp_path.iterdir()) == []


# -- metadata.yaml


def change(**values: Any) -> Callable[[dict[str, Any]], None]:
    return lambda information: information.update(values)


@pytest.mark.parametrize('storage', ['mcap', 'sqlite3'])
@pytest.mark.parametrize('lie', [
    *(pytest.param(change(version=version), id=f'version {version}') for version in (1, 4, 10)),
    pytest.param(change(files=[]), id='reindexed'), pytest.param(change(relative_file_paths=[]), id='no files'),
    pytest.param(change(relative_file_paths=['before_it_was_renamed.mcap']), id='renamed'),
    pytest.param(change(message_count=0, topics_with_message_count=[]), id='counts'),
    pytest.param(change(storage_identifier='rosbag_v2'), id='storage'),
    pytest.param(change(compression_mode='FILE', compression_format='zstd'), id='not compressed')])
def test_the_files_know_better_than_metadata(drives: Drives, trial: Any, storage: str,
                                             lie: Callable[[dict[str, Any]], None]) -> None:
    bag = drives('drive', FRAMES, storage)
    content = yaml.safe_load((bag / 'metadata.yaml').read_text())
    lie(content['rosbag2_bagfile_information'])
    (bag / 'metadata.yaml').write_text(yaml.safe_dump(content))
    with trial('Recordings', 'metadata.yaml that is of another version, incomplete or wrong'):
        assert read(bag) == ALL


def test_a_missing_file_of_a_split_recording_is_said(drives: Drives, trial: Any) -> None:
    bag = drives('drive', FRAMES)
    shutil.copy(drives('more', FRAMES, first=FRAMES) / 'more.mcap', bag / 'drive_2.mcap')
    content = yaml.safe_load((bag / 'metadata.yaml').read_text())
    content['rosbag2_bagfile_information']['relative_file_paths'] = ['drive.mcap', 'drive_1.mcap', 'drive_2.mcap']
    (bag / 'metadata.yaml').write_text(yaml.safe_dump(content))
    with trial('Recordings', 'a missing file of a split recording'):
        numbers, said = read(bag)
        assert numbers == list(range(2 * FRAMES))
        assert 'drive_1.mcap of metadata.yaml is missing' in said


def test_files_that_a_recorder_did_not_come_to_list_are_read(drives: Drives) -> None:
    bag = drives('drive', FRAMES)
    (bag / 'drive.mcap').rename(bag / 'drive_0.mcap')
    (bag / 'metadata.yaml').write_text((bag / 'metadata.yaml').read_text().replace('drive.mcap', 'drive_0.mcap'))
    shutil.copy(drives('more', FRAMES, first=FRAMES) / 'more.mcap', bag / 'drive_1.mcap')
    shutil.copy(bag / 'drive_0.mcap', bag / 'drive_0_recovered.mcap')  # a copy, and no part of it
    assert read(bag) == (list(range(2 * FRAMES)), '')


def test_rows_that_are_no_messages_are_said(drives: Drives, trial: Any) -> None:
    bag = drives('drive', FRAMES, 'sqlite3')
    with sqlite3.connect(bag / 'drive.db3') as database:
        database.execute("UPDATE messages SET timestamp = 'noon' WHERE id = 3")
        database.execute('UPDATE messages SET topic_id = 77 WHERE id = 5')
    database.close()
    with trial('Recordings', 'rows that are no messages', 2):
        numbers, said = read(bag)
        assert numbers == [0, 1, 3, *range(5, FRAMES)]
        assert '2 rows are no messages of its topics' in said


# -- topics


def test_what_is_there_is_listed_where_no_camera_is(tmp_path: Path) -> None:
    with BagWriter(tmp_path / 'drive') as writer:
        for number in range(30):
            writer.write(f'/chatter{number:02d}', typestore().types['std_msgs/msg/String']('x'), 1)
    said = refused(tmp_path / 'drive')
    assert 'among /chatter00 (std_msgs/msg/String), /chatter01 (std_msgs/msg/String), ' in said
    assert ' and 6 more, expected sensor_msgs/msg/Image or sensor_msgs/msg/CompressedImage' in said


@pytest.mark.parametrize('filled', ['', '/compressed'])
def test_of_twins_the_one_with_messages_is_meant(tmp_path: Path, filled: str) -> None:
    with BagWriter(tmp_path / 'drive') as writer:
        writer.declare('/camera/image_raw', IMAGE)
        writer.declare('/camera/image_raw/compressed', COMPRESSED_IMAGE)
        writer.write_image(f'/camera/image_raw{filled}', picture(0), 'rgb8', SECOND, 'optical', bool(filled))
    with BagReader(tmp_path / 'drive') as reader:
        for topic in ('', '/camera/image_raw', '/camera/image_raw/compressed'):
            assert reader.image_topic(topic) == f'/camera/image_raw{filled}'


def test_ambiguity_names_the_option(drives: Drives) -> None:
    assert '--image-topic' in refused(drives('drive', 1, cameras=2))


def test_own_outputs_are_no_cameras_and_are_not_replayed(tmp_path: Path) -> None:
    types = {'/camera/image_raw': IMAGE, '/semanom_detector/camera/overlay': IMAGE, '/tf': 'tf2_msgs/msg/TFMessage',
             '/bus/semanom_detector/rear/mask': IMAGE, '/perception/anomalies': 'semanom_ros/msg/AnomalyArray',
             '/perception/overlay/compressed': COMPRESSED_IMAGE, '/semanom_detector/input/camera/image': IMAGE,
             '/clock': 'rosgraph_msgs/msg/Clock', '/diagnostics': 'diagnostic_msgs/msg/DiagnosticArray',
             '/robot/watcher/database_info': 'semanom_ros/msg/DatabaseInfo',
             '/robot/watcher/front/score': 'semanom_ros/msg/AnomalyScore', '/robot/watcher/rear/overlay': IMAGE,
             '/robot/watcher/transition_event': 'lifecycle_msgs/msg/TransitionEvent', '/robot/watcher2/image': IMAGE,
             '/robot/watcher/input/front/image': IMAGE, '/rosout': 'rcl_interfaces/msg/Log'}
    cameras = ['/camera/image_raw', '/robot/watcher/input/front/image', '/robot/watcher2/image',
               '/semanom_detector/input/camera/image']
    with BagWriter(tmp_path / 'drive') as writer:
        for topic, type in types.items():
            writer.declare(topic, type)
    with BagReader(tmp_path / 'drive') as reader:
        assert list(reader.image_topics) == cameras
        assert reader.replayed_topics == [*cameras, '/tf']


# -- messages and stamps


@pytest.mark.parametrize('storage', ['mcap', 'sqlite3'])
def test_a_bad_message_costs_itself(tmp_path: Path, trial: Any, caplog: pytest.LogCaptureFixture, storage: str) -> None:
    with BagWriter(tmp_path / 'drive', storage) as writer:
        for number in range(FRAMES):
            writer.write('/camera/image_raw', image(typestore(), number), (number + 1) * SECOND)
            if number == 5:
                for garbage in (b'\0\1\0\0garbage', b'', b'\0\1\0\0' + b'\xff' * 64):
                    writer.write_cdr('/camera/image_raw', IMAGE, garbage, (number + 1) * SECOND + 1)
    with trial('Recordings', 'a bad message in the middle', 3), BagReader(tmp_path / 'drive') as reader:
        assert [frame.stamp_ns // SECOND - 1 for frame in reader.images()] == ALL[0]
        assert reader.bad_images == 3
        assert [text for text in caplog.messages if 'skipped' in text] == [
            next(text for text in caplog.messages if '/camera/image_raw at 6.000000001 skipped: it is no' in text),
            f'{tmp_path}/drive: 3 images of /camera/image_raw skipped']
        assert len(list(reader.images())) == FRAMES  # and nothing is said again
        assert len(caplog.messages) == 2


@pytest.mark.parametrize(('stamp', 'expected', 'repeated'), [
    (lambda number: 0, [1, 2, 3, 4], 0), (lambda number: -5 * SECOND, [1, 2, 3, 4], 0),
    (lambda number: 5 * SECOND, [5 * SECOND, 5 * SECOND + 1, 5 * SECOND + 2, 5 * SECOND + 3], 3),
    (lambda number: (number // 2 + 1) * SECOND, [SECOND, SECOND + 1, 2 * SECOND, 2 * SECOND + 1], 2),
    (lambda number: (9 - number) * SECOND, [9 * SECOND, 8 * SECOND, 7 * SECOND, 6 * SECOND], 0),
    (lambda number: (2**31 - 1) * SECOND + number, [(2**31 - 1) * SECOND + number for number in range(4)], 0)])
def test_every_frame_has_a_stamp_of_its_own(tmp_path: Path, trial: Any, stamp: Callable[[int], int],
                                            expected: list[int], repeated: int) -> None:
    with BagWriter(tmp_path / 'drive') as writer:
        for number in range(4):
            writer.write('/camera/image_raw', image(typestore(), number, stamp(number)), number + 1)
    with trial('Recordings', 'stamps that are zero, negative, equal, backwards or large'), \
            BagReader(tmp_path / 'drive') as reader:
        assert [frame.stamp_ns for frame in reader.images()] == expected
        assert list(reader.stamps(['/camera/image_raw'])) == expected
        assert reader.repeated_stamps['/camera/image_raw'] == repeated


# -- what would take all memory or time


def nested(types: int) -> bytes:
    return b'a/T0 x\n' + b''.join(b'%s\nMSG: a/T%d\na/T%d x\n' % (b'=' * 80, n, n + 1) for n in range(types))


@pytest.mark.parametrize('definition', [
    b'string[4000000000] x\n', nested(10_000), nested(400), b'A x\n', b'Missing x\n', b'((((' * 1000, b'x' * 2_000_000],
    ids=['array', 'very deep', 'deep', 'recursive', 'missing', 'no definition', 'long'])
def test_absurd_definitions_beside_the_camera(tmp_path: Path, trial: Any, definition: bytes) -> None:
    with trial('Recordings', 'definitions that are recursive, missing, too deep or too long'):
        bag = mcap(tmp_path / 'drive.mcap', channels=(('/x', 'cdr', 'a/msg/A', 'ros2msg', definition, b'\0\1\0\0'),))
        assert read(bag) == ALL
        with BagReader(bag) as reader, pytest.raises(BagError, match='definition of a/msg/A cannot be used') as caught:
            list(reader.messages(['/x']))
        assert len(str(caught.value)) < 500


@pytest.mark.parametrize('definition', [b'string x\n', b'string[] x\n', b'float64[] x\n', b'uint8[4000000000] x\n'])
def test_absurd_lengths_in_messages(tmp_path: Path, trial: Any, definition: bytes) -> None:
    message = b'\0\1\0\0' + struct.pack('<I', 0xfffffff0) + b'abc'
    with trial('Recordings', 'lengths of 4 GB in messages'):
        bag = mcap(tmp_path / 'drive.mcap', channels=(('/x', 'cdr', 'a/msg/A', 'ros2msg', definition, message),))
        with BagReader(bag) as reader:
            assert list(reader.messages(['/x'])) == []
            assert reader.bad_messages['/x'] == FRAMES


def zeros(size: int, kind: str) -> bytes:
    """So many zeros, packed."""
    if kind == 'lz4':
        with lz4.frame.LZ4FrameCompressor() as packer:
            pieces = [packer.begin(), *(packer.compress(bytes(1 << 24)) for _ in range(size >> 24)), packer.flush()]
            return b''.join(pieces)
    packed = BytesIO()
    with zstandard.ZstdCompressor().stream_writer(packed, closefd=False,
                                                  size=-1 if kind == 'zstd of unknown size' else size) as packer:
        for _ in range(size >> 24):
            packer.write(bytes(1 << 24))
    return packed.getvalue()


BOMB = r'''
import re, sys
from pathlib import Path
from semanom_ros.errors import BagError
from semanom_ros.recordings.bags import BagReader
for path in sys.argv[1:]:
    try:
        with BagReader(path) as reader:
            list(reader.raw())
    except BagError as error:
        print(error)
print(int(re.search(r'VmHWM:\s*(\d+)', Path('/proc/self/status').read_text())[1]) >> 10)
'''


@pytest.mark.skipif(not Path('/proc/self/status').exists(), reason='needs /proc/self/status')
def test_bombs_take_no_memory(tmp_path: Path, trial: Any) -> None:
    """Chunks, messages and files that unpack to gigabytes."""
    paths = []
    for kind in ('zstd', 'zstd of unknown size', 'lz4'):
        data = zeros(2 * LARGEST, kind)
        for said in (2 * LARGEST, 1 << 20):
            path = tmp_path / f'{kind} {said}.mcap'
            records = RecordBuilder()
            Header('ros2', 'bomb').write(records)
            Chunk(kind[:4].strip(), data, 1, 1, 0, said).write(records)
            path.write_bytes(MAGIC + records.end())
            paths.append(path)
    with BagWriter(tmp_path / 'messages', 'sqlite3') as bag:
        bag.write_cdr('/image', IMAGE, zeros(2 * LARGEST, 'zstd'), 1)
    (tmp_path / 'file.mcap.zstd').write_bytes(zeros(2 * LARGEST, 'zstd'))
    paths += [tmp_path / 'messages', tmp_path / 'file.mcap.zstd']
    with trial('Recordings', 'bombs: what unpacks to gigabytes', len(paths)):
        run = subprocess.run([sys.executable, '-c', BOMB, *paths], capture_output=True, text=True, check=True)
        *errors, megabytes = run.stdout.splitlines()
        assert len(errors) == len(paths) - 1  # a message is skipped
        assert 'unpacks to more than 1000 times its size' in errors[-1]
        assert int(megabytes) < 300  # 60 of them for the libraries


def test_sqlite_makes_no_endless_messages(tmp_path: Path, drives: Drives, trial: Any) -> None:
    bag = drives('drive', FRAMES, 'sqlite3')
    with sqlite3.connect(next(bag.glob('*.db3'))) as database:
        database.executescript(
            'ALTER TABLE messages RENAME TO old; CREATE TABLE messages (id INTEGER PRIMARY KEY, topic_id INTEGER, '
            'timestamp INTEGER, data BLOB GENERATED ALWAYS AS (zeroblob(999999999)) VIRTUAL); '
            'INSERT INTO messages (id, topic_id, timestamp) SELECT id, topic_id, timestamp FROM old')
    with trial('Recordings', 'bombs: what unpacks to gigabytes'), BagReader(bag) as reader, \
            pytest.raises(BagError, match=f'{FRAMES} messages cannot be read .*a message that holds no bytes, or'):
        list(reader.raw())


def test_nothing_is_said_twice(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    bag = mcap(tmp_path / 'drive.mcap', profile='', channels=FOREIGN)
    for _ in range(3):
        assert read(bag) == ALL
    assert caplog.messages == []
