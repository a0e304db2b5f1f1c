"""The errors that a user can act on."""

from __future__ import annotations

from pathlib import Path

_LFS_POINTER = b'version https://git-lfs.github.com/spec/'


class SemanomError(Exception):
    """Bad input or a missing prerequisite.

    The message is one line: the thing, the value found, the value expected, and
    what to do next. Command lines print it without a traceback and exit with
    status 2; the nodes log it and report it in `/diagnostics`.
    """


class EncoderError(SemanomError):
    """An encoder or its weights are unusable."""


class SegmenterError(SemanomError):
    """A segmenter or its weights are unusable."""


class DatabaseError(SemanomError):
    """A nominal database is missing, corrupt, or made for another encoder."""


class ImageError(SemanomError):
    """An image message does not hold the picture that it announces."""


class CameraError(SemanomError):
    """A CameraInfo from which no bearing can be computed."""


class BagError(SemanomError):
    """A recording is missing, truncated, or lacks a topic."""


class ParameterError(SemanomError):
    """A parameter has an unknown name, a wrong type or a value out of range."""


def git_lfs_pointer(path: Path) -> str:
    """The line about a file that stands for one that Git LFS did not fetch; '' for every other file.

    Raises:
        OSError: it cannot be read.
    """
    with open(path, 'rb') as file:
        content = file.read(512)
    if not content.startswith(_LFS_POINTER):
        return ''
    size = next((line.split()[1].decode() for line in content.splitlines() if line.startswith(b'size ')), '?')
    return (f'{path}: found a pointer of Git LFS, expected the file of {size} bytes that it stands for; run '
            '`git lfs pull`')


def printable(text: str) -> str:
    """A text in one line, with what a terminal would obey or could not show (names of files may hold it) as `\\x1b`."""
    return ''.join(one if one.isprintable() else ' ' if one in '\r\n' else one.encode(
        'unicode_escape', 'surrogatepass').decode() for one in text)
