"""Fixtures that every test may use."""

from __future__ import annotations

import itertools
import json
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import hypothesis
import pytest

# Before anything imports torch or FAISS: a forked process (the tests that kill writers fork) would wait for OpenMP's
# threads for ever, since only the forking thread lives on in it; a single thread needs none.
os.environ['OMP_NUM_THREADS'] = '1'
# A shell's background jobs ignore SIGINT, and so would every process that a test starts and then interrupts.
signal.signal(signal.SIGINT, signal.default_int_handler)

REPOSITORY = Path(__file__).resolve().parent.parent

SLOW = (
    'benchmarks', 'carla', 'commands/test_doctor.py', 'commands/test_learn.py', 'core/test_context_network.py',
    'core/test_learned.py', 'core/test_plausibility.py', 'database/test_crashes.py', 'encoders/test_models_command.py',
    'encoders/test_registry.py', 'evaluation/test_baselines.py', 'evaluation/test_demo.py',
    'evaluation/test_evaluate.py', 'evaluation/test_exports.py', 'evaluation/test_live.py',
    'evaluation/test_public_benchmark.py', 'evaluation/test_several_cameras.py', 'fleet', 'launch',
    'nodes/test_bad_calls.py', 'nodes/test_detector_bond.py', 'nodes/test_detector_cameras.py',
    'nodes/test_detector_distances.py', 'nodes/test_detector_inputs.py', 'nodes/test_detector_lifecycle.py',
    'nodes/test_detector_measurements.py', 'nodes/test_detector_outputs.py', 'nodes/test_detector_services.py',
    'nodes/test_detector_verdicts.py',
    'nodes/test_nominal_recorder.py', 'nodes/test_policy.py', 'nodes/test_snapshot_recorder.py',
    'packaging/test_build.py', 'recordings/test_record.py',
    'recordings/test_without_ros.py', 'ros/test_replaying.py', 'simulation', 'tools')
"""Folders and modules that `make test-fast` leaves out: builds, whole programs, drives, training, processes killed."""


def pytest_addoption(parser: pytest.Parser) -> None:
    """Options of this suite."""
    parser.addoption('--reliability', metavar='FILE', type=Path,
                     help='run the tests of faults alone; how often each was tried and survived goes to FILE')
    parser.addoption('--long', action='store_true', help='search for faults for minutes, where seconds are the rule')


def pytest_configure(config: pytest.Config) -> None:
    """Property-based tests: few examples and always the same ones, or many and new ones."""
    few = hypothesis.settings(max_examples=60, derandomize=True, deadline=None, database=None)
    hypothesis.settings.register_profile('few', few)
    hypothesis.settings.register_profile('many', few, max_examples=1000, derandomize=False)
    hypothesis.settings.load_profile('many' if config.getoption('--long') else 'few')
    tallies = config.getoption('--reliability')
    if tallies and not hasattr(config, 'workerinput'):  # once, not in each of several processes
        tallies.parent.mkdir(parents=True, exist_ok=True)
        tallies.write_text('')


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Marks the slow ones; keeps the tests of faults where only they are asked for."""
    if config.getoption('--reliability'):
        items[:] = [item for item in items if 'trial' in getattr(item, 'fixturenames', ())]
    slow = [REPOSITORY / 'test' / name for name in SLOW]
    gone = [str(path) for path in slow if not path.exists()]
    if gone:
        raise pytest.UsageError(f'SLOW in {__file__} names {", ".join(gone)}, which is not there; correct it')
    for item in items:
        if any(path in (item.path, *item.path.parents) for path in slow):
            item.add_marker('slow')


@dataclass
class Tally:
    """What became of the tries of one fault."""

    tried: int = 0
    survived: int = 0
    """The right answer, or one clear error; nothing crashed, hung or went on with wrong data."""
    lost: int = 0
    """Frames, vectors or files that were there before and should be there after, and are not."""


@pytest.fixture(scope='session')
def trial(request: pytest.FixtureRequest) -> Iterator[Callable[..., AbstractContextManager[Tally]]]:
    """`with trial('Database', 'a file cut short', times=3) as tally:` round the tries of a fault, assertions included.

    Leaving it without an exception means that all of them were survived; `tally.lost` is raised by what was lost. The
    table of docs/reliability.md is made of these.
    """
    tallies: dict[tuple[str, str], Tally] = {}

    @contextmanager
    def trying(area: str, fault: str, times: int = 1) -> Iterator[Tally]:
        tally = tallies.setdefault((area, fault), Tally())
        tally.tried += times
        yield tally
        tally.survived += times

    yield trying
    if path := request.config.getoption('--reliability'):
        with open(path, 'a') as file:
            file.writelines(json.dumps({'area': area, 'fault': fault, **vars(tally)}) + '\n'
                            for (area, fault), tally in tallies.items())


@pytest.fixture(scope='session')
def driving_data() -> Path:
    """Real driving data, kept outside the repository; tests that need it skip without it."""
    folder = Path(os.environ.get('SEMANOM_TEST_DATA', REPOSITORY.parent / 'shared' / 'data'))
    if not (folder / 'bags').is_dir():
        pytest.skip('no real driving data: set SEMANOM_TEST_DATA to its folder')
    return folder


_DOMAINS = range(1, 50)
_TESTS = itertools.count()


@pytest.fixture
def ros_domain_id(monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    """A ROS_DOMAIN_ID that no other test on this machine uses at the same time, set in the environment."""
    from semanom_ros.ros.background import claimed_domain

    # Not of those for replays, and another than the last test's: what a test has left in the graph would answer for
    # others.
    first = next(_TESTS) % len(_DOMAINS)
    with claimed_domain([*_DOMAINS[first:], *_DOMAINS[:first]]) as domain_id:
        monkeypatch.setenv('ROS_DOMAIN_ID', str(domain_id))
        monkeypatch.setenv('ROS_AUTOMATIC_DISCOVERY_RANGE', 'LOCALHOST')
        yield domain_id


@pytest.fixture(scope='session')
def segmenter_models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Small SAM, SAM 2 and OWLv2 with random weights, in folders as `save_pretrained` writes them."""
    transformers = pytest.importorskip('transformers', reason='Hugging Face transformers are not installed')
    import torch

    folder, write = tmp_path_factory.mktemp('models'), {'sam': _sam, 'sam2': _sam2, 'owlv2': _owlv2}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return {name: write[name](transformers, folder / name) for name in write}


