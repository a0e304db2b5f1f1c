"""OWLv2, SAM and SAM 2 of transformers itself, tiny and with random weights."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from semanom_ros.core.embedding.registry import load_segmenter
from semanom_ros.core.embedding.segmenters.segment_anything import (
    PROMPTS,
    AnySegmenter,
    PromptedSegmenter,
    layered,
)
from semanom_ros.core.frames import Frame
from semanom_ros.errors import ParameterError, SegmenterError
from semanom_ros.settings import QuerySettings
from semanom_ros.small_files import read_phrases

CPU, NO_PATCHES = torch.device('cpu'), torch.zeros(1, 1, 1)


def picture() -> np.ndarray:
    """(48, 64, 3) with a few things in it."""
    image = np.full((48, 64, 3), 90, np.uint8)
    cv2.rectangle(image, (6, 8), (25, 30), (200, 40, 40), -1)
    cv2.circle(image, (45, 28), 11, (40, 60, 210), -1)
    return image


def check(segments, limit: int) -> None:
    assert segments.labels.shape == (48, 64)
    assert segments.labels.dtype == np.int32
    assert 1 <= len(segments.scores) == len(segments.names) <= limit
    assert sorted(set(np.unique(segments.labels)) - {0}) == list(range(1, len(segments.scores) + 1))
    assert (np.diff(segments.scores) <= 0).all()
    assert ((segments.scores >= 0) & (segments.scores <= 1)).all()


@pytest.mark.parametrize('name', ['sam', 'sam2'])
def test_masks_of_everything(segmenter_models: dict[str, Path], name: str) -> None:
    segmenter = AnySegmenter(name, 5, segmenter_models[name], CPU, points=4, least_score=-1e9, least_stability=-1)
    check(segmenter.segment(Frame(picture(), 0), NO_PATCHES), 5)
    none = AnySegmenter(name, 5, segmenter_models[name], CPU, points=4, least_score=1e9)
    assert len(none.segment(Frame(picture(), 0), NO_PATCHES).scores) == 0


def test_masks_of_what_prompts_find(segmenter_models: dict[str, Path]) -> None:
    folders = segmenter_models['owlv2'], segmenter_models['sam2']
    segmenter = PromptedSegmenter(6, *folders, CPU, PROMPTS, least_score=0.0)
    segments = segmenter.segment(Frame(picture(), 0), NO_PATCHES)
    check(segments, 6)
    assert set(segments.names) <= set(read_phrases(PROMPTS, 'segmenter_prompts', 'prompt'))
    none = PromptedSegmenter(6, *folders, CPU, PROMPTS, least_score=1.1).segment(Frame(picture(), 0), NO_PATCHES)
    assert len(none.scores) == 0
    assert not none.labels.any()


def test_boxes_are_where_the_detector_sees_them(segmenter_models: dict[str, Path]) -> None:
    """The same boxes as transformers' own post-processing gives, inside the picture."""
    folders = segmenter_models['owlv2'], segmenter_models['sam2']
    segmenter = PromptedSegmenter(100, *folders, CPU, PROMPTS, least_score=0.0)
    boxes, scores, _ = segmenter._boxes(picture())
    assert (boxes >= 0).all()
    assert (boxes[:, 2] <= 64).all()
    assert (boxes[:, 3] <= 48).all()
    assert (np.diff(scores) <= 0).all()


def test_the_parameters_choose_them(segmenter_models: dict[str, Path], tmp_path: Path) -> None:
    prompts = tmp_path / 'prompts.txt'
    prompts.write_text('# what to look for\na cow # on the road\n\na sofa\n')
    assert read_phrases(prompts, 'segmenter_prompts', 'prompt') == ['a cow', 'a sofa']
    segmenter = load_segmenter(QuerySettings(
        'instance', 'owlv2+sam2', segmenter_prompts=str(prompts), max_segments=7,
        segmenter_weights=f'{segmenter_models["owlv2"]}, {segmenter_models["sam2"]}'), CPU)
    assert isinstance(segmenter, PromptedSegmenter)
    assert (segmenter.name, segmenter.max_segments, segmenter.needs_masks) == ('owlv2+sam2', 7, False)
    assert segmenter.segment(Frame(picture(), 0), NO_PATCHES).labels.shape == (48, 64)


@pytest.mark.parametrize(('name', 'weights', 'expected'), [
    ('sam2', '/nowhere/sam2', r'/nowhere/sam2 .*semanom models fetch sam2'),
    ('sam', 'somebody/never-fetched', r'somebody/never-fetched .*semanom models fetch sam'),
    ('owlv2+sam2', '/nowhere', r'expected 2 folders'),
    ('sam', 'a,b', r'expected 1 folders')])
def test_missing_weights_are_said_in_one_line(name: str, weights: str, expected: str) -> None:
    with pytest.raises(SegmenterError, match=expected) as caught:
        load_segmenter(QuerySettings('instance', name, segmenter_weights=weights), CPU)
    assert '\n' not in str(caught.value)


def test_weights_of_another_model_are_said_in_one_line(tmp_path: Path) -> None:
    (tmp_path / 'config.json').write_text('{"model_type": "sam2"}')
    with pytest.raises(SegmenterError, match='cannot be loaded') as caught:
        AnySegmenter('sam2', 5, tmp_path, CPU)
    assert '\n' not in str(caught.value)


def test_prompts_that_are_none_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ParameterError, match='unreadable'):
        read_phrases(tmp_path / 'none.txt', 'segmenter_prompts', 'prompt')
    (tmp_path / 'empty.txt').write_text('# nothing\n')
    with pytest.raises(ParameterError, match='no prompt'):
        read_phrases(tmp_path / 'empty.txt', 'segmenter_prompts', 'prompt')


def test_parts_lie_on_their_whole_and_the_surest_are_kept() -> None:
    whole, part, other = np.zeros((3, 6, 8), bool)
    whole[1:5, 1:7], part[2:4, 2:4], other[0, :] = True, True, True
    scores = np.array([0.5, 0.9, 0.1], np.float32)
    segments = layered([whole, part, other], scores, ('bus', 'wheel', 'sky'), (6, 8), 2)
    assert segments.names == ('wheel', 'bus')
    np.testing.assert_array_equal(segments.labels == 1, part)
    np.testing.assert_array_equal(segments.labels == 2, whole & ~part)
    hidden = layered([part, part], np.array([0.2, 0.3], np.float32), ('a', 'b'), (6, 8), 2)
    assert len(hidden.names) == 1
