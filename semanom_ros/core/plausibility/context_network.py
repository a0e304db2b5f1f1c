"""A small convolutional network that judges each patch by all that surrounds it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import nn

Floats = npt.NDArray[np.float32]

HIDDEN = 24  # channels
DILATIONS = 1, 2, 4, 8  # one residual block each: together they see 31 patches
DROPOUT = 0.3  # of input channels, while training
EPOCHS, BATCH = 6, 8
LEARNING_RATE, WEIGHT_DECAY = 3e-3, 0.05


@dataclass(frozen=True)
class Lesson:
    """What a composite teaches.

    Attributes:
        relative: (rows, columns) distance to the nominal database over what is usual there.
        projected: (rows, columns, C) projected embeddings, of any float type.
        implausible: (rows, columns) whether a patch does not belong there.
        weight: (rows, columns) 0 to 1, how much that counts.
    """

    relative: Floats
    projected: npt.NDArray[np.floating]
    implausible: npt.NDArray[np.bool_]
    weight: Floats


class _Block(nn.Module):
    def __init__(self, dilation: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(8, HIDDEN)
        self.wide = nn.Conv2d(HIDDEN, HIDDEN, 3, padding=dilation, dilation=dilation, padding_mode='replicate')
        self.narrow = nn.Conv2d(HIDDEN, HIDDEN, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.narrow(F.gelu(self.wide(self.norm(x))))


class ContextNetwork(nn.Module):
    """Log odds that patches are implausible, from a residual network of dilated convolutions.

    F. Yu and V. Koltun, "Multi-scale context aggregation by dilated convolutions", ICLR 2016.

    Args:
        components: of the projected embeddings.
    """

    def __init__(self, components: int) -> None:
        super().__init__()
        self.components = components
        self.dropout = nn.Dropout2d(DROPOUT)
        self.first = nn.Conv2d(components + 3, HIDDEN, 1)
        self.blocks = nn.Sequential(*(_Block(dilation) for dilation in DILATIONS))
        self.last = nn.Conv2d(HIDDEN, 1, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, rows, columns) log odds of (B, components + 3, rows, columns), see `look`."""
        return self.last(F.gelu(self.blocks(self.first(self.dropout(x)))))[:, 0]

    @staticmethod
    def look(relative: Floats, projected: npt.NDArray[np.floating]) -> torch.Tensor:
        """(C + 3, rows, columns): embeddings (rows, columns, C) at unit variance, distance, height, way off centre."""
        rows, columns, components = projected.shape
        embeddings = torch.from_numpy(np.asarray(projected, np.float32)).permute(2, 0, 1) * components ** 0.5
        height = torch.linspace(-1, 1, rows)[:, None].expand(rows, columns)
        off = torch.linspace(-1, 1, columns).abs()[None, :].expand(rows, columns)
        return torch.cat([embeddings, torch.stack([torch.from_numpy(np.log1p(relative)), height, off])])

    @torch.inference_mode()
    def log_odds(self, relative: Floats, projected: Floats) -> Floats:
        """(rows, columns) of one picture."""
        return self(self.look(relative, projected)[None])[0].numpy()

    @classmethod
    def fit(cls, lessons: Sequence[Lesson], device: torch.device, seed: int = 0) -> ContextNetwork:
        """Learns from lessons of one size; the network comes back on the CPU, ready to be asked."""
        with torch.random.fork_rng(devices=[device] if device.type == 'cuda' else []):
            torch.manual_seed(seed)
            network = cls(lessons[0].projected.shape[-1]).to(device)
            network._learn(lessons, device)
        return network.cpu().eval()

    def _learn(self, lessons: Sequence[Lesson], device: torch.device) -> None:
        optimizer = torch.optim.AdamW(self.parameters(), LEARNING_RATE, weight_decay=WEIGHT_DECAY)
        steps = EPOCHS * -(-len(lessons) // BATCH)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, LEARNING_RATE, total_steps=steps)
        for _ in range(EPOCHS):
            for batch in torch.randperm(len(lessons)).split(BATCH):
                some = [lessons[int(i)] for i in batch]
                x = torch.stack([self.look(one.relative, one.projected) for one in some]).to(device)
                truth, weight = (torch.from_numpy(np.stack(maps).astype(np.float32)).to(device)
                                 for maps in zip(*((one.implausible, one.weight) for one in some), strict=True))
                if torch.rand(()) < 0.5:
                    x, truth, weight = x.flip(-1), truth.flip(-1), weight.flip(-1)
                loss = F.binary_cross_entropy_with_logits(self(x), truth, weight, reduction='sum')
                optimizer.zero_grad()
                (loss / weight.sum().clamp(min=1)).backward()
                optimizer.step()
                schedule.step()

    def arrays(self) -> dict[str, npt.NDArray]:
        """Its weights, see `from_arrays`."""
        return {name: value.numpy() for name, value in self.state_dict().items()}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, npt.NDArray]) -> ContextNetwork:
        """Raises KeyError or RuntimeError where arrays are missing or of another shape."""
        network = cls(arrays['first.weight'].shape[1] - 3)
        network.load_state_dict({name: torch.from_numpy(np.array(value)) for name, value in arrays.items()})
        return network.eval()
