"""`semanom models`, with a hub of its own: a real HTTP server that answers as the Hugging Face hub does."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import open_clip
import pytest
import timm
import torch
from open_clip.pretrained import _PRETRAINED
from safetensors.torch import load_file, save_file

from semanom_ros.cli import main
from semanom_ros.core.embedding import encoders
from semanom_ros.core.embedding.encoders import load_encoder
from semanom_ros.core.embedding.segmenters import segmenter_cards


class Hub:
    """Files by `repository/name`; `lie` makes it announce another checksum."""

    def __init__(self, address: str) -> None:
        self.address = address
        self.files: dict[str, bytes] = {}
        self.requests: list[str] = []
        self.lie = False


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    class Handler(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self.do_GET()

        def do_GET(self) -> None:
            hub.requests.append(self.path)
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
    assert receipt['source_sha256'] == hashlib.sha256(vit).hexdigest()

    hub.requests.clear()
    images = pictures(1, 160, 160)
    named, found = (load_encoder('timm:test_vit', weights=weights, device='cpu')
                    for weights in (f'local-dir:{folder}', ''))
    torch.testing.assert_close(named.encode(images), found.encode(images))
    assert found.weights == 'r160_in1k'
    assert timm.create_model(f'local-dir:{folder}', pretrained=True) is not None  # timm understands the folder as well

    assert main(['models', 'list']) == 0
    line = next(line for line in capsys.readouterr().out.splitlines() if 'timm:test_vit.r160_in1k' in line)
    assert line.split() == ['encoder', 'yes', 'timm:test_vit.r160_in1k', 'r160_in1k', '64', '160x160',
                            f'{folder}/model.safetensors']
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
    encoder = load_encoder('open_clip:tiny-clip', weights=printed, device='cpu')
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
    assert 'the hub says' in capsys.readouterr().err
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
    monkeypatch.setattr(encoders, 'TINY_FOLDER', clip_folder)
    options = ['--input-size', '32', '64', '--device', 'cpu', '--precision', 'bf16']
    assert main(['models', 'check', 'semanom-tiny', *options]) == 0
    facts = dict(line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines() if line)
    assert facts['patches'] == '2x4'
    assert facts['dimension'] == '64'
    assert facts['texts'] == 'yes'
    assert facts['precision'] == 'bfloat16'
    assert facts['sha256'] == hashlib.sha256((clip_folder / 'open_clip_model.safetensors').read_bytes()).hexdigest()
    assert main(['models', 'check', 'timm:test_vit']) == 2
    assert '`semanom models fetch timm:test_vit --weights r160_in1k`' in capsys.readouterr().err


def test_fetch_and_list_a_segmenter(hub, tmp_path, monkeypatch, capsys):
    content = b'weights'
    name = f'maskrcnn-{hashlib.sha256(content).hexdigest()[:8]}.pth'
    hub.files[f'models/{name}'] = content
    monkeypatch.setattr(segmenter_cards, '_url', lambda: f'{hub.address}/models/{name}')
    monkeypatch.setattr('torch.hub.get_dir', lambda: str(tmp_path / 'torch'))
    file = tmp_path / 'torch' / 'checkpoints' / name

    def listed() -> list[str]:
        assert main(['models', 'list']) == 0
        return next(line for line in capsys.readouterr().out.splitlines() if 'torchvision' in line).split()

    assert listed() == ['segmenter', 'no', 'torchvision', 'COCO_V1', 'semanom', 'models', 'fetch', 'torchvision']
    assert main(['models', 'fetch', 'torchvision']) == 0
    assert capsys.readouterr().out == f'segmenter: torchvision\nsegmenter_weights: {file}\n'
    assert file.read_bytes() == content
    assert listed() == ['segmenter', 'yes', 'torchvision', 'COCO_V1', str(file)]

    hub.files[f'models/{name}'] = b'others'
    assert main(['models', 'fetch', 'torchvision', '--directory', str(tmp_path / 'stick')]) == 2
    assert 'cannot be fetched' in capsys.readouterr().err
    assert not list((tmp_path / 'stick').iterdir())
