"""How plausible a patch is where it is: learned from nominal pictures and transplants made of them.

A nearest neighbour says how new a patch is, not whether it belongs there. Gradient-boosted trees (J. H. Friedman,
Annals of Statistics, 2001; LightGBM: G. Ke et al., NeurIPS 2017) and small convolutional networks learn from
self-made transplants to tell what stands in the wrong place from what merely is rare, given the distance to the
database, the embedding, its surroundings and its place. They err differently, so the mean of their log odds is better
than either: on transplants of held-out nominal frames networks alone, also four of them, were 0.025 of frame AUROC
and 0.036 of patch AP worse on a real drive.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import torch

from semanom_ros.core.database.manifest import Manifest
from semanom_ros.core.database.nominal_database import NominalDatabase
from semanom_ros.core.database.published import read_learned
from semanom_ros.core.database.storage import FrameRecord
from semanom_ros.core.plausibility.context_network import ContextNetwork, Lesson
from semanom_ros.core.plausibility.stored_trees import check_trees
from semanom_ros.core.plausibility.transplanting import IMPLAUSIBLE, NOMINAL, VALID
from semanom_ros.errors import DatabaseError

Floats = npt.NDArray[np.float32]

COMPONENTS = 48  # principal components of the embeddings that are looked at
CONTEXT_COMPONENTS = 8  # of these, in the surroundings
FEATURES = 6  # of a patch, besides its embedding and its surroundings
GRID_ROWS = 33  # surroundings are measured in patches of a grid of so many rows
SURROUNDINGS = ((5, 0, 3), (-5, 0, 3), (9, 0, 5), (-9, 0, 5), (0, 6, 5), (0, -6, 5), (0, 0, 3))  # down, right, window
COVERED = 0.5, 0.05  # share of a patch that a transplant covers: at least, to be one; at most, to be none
TREES, LEAVES, DEPTH = 400, 24, 8
NETWORKS = 2
NOMINAL_SHARE = 0.25  # of the nominal patches of a composite that are learned from


@dataclass(frozen=True)
class Projection:
    """Principal components of standardized embeddings.

    Attributes:
        mean, scale: (D,) float32, subtracted from and multiplied with an embedding.
        axes: (D, COMPONENTS) float32.
    """

    mean: Floats
    scale: Floats
    axes: Floats

    @classmethod
    def of(cls, vectors: Floats) -> Projection:
        """From a sample (N, D) of nominal embeddings."""
        mean, deviation = vectors.mean(axis=0), vectors.std(axis=0)
        scale = 1 / np.maximum(deviation, 1e-3 * float(deviation.max()) + 1e-12)
        standard = (vectors - mean) * scale
        _, axes = np.linalg.eigh(standard.T @ standard / len(vectors))
        return cls(mean.astype(np.float32), scale.astype(np.float32),
                   np.ascontiguousarray(axes[:, ::-1][:, :COMPONENTS], np.float32))

    def __call__(self, patches: Floats) -> Floats:
        """(rows, columns, up to COMPONENTS) of length 1, from (rows, columns, D)."""
        projected = ((patches - self.mean) * self.scale) @ self.axes
        return projected / np.maximum(np.linalg.norm(projected, axis=-1, keepdims=True), 1e-9)


def features(relative: Floats, projected: Floats) -> Floats:
    """(rows * columns, F) what is known of each patch.

    Args:
        relative: (rows, columns) distance to the nominal database over what is usual there.
        projected: (rows, columns, C) projected embeddings.
    """
    rows, columns = relative.shape
    unit = rows / GRID_ROWS

    def odd(patches: int) -> int:
        return 2 * round(patches * unit / 2 - 0.5) + 1 if patches * unit > 1 else 1

    y, x = np.mgrid[:rows, :columns].astype(np.float32)
    channels = [relative, cv2.blur(relative, (odd(3),) * 2), cv2.blur(relative, (odd(7),) * 2),
                cv2.dilate(relative, np.ones((odd(5),) * 2, np.uint8)),
                (y + 0.5) / rows, np.abs((x + 0.5) / columns - 0.5)]
    context = np.ascontiguousarray(projected[..., :CONTEXT_COMPONENTS])
    parts = [np.stack(channels, axis=-1), projected]
    for first in range(0, context.shape[-1], 4):  # OpenCV warps at most four channels
        some = np.ascontiguousarray(context[..., first:first + 4])
        for down, right, window in SURROUNDINGS:
            mean = cv2.blur(some, (odd(window),) * 2, borderType=cv2.BORDER_REPLICATE)
            shift = np.array([[1, 0, -right * unit], [0, 1, -down * unit]], np.float32)
            moved = cv2.warpAffine(mean, shift, (columns, rows), borderMode=cv2.BORDER_REPLICATE)
            parts.append(moved.reshape(rows, columns, -1))
    return np.concatenate(parts, axis=-1).reshape(rows * columns, -1).astype(np.float32)


@dataclass(frozen=True)
class Trees:
    """Boosted regression trees, run by LightGBM.

    Attributes:
        text: the model in LightGBM's own format.
    """

    text: str

    @classmethod
    def fit(cls, samples: Floats, implausible: npt.NDArray[np.bool_], seed: int = 0) -> Trees:
        """Learns to tell implausible samples (N, F) from the others; the same every time for a seed."""
        import lightgbm  # half a second, and only for databases that have learned

        settings = {
            'objective': 'binary', 'learning_rate': 0.08, 'num_leaves': LEAVES, 'max_depth': DEPTH,
            'min_data_in_leaf': 40, 'lambda_l2': 5.0, 'feature_fraction_bynode': 0.5, 'seed': seed,
            'deterministic': True, 'force_row_wise': True, 'verbose': -1}
        data = lightgbm.Dataset(samples, implausible.astype(np.float32))
        return cls(lightgbm.train(settings, data, TREES).model_to_string())

    def __call__(self, samples: Floats) -> Floats:
        """(N,) log odds of samples (N, F)."""
        return np.asarray(self.booster.predict(samples, raw_score=True), np.float32)

    @cached_property
    def booster(self) -> Any:
        """LightGBM's model.

        Raises:
            ValueError: the text is none.
        """
        import lightgbm

        try:
            return lightgbm.Booster(model_str=self.text)
        except lightgbm.basic.LightGBMError as error:
            raise ValueError(f'trees: {error}') from error


@dataclass(frozen=True)
class Ensemble:
    """What was learned from some lessons.

    Attributes:
        trees: of the features.
        networks: of the same grid.
    """

    trees: Trees
    networks: tuple[ContextNetwork, ...]

    @classmethod
    def fit(cls, lessons: Sequence[Lesson], samples: Floats, implausible: npt.NDArray[np.bool_], device: torch.device,
            seed: int) -> Ensemble:
        """Learns from lessons, and from the samples (N, F) taken from them."""
        return cls(Trees.fit(samples, implausible, seed),
                   tuple(ContextNetwork.fit(lessons, device, seed + number) for number in range(NETWORKS)))

    def log_odds(self, relative: Floats, projected: Floats) -> Floats:
        """(N,) of the patches of a grid whose relative distance is not 0; arguments as in `features`."""
        unusual = np.flatnonzero(relative)
        odds = self.trees(features(relative, projected)[unusual])
        if self.networks:
            judged = np.mean([network.log_odds(relative, projected) for network in self.networks], axis=0)
            odds = (odds + judged.ravel()[unusual]) / 2
        return odds

    def arrays(self) -> dict[str, npt.NDArray]:
        """To store; see `from_arrays`."""
        stored = {'trees': np.frombuffer(self.trees.text.encode(), np.uint8)}
        for number, network in enumerate(self.networks):
            stored |= {f'network{number}.{name}': value for name, value in network.arrays().items()}
        return stored

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, npt.NDArray], components: int) -> Ensemble:
        """The other way, for so many components of the embeddings.

        Raises:
            KeyError, RuntimeError, ValueError: arrays that make none, or would only fail where a frame is unusual.
        """
        networks: list[ContextNetwork] = []
        while weights := _below(f'network{len(networks)}.', arrays):
            networks.append(ContextNetwork.from_arrays(weights))
            if networks[-1].components != components:
                raise ValueError(f'network{len(networks) - 1}: found one of {networks[-1].components} components, '
                                 f'expected {components}')
        trees = Trees(bytes(arrays['trees']).decode())
        check_trees(trees.text, FEATURES + components + len(SURROUNDINGS) * min(components, CONTEXT_COMPONENTS))
        return cls(trees, tuple(networks))


def _below(prefix: str, arrays: Mapping[str, npt.NDArray]) -> dict[str, npt.NDArray]:
    return {name.removeprefix(prefix): array for name, array in arrays.items() if name.startswith(prefix)}


def _shaped(arrays: Mapping[str, npt.NDArray], name: str, *shape: int | None, kind: str = 'f') -> npt.NDArray:
    """An array of that shape (None: of any length) and kind of numbers."""
    array = arrays[name]
    fits = array.ndim == len(shape) and all(
        wanted in (None, length) for wanted, length in zip(shape, array.shape, strict=True))
    if not fits or array.dtype.kind != kind:
        expected = ', '.join('n' if wanted is None else str(wanted) for wanted in shape)
        raise ValueError(f'{name}: found {array.dtype} of shape {array.shape}, expected ({expected})')
    return array


@dataclass(frozen=True)
class Folds:
    """Which recorded frames each of some ensembles has not learned from.

    Attributes:
        frames: (n,) int64, which frames, rising.
        numbers: (n,) uint8, the fold of each.
        ensembles: of each fold: learned from the others.
    """

    frames: npt.NDArray[np.int64]
    numbers: npt.NDArray[np.uint8]
    ensembles: tuple[Ensemble, ...]

    @classmethod
    def of(cls, records: Sequence[FrameRecord], numbers: npt.NDArray[np.int64], ensembles: Sequence[Ensemble]) -> Folds:
        """Of frames and the fold (n,) of each."""
        keys = np.array([_key(record) for record in records], np.int64)
        order = np.argsort(keys)
        return cls(keys[order], numbers[order].astype(np.uint8), tuple(ensembles))

    def without(self, record: FrameRecord) -> Ensemble | None:
        """What has not learned from a frame; None: nothing here has."""
        index = int(np.searchsorted(self.frames, _key(record)))
        known = index < len(self.frames) and self.frames[index] == _key(record)
        return self.ensembles[self.numbers[index]] if known else None


def _key(record: FrameRecord) -> int:
    return int.from_bytes(hashlib.sha256(repr(record.key).encode()).digest()[:8], 'big', signed=True)


@dataclass(frozen=True)
class PatchOwners:
    """Which query speaks for each patch of nominal frames, for the variant `instance`: calibration needs it.

    Attributes:
        keys: (n,) int64, which frames.
        owners: (n, rows, columns) uint16, indices of their queries.
    """

    keys: npt.NDArray[np.int64]
    owners: npt.NDArray[np.uint16]

    @classmethod
    def of(cls, records: Sequence[FrameRecord], owners: Sequence[npt.NDArray[np.int64]]) -> PatchOwners:
        """Of some frames; `Queries.owners` of each."""
        return cls(np.array([_key(record) for record in records], np.int64), np.stack(owners).astype(np.uint16))

    def __call__(self, record: FrameRecord) -> npt.NDArray[np.int64] | None:
        """(rows, columns) of a frame, None where it is not known."""
        found = np.flatnonzero(self.keys == _key(record))
        return self.owners[found[0]].astype(np.int64) if len(found) else None


@dataclass(frozen=True)
class PlausibilityModel:
    """Scores each patch of a grid by the odds that it does not belong there.

    Attributes:
        projection: of the embeddings.
        ensemble: learned from all lessons.
        folds: learned from a part of them, so that no frame is calibrated by what has learned from it; None: none.
        seen: for the variant `instance`, the frames that were looked at; None for the grid.
    """

    projection: Projection
    ensemble: Ensemble
    folds: Folds | None = None
    seen: PatchOwners | None = None

    def __call__(self, relative: Floats, patches: Floats) -> Floats:
        """(rows, columns) float32, >= 0: log(1 + odds) that a patch is implausible.

        It fades to 0 within the last standard deviation above what is usual: what the database holds, and so what a
        person has accepted as nominal, raises no alarm, whatever surrounds it.

        Args:
            relative: (rows, columns) distance to the nominal database over what is usual there, >= 0.
            patches: (rows, columns, D) patch embeddings of length 1.
        """
        unusual = np.flatnonzero(relative)
        scores = np.zeros(relative.size, np.float32)
        if len(unusual):
            odds = self.ensemble.log_odds(relative, self.projection(patches))
            scores[unusual] = np.logaddexp(0, odds) * np.minimum(relative.ravel()[unusual], 1)
        return scores.reshape(relative.shape)

    def of_queries(self, relative: Floats, vectors: Floats, positions: Floats, owners: npt.NDArray[np.int64]
                   ) -> Floats:
        """(N,) float32, >= 0: log(1 + odds) that queries are implausible, the mean over the patches they speak for.

        A segment too small to speak for a patch is as implausible as the patch that it lies in.

        Args:
            relative: (N,) distance to the nominal database over what is usual there, >= 0.
            vectors: (N, D) embeddings of length 1.
            positions: (N, 2) centres, 0 to 1 of the image.
            owners: (rows, columns) the query that speaks for each patch.
        """
        patches, count, (rows, columns) = self(relative[owners], vectors[owners]), len(relative), owners.shape
        number = np.bincount(owners.ravel(), minlength=count)
        mean = np.bincount(owners.ravel(), patches.ravel(), count) / np.maximum(number, 1)
        row = np.clip((positions[:, 1] * rows).astype(np.int64), 0, rows - 1)
        column = np.clip((positions[:, 0] * columns).astype(np.int64), 0, columns - 1)
        return np.where(number > 0, mean, patches[row, column]).astype(np.float32)

    def owners(self, record: FrameRecord, grid_size: tuple[int, int], variant: str) -> npt.NDArray[np.int64] | None:
        """(rows, columns) which query speaks for each patch of a nominal frame; None where it is not known."""
        if variant == 'grid':
            return np.arange(grid_size[0] * grid_size[1]).reshape(grid_size)
        return self.seen(record) if self.seen is not None else None

    def without(self, record: FrameRecord) -> PlausibilityModel:
        """The same as far as it has not learned from a frame."""
        ensemble = self.folds.without(record) if self.folds is not None else None
        return self if ensemble is None else replace(self, ensemble=ensemble)

    def learned_from(self, record: FrameRecord) -> bool:
        """Whether it has, or may have, learned from a nominal frame."""
        return self.folds is None or self.folds.without(record) is not None

    def arrays(self) -> dict[str, npt.NDArray]:
        """To store; see `from_arrays`."""
        stored = {**vars(self.projection), **self.ensemble.arrays(), **(vars(self.seen) if self.seen else {})}
        if self.folds is not None:
            stored |= {'fold_frames': self.folds.frames, 'fold_numbers': self.folds.numbers}
            for number, ensemble in enumerate(self.folds.ensembles):
                stored |= {f'fold{number}.{name}': value for name, value in ensemble.arrays().items()}
        return stored

    @classmethod
    def of(cls, database: NominalDatabase) -> PlausibilityModel | None:
        """The model that a database holds, None when there is none.

        Raises:
            DatabaseError: what is stored makes no model.
        """
        return cls._checked(database.path, database.manifest, database.learned)

    @classmethod
    def stored(cls, path: Path, manifest: Manifest) -> PlausibilityModel | None:
        """That of a version of a database in a folder, likewise; nothing else is opened."""
        return cls._checked(path, manifest, read_learned(path, manifest))

    @classmethod
    def _checked(cls, path: Path, manifest: Manifest, arrays: Mapping[str, npt.NDArray]) -> PlausibilityModel | None:
        try:
            model = cls.from_arrays(arrays)
            if model is not None and len(model.projection.mean) != manifest.description.dimension:
                raise ValueError(f'mean: found {len(model.projection.mean)} dimensions, expected '
                                 f'{manifest.description.dimension}')
            if model is not None:
                _ = model.ensemble.trees.booster
            return model
        except (KeyError, TypeError, ValueError, RuntimeError) as error:
            reason = (str(error) or type(error).__name__).splitlines()[0]
            entry = manifest.learned
            raise DatabaseError(f'{path / entry.file if entry else path}: holds no model of what '
                                f'belongs where ({reason}); run semanom learn again') from error

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, npt.NDArray]) -> PlausibilityModel | None:
        """The other way; None for {}.

        Raises:
            KeyError, RuntimeError, ValueError: arrays that make none.
        """
        if not arrays:
            return None
        for name, values in arrays.items():
            if values.dtype.kind == 'f' and not np.isfinite(values).all():
                raise ValueError(f'{name}: found NaN or infinity, expected numbers')
        axes = _shaped(arrays, 'axes', None, None)
        dimension, components = axes.shape
        projection = Projection(_shaped(arrays, 'mean', dimension), _shaped(arrays, 'scale', dimension), axes)
        folds = None
        if 'fold_frames' in arrays:
            ensembles: list[Ensemble] = []
            while stored := _below(f'fold{len(ensembles)}.', arrays):
                ensembles.append(Ensemble.from_arrays(stored, components))
            frames = _shaped(arrays, 'fold_frames', None, kind='i')
            numbers = _shaped(arrays, 'fold_numbers', len(frames), kind='u')
            if numbers.max(initial=0) >= max(1, len(ensembles)) or (np.diff(frames) < 0).any():
                raise ValueError('fold_numbers: found frames out of order or of folds that there are not')
            folds = Folds(frames, numbers, tuple(ensembles))
        seen = None
        if 'owners' in arrays:
            keys = _shaped(arrays, 'keys', None, kind='i')
            seen = PatchOwners(keys, _shaped(arrays, 'owners', len(keys), None, None, kind='u'))
        return cls(projection, Ensemble.from_arrays(arrays, components), folds, seen)


def lesson(labels: npt.NDArray[np.uint8], relative: Floats, projected: Floats) -> Lesson:
    """What a composite teaches: of its transplants all, of the rest a share.

    Args:
        labels: (H, W) uint8, see transplanting.
        relative: (rows, columns), as in `features`.
        projected: (rows, columns, C), as in `features`.
    """
    rows, columns = relative.shape

    def cover(label: int) -> Floats:
        share = cv2.resize((labels == label).astype(np.float32), (columns, rows), interpolation=cv2.INTER_AREA)
        return share.reshape(rows, columns)

    most, least = COVERED
    implausible = cover(IMPLAUSIBLE) > most
    untouched = cover(NOMINAL) > 1 - least
    valid = (cover(VALID) > 0.3) & (cover(IMPLAUSIBLE) < least)
    weight = np.where(implausible | valid, 1.0, np.where(untouched, NOMINAL_SHARE, 0.0)).astype(np.float32)
    return Lesson(relative, projected.astype(np.float16), implausible, weight)
