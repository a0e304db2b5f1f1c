"""Families of encoders and segmenters: those of this package, and those of others."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from distutils.core import run_setup  # setuptools' own, also from Python 3.12 on
from importlib.metadata import EntryPoints, entry_points
from pathlib import Path

import numpy as np
import pytest
import torch

from semanom_ros.cli import main
from semanom_ros.core.embedding import registry
from semanom_ros.core.embedding.registry import load_encoder, load_segmenter, needs_masks
from semanom_ros.core.frames import Frame
from semanom_ros.errors import EncoderError, SegmenterError
from semanom_ros.settings import EncoderSettings, MethodSettings, QuerySettings

REPOSITORY = Path(__file__).resolve().parents[2]
CPU = torch.device('cpu')

# What a lab writes: a module of its own that knows nothing of this repository but the protocol.
ENCODER = '''
import torch
from semanom_ros.core.embedding.card import Card
from semanom_ros.core.embedding.encoders.encoder import Encoder
from semanom_ros.core.embedding.registry import model_of


class Blocks(Encoder):
    weights, weights_sha256, settings, dimension, dtype = '', '0' * 64, {}, 3, torch.float32
    wants_standardizing = False

    def __init__(self, name, device):
        self.name, self.device, self.side = name, device, int(model_of(name))
        self.input_size, self.grid_size = (4 * self.side, 6 * self.side), (4, 6)

    def encode(self, images):
        means = torch.nn.functional.avg_pool2d(images + 0.1, self.side).permute(0, 2, 3, 1)
        return torch.nn.functional.normalize(means, dim=-1)


class Family:
    def load(self, settings, device):
        return Blocks(settings.name, device)

    def find(self, name, weights):
        return None

    def fetch(self, name, weights, store):
        (store / 'lab').mkdir(parents=True)
        return f'local-dir:{store / "lab"}'

    def cards(self):
        return [Card('encoder', 'lab:8', 'own', True, 'needs none', 'MIT', 3, (32, 48))]


FAMILY = Family()
'''
SEGMENTER = '''
import numpy as np
from semanom_ros.core.embedding.card import Card
from semanom_ros.core.embedding.segmenters.segmenter import Segmenter
from semanom_ros.core.frames import Segments


class Halves(Segmenter):
    name = 'lab+halves'

    def __init__(self, limit):
        self.max_segments = limit

    def segment(self, frame, patches):
        labels = np.ones(frame.image.shape[:2], np.int32)
        labels[:, labels.shape[1] // 2:] = 2
        return Segments(labels, np.ones(2, np.float32), ('left', 'right'))


class Family:
    needs_masks = True

    def load(self, settings, device):
        return Halves(settings.max_segments)

    def fetch(self, name, weights, store):
        return 'fetched'

    def cards(self):
        return [Card('segmenter', 'lab+halves', '', True, 'two', 'MIT')]


FAMILY = Family()
'''

Install = Callable[[str, str, str], None]


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Install]:
    """Installs a package beside this one: (name, source of its module, lines of its entry_points.txt)."""
    names: list[str] = []

    def put(name: str, source: str, points: str) -> None:
        root = tmp_path / f'site-{name}'
        information = root / f'{name}-1.5.dist-info'
        information.mkdir(parents=True)
        (information / 'METADATA').write_text(f'Metadata-Version: 2.1\nName: {name}\nVersion: 1.5\n')
        (information / 'entry_points.txt').write_text(points)
        (root / f'{name}.py').write_text(source)
        monkeypatch.syspath_prepend(root)
        names.append(name)

    yield put
    for name in names:
        sys.modules.pop(name, None)


def lines_of(capsys) -> list[str]:
    assert main(['models', 'list']) == 0
    return capsys.readouterr().out.splitlines()


def test_an_encoder_of_another_package(install, tmp_path, capsys):
    install('our_encoders', ENCODER, '[semanom_ros.encoders]\nlab = our_encoders:FAMILY\n')
    row = next(line for line in lines_of(capsys) if 'lab:8' in line)
    assert row.split() == ['encoder', 'yes', 'lab:8', 'own', 'MIT', '3', '32x48', 'needs', 'none']

    settings = MethodSettings.of({'encoder': 'lab:8', 'device': 'cpu'}).encoder
    encoder = load_encoder(settings)
    picture = torch.zeros(1, 3, *encoder.input_size)
    picture[:, 0, :, :24] = 1
    embeddings = encoder.encode(picture)
    assert embeddings.shape == (1, 4, 6, 3)
    torch.testing.assert_close(embeddings.norm(dim=-1), torch.ones(1, 4, 6))
    assert (embeddings[0, :, :3, 0] > 0.9).all()
    assert (encoder.wants_standardizing, encoder.wants_calibration_by_place) == (False, True)

    assert main(['models', 'check', 'lab:8', '--device', 'cpu']) == 0
    assert 'patches     4x6' in capsys.readouterr().out
    assert main(['models', 'fetch', 'lab:8', '--directory', str(tmp_path / 'stick')]) == 0
    assert capsys.readouterr().out == f'encoder: lab:8\nencoder_weights: local-dir:{tmp_path}/stick/lab\n'


def test_a_segmenter_of_another_package(install, capsys):
    install('our_segmenters', SEGMENTER, '[semanom_ros.segmenters]\nlab+halves = our_segmenters:FAMILY\n')
    row = next(line for line in lines_of(capsys) if 'lab+halves' in line)
    assert row.split() == ['segmenter', 'yes', 'lab+halves', 'MIT', 'two']
    settings = MethodSettings.of({'variant': 'instance', 'segmenter': 'lab+halves', 'max_segments': 5}).queries
    segmenter = load_segmenter(settings, CPU)
    assert segmenter.max_segments == 5
    segments = segmenter.segment(Frame(np.zeros((4, 6, 3), np.uint8), 0), torch.zeros(1, 1, 3))
    assert segments.names == ('left', 'right')
    assert needs_masks(settings)
    assert main(['models', 'fetch', 'lab+halves']) == 0
    assert capsys.readouterr().out == 'segmenter: lab+halves\nsegmenter_weights: fetched\n'


@pytest.mark.parametrize(('source', 'said'), [
    ('import a_library_that_nobody_has\n', "ModuleNotFoundError: No module named 'a_library_that_nobody_has'"),
    ('raise RuntimeError("no licence\\nfound")\n', 'RuntimeError: no licence)'),
    ('def broken(\n', 'SyntaxError: '),
    ('import sys\nsys.exit(5)\n', 'SystemExit: 5'),
    ('', "AttributeError: module 'broken_lab' has no attribute 'FAMILY'"),
    ('FAMILY = 5\n', 'broken_lab:FAMILY of broken_lab 1.5: found int, expected what EncoderFamily of'),
])
def test_a_broken_package_leaves_the_others_alone(source, said, install, capsys):
    points = '\n'.join(f'[semanom_ros.{kind}s]\nlab = broken_lab:FAMILY' for kind in ('encoder', 'segmenter'))
    install('broken_lab', source, points)
    listed = lines_of(capsys)
    rows = [line for line in listed if 'broken_lab:FAMILY of broken_lab 1.5' in line]
    assert [row.split()[:3] for row in rows] == [['encoder', 'no', 'lab'], ['segmenter', 'no', 'lab']]
    assert said in rows[0]
    for name in ('semanom-tiny', 'timm:vit_small_patch14_dinov2.lvd142m', 'torchvision', 'owlv2+sam2'):
        assert any(name in line for line in listed)
    assert load_segmenter(QuerySettings('instance'), CPU).name == 'embedding'
    assert load_encoder(EncoderSettings('timm:test_vit', weights='random:0', device='cpu')).dimension == 64
    with pytest.raises(EncoderError) as raised:
        load_encoder(EncoderSettings('lab:8', device='cpu'))
    assert said in str(raised.value)
    assert len(str(raised.value).splitlines()) == 1
    with pytest.raises(SegmenterError, match=r'broken_lab:FAMILY of broken_lab 1\.5'):
        needs_masks(QuerySettings('instance', 'lab'))


def test_a_family_that_cannot_list_its_models_leaves_the_others_alone(install, capsys):
    source = ENCODER.replace("return [Card('encoder'", "raise OSError('disk gone'); return [Card('encoder'")
    install('our_encoders', source, '[semanom_ros.encoders]\nlab = our_encoders:FAMILY\n')
    listed = lines_of(capsys)
    assert any('it cannot list its models: OSError: disk gone' in line for line in listed)
    assert any('timm:vit_small' in line for line in listed)


def test_two_packages_with_a_family_of_one_name(install):
    install('our_encoders', ENCODER, '[semanom_ros.encoders]\nlab = our_encoders:FAMILY\n')
    install('their_encoders', ENCODER, '[semanom_ros.encoders]\nlab = their_encoders:FAMILY\n')
    with pytest.raises(EncoderError, match=(r'encoder lab: found in our_encoders:FAMILY of our_encoders 1\.5 and '
                                            r'their_encoders:FAMILY of their_encoders 1\.5, expected one package')):
        load_encoder(EncoderSettings('lab:8'))


@pytest.mark.parametrize(('name', 'message'), [
    ('', r"encoder '': no such family, expected one of open_clip, .*semanom-tiny, .*timm, .*torchscript"),
    ('ViT-B-16', r"encoder 'ViT-B-16': no such family, expected one of open_clip, "),
    ('onnx:model', r"encoder 'onnx': no such family, expected one of open_clip, "),
    ('timm', r"encoder 'timm': names no model, expected timm:MODEL; correct it"),
    ('open_clip:', r"encoder 'open_clip:': names no model, expected open_clip:MODEL; correct it"),
    ('semanom-tiny:large', r"encoder 'semanom-tiny:large': semanom-tiny is one model"),
])
def test_encoder_names_that_are_none(name, message):
    with pytest.raises(EncoderError, match=message) as raised:
        load_encoder(EncoderSettings(name))
    assert len(str(raised.value).splitlines()) == 1


@pytest.mark.parametrize('name', ['', 'sam3', 'sam2:large'])
def test_segmenter_names_that_are_none(name):
    with pytest.raises(SegmenterError, match=f"segmenter '{name}': no such family, expected one of embedding, "):
        load_segmenter(QuerySettings('instance', name), CPU)
    with pytest.raises(SegmenterError, match='no such family'):
        needs_masks(QuerySettings('instance', name))
    assert not needs_masks(QuerySettings('grid', name))


def test_segmenters_without_weights_refuse_some():
    with pytest.raises(SegmenterError, match=r"segmenter embedding: segmenter_weights '/x\.pth', but it has none"):
        load_segmenter(QuerySettings('instance', segmenter_weights='/x.pth'), CPU)


def test_only_masks_from_elsewhere_are_needed_and_asking_imports_no_library():
    asked = '''
import sys
from semanom_ros.core.embedding.registry import family_names, needs_masks
from semanom_ros.settings import QuerySettings
print([name for name in family_names()['segmenter'] if needs_masks(QuerySettings('instance', name))])
print([name for name in ('torchvision', 'transformers', 'timm', 'open_clip') if name in sys.modules])
'''
    done = subprocess.run([sys.executable, '-c', asked], capture_output=True, text=True, check=True)
    assert done.stdout == "['topic']\n[]\n"
    assert not needs_masks(QuerySettings('grid', 'topic'))
    assert load_segmenter(QuerySettings('instance', 'topic'), CPU).needs_masks
    assert not load_segmenter(QuerySettings('instance'), CPU).needs_masks


def test_a_source_tree_that_was_never_installed_says_so(monkeypatch):
    monkeypatch.setattr(registry, 'entry_points', lambda group: EntryPoints())
    for ask in (lambda: load_encoder(EncoderSettings()), registry.cards, registry.family_names):
        with pytest.raises(EncoderError, match=r'install semanom_ros \(make setup, pip install -e \.\)'):
            ask()
    with pytest.raises(SegmenterError, match='install semanom_ros'):
        needs_masks(QuerySettings('instance'))


@pytest.mark.parametrize('kind', ['encoders', 'segmenters'])
def test_every_module_that_names_families_is_installed(kind, monkeypatch):
    monkeypatch.chdir(REPOSITORY)
    generated = run_setup('setup.py', ['--name'], stop_after='init').entry_points[f'semanom_ros.{kind}']
    installed = {f'{point.name} = {point.value}' for point in entry_points(group=f'semanom_ros.{kind}')}
    assert generated
    assert set(generated) <= installed, 'run make setup'
    named = {point.split(' = ')[0] for point in generated}
    problems = [card for card in registry.cards() if card.name in named and 'cannot be imported' in card.note]
    assert not problems
