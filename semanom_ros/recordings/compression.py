"""What recordings are compressed with, unpacked no further than they say and a limit allows."""

from __future__ import annotations

import bz2
from collections.abc import Callable

import lz4.frame
import zstandard

from semanom_ros.recordings.storage_file import Damage, line

ZSTD = b'\x28\xb5\x2f\xfd'
LARGEST = 512 << 20
"""Bytes of a chunk or a message, packed and unpacked; of a raw picture that is one of 170 megapixels."""


def unpack(data: bytes, size: int | None = None) -> bytes:
    """What a zstd frame holds.

    Args:
        data: the frame.
        size: that it must have, bytes; None: at most LARGEST.

    Raises:
        Damage: it is broken, or its content is of another size.
    """
    try:
        said = zstandard.frame_content_size(data)
        limit = LARGEST if size is None else size
        if said > limit or (size is not None and said not in (-1, size)):
            raise Damage(f'a zstd frame of {said} bytes, expected {"at most " if size is None else ""}{limit}')
        return zstandard.ZstdDecompressor(max_window_size=1 << 31).decompress(data, max_output_size=limit)
    except zstandard.ZstdError as error:
        raise Damage(line(error)) from error


def _unpack_lz4(data: bytes, size: int) -> bytes:
    try:
        return lz4.frame.LZ4FrameDecompressor().decompress(data, max_length=size + 1)
    except (RuntimeError, EOFError) as error:
        raise Damage(line(error)) from error


def _unpack_bz2(data: bytes, size: int) -> bytes:
    unpacker, pieces, missing = bz2.BZ2Decompressor(), [], size + 1
    try:
        while missing and not unpacker.eof:
            piece = unpacker.decompress(data, missing)
            if not piece and unpacker.needs_input:
                raise Damage('it breaks off')
            data = b''
            pieces.append(piece)
            missing -= len(piece)
    except OSError as error:
        raise Damage(line(error)) from error
    return b''.join(pieces)


_UNPACK: dict[str, Callable[[bytes, int], bytes]] = {
    '': lambda data, size: data, 'none': lambda data, size: data, 'zstd': unpack, 'lz4': _unpack_lz4,
    'bz2': _unpack_bz2}


def unpack_chunk(compression: str, data: bytes, size: int) -> bytes:
    if size > LARGEST or len(data) > LARGEST:
        raise Damage(f'a chunk of {size} bytes, expected at most {LARGEST}')
    if compression not in _UNPACK:
        raise Damage(f'a chunk of compression {compression!r}, expected zstd, lz4 or bz2')
    unpacked = _UNPACK[compression](data, size)
    if len(unpacked) != size:
        raise Damage(f'a chunk unpacks to {"more" if len(unpacked) > size else "fewer"} than its {size} bytes')
    return unpacked
