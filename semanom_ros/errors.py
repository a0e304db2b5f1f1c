"""The errors that a user can act on."""

from __future__ import annotations

import re
from pathlib import Path

_LFS_POINTER = b'version https://git-lfs.github.com/spec/'
# Bounded, so that a long text costs no more than its length. A password may hold what it should not, @ or /; a number
# behind a colon is a port.
_USER = re.compile(r'(\w[\w+.-]{0,30}://)(?:[^\s/\'"]{0,256}|[^\s/@:\'"]{0,256}:(?!\d{1,5}[/?#])[^\s\'"]{0,256})@'
                   r'(?=[^\s/])')
_QUERY = re.compile(r'(?<=[?&;#])([\w.~%+-]{0,64}(?:key|token|secret|passw|pwd|auth|sig|credential)[\w.~%+-]{0,64})'
                    r'=[^\s&;#\'")]+', re.I)
_BEARER = re.compile(r'\b(Bearer|Basic)\s+[\w.~+/=-]{6,}', re.I)
_FIELD = re.compile(r'((?:api[-_ ]?key|(?:access|auth)[-_ ]?token|secret[-_ ]?key|password)'
                    r'(?:=|[\'"]\s{0,4}[:=]\s{0,4}[\'"]?)|x-api-key:\s{0,4})[^\s\'",;&}*]+', re.I)

LONGEST_LINE = 4000
"""Characters of an error's message."""


def without_secrets(text: str) -> str:
    """A text with users, passwords and keys in its addresses and headers struck out.

    >>> without_secrets('https://me:word@host/v1?api_key=1234&page=2 gives 403')
    'https://***@host/v1?api_key=***&page=2 gives 403'
    """
    text = _QUERY.sub(r'\1=***', _USER.sub(r'\1***@', text))
    return _FIELD.sub(r'\1***', _BEARER.sub(r'\1 ***', text))


def printable(text: str) -> str:
    """A text in one line, with what a terminal would obey or could not show (names of files may hold it) as `\\x1b`."""
    return ''.join(one if one.isprintable() else ' ' if one in '\r\n' else one.encode(
        'unicode_escape', 'surrogatepass').decode() for one in text)


def _shortened(text: str, most: int) -> str:
    """Without its middle where it is longer; what to do about an error stands at the end."""
    end = most // 5
    return text if len(text) <= most else f'{text[:most - end - 3]} … {text[-end:]}'


class SemanomError(Exception):
    """Bad input or a missing prerequisite.

    The message is one line: the thing, the value found, the value expected, and
    what to do next. Command lines print it without a traceback and exit with
    status 2; the nodes log it and report it in `/diagnostics`. Secrets in addresses are
    struck out of it. What it quotes may be anything that a damaged or hostile file holds: it stays one line that a
    terminal can show, of LONGEST_LINE characters at most.
    """

    def __init__(self, message: str) -> None:
        # shortened to much more first, so that no part of a secret is left where it is cut
        super().__init__(_shortened(printable(without_secrets(_shortened(message, 10 * LONGEST_LINE))), LONGEST_LINE))


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


class TransformError(SemanomError):
    """Nothing tells how two frames lie to each other."""


class MeasurementError(SemanomError):
    """A depth image or point cloud by which no distance can be measured."""


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
