"""OWLv2, SAM and SAM 2 of transformers itself, tiny and with random weights."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from semanom_ros.core.embedding.embedder import Embedder
from semanom_ros.core.embedding.segmenters import load_segmenter
from semanom_ros.core.embedding.segmenters.segment_anything import (
    PROMPTS,
    AnySegmenter,
    PromptedSegmenter,
    layered,
    read_prompts,
)
from semanom_ros.core.frames import Frame
from semanom_ros.errors import ParameterError, SegmenterError

transformers = pytest.importorskip('transformers', reason='Hugging Face transformers are not installed')

CPU, NO_PATCHES = torch.device('cpu'), torch.zeros(1, 1, 1)
SIDE = 64
DECODER = {
    'hidden_size': 32, 'mlp_dim': 32, 'num_hidden_layers': 1, 'num_attention_heads': 2, 'iou_head_hidden_dim': 32}
PROMPT_ENCODER = {'hidden_size': 32, 'image_size': SIDE, 'patch_size': 16, 'mask_input_channels': 4}


@pytest.fixture(scope='module')
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Folders as `save_pretrained` writes them."""
    folder = tmp_path_factory.mktemp('models')
    torch.manual_seed(0)
    return {'sam': sam(folder / 'sam'), 'sam2': sam2(folder / 'sam2'), 'owlv2': owlv2(folder / 'owlv2')}


def sam(folder: Path) -> Path:
    vision = {'hidden_size': 16, 'output_channels': 32, 'num_hidden_layers': 1, 'num_attention_heads': 2,
              'image_size': SIDE, 'patch_size': 16, 'mlp_dim': 32, 'global_attn_indexes': [0], 'num_pos_feats': 16,
              'window_size': 2}
    config = transformers.SamConfig(
        vision_config=vision, prompt_encoder_config=PROMPT_ENCODER, mask_decoder_config=DECODER)
    transformers.SamModel(config).save_pretrained(folder)
    transformers.SamImageProcessor(
        size={'longest_edge': SIDE}, pad_size={'height': SIDE, 'width': SIDE}, mask_size={'longest_edge': 16},
        mask_pad_size={'height': 16, 'width': 16}).save_pretrained(folder)
    return folder


def sam2(folder: Path) -> Path:
    backbone = {'model_type': 'sam2_hiera_det_model', 'hidden_size': 12, 'embed_dim_per_stage': [12, 24, 48, 96],
                'num_attention_heads_per_stage': [1, 2, 4, 8], 'num_attention_heads': 1,
                'blocks_per_stage': [1, 1, 2, 1], 'image_size': [SIDE, SIDE], 'global_attention_blocks': [3],
                'window_positional_embedding_background_size': [2, 2], 'window_size_per_stage': [4, 2, 2, 2]}
    vision = {'backbone_config': backbone, 'backbone_channel_list': [96, 48, 24, 12], 'fpn_hidden_size': 32,
              'backbone_feature_sizes': [[16, 16], [8, 8], [4, 4]]}
    config = transformers.Sam2Config(
        vision_config=vision, prompt_encoder_config=PROMPT_ENCODER, mask_decoder_config=DECODER)
    transformers.Sam2Model(config).save_pretrained(folder)
    processor = transformers.Sam2ImageProcessor(
        size={'height': SIDE, 'width': SIDE}, mask_size={'height': 16, 'width': 16})
    transformers.Sam2Processor(image_processor=processor, target_size=SIDE).save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def owlv2(folder: Path) -> Path:
    letters = [chr(code) for code in range(33, 127)]
    words = [*letters, *(f'{letter}</w>' for letter in letters), '<|startoftext|>', '<|endoftext|>']
    vocabulary = {word: number for number, word in enumerate(words)}
    tokenizer = transformers.CLIPTokenizer(vocab=vocabulary, merges=[])
    text = {'vocab_size': len(words), 'hidden_size': 16, 'intermediate_size': 32, 'num_hidden_layers': 1,
            'num_attention_heads': 2, 'max_position_embeddings': 64, 'bos_token_id': len(words) - 2,
            'eos_token_id': len(words) - 1}
    vision = {'hidden_size': 16, 'intermediate_size': 32, 'num_hidden_layers': 1, 'num_attention_heads': 2,
              'image_size': SIDE, 'patch_size': 16}
    config = transformers.Owlv2Config(text_config=text, vision_config=vision, projection_dim=16)
    transformers.Owlv2ForObjectDetection(config).save_pretrained(folder)
    images = transformers.Owlv2ImageProcessor(size={'height': SIDE, 'width': SIDE})
    transformers.Owlv2Processor(image_processor=images, tokenizer=tokenizer).save_pretrained(folder)
    return folder


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
def test_masks_of_everything(models: dict[str, Path], name: str) -> None:
    segmenter = AnySegmenter(name, 5, str(models[name]), CPU, points=4, least_score=-1e9, least_stability=-1)
    check(segmenter.segment(Frame(picture(), 0), NO_PATCHES), 5)
    none = AnySegmenter(name, 5, str(models[name]), CPU, points=4, least_score=1e9)
    assert len(none.segment(Frame(picture(), 0), NO_PATCHES).scores) == 0


