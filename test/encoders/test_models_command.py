"""`semanom models`, with a hub of its own: a real HTTP server that answers as the Hugging Face hub does."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace

import open_clip
import pytest
import timm
import torch
from open_clip.pretrained import _PRETRAINED
from safetensors.torch import load_file, save_file

from semanom_ros.cli import main
from semanom_ros.core.embedding.encoders import tiny
from semanom_ros.core.embedding.registry import load_encoder, load_segmenter
from semanom_ros.errors import SegmenterError
from semanom_ros.settings import EncoderSettings, QuerySettings


class Hub:
    """Files by `repository/name`; `lie` makes it announce another checksum."""

    def __init__(self, address: str) -> None:
        self.address = address
        self.files: dict[str, bytes] = {}
        self.requests: list[str] = []
        self.lie = False

    def listing(self, repository: str) -> bytes | None:
        names = [path.removeprefix(f'{repository}/') for path in self.files if path.startswith(f'{repository}/')]
        described = {'id': repository, 'siblings': [{'rfilename': name} for name in names]}
        return json.dumps(described).encode() if names else None


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    class Handler(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self.do_GET()

        def do_GET(self) -> None:
            hub.requests.append(self.path)
            if self.path.startswith('/api/models/'):
                content = hub.listing(self.path.removeprefix('/api/models/'))
            else:
                content = hub.files.get(self.path.removeprefix('/').replace('/resolve/main', ''))
            self.send_response(404 if content is None else 200)
            self.send_header('X-Repo-Commit', '0' * 40)
            if content is None:
                self.send_header('X-Error-Code', 'EntryNotFound')
            content = content or b''
            digest = hashlib.sha256(content + b'?' * hub.lie).hexdigest()
            self.send_header('ETag', f'"{digest}"')
            self.send_header('Content-Length', str(len(content)))
            self.end_headers()
            if self.command == 'GET':
                self.wfile.write(content)

        def log_message(self, format: str, *arguments: object) -> None:
            pass

    server = ThreadingHTTPServer(('127.0.0.1', 0), Handler)
    hub = Hub(f'http://127.0.0.1:{server.server_port}')
    monkeypatch.setattr('huggingface_hub.constants.ENDPOINT', hub.address)
    monkeypatch.setattr('huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE',
                        hub.address + '/{repo_id}/resolve/{revision}/{filename}')
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield hub
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def vit(tmp_path: Path) -> bytes:
    """Weights of timm's test_vit."""
    path = tmp_path / 'vit.safetensors'
    save_file(timm.create_model('test_vit').state_dict(), path)
    return path.read_bytes()


def test_fetch_list_and_load_a_timm_model(hub, vit, own_store, pictures, capsys):
    hub.files['timm/test_vit.r160_in1k/model.safetensors'] = vit
    assert main(['models', 'fetch', 'timm:test_vit.r160_in1k']) == 0
    folder = own_store / 'timm' / 'test_vit' / 'r160_in1k'
    assert capsys.readouterr().out == f'encoder: timm:test_vit.r160_in1k\nencoder_weights: local-dir:{folder}\n'
    assert sorted(path.name for path in folder.iterdir()) == ['config.json', 'fetched.json', 'model.safetensors']
    assert list(folder.parent.iterdir()) == [folder]
    receipt = json.loads((folder / 'fetched.json').read_text())
    assert receipt['sources'][0]['sha256'] == hashlib.sha256(vit).hexdigest()

    hub.requests.clear()
    images = pictures(1, 160, 160)
    named, found = (load_encoder(EncoderSettings('timm:test_vit', weights=weights, device='cpu'))
                    for weights in (f'local-dir:{folder}', ''))
    torch.testing.assert_close(named.encode(images), found.encode(images))
    assert found.weights == 'r160_in1k'
    assert timm.create_model(f'local-dir:{folder}', pretrained=True) is not None  # timm understands the folder as well

    assert main(['models', 'list']) == 0
    line = next(line for line in capsys.readouterr().out.splitlines() if 'timm:test_vit.r160_in1k' in line)
    assert line.split() == ['encoder', 'yes', 'timm:test_vit.r160_in1k', 'r160_in1k', 'Apache-2.0',
                            '64', '160x160', f'{folder}/model.safetensors']
    assert hub.requests == []  # only fetch uses the network


