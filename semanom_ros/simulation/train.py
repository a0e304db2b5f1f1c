"""Trains `semanom-tiny`, the encoder that the package ships.

    python -m semanom_ros.simulation.train --output DIR

An open_clip model: XCiT-nano of timm (El-Nouby et al., arXiv 2106.09681: a convolutional
stem and local patch interaction, so that it learns dense features from few pictures, and
attention that is linear in the number of patches) with 16-pixel patches at 352x640, and a
narrow text transformer over CLIP's own vocabulary. It sees drives of `compose.frames`
only, never the towns of evaluated drives, and learns with CLIP's objective, made dense:

- every patch against the captions of the things and surfaces in it ("a person lying on the
  road"), as a softmax over all captions with a learned temperature (as in dense prompting,
  DenseCLIP, arXiv 2112.01518), and against their bare names ("a person");
- the class token against the captions of the things in the picture.

The patches' own space is that of the texts: the projection is a fixed identity, so
distances between patch embeddings are what the captions have shaped.

Everything is seeded. Rendered pictures are kept in the cache folder, and a checkpoint is
written every minute: the same command continues after an interruption.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import open_clip
import torch
import torch.nn.functional as F
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn
from tqdm import tqdm

from semanom_ros.simulation import compose
from semanom_ros.simulation.drive import HEIGHT, WIDTH, SimulatedFrame

INPUT_SIZE = (352, 640)
PATCH = 16
CELL = 8  # source of the labels: cells of 8 input pixels
CELLS = (INPUT_SIZE[0] // CELL, INPUT_SIZE[1] // CELL)
THING_SHARE = 0.3  # a cell belongs to a thing that covers so much of it
TEMPLATES = ('{}', 'a photo of {}', 'a street with {}', '{}, seen from a car')
MODEL: dict[str, Any] = {
    'embed_dim': 128,
    'vision_cfg': {
        'timm_model_name': 'xcit_nano_12_p16_224',
        'timm_model_pretrained': False,
        'timm_pool': '',
        'timm_proj': 'linear',
        'image_size': list(INPUT_SIZE),
    },
    'text_cfg': {'context_length': 20, 'vocab_size': 49408, 'width': 32, 'heads': 2, 'layers': 2},
}
MEAN, STD = (0.48, 0.48, 0.48), (0.25, 0.25, 0.25)
WEIGHTS_FILE, CONFIG_FILE = 'open_clip_model.safetensors', 'open_clip_config.json'


@dataclass(frozen=True)
class Settings:
    """What a training run is made of.

    Attributes:
        frames: rendered pictures.
        coarse_steps: steps at half of the resolution, which come first; of twice as many pictures.
        fine_steps: steps at full resolution.
        batch: pictures in a step.
        learning_rate: at its highest.
        seed: of everything.
    """

    frames: int = 1720
    coarse_steps: int = 500
    fine_steps: int = 600
    batch: int = 4
    learning_rate: float = 2e-3
    seed: int = 0

    @property
    def steps(self) -> int:
        """All of them."""
        return self.coarse_steps + self.fine_steps


# -- pictures


class Cache:
    """Rendered pictures with a caption for each cell, on disk; rendering goes on where it stopped.

    Args:
        folder: where.
        settings: how many, and which.
    """

    def __init__(self, folder: Path, settings: Settings):
        folder.mkdir(parents=True, exist_ok=True)
        self._state = folder / f'seed{settings.seed}.json'
        self._settings = settings
        n = settings.frames
        self.images = _memory_map(folder / f'seed{settings.seed}_images.npy', (n, HEIGHT, WIDTH, 3))
        self.cells = _memory_map(folder / f'seed{settings.seed}_cells.npy', (n, *CELLS))
        state: dict[str, Any] = (
            json.loads(self._state.read_text())
            if self._state.exists()
            else {'done': 0, 'captions': list(compose.SURFACE_CAPTIONS), 'names': []}
        )
        if state.get('frames', n) != n:
            raise SystemExit(
                f'{folder}: found a cache of {state["frames"]} frames, expected {n}; remove it or give another --cache'
            )
        self.captions: list[str] = state['captions']
        self.names: list[str] = state['names'] or [c.removeprefix('the ') for c in self.captions]
        self._done: int = state['done']

    def render(self) -> None:
        """Renders what is missing."""
        cv2.setNumThreads(1)
        start = self._done // 40 * 40  # a town has 40 pictures
        bar = tqdm(total=self._settings.frames, initial=start, desc='render', unit='frame')
        while start < self._settings.frames:
            count = min(40, self._settings.frames - start)
            for k, frame in enumerate(compose.frames(self._settings.seed * 100_003 + start, count)):
                self.images[start + k] = frame.image
                self.cells[start + k] = self._label(frame)
                bar.update()
            start += count
            self._done = start
            temporary = self._state.with_suffix('.new')
            temporary.write_text(
                json.dumps(
                    {'done': start, 'frames': self._settings.frames, 'captions': self.captions, 'names': self.names}
                )
            )
            os.replace(temporary, self._state)
        bar.close()

    def _label(self, frame: SimulatedFrame) -> npt.NDArray[np.uint8]:
        """(rows, columns) index into `captions` for each cell."""
        table: dict[int, int] = {}
        for k, instance in frame.instances.items():
            if instance.caption not in self.captions:
                self.captions.append(instance.caption)
                self.names.append(instance.name)
            table[k] = self.captions.index(instance.caption)
        size = (CELLS[1] * 4, CELLS[0] * 4)  # 16 samples in a cell
        ids = cv2.resize(frame.instance_ids, size, interpolation=cv2.INTER_NEAREST)
        surfaces = cv2.resize(frame.surfaces, size, interpolation=cv2.INTER_NEAREST)
        samples = surfaces.astype(np.int64)
        for k, caption in table.items():
            samples[ids == k] = caption
        blocks = samples.reshape(CELLS[0], 4, CELLS[1], 4).transpose(0, 2, 1, 3).reshape(*CELLS, 16)
        counts = (blocks[..., None] == np.arange(len(self.captions))).sum(axis=2)
        things = counts.copy()
        things[..., : len(compose.SURFACE_CAPTIONS)] = 0
        best_thing = things.argmax(axis=2)
        return np.where(things.max(axis=2) >= THING_SHARE * 16, best_thing, counts.argmax(axis=2)).astype(np.uint8)


def _memory_map(path: Path, shape: tuple[int, ...]) -> npt.NDArray[np.uint8]:
    if path.exists():
        return np.lib.format.open_memmap(path, mode='r+')
    return np.lib.format.open_memmap(path, mode='w+', dtype=np.uint8, shape=shape)


# -- model


def build_model(seed: int) -> Any:
    """The open_clip model with seeded random weights and its projection fixed to the identity."""
    torch.manual_seed(seed)
    model: Any = open_clip.model.CLIP(**{k: (dict(v) if isinstance(v, dict) else v) for k, v in MODEL.items()})
    projection = model.visual.head.proj
    with torch.no_grad():
        projection.weight.copy_(torch.eye(MODEL['embed_dim']))
        # words that the captions do not have mean nothing, rather than something random
        model.token_embedding.weight.zero_()
    projection.weight.requires_grad_(False)
    return model


def forward(model: Any, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Patch embeddings (B, h, w, D) and picture embeddings (B, D), of length 1, of pictures (B, 3, H, W) in 0..1."""
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in (MEAN, STD))
    trunk = model.visual.trunk
    tokens, (patches,) = trunk.forward_intermediates((images - mean) / std, indices=[len(trunk.blocks) - 1], norm=True)
    return F.normalize(model.visual.head(patches.permute(0, 2, 3, 1)), dim=-1), F.normalize(
        model.visual.head(tokens[:, 0]), dim=-1
    )


