"""The exports that are asked for."""

from __future__ import annotations

import itertools
from pathlib import Path

from semanom_ros.errors import SemanomError
from semanom_ros.evaluation.exports.export_protocol import Export
from semanom_ros.evaluation.exports.fiftyone_dataset import FiftyOneDataset, check_folder


def exports_of(output: Path, rerun: Path | None, fiftyone: Path | None) -> list[Export]:
    """Exports to these places, which are looked at before hours are spent.

    Args:
        output: folder of the evaluation, which is replaced as a whole.
        rerun: file for Rerun; None: none.
        fiftyone: folder for FiftyOne; None: none.

    Raises:
        SemanomError: a place will not do, or Rerun's package is not installed.
    """
    exports: list[Export] = []
    places = [(f'{option} {path}', path.resolve()) for option, path in (
        ('--output', output), ('--rerun', rerun), ('--fiftyone', fiftyone)) if path is not None]
    for (one, inner), (other, outer) in itertools.permutations(places, 2):
        if outer in (inner, *inner.parents):
            raise SemanomError(f'{one}: found it in {other}, which is replaced as a whole, expected another place; '
                               'put it beside')
    if rerun is not None:
        try:
            from semanom_ros.evaluation.exports.rerun_recording import RerunRecording, check_file
        except ModuleNotFoundError as error:
            raise SemanomError(f'--rerun: found no {error.name}, expected the Rerun SDK; pip install '
                               "'semanom_ros[rerun]', or pip install rerun-sdk") from error
        check_file(rerun)
        exports.append(RerunRecording(rerun))
    if fiftyone is not None:
        check_folder(fiftyone)
        exports.append(FiftyOneDataset(fiftyone))
    return exports
