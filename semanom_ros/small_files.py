"""Small files of text, read so that a wrong or hostile one costs nothing."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

from semanom_ros.errors import ParameterError

LARGEST = 4_000_000
"""Bytes."""


def read_small(path: Path) -> bytes:
    """The content of a file; of a special one, which may have no end, nothing is read.

    Raises:
        OSError: it cannot be read, is no regular file, or holds more than LARGEST bytes.
    """
    with open(path, 'rb', opener=lambda name, flags: os.open(name, flags | os.O_NONBLOCK)) as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise OSError(errno.EINVAL, 'found no regular file, expected one')
        content = file.read(LARGEST + 1)
    if len(content) > LARGEST:
        raise OSError(errno.EFBIG, f'found more than {LARGEST} bytes, expected less')
    return content


def read_phrases(path: Path, parameter: str, what: str) -> list[str]:
    """Phrases of a text file, one a line; `#` starts a comment.

    Args:
        path: of the file.
        parameter: that names it.
        what: a phrase is called there.

    Raises:
        ParameterError: unreadable, or without a phrase.
    """
    try:
        lines = read_small(path).decode().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ParameterError(f'parameter {parameter}: {path} is unreadable ({error}); give a text file with one {what} '
                             'a line') from error
    phrases = [phrase for line in lines if (phrase := line.split('#')[0].strip())]
    if not phrases:
        raise ParameterError(f'parameter {parameter}: {path} holds no {what}; give one a line')
    return phrases
