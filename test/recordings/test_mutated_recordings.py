"""Recordings with bytes flipped, cut out, doubled or made up: frames that are right, or one error."""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from mcap.writer import CompressionType
from mcap.writer import Writer as McapWriter

from semanom_ros.errors import BagError
from semanom_ros.recordings import bags
from semanom_ros.recordings.bags import COMPRESSED_IMAGE, IMAGE, BagReader, BagWriter
from semanom_ros.recordings.definitions import typestore

from .conftest import SECOND, picture
from .test_storage_files import FRAMES, image, ros1_bag

CORPUS = Path(__file__).parent.parent / 'corpus' / 'recordings'
KINDS = ('mcap', 'unchunked.mcap', 'db3', 'bag', 'zstd')
CHECKED = ('mcap',)
"""Formats that say with a checksum that pictures are right; in the others a flipped bit is another picture."""


@pytest.fixture(scope='module')
def recordings(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """A small recording of each kind, of the same frames."""
    import zstandard

    folder, files = tmp_path_factory.mktemp('recordings'), {}
    for name, options in (('mcap', {'chunk_size': 30_000, 'compression': CompressionType.ZSTD}),
                          ('unchunked.mcap', {'use_chunking': False})):
        with open(folder / name, 'wb') as file:
            writer = McapWriter(file, **options)
            writer.start('ros2', 'test')
            schema = writer.register_schema(IMAGE, 'ros2msg', typestore().generate_msgdef(IMAGE, 2)[0].encode())
            channel = writer.register_channel('/camera/image_raw', 'cdr', schema)
            for number in range(FRAMES):
                data = bytes(typestore().serialize_cdr(image(typestore(), number), IMAGE))
                writer.add_message(channel, (number + 1) * SECOND, data, (number + 1) * SECOND)
            writer.finish()
        files[name] = (folder / name).read_bytes()
    with BagWriter(folder / 'drive', 'sqlite3') as bag:
        for number in range(FRAMES):
            bag.write('/camera/image_raw', image(typestore(), number), (number + 1) * SECOND)
    files['db3'] = (folder / 'drive' / 'drive.db3').read_bytes()
    files['bag'] = ros1_bag(folder / 'drive.bag', 'LZ4').read_bytes()
    files['zstd'] = zstandard.ZstdCompressor(write_checksum=True).compress(files['unchunked.mcap'])
    return files


def survives(path: Path, right: Callable[[int, np.ndarray], bool]) -> int:
    """Frames that are read; every one must be `right`, and whatever else happens must be one line."""
    frames, said = 0, ''
    try:
        with BagReader(path) as reader:
            for frame in reader.images():
                frames += 1
                assert right(frame.stamp_ns, frame.image)
            reader.camera_info('/camera/image_raw')
            reader.fingerprint()
    except BagError as error:
        said = str(error)
    assert '\n' not in said
    assert len(said) < 2000
    return frames


def is_right(stamp_ns: int, image: np.ndarray) -> bool:
    number = stamp_ns // SECOND - 1
    return 0 <= number < FRAMES and bool((image == picture(number)).all())


def is_a_picture(stamp_ns: int, image: np.ndarray) -> bool:
    return stamp_ns > 0 and image.ndim == 3 and image.dtype == np.uint8


@pytest.fixture(scope='module')
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where a mutated file is written over and over."""
    logging.getLogger('semanom_ros').setLevel(logging.ERROR)
    yield tmp_path_factory.mktemp('mutated')
    logging.getLogger('semanom_ros').setLevel(logging.NOTSET)
    bags._warn_once.cache_clear()


@pytest.mark.parametrize('kind', KINDS)
@given(data=st.data())
def test_mutated_bytes(recordings: dict[str, bytes], place: Path, trial: Any, kind: str, data: st.DataObject) -> None:
    content = bytearray(recordings[kind])
    at = data.draw(st.one_of(st.integers(0, min(len(content), 300)), st.integers(0, len(content)),
                             st.integers(max(0, len(content) - 600), len(content))), 'at')
    length = data.draw(st.one_of(st.integers(1, 16), st.integers(1, 5000)), 'length')
    what = data.draw(st.sampled_from(('flip', 'cut', 'double', 'zero', 'make up', 'large')), 'what')
    replacement = {'cut': b'', 'double': 2 * content[at:at + length], 'zero': bytes(length), 'large': b'\xff' * length,
                   'flip': bytes(byte ^ 1 << (length % 8) for byte in content[at:at + 1])}.get(what)
    if replacement is None:
        replacement = data.draw(st.binary(max_size=64), 'made up')
    content[at:at + (1 if what == 'flip' else length)] = replacement
    path = place / f'drive.{kind}'
    path.write_bytes(content)
    with trial('Recordings', f'bytes of a file ({kind}) flipped, cut out, doubled or made up'):
        survives(path, is_right if kind in CHECKED else is_a_picture)


@pytest.mark.parametrize('kind', KINDS)
@given(share=st.floats(0.0, 1.0))
def test_cut_files(recordings: dict[str, bytes], place: Path, trial: Any, kind: str, share: float) -> None:
    """What comes before the cut is right, whatever the format."""
    path = place / f'cut.{kind}'
    path.write_bytes(recordings[kind][:round(share * len(recordings[kind]))])
    with trial('Recordings', f'a file ({kind}) cut off anywhere') as tally:
        frames = survives(path, is_right)
        if kind in ('mcap', 'unchunked.mcap'):  # of the last chunk, of 3 frames
            tally.lost += max(0, int(share * FRAMES) - 4 - frames)
            assert frames >= int(share * FRAMES) - 4


@given(message=st.binary(max_size=200), kind=st.sampled_from((IMAGE, COMPRESSED_IMAGE)))
def test_messages_of_any_content(place: Path, trial: Any, message: bytes, kind: str) -> None:
    shutil.rmtree(place / 'drive', ignore_errors=True)
    with BagWriter(place / 'drive') as writer:
        writer.write_cdr('/camera/image_raw', kind, b'\0\1\0\0' + message, SECOND)
        writer.write_cdr('/camera/image_raw', kind, message, 2 * SECOND)
    with trial('Recordings', 'messages of any content', 2):
        assert survives(place / 'drive', is_a_picture) <= 2


@pytest.mark.parametrize('path', sorted(CORPUS.iterdir()), ids=lambda path: path.name)
def test_corpus(path: Path, trial: Any) -> None:
    """Files that once led to something else than frames or one line."""
    assert os.path.getsize(path) < 20_000
    with trial('Recordings', 'files that were a fault once'):
        survives(path, is_a_picture)