def test_fetch_open_clip_weights_that_are_a_pickle(hub, clip_folder, tmp_path, monkeypatch, pictures, capsys):
    """Kept as safetensors, with the activation and the colours that the tag stands for."""
    config = json.loads((clip_folder / 'open_clip_config.json').read_text())['model_cfg']
    monkeypatch.setitem(open_clip.factory._MODEL_CONFIGS, 'tiny-clip', config)
    tag = {'hf_hub': 'example/tiny-clip/', 'mean': (0.4, 0.5, 0.6), 'std': (0.2, 0.25, 0.3), 'quick_gelu': True}
    monkeypatch.setitem(_PRETRAINED, 'tiny-clip', {'openai': tag})
    torch.save(load_file(clip_folder / 'open_clip_model.safetensors'), tmp_path / 'weights.bin')
    hub.files['example/tiny-clip/open_clip_pytorch_model.bin'] = (tmp_path / 'weights.bin').read_bytes()
    assert main(['models', 'fetch', 'open_clip:tiny-clip', '--directory', str(tmp_path / 'stick')]) == 0
    printed = capsys.readouterr().out.split('encoder_weights: ')[1].strip()
    assert printed == f'local-dir:{tmp_path}/stick/open_clip/tiny-clip/openai'
    encoder = load_encoder(EncoderSettings('open_clip:tiny-clip', weights=printed, device='cpu'))
    assert encoder.settings['activation'] == 'quick_gelu'
    assert encoder.settings['mean'] == '0.4 0.5 0.6'
    assert encoder.encode(pictures(1, 64, 64)).shape == (1, 4, 4, 64)


def test_fetch_again_replaces(hub, vit, own_store):
    hub.files['timm/test_vit.r160_in1k/model.safetensors'] = vit
    folder = own_store / 'timm' / 'test_vit' / 'r160_in1k'
    for _ in range(2):
        assert main(['models', 'fetch', 'timm:test_vit', '--weights', 'r160_in1k']) == 0
        assert (folder / 'model.safetensors').read_bytes() == vit
        (folder / 'model.safetensors').write_bytes(b'broken')


def test_wrong_checksum_leaves_nothing(hub, vit, own_store, capsys):
    hub.files['timm/test_vit.r160_in1k/model.safetensors'] = vit
    hub.lie = True
    assert main(['models', 'fetch', 'timm:test_vit']) == 2
    assert 'it was announced as' in capsys.readouterr().err
    assert not list((own_store / 'timm' / 'test_vit').iterdir())


