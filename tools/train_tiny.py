"""Trains `semanom-tiny`, the encoder that the package ships.

    python -m tools.train_tiny --output DIR

An open_clip model: XCiT-nano of timm (El-Nouby et al., arXiv 2106.09681: a convolutional
stem and local patch interaction, so that it learns dense features from few pictures, and
attention that is linear in the number of patches) with 16-pixel patches at 352x640, and a
narrow text transformer over CLIP's own vocabulary. It sees drives of `compose.frames`
only, never the towns of evaluated drives, and learns with CLIP's objective, made dense:

- every patch against the captions of the things and surfaces in it ("a person lying on the
  road"), as a softmax over all captions (as in DenseCLIP, arXiv 2112.01518), and against their
  bare names ("a person"). The temperature is fixed and high: a learned one lets the patches of
  a caption spread, and what is usual is then as far from its nearest neighbour as what is not;
- at the end every patch also by its distance from the mean of its captions: a softmax only asks that
  others are farther, and leaves patches of a caption scattered, each far from its nearest neighbour;
- the class token against the captions of the things in the picture;
- the captions against each other: those of what nominal drives show close together, all others
  away from them. A patch at the edge between two usual things is then still among usual ones.
  A real foundation model has not been told what is usual on a road; this one, which has
  nothing but the simulator to learn from, has.

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

from semanom_ros.simulation.drive import HEIGHT, WIDTH, SimulatedFrame
from semanom_ros.simulation.painter import Picture
from tools import scenes as compose

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
SCALE = 12.0  # of the cosines in the softmax
TOGETHER, APART = 0.4, 0.0  # least cosine of two usual captions; most of a usual and another one
MEAN, STD = (0.48, 0.48, 0.48), (0.25, 0.25, 0.25)
WEIGHTS_FILE, CONFIG_FILE = 'open_clip_model.safetensors', 'open_clip_config.json'


@dataclass(frozen=True)
class Settings:
    """What a training run is made of.

    Attributes:
        frames: rendered pictures.
        part_steps: steps on quarters of pictures, which come first: more different things for the same work.
        whole_steps: steps on whole pictures.
        settle_steps: steps on whole pictures, at the end, in which patches are drawn to their captions.
        batch: pictures in a step; four times as many quarters.
        learning_rate: at its highest.
        seed: of everything.
    """

    frames: int = 3200
    part_steps: int = 2300
    whole_steps: int = 700
    settle_steps: int = 1200
    batch: int = 4
    learning_rate: float = 2e-3
    seed: int = 0

    @property
    def steps(self) -> int:
        """All of them."""
        return self.part_steps + self.whole_steps + self.settle_steps


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
    nn.init.constant_(model.logit_scale, math.log(SCALE))
    model.logit_scale.requires_grad_(False)
    return model


def forward(
    model: Any, images: torch.Tensor, corners: npt.NDArray[np.int64] | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Patch embeddings (B, h, w, D) and picture embeddings (B, D), of length 1.

    Args:
        model: of `build_model`.
        images: (B, 3, H, W) in 0..1, whole pictures or parts of them.
        corners: (B, 2) row and column, in patches, where each part lies in its picture, so
            that its patches get their own position embeddings; None: whole pictures.
    """
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in (MEAN, STD))
    trunk = model.visual.trunk
    tokens, (rows, columns) = trunk.patch_embed((images - mean) / std)
    if corners is None:
        positions = trunk.pos_embed(1, rows, columns)
    else:
        whole = trunk.pos_embed(1, INPUT_SIZE[0] // PATCH, INPUT_SIZE[1] // PATCH)
        positions = torch.cat([whole[:, :, r : r + rows, c : c + columns] for r, c in corners.tolist()])
    tokens = tokens + positions.flatten(2).transpose(1, 2)
    for block in trunk.blocks:
        tokens = block(tokens, rows, columns)
    patches = trunk.norm(tokens).unflatten(1, (rows, columns))
    pooled = trunk.norm(trunk.forward_cls(tokens))[:, 0]
    return F.normalize(model.visual.head(patches), dim=-1), F.normalize(model.visual.head(pooled), dim=-1)


class Vocabulary:
    """Captions and bare names as tokens.

    Args:
        captions, names: of equal length.
    """

    def __init__(self, captions: list[str], names: list[str]):
        self._tokenizer = open_clip.SimpleTokenizer(context_length=MODEL['text_cfg']['context_length'])
        self.captions, self.unique = captions, sorted(set(names))
        self.name_of = torch.tensor([self.unique.index(name) for name in names])
        self._usual = torch.tensor([caption in compose.USUAL_CAPTIONS for caption in captions])

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


    def disorder(self, captions: torch.Tensor) -> torch.Tensor:
        """How far caption embeddings (N, D) are from usual ones being close together and others away from them."""
        cosine = captions @ captions.T
        together = F.relu(TOGETHER - cosine[self._usual][:, self._usual]).square().mean()
        return together + F.relu(cosine[self._usual][:, ~self._usual] - APART).square().mean()


# -- training


@dataclass(frozen=True)
class Batch:
    """Augmented pictures, or parts of them.

    Attributes:
        images: (B, 3, h, w) in 0..1.
        cells: (B, h / 16, w / 16, 4) captions of the cells of each patch.
        corners: (B, 2) row and column of each part, in patches; None: whole pictures.
    """

    images: torch.Tensor
    cells: torch.Tensor
    corners: npt.NDArray[np.int64] | None


def batch_of(
    cache: Cache, chosen: npt.NDArray[np.int64], parts: bool, weight: torch.Tensor, rng: np.random.Generator
) -> Batch:
    """Pictures with light, colour, blur, noise and JPEG of their own.

    Args:
        cache: pictures.
        chosen: which.
        parts: a quarter of each, the rather the more there is in it.
        weight: (captions,) what a caption is worth.
        rng: decides.
    """
    pictures, labels, corners = [], [], []
    grid = (INPUT_SIZE[0] // PATCH, INPUT_SIZE[1] // PATCH)
    size = (grid[0] // 2, grid[1] // 2) if parts else grid
    per_patch = PATCH // CELL
    for k in chosen:
        cells = cache.cells[k].reshape(grid[0], per_patch, grid[1], per_patch).transpose(0, 2, 1, 3).reshape(*grid, -1)
        row = column = 0
        if parts:
            options = [
                (int(rng.integers(grid[0] - size[0] + 1)), int(rng.integers(grid[1] - size[1] + 1))) for _ in range(6)
            ]
            worth = [float(weight[cells[r : r + size[0], c : c + size[1]].astype(np.int64)].mean()) for r, c in options]
            row, column = options[int(rng.choice(len(options), p=np.array(worth) / sum(worth)))]
        window = (slice(row * PATCH, (row + size[0]) * PATCH), slice(column * PATCH, (column + size[1]) * PATCH))
        picture = cv2.resize(cache.images[k], (INPUT_SIZE[1], INPUT_SIZE[0]), interpolation=cv2.INTER_AREA)[window]
        pictures.append(_augmented(picture, rng))
        labels.append(cells[row : row + size[0], column : column + size[1]])
        corners.append((row, column))
    images = torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2).contiguous()
    return Batch(images, torch.from_numpy(np.stack(labels).astype(np.int64)), np.array(corners) if parts else None)


def _augmented(picture: Picture, rng: np.random.Generator) -> npt.NDArray[np.float32]:
    """(h, w, 3) in 0..1."""
    if rng.random() < 0.3:
        _, code = cv2.imencode('.jpg', picture, (cv2.IMWRITE_JPEG_QUALITY, int(rng.integers(60, 97))))
        picture = np.asarray(cv2.imdecode(code, cv2.IMREAD_COLOR))
    if rng.random() < 0.2:
        picture = cv2.GaussianBlur(picture, (0, 0), rng.uniform(0.4, 1.0))
    values = picture.astype(np.float32) / 255
    gain = rng.uniform(0.8, 1.2, 3 if rng.random() < 0.3 else 1).astype(np.float32)
    values = values * gain + np.float32(rng.uniform(-0.06, 0.06))
    if rng.random() < 0.3:
        values += rng.standard_normal(values.shape, dtype=np.float32) * np.float32(rng.uniform(0, 0.02))
    return np.clip(values, 0, 1)


def losses(
    model: Any,
    vocabulary: Vocabulary,
    weight: torch.Tensor,
    batch: Batch,
    rng: np.random.Generator,
    settle: bool = False,
) -> tuple[torch.Tensor, float]:
    """The loss, and the share of patches whose nearest caption is among those of their cells.

    Args:
        settle: patches are also drawn to the mean of their captions.
        weight: (captions,) of each caption in the loss, so that rare things count.
        model, vocabulary, batch, rng: what is trained, on what.
    """
    patches, pooled = forward(model, batch.images, batch.corners)
    cells = batch.cells
    captions, names = vocabulary.embed(model, rng)
    flat, target = patches.flatten(0, 2), cells.flatten(0, 2)
    logits = SCALE * flat @ captions.T
    share = torch.zeros_like(logits).scatter_add_(1, target, weight[target])
    importance = share.sum(1) / target.shape[1]
    share = share / share.sum(1, keepdim=True)
    dense = -(share * logits.log_softmax(1)).sum(1)
    by_name = torch.zeros(len(flat), len(names)).index_add_(1, vocabulary.name_of, share)
    named = -(by_name * (SCALE * flat @ names.T).log_softmax(1)).sum(1)
    whole = torch.zeros(len(cells), len(captions)).scatter_add_(1, cells.flatten(1), weight[cells.flatten(1)]).sqrt()
    whole[:, : len(compose.SURFACE_CAPTIONS)] = 0
    whole = whole / whole.sum(1, keepdim=True).clamp(min=1e-6)
    picture = -(whole * (SCALE * pooled @ captions.T).log_softmax(1)).sum(1).mean()
    each = dense + 0.2 * named
    if settle:
        each = each + SCALE * (1 - (flat * F.normalize(share @ captions, dim=-1)).sum(1))
    loss = (importance * each).sum() / importance.sum() + 0.1 * picture
    loss = loss + 10 * vocabulary.disorder(captions)
    right = (logits.argmax(1, keepdim=True) == target).any(1).float().mean()
    return loss, float(right)


def caption_weights(cells: npt.NDArray[np.uint8], count: int) -> torch.Tensor:
    """(captions,) weights: the fourth root of how rare a caption is, at most 4."""
    seen = np.bincount(cells.ravel(), minlength=count).astype(np.float64)
    weights = (seen.max() / np.maximum(seen, 1)) ** 0.25
    return torch.tensor(np.minimum(weights, 4.0), dtype=torch.float32)


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
        parts = step < settings.part_steps
        rng = np.random.default_rng([settings.seed, 77, step])
        count = settings.batch * (4 if parts else 1)
        chosen = np.sort(rng.choice(settings.frames, count, replace=False))
        batch = batch_of(cache, chosen, parts, weight, rng)
        for group in optimizer.param_groups:
            group['lr'] = settings.learning_rate * learning_rate_factor(step, settings)
        model.train()
        settle = step >= settings.part_steps + settings.whole_steps
        loss, right = losses(model, vocabulary, weight, batch, rng, settle)
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
    """Warm-up over a twentieth of the steps, then half a cosine; the same again, at a quarter, to settle."""
    first = settings.part_steps + settings.whole_steps
    if step >= first:
        return 0.25 * _half_cosine(step - first, settings.settle_steps)
    return _half_cosine(step, first)


def _half_cosine(step: int, steps: int) -> float:
    return min(1.0, (step + 1) / max(1, steps // 20)) * (0.5 + 0.5 * math.cos(math.pi * min(1.0, step / steps)))


def save(output: Path, model: Any, vocabulary: Vocabulary) -> None:
    """Writes configuration, weights (fp16) and vocabulary."""
    output.mkdir(parents=True, exist_ok=True)
    state = {name: (t.half() if t.is_floating_point() else t).contiguous() for name, t in model.state_dict().items()}
    save_file(state, output / WEIGHTS_FILE)
    config = {
        'model_cfg': MODEL,
        'preprocess_cfg': {'mean': list(MEAN), 'std': list(STD)},
        'semanom_wants': {'standardizing': False, 'calibration_by_place': False},  # training has shaped its distances
    }
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
        prog='python -m tools.train_tiny', description='Train the shipped encoder semanom-tiny.'
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
    for name in ('frames', 'part_steps', 'whole_steps', 'settle_steps', 'batch', 'seed'):
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
    settings = Settings(a.frames, a.part_steps, a.whole_steps, a.settle_steps, a.batch, a.learning_rate, a.seed)
    train(a.output, a.cache or a.output.with_name(a.output.name + '.cache'), settings)


if __name__ == '__main__':
    main()
