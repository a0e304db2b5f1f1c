"""What the middleware needs so that large images get through."""

from __future__ import annotations

import os
from pathlib import Path

from semanom_ros.errors import SemanomError

PROFILES = 'FASTDDS_DEFAULT_PROFILES_FILE'
_OTHER_NAMES = ('FASTRTPS_DEFAULT_PROFILES_FILE', 'FASTDDS_BUILTIN_TRANSPORTS')


def large_image_profile() -> Path:
    """`config/fastdds_large_images.xml`, of the source tree or the installation.

    Raises:
        SemanomError: it is gone.
    """
    name = Path('config', 'fastdds_large_images.xml')
    for folder in Path(__file__).resolve().parents:
        for file in (folder / name, folder / 'share' / 'semanom_ros' / name):
            if file.is_file():
                return file
    raise SemanomError(f'{Path(__file__).parent}: found no {name} in a folder above it; install the package again')


def large_image_settings() -> dict[str, str]:
    """Environment variables for a process that sends raw images: Fast DDS gets shared memory for them.

    {} where the user has chosen settings of Fast DDS already. Other middlewares do not read them.

    Raises:
        SemanomError: see `large_image_profile`.
    """
    if any(name in os.environ for name in (PROFILES, *_OTHER_NAMES)):
        return {}
    return {PROFILES: str(large_image_profile())}
