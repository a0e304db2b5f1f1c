"""Which distances are usual where in the image."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

REGION_ROWS, REGION_COLUMNS = 24, 32  # cells of the image in which usual distances are gathered
REGION_BLUR = 1.5  # standard deviation of the smoothing over cells, in cells
STRETCH_SECONDS = 2.0  # of a nominal frame's own drive that it is not compared with: the picture has changed by then
DEVIATION_FLOOR = 0.2  # of the whole image's deviation; so nothing is infinitely surprising where all was constant


@dataclass(frozen=True)
class RegionStatistics:
    """Which distances to the nominal database are usual where in the image.

    Per-place normalization as in PaDiM (T. Defard et al., 2021), but of distances, and shared between neighbouring
    places, since a camera moves.

    Attributes:
        mean, deviation: (REGION_ROWS, REGION_COLUMNS) float32, cosine distance.
    """

    mean: npt.NDArray[np.float32]
    deviation: npt.NDArray[np.float32]

    @classmethod
    def gather(cls, distances: npt.NDArray[np.float32], positions: npt.NDArray[np.float32]) -> RegionStatistics:
        """Statistics of nominal distances (N,) at positions (N, 2) in 0..1, smoothed over neighbouring cells.

        A little of the whole image stands behind every cell: one that no query fell into is the average place.
        """
        shape, cells = (REGION_ROWS, REGION_COLUMNS), REGION_ROWS * REGION_COLUMNS
        column = np.clip((positions[:, 0] * REGION_COLUMNS).astype(np.int64), 0, REGION_COLUMNS - 1)
        row = np.clip((positions[:, 1] * REGION_ROWS).astype(np.int64), 0, REGION_ROWS - 1)
        prior = 0.01 * len(distances) / cells
        moments = []
        for power in range(3):
            values = distances.astype(np.float64) ** power
            total = np.bincount(row * REGION_COLUMNS + column, values, cells).reshape(shape)
            smooth = cv2.GaussianBlur(total, (0, 0), REGION_BLUR, borderType=cv2.BORDER_REFLECT)
            moments.append(smooth + prior * values.mean())
        mean = moments[1] / moments[0]
        deviation = np.sqrt(np.maximum(moments[2] / moments[0] - mean ** 2, 0))
        floor = max(DEVIATION_FLOOR * float(distances.std()), 1e-6)
        return cls(mean.astype(np.float32), np.maximum(deviation, floor).astype(np.float32))

    def relative(self, distances: npt.NDArray[np.float32], positions: npt.NDArray[np.float32]
                 ) -> npt.NDArray[np.float32]:
        """(N,) by how many standard deviations distances (N,) exceed what is usual at positions (N, 2); at least 0."""
        x = (positions[:, 0] * REGION_COLUMNS - 0.5)[None].astype(np.float32)
        y = (positions[:, 1] * REGION_ROWS - 0.5)[None].astype(np.float32)
        mean, deviation = (cv2.remap(table, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)[0]
                           for table in (self.mean, self.deviation))
        return np.maximum((distances - mean) / deviation, 0).astype(np.float32)