_SIDE = 64
_DECODER = {
    'hidden_size': 32, 'mlp_dim': 32, 'num_hidden_layers': 1, 'num_attention_heads': 2, 'iou_head_hidden_dim': 32}
_PROMPT_ENCODER = {'hidden_size': 32, 'image_size': _SIDE, 'patch_size': 16, 'mask_input_channels': 4}


def _sam(transformers: Any, folder: Path) -> Path:
    vision = {'hidden_size': 16, 'output_channels': 32, 'num_hidden_layers': 1, 'num_attention_heads': 2,
              'image_size': _SIDE, 'patch_size': 16, 'mlp_dim': 32, 'global_attn_indexes': [0], 'num_pos_feats': 16,
              'window_size': 2}
    config = transformers.SamConfig(
        vision_config=vision, prompt_encoder_config=_PROMPT_ENCODER, mask_decoder_config=_DECODER)
    transformers.SamModel(config).save_pretrained(folder)
    transformers.SamImageProcessor(
        size={'longest_edge': _SIDE}, pad_size={'height': _SIDE, 'width': _SIDE}, mask_size={'longest_edge': 16},
        mask_pad_size={'height': 16, 'width': 16}).save_pretrained(folder)
    return folder


def _sam2(transformers: Any, folder: Path) -> Path:
    backbone = {'model_type': 'sam2_hiera_det_model', 'hidden_size': 12, 'embed_dim_per_stage': [12, 24, 48, 96],
                'num_attention_heads_per_stage': [1, 2, 4, 8], 'num_attention_heads': 1,
                'blocks_per_stage': [1, 1, 2, 1], 'image_size': [_SIDE, _SIDE], 'global_attention_blocks': [3],
                'window_positional_embedding_background_size': [2, 2], 'window_size_per_stage': [4, 2, 2, 2]}
    vision = {'backbone_config': backbone, 'backbone_channel_list': [96, 48, 24, 12], 'fpn_hidden_size': 32,
              'backbone_feature_sizes': [[16, 16], [8, 8], [4, 4]]}
    config = transformers.Sam2Config(
        vision_config=vision, prompt_encoder_config=_PROMPT_ENCODER, mask_decoder_config=_DECODER)
    transformers.Sam2Model(config).save_pretrained(folder)
    processor = transformers.Sam2ImageProcessor(
        size={'height': _SIDE, 'width': _SIDE}, mask_size={'height': 16, 'width': 16})
    transformers.Sam2Processor(image_processor=processor, target_size=_SIDE).save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def _owlv2(transformers: Any, folder: Path) -> Path:
    letters = [chr(code) for code in range(33, 127)]
    words = [*letters, *(f'{letter}</w>' for letter in letters), '<|startoftext|>', '<|endoftext|>']
    vocabulary = {word: number for number, word in enumerate(words)}
    tokenizer = transformers.CLIPTokenizer(vocab=vocabulary, merges=[])
    text = {'vocab_size': len(words), 'hidden_size': 16, 'intermediate_size': 32, 'num_hidden_layers': 1,
            'num_attention_heads': 2, 'max_position_embeddings': 64, 'bos_token_id': len(words) - 2,
            'eos_token_id': len(words) - 1}
    vision = {'hidden_size': 16, 'intermediate_size': 32, 'num_hidden_layers': 1, 'num_attention_heads': 2,
              'image_size': _SIDE, 'patch_size': 16}
    config = transformers.Owlv2Config(text_config=text, vision_config=vision, projection_dim=16)
    transformers.Owlv2ForObjectDetection(config).save_pretrained(folder)
    images = transformers.Owlv2ImageProcessor(size={'height': _SIDE, 'width': _SIDE})
    transformers.Owlv2Processor(image_processor=images, tokenizer=tokenizer).save_pretrained(folder)
    return folder
