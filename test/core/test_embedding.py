"""Queries: patches, and segments pooled over patches."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch
import torch.nn.functional as F

from semanom_ros.core.embedding.embedder import FrameEmbedding
from semanom_ros.core.embedding.preprocessing import PatchGrid
from semanom_ros.core.embedding.queries import patch_boxes, segment_boxes, segment_cover, segment_queries
from semanom_ros.core.embedding.registry import load_segmenter
from semanom_ros.core.embedding.segmenters.superpixels import EmbeddingSegmenter
from semanom_ros.core.frames import Frame, Segments
from semanom_ros.core.pipeline import CameraState
from semanom_ros.core.results import Reason, ScoreMap, Verdict
from semanom_ros.errors import EncoderError
from semanom_ros.settings import QuerySettings


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
    queries = world.embedder(world.settings()).queries(embedding)
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
    queries = world.embedder(world.settings()).queries(embedding)
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
    embedder = world.embedder(world.settings(variant='instance', max_segments=24))
    segments = embedder.embed([Frame(image, 0)])[0].segments
    labels = segments.at((120, 160))
    assert labels.min() >= 0
    assert labels.max() == len(segments.scores) <= 24
    truth = np.zeros((120, 160), int)
    truth[:, 80:] = 1
    truth[40:72, 24:56] = 2
    inner = np.zeros((120, 160), bool)
    for start, stop, top, bottom in ((34, 46, 50, 62), (4, 14, 8, 112), (90, 152, 8, 112)):
        inner[top:bottom, start:stop] = True
    for label in np.unique(labels[labels > 0]):
        assert len(np.unique(truth[(labels == label) & inner])) <= 1


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

    labels = segments.at((240, 320))
    inside = [label for label in range(1, len(segments.scores) + 1) if (disc[labels == label]).mean() > 0.5]
    whole_patches = np.kron(share.numpy() > 0.5, np.ones((16, 16), bool))
    assert likeness(np.isin(labels, inside)) > 0.97 > likeness(whole_patches) + 0.1


def test_embedding_segments_are_connected():
    image = np.random.default_rng(0).integers(0, 255, (120, 160, 3)).astype(np.uint8)
    patches = F.normalize(torch.randn(12, 16, 4, generator=torch.Generator().manual_seed(0)), dim=-1)
    segments = EmbeddingSegmenter(max_segments=40).segment(Frame(image, 0), patches)
    assert segments.labels.max() == len(segments.scores) == 40
    for label in range(1, 41):
        count, _ = cv2.connectedComponents((segments.labels == label).astype(np.uint8), connectivity=8)
        assert count == 2, 'a segment without pixels, or of several parts'


def test_segmenters_are_bounded_by_the_patches():
    segmenter = load_segmenter(QuerySettings(max_segments=500), torch.device('cpu'))
    patches = F.normalize(torch.randn(3, 4, 8, generator=torch.Generator().manual_seed(0)), dim=-1)
    segments = segmenter.segment(Frame(np.zeros((30, 40, 3), np.uint8), 0), patches)
    assert len(segments.scores) <= 12


@pytest.mark.parametrize('size', [(120, 160), (240, 320), (480, 640)])
def test_segments_at_their_own_resolution_are_those_of_the_whole_picture(size):
    """Labels found at half of the picture's resolution make the queries of the same labels enlarged."""
    height, width = size
    half, rng = np.zeros((height // 2, width // 2), np.int32), np.random.default_rng(0)
    half[5:31, 12:47] = 1
    half[30:52, 20:60] = rng.integers(0, 2, (22, 40)) * 2
    half[2, 3] = 3
    small = Segments(half, np.ones(4, np.float32), ('',) * 4)  # nothing is seen of the last
    large = Segments(half.repeat(2, axis=0).repeat(2, axis=1), small.scores, small.names)
    np.testing.assert_array_equal(small.at(size), large.labels)
    assert large.at(size) is large.labels
    # a grid whose patches divide either: the shares are the same numbers
    grid = PatchGrid(6, 8, height, width)
    np.testing.assert_array_equal(segment_cover(half, 4, grid), segment_cover(large.labels, 4, grid))
    (boxes, positions), (expected, centres) = (segment_boxes(s.labels, 4, size) for s in (small, large))
    np.testing.assert_array_equal(boxes[:3], expected[:3])
    np.testing.assert_allclose(positions[:3], centres[:3], atol=1e-6)
    patches = F.normalize(torch.randn(6, 8, 16, generator=torch.Generator().manual_seed(0)), dim=-1)
    one, other = (segment_queries(patches, grid, s, None) for s in (small, large))
    torch.testing.assert_close(one.vectors, other.vectors)
    np.testing.assert_array_equal(one.owners, other.owners)
    scores = rng.random(len(one.vectors), np.float32)
    maps = [ScoreMap(scores, one.owners, segments) for segments in (small, large)]
    np.testing.assert_array_equal(maps[0].at(size), maps[1].at(size))
    np.testing.assert_array_equal(maps[0].finest.repeat(2, axis=0).repeat(2, axis=1), maps[1].finest)


def test_labels_whose_size_does_not_divide_cover_nearly_the_same():
    rng = np.random.default_rng(0)
    small = np.zeros((61, 83), np.int32)
    for label in range(1, 6):
        y, x = int(rng.integers(40)), int(rng.integers(60))
        small[y:y + 20, x:x + 22] = label
    segments, size = Segments(small, np.ones(5, np.float32), ('',) * 5), (200, 317)
    grid = PatchGrid(5, 7, *size)
    one, other = (segment_cover(labels, 5, grid) for labels in (small, segments.at(size)))
    assert np.abs(one - other).max() < 0.2  # an edge lies up to a pixel of the small labels elsewhere, of 12
    (boxes, positions), (expected, centres) = (segment_boxes(labels, 5, size) for labels in (small, segments.at(size)))
    assert np.abs(boxes - expected).max() <= np.ceil(317 / 83)
    np.testing.assert_allclose(positions, centres, atol=0.02)


def test_a_description_is_that_of_encoder_and_segmenter(world):
    grid, instance = (world.embedder(world.settings(variant=variant)) for variant in ('grid', 'instance'))
    made = instance.description
    assert (made.encoder, made.weights, made.weights_sha256) == ('random-patches', 'random:0', '0' * 64)
    assert (made.input_size, made.grid_size, made.dimension) == ((96, 128), (12, 16), 32)
    assert (made.variant, made.settings) == ('instance', {'segmenter': 'embedding'})
    assert made.wants_standardizing
    assert made.wants_calibration_by_place
    assert grid.description.difference(made) == ('variant', 'grid', 'instance')
    assert instance.without_segments().description == grid.description


@pytest.mark.parametrize('variant', ['grid', 'instance'])
def test_nothing_is_computed_from_what_is_not_finite(world, variant):
    """One patch of one frame of a batch; the others are as they would be without it."""
    settings = world.settings(variant=variant)
    judge = world.judge(settings)
    real, frames = world.encoder.encode, [Frame(world.street(number), number) for number in (1, 2, 3)]

    def encode(images):
        patches = real(images)
        if len(patches) == 3:
            patches[1, 4, 5, 6] = torch.nan
        return patches

    world.encoder.encode = encode
    judge.embedder.largest_batch = 3
    before, bad, after = judge.embedder.embed(frames)
    assert [embedding.not_finite for embedding in (before, bad, after)] == [0, 1, 0]
    assert bad.segments is None
    assert (before.segments is None) == (variant == 'grid')
    with pytest.raises(EncoderError, match='1 of 192 embeddings of the encoder hold NaN or infinity; choose precision'):
        judge.embedder.queries(bad)
    with pytest.raises(EncoderError):
        judge.score(bad)
    world.encoder.encode = real
    assert judge.score(after).score == pytest.approx(judge.score(judge.embedder.embed([frames[2]])[0]).score, rel=1e-4)


def test_a_frame_that_is_not_finite_is_unknown_and_forgotten(world, monkeypatch):
    judge, state = world.judge(), CameraState()
    first = judge.process(Frame(world.street(1), 1), state)
    with monkeypatch.context() as patched:
        patched.setattr(world.encoder, 'encode', lambda images: torch.full((len(images), 12, 16, 32), torch.inf))
        unknown = judge.process(Frame(world.street(2), 2, 'front'), state)
    assert (unknown.verdict, unknown.reason, unknown.stamp_ns, unknown.camera, unknown.image_size) == (
        Verdict.UNKNOWN, Reason.NOT_FINITE, 2, 'front', (120, 160))
    assert np.isnan([unknown.score, unknown.raw_score, unknown.p_value]).all()
    assert unknown.explanation.startswith('192 of 192')
    assert (unknown.anomalies, unknown.scores, unknown.anomalous, unknown.held_back) == ((), None, False, False)
    assert judge.process(Frame(world.street(1), 3), state).score == first.score