@pytest.mark.parametrize(('arguments', 'message'), [
    (['timm:test_vit'], 'not on http://127.0.0.1'),
    (['timm:test_vit', '--weights', 'x'], "no weights 'x' on the hub, expected one of r160_in1k"),
    (['timm:test_wit'], "timm has no model 'test_wit'; did you mean test_vit"),
    (['open_clip:ViT-B-16', '--weights', 'x'], "no weights 'x' on the hub, expected one of openai"),
    (['open_clip:ViT-B-99'], "none are known; did you mean"),
    (['semanom-tiny'], 'there is nothing to fetch, it is shipped'),
    (['torchscript:/x.ts'], 'there is nothing to fetch, it is a file'),
])
def test_what_cannot_be_fetched(arguments, message, hub, capsys):
    assert main(['models', 'fetch', *arguments]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert len(error.splitlines()) == 1


def test_check_says_what_an_encoder_makes_of_a_picture(clip_folder, monkeypatch, capsys):
    monkeypatch.setattr(tiny, 'FOLDER', clip_folder)
    options = ['--input-size', '32', '64', '--device', 'cpu', '--precision', 'bf16']
    assert main(['models', 'check', 'semanom-tiny', *options]) == 0
    facts = dict(line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines() if line)
    assert facts['patches'] == '2x4'
    assert facts['dimension'] == '64'
    assert facts['texts'] == 'yes'
    assert facts['precision'] == 'bfloat16'
    assert facts['file'] == str(clip_folder / 'open_clip_model.safetensors')
    assert facts['sha256'] == hashlib.sha256((clip_folder / 'open_clip_model.safetensors').read_bytes()).hexdigest()
    assert main(['models', 'check', 'timm:test_vit']) == 2
    assert '`semanom models fetch timm:test_vit --weights r160_in1k`' in capsys.readouterr().err


@pytest.fixture
def mask_rcnn(hub, tmp_path, monkeypatch) -> str:
    """Name of a file at torchvision's address for Mask R-CNN."""
    content = b'weights'
    name = f'maskrcnn-{hashlib.sha256(content).hexdigest()[:8]}.pth'
    hub.files[f'models/{name}'] = content
    published = SimpleNamespace(url=f'{hub.address}/models/{name}', meta={'categories': []})
    monkeypatch.setattr('semanom_ros.core.embedding.segmenters.mask_rcnn._torchvision_weights', lambda: published)
    monkeypatch.setattr('torch.hub.get_dir', lambda: str(tmp_path / 'torch'))
    return name


def listed(name: str, capsys) -> list[str]:
    """Words of the line of a segmenter."""
    assert main(['models', 'list']) == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    return next(words for words in lines if words[:1] == ['segmenter'] and words[2] == name)


def test_fetch_and_list_a_segmenter_of_a_file(hub, mask_rcnn, own_store, tmp_path, capsys):
    assert listed('torchvision', capsys)[1:] == ['no', 'torchvision', 'COCO_V1', 'BSD-3-Clause', 'semanom', 'models',
                                                 'fetch', 'torchvision']
    file = own_store / 'torchvision' / 'maskrcnn_resnet50_fpn_v2' / 'COCO_V1' / mask_rcnn
    assert main(['models', 'fetch', 'torchvision']) == 0
    assert capsys.readouterr().out == f'segmenter: torchvision\nsegmenter_weights: {file}\n'
    assert file.read_bytes() == b'weights'
    assert sorted(path.name for path in file.parent.iterdir()) == ['fetched.json', mask_rcnn]
    hub.requests.clear()
    assert listed('torchvision', capsys)[1:] == ['yes', 'torchvision', 'COCO_V1', 'BSD-3-Clause', str(file)]
    file.write_bytes(b'weights that changed')
    with pytest.raises(SegmenterError, match=r'SHA-256 is .*; fetch the weights again'):
        load_segmenter(QuerySettings('instance', 'torchvision'), torch.device('cpu'))
    assert hub.requests == []

    hub.files[f'models/{mask_rcnn}'] = b'others'
    assert main(['models', 'fetch', 'torchvision', '--directory', str(tmp_path / 'stick')]) == 2
    assert 'it was announced as' in capsys.readouterr().err
    assert not list((tmp_path / 'stick' / 'torchvision' / 'maskrcnn_resnet50_fpn_v2').iterdir())


def test_what_torch_hub_has_downloaded_is_found(mask_rcnn, tmp_path, capsys):
    file = tmp_path / 'torch' / 'checkpoints' / mask_rcnn
    file.parent.mkdir(parents=True)
    file.write_bytes(b'weights')
    assert listed('torchvision', capsys)[-1] == str(file)


def test_fetch_list_and_load_a_segmenter_of_the_hub(hub, own_store, segmenter_models, capsys):
    for file in segmenter_models['sam'].iterdir():
        hub.files[f'facebook/sam-vit-base/{file.name}'] = file.read_bytes()
    hub.files['facebook/sam-vit-base/pytorch_model.bin'] = b'a pickle that nobody needs'
    assert listed('sam', capsys)[1:] == ['no', 'sam', 'facebook/sam-vit-base', 'Apache-2.0', 'semanom', 'models',
                                         'fetch', 'sam']
    folder = own_store / 'transformers' / 'facebook--sam-vit-base' / 'main'
    assert main(['models', 'fetch', 'sam']) == 0
    assert capsys.readouterr().out == f'segmenter: sam\nsegmenter_weights: {folder}\n'
    assert sorted(path.name for path in folder.iterdir()) == [
        'config.json', 'fetched.json', 'model.safetensors', 'preprocessor_config.json']

    hub.requests.clear()
    assert listed('sam', capsys)[1:] == ['yes', 'sam', 'facebook/sam-vit-base', 'Apache-2.0', str(folder)]
    for weights in ('', 'facebook/sam-vit-base', str(folder), f'local-dir:{folder}'):
        asked = QuerySettings('instance', 'sam', segmenter_weights=weights)
        assert load_segmenter(asked, torch.device('cpu')).name == 'sam'
    (folder / 'model.safetensors').write_bytes(b'changed')
    with pytest.raises(SegmenterError, match=r'SHA-256 is .*; fetch the weights again'):
        load_segmenter(QuerySettings('instance', 'sam'), torch.device('cpu'))
    (folder / 'model.safetensors').unlink()
    with pytest.raises(SegmenterError, match='does not exist any more; fetch the weights again'):
        load_segmenter(QuerySettings('instance', 'sam'), torch.device('cpu'))
    assert hub.requests == []  # only fetch uses the network


@pytest.mark.parametrize(('arguments', 'message'), [
    (['embedding'], 'segmenter embedding: there is nothing to fetch'),
    (['sam', '--weights', 'nobody/nothing'], 'segmenter sam: nobody/nothing: http://127.0.0.1'),
    (['sam', '--weights', 'a/b,c/d'], 'expected 1 folders'),
    (['torchvision', '--weights', 'COCO_V2'], "no weights 'COCO_V2' are published, expected COCO_V1"),
    (['nothing'], "model 'nothing': no such family, expected an encoder of open_clip, semanom-tiny, timm, torchscript,")
])
def test_segmenters_that_cannot_be_fetched(arguments, message, mask_rcnn, capsys):
    assert main(['models', 'fetch', *arguments]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert len(error.splitlines()) == 1