def test_masks_of_what_prompts_find(models: dict[str, Path]) -> None:
    weights = f'{models["owlv2"]}, {models["sam2"]}'
    segmenter = PromptedSegmenter(6, weights, CPU, PROMPTS, least_score=0.0)
    segments = segmenter.segment(Frame(picture(), 0), NO_PATCHES)
    check(segments, 6)
    assert set(segments.names) <= set(read_prompts(PROMPTS))
    none = PromptedSegmenter(6, weights, CPU, PROMPTS, least_score=1.1).segment(Frame(picture(), 0), NO_PATCHES)
    assert len(none.scores) == 0
    assert not none.labels.any()


def test_boxes_are_where_the_detector_sees_them(models: dict[str, Path]) -> None:
    """The same boxes as transformers' own post-processing gives, inside the picture."""
    segmenter = PromptedSegmenter(100, f'{models["owlv2"]},{models["sam2"]}', CPU, PROMPTS, least_score=0.0)
    boxes, scores, _ = segmenter._boxes(picture())
    assert (boxes >= 0).all()
    assert (boxes[:, 2] <= 64).all()
    assert (boxes[:, 3] <= 48).all()
    assert (np.diff(scores) <= 0).all()


def test_the_parameters_choose_them(world, models: dict[str, Path], tmp_path: Path) -> None:
    prompts = tmp_path / 'prompts.txt'
    prompts.write_text('# what to look for\na cow # on the road\n\na sofa\n')
    given = world.parameters(variant='instance', segmenter='owlv2+sam2', segmenter_prompts=str(prompts),
                             segmenter_weights=f'{models["owlv2"]},{models["sam2"]}')
    assert read_prompts(prompts) == ['a cow', 'a sofa']
    embedder = Embedder(world.encoder, load_segmenter(given, CPU))
    embedding = embedder.embed([Frame(world.street(0), 0)])[0]
    assert embedding.segments is not None
    assert embedder.segmenter_name == 'owlv2+sam2'


@pytest.mark.parametrize(('name', 'weights', 'expected'), [
    ('sam2', '/nowhere/sam2', r'/nowhere/sam2 .*semanom models fetch sam2'),
    ('sam', 'somebody/never-fetched', r'somebody/never-fetched .*semanom models fetch sam'),
    ('owlv2+sam2', '/nowhere', r'expected 2 folders'),
    ('sam', 'a,b', r'expected 1 folders')])
def test_missing_weights_are_said_in_one_line(world, name: str, weights: str, expected: str) -> None:
    given = world.parameters(variant='instance', segmenter=name, segmenter_weights=weights)
    with pytest.raises(SegmenterError, match=expected) as caught:
        load_segmenter(given, CPU)
    assert '\n' not in str(caught.value)


def test_weights_of_another_model_are_said_in_one_line(models: dict[str, Path], tmp_path: Path) -> None:
    (tmp_path / 'config.json').write_text('{"model_type": "sam2"}')
    with pytest.raises(SegmenterError, match='cannot be loaded') as caught:
        AnySegmenter('sam2', 5, str(tmp_path), CPU)
    assert '\n' not in str(caught.value)


def test_prompts_that_are_none_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ParameterError, match='unreadable'):
        read_prompts(tmp_path / 'none.txt')
    (tmp_path / 'empty.txt').write_text('# nothing\n')
    with pytest.raises(ParameterError, match='no prompt'):
        read_prompts(tmp_path / 'empty.txt')


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
