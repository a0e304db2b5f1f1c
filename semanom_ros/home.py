"""Whose home: paths that begin with `~`, and processes of users that the machine does not know."""

from __future__ import annotations

import getpass
import os
from pathlib import Path

from semanom_ros.errors import SemanomError


def expanded(path: str | Path) -> Path:
    """A path with `~` and `~user` as the home folder.

    Raises:
        SemanomError: there is no such user, or it has no home: a file would go into a folder that is called `~`.
    """
    found = os.path.expanduser(path)
    if found.startswith('~'):
        user = found.partition('/')[0]
        raise SemanomError(f'{path}: found no home folder for {user}, expected one; give the whole path'
                           + (', or set HOME' if user == '~' else ''))
    return Path(found)


def name_the_user() -> None:
    """Gives the user of this process a name: PyTorch asks for it, and a container's user (`docker run --user 1000`) has
    none."""
    try:
        getpass.getuser()
    except (KeyError, OSError):  # OSError from Python 3.13 on
        os.environ['USER'] = f'user{os.getuid()}'
