"""The nominal database: build, append, merge, verify, search."""

from semanom_ros.core.curation.writer import DatabaseWriter
from semanom_ros.core.database.database import NominalAddition, NominalDatabase, read_manifest
from semanom_ros.core.database.manifest import DatabaseDescription, Manifest
from semanom_ros.core.database.storage import FrameRecord, NominalFrame

__all__ = [
    'DatabaseDescription',
    'DatabaseWriter',
    'FrameRecord',
    'Manifest',
    'NominalAddition',
    'NominalDatabase',
    'NominalFrame',
    'read_manifest',
]