class Vocabulary:
    """Captions and bare names as tokens.

    Args:
        captions, names: of equal length.
    """

    def __init__(self, captions: list[str], names: list[str]):
        self._tokenizer = open_clip.SimpleTokenizer(context_length=MODEL['text_cfg']['context_length'])
        self.captions, self.unique = captions, sorted(set(names))
        self.name_of = torch.tensor([self.unique.index(name) for name in names])

    def tokens(self) -> torch.Tensor:
        """Tokens of every wording, (N, context)."""
        texts = [t.format(c) for t in TEMPLATES for c in self.captions]
        return self._tokenizer(texts + [f'a photo of a the {name}' for name in self.unique])

    def embed(self, model: Any, rng: np.random.Generator) -> tuple[torch.Tensor, torch.Tensor]:
        """(captions, D) and (unique names, D), of length 1, each in a random wording."""
        texts = [TEMPLATES[rng.integers(len(TEMPLATES))].format(c) for c in self.captions]
        texts += [str(rng.choice(('{}', 'a {}', 'the {}', 'a photo of a {}'))).format(name) for name in self.unique]
        embedded = F.normalize(model.encode_text(self._tokenizer(texts)), dim=-1)
        return embedded[: len(self.captions)], embedded[len(self.captions) :]


# -- training


