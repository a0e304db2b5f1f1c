"""Self-made anomalies: things cut out of nominal pictures and put where they do not belong.

In the manner of CutPaste (C.-L. Li et al., CVPR 2021) and NSA (H. M. Schlueter et al., ECCV 2022), with things found by
their embeddings, and with valid transplants beside the invalid ones, so that the seam alone tells nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

Image = npt.NDArray[np.uint8]
Box = tuple[int, int, int, int]

NOMINAL, IMPLAUSIBLE, VALID = 0, 1, 2  # values of Composite.labels

LIKENESS = 0.4  # cosine from which a patch belongs to the same thing
SMALLEST, LARGEST = 3, 0.08  # a thing: patches, share of the picture
LIKE_SURROUNDINGS, UNLIKE_SURROUNDINGS = 0.6, 0.35  # cosine of what surrounds a thing here and there
ATTEMPTS = 40
KINDS = ('elsewhere', 'valid', 'turned', 'foreign')
SHARES = (0.35, 0.4, 0.12, 0.13)


@dataclass(frozen=True)
class NominalPicture:
    """A nominal picture (H, W, 3) uint8 RGB and its (rows, columns, D) float32 patch embeddings of length 1."""

    image: Image
    patches: npt.NDArray[np.float32]


@dataclass(frozen=True)
class Thing:
    """Something cut out: pixels (h, w, 3), mask (h, w) bool, box in its picture, mean embedding (D,) round it."""

    pixels: Image
    mask: npt.NDArray[np.bool_]
    box: Box
    surroundings: npt.NDArray[np.float32]


@dataclass(frozen=True)
class Composite:
    """A picture with transplants: image (H, W, 3) uint8 RGB, labels (H, W) uint8 as NOMINAL, IMPLAUSIBLE or VALID."""

    image: Image
    labels: npt.NDArray[np.uint8]


class Transplanter:
    """Makes composites; deterministic for a generator.

    A transplant is implausible where its surroundings are unlike those it was found in, or where it stands on its head
    or lies on its side, or where it is of no kind ever seen; it is valid near its own place in a picture whose
    surroundings there are alike.
    """

    def __init__(self, rng: np.random.Generator) -> None:
        self._rng = rng

    def compose(self, base: NominalPicture, near: Sequence[NominalPicture], anywhere: Sequence[NominalPicture],
                transplants: int = 2) -> Composite:
        """Puts up to so many things into a picture.

        Args:
            base: the picture.
            near: pictures close to it in time: what stays in its place, or is turned there, comes from these.
            anywhere: pictures of any time, for the rest.
            transplants: how many to try.
        """
        image, labels = base.image.copy(), np.zeros(base.image.shape[:2], np.uint8)
        for _ in range(transplants):
            kind = str(self._rng.choice(KINDS, p=SHARES))
            donors = near if kind in ('valid', 'turned') else anywhere
            donor = donors[int(self._rng.integers(len(donors)))]
            thing = self.find_thing(donor)
            if thing is None:
                continue
            if kind == 'foreign':
                thing = self._foreign(thing, donor)
            elif kind == 'turned':
                thing = self._turned(thing)
            elif kind == 'elsewhere':
                thing = self._scaled(thing)
            place = self._place(thing, base, kind)
            if place is None:
                continue
            x, y = place
            h, w = thing.mask.shape
            if labels[y:y + h, x:x + w].any():
                continue
            brightness = float(np.clip(base.image.mean() / max(donor.image.mean(), 1.0), 0.7, 1.4))
            _blend(image[y:y + h, x:x + w], thing, 1.0 if kind == 'foreign' else brightness)
            labels[y:y + h, x:x + w][thing.mask] = VALID if kind == 'valid' else IMPLAUSIBLE
        return Composite(image, labels)

    def find_thing(self, picture: NominalPicture) -> Thing | None:
        """A random thing of a picture: connected alike patches, refined to pixels by GrabCut; None if none is found.

        Patches that few others of the picture are like are likelier to begin with: things are rarer than what they
        stand on and before.
        """
        patches = picture.patches
        rows, columns, _ = patches.shape
        height, width = picture.image.shape[:2]
        flat = patches.reshape(rows * columns, -1)
        rarity = 1 / (flat @ flat.T > LIKENESS).sum(axis=1)
        for seed in self._rng.choice(rows * columns, ATTEMPTS, p=rarity / rarity.sum()):
            row, column = divmod(int(seed), columns)
            alike = (patches @ patches[row, column] > LIKENESS).astype(np.uint8)
            _, parts, statistics, _ = cv2.connectedComponentsWithStats(alike, connectivity=4)
            x, y, w, h, area = (int(v) for v in statistics[parts[row, column]])
            inside = x > 0 and x + w < columns and y + h < rows
            if not (inside and SMALLEST <= area <= LARGEST * rows * columns and area >= 0.4 * w * h):
                continue
            region = (parts == parts[row, column]).astype(np.uint8)
            box = (x * width // columns, y * height // rows, -(-w * width // columns), -(-h * height // rows))
            mask = _refined(picture.image, cv2.resize(region, (width, height), interpolation=cv2.INTER_NEAREST), box)
            if mask is None:
                continue
            x, y, w, h = cv2.boundingRect(mask)
            return Thing(picture.image[y:y + h, x:x + w], mask[y:y + h, x:x + w] > 0, (x, y, w, h),
                         _surroundings(picture, (x, y, w, h)))
        return None

    def _place(self, thing: Thing, base: NominalPicture, kind: str) -> tuple[int, int] | None:
        """Top left corner for a thing, (x, y) in pixels, that makes the kind true; None if none is found."""
        height, width = base.image.shape[:2]
        h, w = thing.mask.shape
        if h >= height or w >= width:
            return None
        left, top, own_width, own_height = thing.box
        for _ in range(ATTEMPTS):
            if kind in ('valid', 'turned'):  # near its own place, standing at the same height
                x = left + (own_width - w) // 2 + int(self._rng.normal(0, 0.06) * width)
                y = top + own_height - h + int(self._rng.normal(0, 0.008) * height)
            else:
                x, y = int(self._rng.integers(width - w)), int(self._rng.integers(height - h))
            if not (0 <= x < width - w and 0 <= y < height - h):
                continue
            if kind == 'foreign':
                return x, y
            likeness = float(_surroundings(base, (x, y, w, h)) @ thing.surroundings)
            if likeness < UNLIKE_SURROUNDINGS if kind == 'elsewhere' else likeness > LIKE_SURROUNDINGS:
                return x, y
        return None

    def _turned(self, thing: Thing) -> Thing:
        turns = int(self._rng.integers(1, 4))
        return Thing(np.ascontiguousarray(np.rot90(thing.pixels, turns), np.uint8),
                     np.ascontiguousarray(np.rot90(thing.mask, turns), np.bool_), thing.box, thing.surroundings)

    def _scaled(self, thing: Thing) -> Thing:
        factor = float(np.exp(self._rng.uniform(-0.5, 0.6)))
        size = (max(6, round(thing.mask.shape[1] * factor)), max(6, round(thing.mask.shape[0] * factor)))
        return Thing(np.asarray(cv2.resize(thing.pixels, size, interpolation=cv2.INTER_AREA), np.uint8),
                     cv2.resize(thing.mask.astype(np.uint8), size, interpolation=cv2.INTER_NEAREST) > 0,
                     thing.box, thing.surroundings)

    def _foreign(self, thing: Thing, donor: NominalPicture) -> Thing:
        """A smooth blob of the thing's size, filled with a strange magnification of the picture in strange colours."""
        height, width = donor.image.shape[:2]
        size = max(thing.mask.shape)
        w, h = (int(max(8, size * self._rng.uniform(0.7, 1.5))) for _ in range(2))
        cut = int(self._rng.integers(max(8, min(height, width) // 8), min(height, width) // 2))
        x, y = int(self._rng.integers(width - cut)), int(self._rng.integers(height - cut))
        pixels = cv2.resize(donor.image[y:y + cut, x:x + cut], (w, h), interpolation=cv2.INTER_AREA)
        hsv = cv2.cvtColor(pixels, cv2.COLOR_RGB2HSV)
        hsv[..., 0] = (hsv[..., 0].astype(np.int64) + self._rng.integers(180)) % 180
        hsv[..., 1] = np.clip(hsv[..., 1] * self._rng.uniform(0.7, 2.5) + self._rng.uniform(0, 60), 0, 255)
        hsv[..., 2] = np.clip(hsv[..., 2] * self._rng.uniform(0.6, 1.5), 0, 255)
        angle = np.linspace(0, 2 * np.pi, 48, endpoint=False)
        radius = 0.42 + sum(self._rng.uniform(0, 0.05) * np.sin(n * angle + self._rng.uniform(0, 6)) for n in (2, 3, 5))
        outline = np.stack([w * (0.5 + radius * np.cos(angle)), h * (0.5 + radius * np.sin(angle))], axis=-1)
        mask = cv2.fillPoly(np.zeros((h, w), np.uint8), [outline.astype(np.int32)], 1)
        pixels = cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB)
        return Thing(np.asarray(pixels, np.uint8), mask > 0, thing.box, thing.surroundings)


def _refined(image: Image, region: npt.NDArray[np.uint8], box: Box) -> npt.NDArray[np.uint8] | None:
    """(H, W) uint8 mask of a coarse region, refined by GrabCut; None where it finds nothing of that size."""
    height, width = image.shape[:2]
    x, y, w, h = box
    margin = max(w, h) // 3 + 4
    x0, y0, x1, y1 = max(0, x - margin), max(0, y - margin), min(width, x + w + margin), min(height, y + h + margin)
    coarse = np.ascontiguousarray(region[y0:y1, x0:x1])
    step = np.ones((max(3, min(w, h) // 4),) * 2, np.uint8)
    trimap = np.full(coarse.shape, cv2.GC_BGD, np.uint8)
    trimap[cv2.dilate(coarse, step) > 0] = cv2.GC_PR_BGD
    trimap[coarse > 0] = cv2.GC_PR_FGD
    trimap[cv2.erode(coarse, step, borderValue=0) > 0] = cv2.GC_FGD
    if not ((trimap == cv2.GC_BGD).any() and (trimap == cv2.GC_FGD).any()):
        return None
    try:
        cv2.grabCut(np.ascontiguousarray(image[y0:y1, x0:x1]), trimap, (0, 0, 0, 0), np.zeros((1, 65)),
                    np.zeros((1, 65)), 2, cv2.GC_INIT_WITH_MASK)
    except cv2.error:  # too few colours for its mixture models
        return None
    found = ((trimap == cv2.GC_FGD) | (trimap == cv2.GC_PR_FGD)).astype(np.uint8)
    count, parts, statistics, _ = cv2.connectedComponentsWithStats(found)
    if count < 2:
        return None
    largest = 1 + int(statistics[1:, cv2.CC_STAT_AREA].argmax())
    if not 0.4 <= statistics[largest, cv2.CC_STAT_AREA] / max(1, int(coarse.sum())) <= 1.6:
        return None
    mask = np.zeros((height, width), np.uint8)
    mask[y0:y1, x0:x1] = parts == largest
    return mask


def _surroundings(picture: NominalPicture, box: Box) -> npt.NDArray[np.float32]:
    """(D,) mean embedding, of length 1, of the patches round a box in pixels."""
    rows, columns, dimension = picture.patches.shape
    height, width = picture.image.shape[:2]
    x, y, w, h = box
    left, right = x * columns // width, -(-(x + w) * columns // width)
    top, bottom = y * rows // height, -(-(y + h) * rows // height)
    wide = max(2, (right - left) // 2), max(2, (bottom - top) // 2)
    ring = np.zeros((rows, columns), bool)
    ring[max(0, top - wide[1]):bottom + wide[1], max(0, left - wide[0]):right + wide[0]] = True
    ring[max(0, top):bottom, max(0, left):right] = False
    if not ring.any():
        return np.zeros(dimension, np.float32)
    mean = picture.patches[ring].mean(axis=0)
    return mean / max(float(np.linalg.norm(mean)), 1e-6)


def _blend(target: Image, thing: Thing, brightness: float) -> None:
    """Puts a thing over a part of a picture, its edge feathered by about a pixel."""
    alpha = cv2.erode(np.pad(thing.mask.astype(np.float32), 3), np.ones((3, 3)))
    alpha = cv2.GaussianBlur(alpha, (0, 0), 0.7)[3:-3, 3:-3, None]
    source = np.clip(thing.pixels.astype(np.float32) * brightness, 0, 255)
    target[:] = (target * (1 - alpha) + source * alpha).astype(np.uint8)
