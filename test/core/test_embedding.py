"""Queries: patches, and segments pooled over patches."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch
import torch.nn.functional as F

from semanom_ros.core.embedding.embedder import FrameEmbedding, patch_boxes, segment_cover
from semanom_ros.core.embedding.preprocessing import PatchGrid
from semanom_ros.core.embedding.segmenters import load_segmenter
from semanom_ros.core.embedding.segmenters.superpixels import EmbeddingSegmenter
from semanom_ros.core.frames import Frame, Segments


def embedding_of(labels, count, rows=5, columns=7):
    generator = torch.Generator().manual_seed(0)
    patches = F.normalize(torch.randn(rows, columns, 8, generator=generator), dim=-1)
    height, width = labels.shape
    segments = Segments(labels, np.ones(count, np.float32), ('',) * count)
    frame = Frame(np.zeros((height, width, 3), np.uint8), 0)
    return FrameEmbedding(frame, PatchGrid(rows, columns, height, width), patches, segments)


@pytest.mark.parametrize('size', [(60, 70), (61, 83), (5, 7), (240, 133)])
def test_patch_boxes_tile_the_image(size):
    grid = PatchGrid(5, 7, *size)
    boxes = patch_boxes(grid)
    assert boxes.tolist() == [list(grid.box(row, column)) for row in range(5) for column in range(7)]
    covered = np.zeros(size, int)
    for x, y, w, h in boxes:
        covered[y:y + h, x:x + w] += 1
    assert (covered == 1).all()


@pytest.mark.parametrize('size', [(60, 70), (61, 83), (240, 133)])
def test_segments_are_pooled_by_area(world, size):
    """Against a loop over pixels: each adds the embedding of its patch, weighted by the patch's share that it is."""
    rng = np.random.default_rng(0)
    height, width = size
    labels = np.zeros(size, np.int32)
    labels[3:29, 10:44] = 1
    labels[30:52, 20:60] = rng.integers(0, 2, (22, 40)) * 2
    labels[1, 1] = 3  # a single pixel has a patch all the same
    embedding = embedding_of(labels, 3)
    grid = embedding.grid
    queries = world.embedder(world.parameters()).queries(embedding)
    of_pixel = np.zeros(size, int)
    for number, (x, y, w, h) in enumerate(patch_boxes(grid)):
        of_pixel[y:y + h, x:x + w] = number
    area = np.bincount(of_pixel.ravel())
    patches = embedding.patches.reshape(-1, 8).numpy()
    for label in (1, 2, 3):
        where = of_pixel[labels == label]
        mean = (patches[where] / area[where][:, None]).sum(axis=0)
        np.testing.assert_allclose(queries.vectors[label - 1].numpy(), mean / np.linalg.norm(mean), atol=1e-5)
        y, x = np.nonzero(labels == label)
        assert queries.boxes[label - 1].tolist() == [x.min(), y.min(), np.ptp(x) + 1, np.ptp(y) + 1]
        np.testing.assert_allclose(queries.positions[label - 1], [(x.mean() + 0.5) / width, (y.mean() + 0.5) / height],
                                   atol=1e-4)
    assert queries.segments == 3


def test_what_no_segment_covers_falls_back_to_the_grid(world):
    labels = np.zeros((50, 70), np.int32)
    labels[10:30, 20:50] = 1  # exactly patches of rows 1-2 and columns 2-4
    embedding = embedding_of(labels, 1)
    queries = world.embedder(world.parameters()).queries(embedding)
    assert len(queries.vectors) == 1 + 35 - 6
    assert (queries.owners[1:3, 2:5] == 0).all()
    alone = queries.owners > 0
    assert alone.sum() == 29
    flat = embedding.patches.reshape(-1, 8)
    for row, column in np.argwhere(alone):
        query = queries.owners[row, column]
        torch.testing.assert_close(queries.vectors[query], flat[row * 7 + column])
        assert queries.boxes[query].tolist() == list(embedding.grid.box(int(row), int(column)))