def batch_of(
    cache: Cache, chosen: npt.NDArray[np.int64], coarse: bool, rng: np.random.Generator
) -> tuple[torch.Tensor, torch.Tensor]:
    """Augmented pictures (B, 3, h, w) in 0..1 and the captions (B, h / 16, w / 16, n) of the cells of each patch.

    A common crop at the cells' borders, then light, colour, blur, noise and JPEG of its own for each picture.
    """
    rows, columns = CELLS
    size = (INPUT_SIZE[0] // 2, INPUT_SIZE[1] // 2) if coarse else INPUT_SIZE
    zoom = rng.uniform(0.8, 1) if rng.random() < 0.4 else 1.0
    h, w = round(rows * zoom), round(columns * zoom)
    top, left = int(rng.integers(rows - h + 1)), int(rng.integers(columns - w + 1))
    pictures = []
    for k in chosen:
        picture = cv2.resize(cache.images[k], (INPUT_SIZE[1], INPUT_SIZE[0]), interpolation=cv2.INTER_AREA)
        if rng.random() < 0.3:
            _, code = cv2.imencode('.jpg', picture, (cv2.IMWRITE_JPEG_QUALITY, int(rng.integers(60, 97))))
            picture = cv2.imdecode(code, cv2.IMREAD_COLOR)
        picture = picture[top * CELL : (top + h) * CELL, left * CELL : (left + w) * CELL]
        if picture.shape[:2] != size:
            picture = cv2.resize(picture, size[::-1], interpolation=cv2.INTER_AREA)
        if rng.random() < 0.2:
            picture = cv2.GaussianBlur(picture, (0, 0), rng.uniform(0.4, 1.0))
        values = picture.astype(np.float32) / 255
        values = values * rng.uniform(0.8, 1.2, 3 if rng.random() < 0.3 else 1).astype(np.float32) + np.float32(
            rng.uniform(-0.06, 0.06)
        )
        if rng.random() < 0.3:
            values += rng.standard_normal(values.shape, dtype=np.float32) * np.float32(rng.uniform(0, 0.02))
        pictures.append(np.clip(values, 0, 1))
    cells = torch.from_numpy(cache.cells[chosen][:, top : top + h, left : left + w].astype(np.float32))[:, None]
    per_patch = PATCH // CELL * (2 if coarse else 1)
    grid = (size[0] // PATCH, size[1] // PATCH)
    cells = F.interpolate(cells, (grid[0] * per_patch, grid[1] * per_patch), mode='nearest')[:, 0].long()
    b = len(chosen)
    cells = cells.view(b, grid[0], per_patch, grid[1], per_patch).permute(0, 1, 3, 2, 4).reshape(b, *grid, -1)
    return torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2).contiguous(), cells


def losses(
    model: Any,
    vocabulary: Vocabulary,
    weight: torch.Tensor,
    images: torch.Tensor,
    cells: torch.Tensor,
    rng: np.random.Generator,
) -> tuple[torch.Tensor, float]:
    """The loss, and the share of patches whose nearest caption is among those of their cells.

    Args:
        weight: (captions,) of each caption in the loss, so that rare things count.
        model, vocabulary, images, cells, rng: what is trained, on what.
    """
    patches, pooled = forward(model, images)
    captions, names = vocabulary.embed(model, rng)
    scale = model.logit_scale.exp().clamp(max=100)
    flat, target = patches.flatten(0, 2), cells.flatten(0, 2)
    logits = scale * flat @ captions.T
    share = torch.zeros_like(logits).scatter_add_(1, target, weight[target])
    importance = share.sum(1) / target.shape[1]
    share = share / share.sum(1, keepdim=True)
    dense = -(share * logits.log_softmax(1)).sum(1)
    by_name = torch.zeros(len(flat), len(names)).index_add_(1, vocabulary.name_of, share)
    named = -(by_name * (scale * flat @ names.T).log_softmax(1)).sum(1)
    whole = torch.zeros(len(images), len(captions)).scatter_add_(1, cells.flatten(1), weight[cells.flatten(1)]).sqrt()
    whole[:, : len(compose.SURFACE_CAPTIONS)] = 0
    whole = whole / whole.sum(1, keepdim=True).clamp(min=1e-6)
    picture = -(whole * (scale * pooled @ captions.T).log_softmax(1)).sum(1).mean()
    loss = (importance * (dense + 0.4 * named)).sum() / importance.sum() + 0.1 * picture
    right = (logits.argmax(1, keepdim=True) == target).any(1).float().mean()
    return loss, float(right)


def caption_weights(cells: npt.NDArray[np.uint8], count: int) -> torch.Tensor:
    """(captions,) weights: the fourth root of how rare a caption is, at most 6."""
    seen = np.bincount(cells.ravel(), minlength=count).astype(np.float64)
    weights = (seen.max() / np.maximum(seen, 1)) ** 0.25
    return torch.tensor(np.minimum(weights, 6.0), dtype=torch.float32)


def train(output: Path, cache_folder: Path, settings: Settings) -> None:
    """Renders, trains and writes a folder that open_clip loads as `local-dir:`.

    Args:
        output: folder to be made or overwritten.
        cache_folder: for pictures and the checkpoint.
        settings: how long, on what.
    """
    cache = Cache(cache_folder, settings)
    cache.render()
    vocabulary = Vocabulary(cache.captions, cache.names)
    model = build_model(settings.seed)
    with torch.no_grad():  # the words of the captions get an embedding to begin with
        words = torch.unique(vocabulary.tokens())
        model.token_embedding.weight[words] = 0.02 * torch.randn(len(words), model.token_embedding.weight.shape[1])
    decayed = [p for n, p in model.named_parameters() if p.requires_grad and p.ndim > 1 and 'embedding' not in n]
    plain = [p for n, p in model.named_parameters() if p.requires_grad and not (p.ndim > 1 and 'embedding' not in n)]
    optimizer = torch.optim.AdamW(
        [{'params': decayed, 'weight_decay': 0.05}, {'params': plain, 'weight_decay': 0.0}], lr=settings.learning_rate
    )
    weight = caption_weights(cache.cells[::4], len(cache.captions))
    checkpoint = cache_folder / f'checkpoint_seed{settings.seed}.safetensors'
    step = _resume(checkpoint, model, optimizer, settings)
    bar = tqdm(total=settings.steps, initial=step, desc='train', unit='step')
    saved = time.monotonic()
    averages: dict[str, float] = {}
    while step < settings.steps:
        coarse = step < settings.coarse_steps
        rng = np.random.default_rng([settings.seed, 77, step])
        batch = settings.batch * (2 if coarse else 1)
        images, cells = batch_of(cache, np.sort(rng.choice(settings.frames, batch, replace=False)), coarse, rng)
        for group in optimizer.param_groups:
            group['lr'] = settings.learning_rate * learning_rate_factor(step, settings)
        model.train()
        loss, right = losses(model, vocabulary, weight, images, cells, rng)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        step += 1
        for name, value in (('loss', float(loss)), ('right', right)):
            averages[name] = value if name not in averages else 0.97 * averages[name] + 0.03 * value
        bar.set_postfix({k: f'{v:.3f}' for k, v in averages.items()}, refresh=False)
        bar.update()
        if time.monotonic() - saved > 60:
            _save_checkpoint(checkpoint, model, optimizer, step)
            saved = time.monotonic()
    bar.close()
    save(output, model, vocabulary)


def learning_rate_factor(step: int, settings: Settings) -> float:
    """Warm-up over a twentieth of the steps, then half a cosine."""
    warm = max(1, settings.steps // 20)
    return min(1.0, (step + 1) / warm) * (0.5 + 0.5 * math.cos(math.pi * min(1.0, step / settings.steps)))


def save(output: Path, model: Any, vocabulary: Vocabulary) -> None:
    """Writes configuration, weights (fp16) and vocabulary."""
    output.mkdir(parents=True, exist_ok=True)
    state = {name: (t.half() if t.is_floating_point() else t).contiguous() for name, t in model.state_dict().items()}
    save_file(state, output / WEIGHTS_FILE)
    config = {'model_cfg': MODEL, 'preprocess_cfg': {'mean': list(MEAN), 'std': list(STD)}}
    (output / CONFIG_FILE).write_text(json.dumps(config, indent=2) + '\n')
    (output / 'captions.txt').write_text('\n'.join(sorted(c for c in vocabulary.captions if c)) + '\n')


def _save_checkpoint(path: Path, model: Any, optimizer: torch.optim.Optimizer, step: int) -> None:
    tensors = {f'model.{name}': tensor for name, tensor in model.state_dict().items()}
    for k, state in optimizer.state_dict()['state'].items():
        tensors.update({f'optimizer.{k}.{name}': value for name, value in state.items()})
    temporary = path.with_suffix('.new')
    save_file({name: t.contiguous() for name, t in tensors.items()}, temporary, {'step': str(step)})
    os.replace(temporary, path)


def _resume(path: Path, model: Any, optimizer: torch.optim.Optimizer, settings: Settings) -> int:
    """Loads a checkpoint where there is one; returns the steps that are done."""
    if not path.exists():
        return 0
    with safe_open(path, 'pt') as opened:
        step = int(opened.metadata()['step'])
    tensors = load_file(path)
    model.load_state_dict({n.removeprefix('model.'): t for n, t in tensors.items() if n.startswith('model.')})
    content = optimizer.state_dict()
    states: dict[int, dict[str, torch.Tensor]] = {}
    for name, tensor in tensors.items():
        if name.startswith('optimizer.'):
            _, k, field = name.split('.')
            states.setdefault(int(k), {})[field] = tensor
    content['state'] = states
    optimizer.load_state_dict(content)
    return min(step, settings.steps)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog='python -m semanom_ros.simulation.train', description='Train the shipped encoder semanom-tiny.'
    )
    parser.add_argument(
        '--output', type=Path, required=True, metavar='DIR', help='folder for the configuration and the weights'
    )
    parser.add_argument(
        '--cache',
        type=Path,
        metavar='DIR',
        help='rendered pictures (0.7 MB each) and the checkpoint (default: OUTPUT.cache)',
    )
    defaults = Settings()
    for name in ('frames', 'coarse_steps', 'fine_steps', 'batch', 'seed'):
        parser.add_argument(
            '--' + name.replace('_', '-'),
            type=int,
            default=getattr(defaults, name),
            metavar='N',
            help='default %(default)s',
        )
    parser.add_argument(
        '--learning-rate', type=float, default=defaults.learning_rate, metavar='X', help='default %(default)s'
    )
    parser.add_argument('--threads', type=int, default=2, metavar='N', help='default %(default)s')
    a = parser.parse_args()
    torch.set_num_threads(a.threads)
    settings = Settings(a.frames, a.coarse_steps, a.fine_steps, a.batch, a.learning_rate, a.seed)
    train(a.output, a.cache or a.output.with_name(a.output.name + '.cache'), settings)


if __name__ == '__main__':
    main()
