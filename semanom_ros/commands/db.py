"""`semanom db ...`: looks after nominal databases."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from dataclasses import asdict
from datetime import datetime, timezone
from pathlib import Path

from tqdm.contrib.logging import logging_redirect_tqdm

from semanom_ros.commands.numbers import number, whole
from semanom_ros.commands.options import add_parameter_options
from semanom_ros.commands.progress_bars import Bars
from semanom_ros.core.database.manifest import AUTO, HELD_OUT, NPROBE, RECORDED, Manifest
from semanom_ros.core.database.published import kept_versions, own_bytes, read_manifest, verify
from semanom_ros.core.scoring.calibration import Calibration
from semanom_ros.errors import SemanomError, printable

_SHARE = number('more than 0 and at most 1', lambda share: 0 < share <= 1)
_POSITIVE = number('more than 0', lambda value: value > 0)
_DISTANCE = number('0 or more', lambda distance: distance >= 0)


def configure(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(dest='action', metavar='ACTION', required=True)

    def action(name: str, text: str) -> argparse.ArgumentParser:
        return actions.add_parser(name, help=text, description=text[0].upper() + text[1:] + '.')

    def recalibrates(one: argparse.ArgumentParser) -> None:
        add_parameter_options(one)
        one.epilog = ('Distances are measured, and the calibration is made anew from the nominal frames, '
                      'with the parameters of the calibration before, but for what --config or --set gives.')

    def selects(one: argparse.ArgumentParser) -> None:
        one.add_argument('--source', metavar='BAG', dest='sources', nargs='+', action='extend', default=[],
                         help='path or name of a recording as `semanom db info` shows it, the beginning of its '
                         'SHA-256, or a pattern such as `reviewed:*`')
        one.add_argument('--topic', metavar='T', dest='topics', nargs='+', action='extend', default=[],
                         help='image topic of a camera, or a pattern such as `/front/*`')

    info = action('info', 'say what databases hold and where it came from')
    info.add_argument('databases', metavar='DIR', nargs='+', type=Path, help='nominal database')
    info.add_argument('--json', action='store_true', help='print their manifests as JSON')

    covers = action('coverage', 'say where and when databases are thin, and which drive to record next')
    covers.add_argument('databases', metavar='DIR', nargs='+', type=Path, help='nominal database')

    verifies = action('verify', 'check every file of databases against its checksum')
    verifies.add_argument('databases', metavar='DIR', nargs='+', type=Path, help='nominal database')

    merge = action('merge', 'put the frames of several databases into one')
    merge.add_argument('databases', metavar='DIR', nargs='+', type=Path, help='nominal database to take from')
    merge.add_argument('--output', metavar='DIR', type=Path, required=True,
                       help='database that they go into; it is made, or grows where it exists')
    recalibrates(merge)

    remove = action('remove', 'take the frames of some recordings or cameras out of a database')
    remove.add_argument('database', metavar='DIR', type=Path, help='nominal database')
    selects(remove)
    recalibrates(remove)

    extract = action('extract', 'make a database of some recordings or cameras of another')
    extract.add_argument('database', metavar='DIR', type=Path, help='nominal database to take from')
    extract.add_argument('--output', metavar='DIR', type=Path, required=True, help='database to be made')
    selects(extract)
    recalibrates(extract)

    compact = action('compact', 'keep fewer vectors that stand for all')
    compact.add_argument('database', metavar='DIR', type=Path, help='nominal database')
    compact.add_argument('--distance', metavar='D', type=_DISTANCE, default=0.0,
                         help='drop vectors within this cosine distance of one that is kept')
    size = compact.add_mutually_exclusive_group()
    size.add_argument('--size', metavar='N', type=whole(1), help='then keep at most N vectors, as a greedy coreset')
    size.add_argument('--share', metavar='S', type=_SHARE, help='then keep this share of the vectors, likewise')
    compact.add_argument('--budget-mb', metavar='MB', type=_POSITIVE,
                         help='choose codes and index, and keep as many vectors, so that what a detector holds in '
                         'memory to search is no larger')
    compact.add_argument('--budget-ms', metavar='MS', type=_POSITIVE,
                         help='likewise, so that the search for every patch of a frame takes no longer on this machine')
    compact.add_argument('--device', default='cpu', metavar='DEVICE',
                         help='where the vehicle searches: cpu (default) or cuda; for the budgets')
    compact.add_argument('--check-bag', metavar='BAG', type=Path, nargs='+', action='extend', default=[],
                         help='recordings that are evaluated before and after; with ground truth, to say how AUROC '
                         'changes')
    compact.add_argument('--truth-topic', default='', metavar='T', help='of --check-bag, as in semanom evaluate')
    recalibrates(compact)

    calibrate = action('calibrate', 'make thresholds anew from the nominal frames of databases')
    calibrate.add_argument('databases', metavar='DIR', nargs='+', type=Path, help='nominal database')
    recalibrates(calibrate)

    index = action('index', 'give a large database an approximate index for search on the CPU')
    index.add_argument('database', metavar='DIR', type=Path, help='nominal database')
    index.add_argument('--factory', metavar='STRING',
                       default=AUTO, help='FAISS factory string of an inverted file; auto (default): one that suits '
                       'the number of vectors, where an index pays; exact: none')
    index.add_argument('--nprobe', metavar='N', type=whole(1), default=NPROBE,
                       help=f'inverted lists that a search visits (default {NPROBE})')
    recalibrates(index)

    history = action('history', 'list the versions of a database: when and by what they came about, and what it costs '
                     'to keep them')
    history.add_argument('database', metavar='DIR', type=Path, help='nominal database')
    history.add_argument('--keep', metavar='N', type=whole(1),
                         help='from now on so many versions before the current one keep their files (1 at first); '
                         'those of older ones are removed')
    history.add_argument('--json', action='store_true', help='print the list as JSON')

    differ = action('diff', 'say what is new in a version of a database, what went, and how much of that was covered')
    differ.add_argument('database', metavar='DIR', type=Path, help='nominal database')
    differ.add_argument('other', metavar='OTHER', type=Path, nargs='?',
                        help='another database, which is looked at as what came of the first; default: the same')
    differ.add_argument('--from', metavar='N', type=whole(1), dest='first',
                        help='version of DIR, of those that keep their files; default: the one before --to, of two '
                        'databases the current one')
    differ.add_argument('--to', metavar='N', type=whole(1), dest='second',
                        help='version that it is compared with; default: the current one')
    differ.add_argument('--json', action='store_true', help='print it as JSON')
    differ.add_argument('--html', metavar='FILE', type=Path,
                        help='write a page that also shows the frames that resemble the other version least')

    applies = action('apply-verdicts', 'make nominal what people found nominal with semanom review, as a new version')
    applies.add_argument('database', metavar='DIR', type=Path, help='nominal database')
    applies.add_argument('--verdicts', metavar='DIR', type=Path,
                         help='folder of verdicts (default: DIR_verdicts beside the database)')
    applies.add_argument('--recording', metavar='BAG', dest='recordings', nargs='+', action='extend', default=[],
                         type=Path, help='where recordings lie now, if they were moved')
    applies.add_argument('--regression', metavar='BAG', type=Path,
                         help='replay this recording before and after, show which verdicts change, and ask')
    applies.add_argument('--image-topic', default='', metavar='T', help='of --regression, where it has several')
    applies.add_argument('--yes', action='store_true', help='do not ask')
    add_parameter_options(applies)

    revert = action('revert', 'go back to an earlier version, by a new one that holds the same')
    revert.add_argument('database', metavar='DIR', type=Path, help='nominal database')
    revert.add_argument('--version', metavar='N', type=whole(1),
                        help='which, of those that keep their files (see `semanom db history`); default: the one '
                        'before the current one')


def run(arguments: argparse.Namespace) -> int | None:
    """Runs the action."""
    if arguments.action in _LIGHT:
        return _LIGHT[arguments.action](arguments)
    from semanom_ros.commands.db_changes import ACTIONS  # PyTorch, which the others do without

    with logging_redirect_tqdm():
        return ACTIONS[arguments.action](arguments)


def _info(arguments: argparse.Namespace) -> int | None:
    manifests = [(path, read_manifest(path)) for path in arguments.databases]
    if arguments.json:
        print(json.dumps([{'path': str(path), 'bytes': manifest.size, **asdict(manifest)}
                          for path, manifest in manifests], indent=1))
        return None
    for path, manifest in manifests:
        print('\n'.join(map(printable, _describe(path, manifest))))
    return None


def _describe(path: Path, manifest: Manifest) -> list[str]:
    made, index = manifest.description, manifest.index
    how = 'exact' if index is None else (
        f'{index.factory}, nprobe {index.nprobe}, '
        f'{", ".join(f"{name} {json.dumps(value)}" for name, value in index.search.items())}, '
        f'over {index.vectors:,} vectors')
    settings = ', '.join(f'{name} {value}' for name, value in made.settings.items())
    lines = [
        f'{path}: version {manifest.version}, {manifest.created}, semanom_ros {manifest.package_version}: '
        f'{manifest.change}',
        f'  vectors      {manifest.vectors:,} of {made.dimension} dimensions, from {manifest.frames:,} frames; '
        f'{manifest.size / 1e6:.1f} MB',
        f'  held out     {manifest.held_out_vectors:,} vectors, from {manifest.held_out_frames:,} frames',
        *(f'  {"calibrated" if number == 0 else "":12} {line}' for number, line in enumerate(
            (*Calibration.stored(path, manifest).describe(), *_uncalibrated(path, manifest)))),
        *(f'  {"compacted" if number == 0 else "":12} {line}' for number, line in enumerate(compacted(manifest))),
        '  learned      ' + (f'from {manifest.learned.composites:,} pictures with transplants' if manifest.learned
                             else 'no'),
        f'  search       {how}',
        f'  variant      {made.variant}',
        f'  encoder      {made.encoder}, weights {made.weights} (SHA-256 {made.weights_sha256[:12]})',
        f'  input        {made.input_size[0]} x {made.input_size[1]} pixels, '
        f'{made.grid_size[0]} x {made.grid_size[1]} patches' + (f'; {settings}' if settings else ''),
        *(f'  engine       {line}' for line in _engines(path, manifest)),
        f'  versions     {len(manifest.versions):,}; {_kept(kept_versions(path, manifest), manifest)}',
        '  recorded from']
    for source in manifest.sources:
        begun, ended = (datetime.fromtimestamp(stamp / 1e9, timezone.utc).strftime('%Y-%m-%d %H:%M:%S')
                        for stamp in (source.first_stamp_ns, source.last_stamp_ns))
        lines.append(f'    {source.path} {", ".join(source.topics)}: {source.frames:,} frames and '
                     f'{source.held_out_frames:,} held out, {begun} to {ended} UTC'
                     + (f' (fingerprint {source.sha256[:12]})' if source.sha256 else ''))
    return lines


def compacted(manifest: Manifest) -> list[str]:
    """What is known of what was dropped; [] where nothing was."""
    found = manifest.compaction
    if found is None:
        some = any(part.kind == RECORDED and not part.whole for part in manifest.parts)
        return ['yes; how far what was dropped is from what was kept is not known any more'] if some else []
    far = 'of all that was recorded not known' if found.total is None else (
        f'of all that was recorded within {found.total:.3g}')
    lines = [f'{found.vectors:,} vectors to {found.kept:,}; each is within {found.radius:.3g} of one that was kept '
             f'(mean {found.mean:.2g}); {far}',
             f'a distance d is now (sqrt(d) + sqrt({found.radius:.3g}))^2 at most, where searched with '
             + ', '.join(f'{name} {str(value).lower()}' for name, value in found.search.items())]
    return lines + [f'{one.path}: {one.kept:,} of {one.vectors:,} kept, the rest within {one.farthest:.3g}'
                    for one in found.sources]


def _uncalibrated(path: Path, manifest: Manifest) -> list[str]:
    """What can be done where there is no calibration."""
    if manifest.calibrated:
        return []
    if any(part.kind == HELD_OUT or (part.kind == RECORDED and part.whole) for part in manifest.parts):
        return [f'run semanom db calibrate {path}']
    return ['its frames were compacted, so none can be compared anew: go back (semanom db revert), or append a drive '
            '(semanom record --append)']


def _kept(kept: list[Manifest], manifest: Manifest) -> str:
    bytes_of = own_bytes([manifest, *kept])[1:]
    return f'{len(kept):,} earlier {"one keeps its" if len(kept) == 1 else "ones keep their"} files, ' \
           f'{sum(bytes_of) / 1e6:.1f} MB (at most {manifest.kept:,}; see semanom db history)'


def _history(arguments: argparse.Namespace) -> None:
    path = arguments.database
    manifest = read_manifest(path)
    if arguments.keep is not None:
        from semanom_ros.core.curation.operations import keep_versions  # PyTorch, which the rest does without

        manifest = keep_versions(path, arguments.keep)
    kept = kept_versions(path, manifest)
    bytes_of = dict(zip([one.version for one in (manifest, *kept)], own_bytes([manifest, *kept]), strict=True))
    if arguments.json:
        print(json.dumps([{**asdict(past), 'kept': past.version in bytes_of, 'bytes': bytes_of.get(past.version, 0)}
                          for past in manifest.versions], indent=1))
        return
    print(f'{"version":>7}  {"made":20}  {"vectors":>12}  {"frames":>9}  {"calibrated":10}  {"files":>12}  by')
    for past in reversed(manifest.versions):
        files = f'{bytes_of[past.version] / 1e6:,.1f} MB' if past.version in bytes_of else 'gone'
        print(printable(f'{past.version:>7}  {past.created[:19]:20}  {past.vectors:>12,}  '
                        f'{past.frames + past.held_out_frames:>9,}  {"yes" if past.calibrated else "no":10}  '
                        f'{files:>12}  {past.change}'))
    print(f'files: of the current version all, of earlier ones what no later one has; {_kept(kept, manifest)}')


def _engines(path: Path, manifest: Manifest) -> list[str]:
    """A line for each engine that lies beside a database."""
    if not (path / 'engines').is_dir():
        return []
    from semanom_ros.core.database.engines import certificates, objection  # PyTorch, which the rest does without

    return [one if isinstance(one, str) else objection(path, one, manifest) or one.describe()
            for one in certificates(path).values()]


def _verify_engines(path: Path) -> None:
    if (path / 'engines').is_dir():
        from semanom_ros.core.database.engines import certificates, read_certificate, read_files

        for name in certificates(path):
            read_files(path, read_certificate(path, name))


def _verify(arguments: argparse.Namespace) -> int:
    status = 0
    for path in arguments.databases:
        try:
            manifest = verify(path, Bars())
            _verify_engines(path)
        except SemanomError as error:
            print(f'semanom db: {printable(str(error))}', file=sys.stderr)
            status = 2
        else:
            print(f'{path}: version {manifest.version}, {len(manifest.files)} files, {manifest.size / 1e6:.1f} MB: '
                  'as they were written')
    return status


_LIGHT: dict[str, Callable[[argparse.Namespace], int | None]] = {
    'info': _info, 'verify': _verify, 'history': _history}
"""What can do without PyTorch, or imports it when it must."""