def test_cover_counts_every_pixel_once():
    labels = np.random.default_rng(0).integers(0, 5, (37, 53)).astype(np.int32)
    grid = PatchGrid(4, 6, 37, 53)
    cover = segment_cover(labels, 4, grid)
    area = patch_boxes(grid)[:, 2:].prod(axis=1)
    np.testing.assert_allclose((cover * area).sum(axis=1), np.bincount(labels.ravel())[1:], rtol=1e-5)


def test_embedding_segments_follow_things(world):
    """Two halves and a square in one of them: no segment reaches over their borders by more than a patch."""
    image = np.zeros((120, 160, 3), np.uint8)
    image[:, :80] = [200, 60, 30]
    image[:, 80:] = [20, 90, 160]
    image[40:72, 24:56] = [250, 250, 60]
    settings = world.parameters(variant='instance', max_segments=24)
    embedder = world.embedder(settings)
    segments = embedder.embed([Frame(image, 0)])[0].segments
    assert segments.labels.shape == (120, 160)
    assert segments.labels.min() >= 0
    assert segments.labels.max() == len(segments.scores) <= 24
    truth = np.zeros((120, 160), int)
    truth[:, 80:] = 1
    truth[40:72, 24:56] = 2
    inner = np.zeros((120, 160), bool)
    for start, stop, top, bottom in ((34, 46, 50, 62), (4, 14, 8, 112), (90, 152, 8, 112)):
        inner[top:bottom, start:stop] = True
    for label in np.unique(segments.labels[segments.labels > 0]):
        assert len(np.unique(truth[(segments.labels == label) & inner])) <= 1


def test_outlines_of_embedding_segments_follow_the_edges_of_the_picture():
    """A disc, known from patches of 16 pixels: outlined far better than by whole patches."""
    y, x = np.mgrid[:240, :320]
    disc = np.hypot(y - 123, x - 150) < 50
    image = np.where(disc[..., None], [220, 60, 40], [60, 70, 80]).astype(np.uint8)
    share = torch.from_numpy(disc.reshape(15, 16, 20, 16).mean(axis=(1, 3)))
    patches = torch.stack([share > 0.5, share <= 0.5], dim=-1).float()
    segments = EmbeddingSegmenter(max_segments=24).segment(Frame(image, 0), patches)

    def likeness(found: np.ndarray) -> float:
        return float((found & disc).sum() / (found | disc).sum())

    inside = [label for label in range(1, len(segments.scores) + 1) if (disc[segments.labels == label]).mean() > 0.5]
    whole_patches = np.kron(share.numpy() > 0.5, np.ones((16, 16), bool))
    assert likeness(np.isin(segments.labels, inside)) > 0.97 > likeness(whole_patches) + 0.1


def test_embedding_segments_are_connected(world):
    image = np.random.default_rng(0).integers(0, 255, (120, 160, 3)).astype(np.uint8)
    patches = F.normalize(torch.randn(12, 16, 4, generator=torch.Generator().manual_seed(0)), dim=-1)
    segments = EmbeddingSegmenter(max_segments=40).segment(Frame(image, 0), patches)
    assert segments.labels.max() == len(segments.scores) == 40
    for label in range(1, 41):
        count, _ = cv2.connectedComponents((segments.labels == label).astype(np.uint8), connectivity=8)
        assert count == 2, 'a segment without pixels, or of several parts'


def test_segmenters_are_bounded_by_the_patches(world):
    segmenter = load_segmenter(world.parameters(max_segments=500), torch.device('cpu'))
    patches = F.normalize(torch.randn(3, 4, 8, generator=torch.Generator().manual_seed(0)), dim=-1)
    segments = segmenter.segment(Frame(np.zeros((30, 40, 3), np.uint8), 0), patches)
    assert len(segments.scores) <= 12
