"""The actions of `semanom db` that compute, and so need PyTorch."""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Callable
from pathlib import Path

from semanom_ros.commands.applying_verdicts import apply_verdicts
from semanom_ros.commands.compacting import compact
from semanom_ros.commands.database_difference import as_json, as_text, write_page
from semanom_ros.commands.options import recipe_with
from semanom_ros.commands.progress_bars import Bars
from semanom_ros.core.curation import operations
from semanom_ros.core.curation.coverage import Coverage, coverage
from semanom_ros.core.curation.differences import Version, difference
from semanom_ros.core.curation.publishing import IndexSettings
from semanom_ros.core.curation.selection import Selection
from semanom_ros.core.database.manifest import Manifest
from semanom_ros.core.database.nominal_database import NominalDatabase
from semanom_ros.core.database.published import read_manifest, read_version
from semanom_ros.core.database.transaction import exists
from semanom_ros.errors import DatabaseError, ParameterError, printable


def _coverage(arguments: argparse.Namespace) -> None:
    for path in arguments.databases:
        print('\n'.join(map(printable, _covered(path, coverage(NominalDatabase.open(path, verify=False))))))


def _covered(path: Path, found: Coverage) -> list[str]:
    places = ('left', 'centre left', 'centre right', 'right')
    lines = [f'{path}: {found.frames:,} nominal frames, each compared with the others that are not near it in time',
             '  where: distance of each region as a multiple of the mean (and the factor by which it varies)',
             '    ' + ' ' * 8 + ''.join(f'{place:>16}' for place in places)]
    for name, far, factors in zip(('upper', 'middle', 'lower'), found.regions, found.variation, strict=True):
        lines.append(f'    {name:8}' + ''.join(
            f'{f"{ratio:.2f} (x{factor:.2f})":>16}' for ratio, factor in zip(far, factors, strict=True)))
    if found.lights:
        lines.append('  light: share of the pictures, and their distance as a multiple of what is usual')
        lines += [f'    {light.name:8}{light.share:>8.0%}' + ('' if math.isnan(light.ratio) else f'{light.ratio:>8.2f}')
                  for light in found.lights]
    lines.append('  stretches that are farthest from the rest')
    lines += [f'    {stretch.ratio:.2f}  {stretch.name}, {stretch.start_s:.0f} to {stretch.end_s:.0f} s'
              for stretch in found.stretches[:3]]
    return [*lines, found.advice]


def _merge(arguments: argparse.Namespace) -> None:
    before = read_manifest(arguments.output) if exists(arguments.output) else None
    leading = arguments.output if before else arguments.databases[0]
    _done(arguments.output, before,
          operations.merge(arguments.output, arguments.databases, recipe_with(leading, arguments), Bars()))


def _remove(arguments: argparse.Namespace) -> None:
    before = read_manifest(arguments.database)
    _done(arguments.database, before, operations.remove(
        arguments.database, _selection(arguments), recipe_with(arguments.database, arguments), Bars()))


def _extract(arguments: argparse.Namespace) -> None:
    read_manifest(arguments.database)
    _done(arguments.output, None, operations.extract(
        arguments.database, arguments.output, _selection(arguments), recipe_with(arguments.database, arguments),
        Bars()))


def _selection(arguments: argparse.Namespace) -> Selection:
    if not arguments.sources and not arguments.topics:
        raise ParameterError(f'{arguments.action}: found nothing to go by, expected --source or --topic; name some')
    return Selection(tuple(arguments.sources), tuple(arguments.topics))


def _compact(arguments: argparse.Namespace) -> None:
    before = read_manifest(arguments.database)
    for line in compact(arguments, before, lambda manifest: _done(arguments.database, before, manifest)):
        print(printable(line))


def _calibrate(arguments: argparse.Namespace) -> None:
    for path in arguments.databases:
        before = read_manifest(path)
        _done(path, before, operations.calibrate(path, recipe_with(path, arguments), progress=Bars()))


def _index(arguments: argparse.Namespace) -> None:
    before = read_manifest(arguments.database)
    index = IndexSettings(arguments.factory, arguments.nprobe)
    _done(arguments.database, before,
          operations.build_index(arguments.database, index, recipe_with(arguments.database, arguments), Bars()))


def _diff(arguments: argparse.Namespace) -> None:
    after = Version(arguments.other or arguments.database, read_version(
        arguments.other or arguments.database, arguments.second))
    first = arguments.first
    if first is None and arguments.other is None:
        first = after.manifest.version - 1
        if not first:
            raise DatabaseError(f'{arguments.database}: found version 1, expected one that another came before; name '
                                'another database to compare it with')
    before = Version(arguments.database, read_version(arguments.database, first))
    found = difference(before, after, Bars())
    if arguments.html:
        write_page(arguments.html, found)
    print(json.dumps(as_json(found), indent=1) if arguments.json else '\n'.join(map(printable, as_text(found))))


def _revert(arguments: argparse.Namespace) -> None:
    manifest = operations.revert(arguments.database, arguments.version, Bars())
    print(f'{arguments.database}: version {manifest.version}, {manifest.vectors:,} vectors, {manifest.change}')


def _done(path: Path, before: Manifest | None, manifest: Manifest) -> None:
    was = f' (before: {before.vectors:,})' if before else ''
    calibrated = 'calibrated' if manifest.calibrated else (
        'not calibrated, so that every frame will be unknown: see semanom db info')
    print(f'{path}: version {manifest.version}, {manifest.vectors:,} vectors{was}, '
          f'{manifest.size / 1e6:.1f} MB, {calibrated}')


ACTIONS: dict[str, Callable[[argparse.Namespace], None]] = {
    'apply-verdicts': apply_verdicts, 'coverage': _coverage, 'merge': _merge, 'remove': _remove, 'extract': _extract,
    'compact': _compact,
    'calibrate': _calibrate, 'index': _index, 'diff': _diff, 'revert': _revert}
