"""Instance masks of torchvision's Mask R-CNN v2 (Y. Li et al., 2021), trained on COCO."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from semanom_ros.core.embedding import weight_store
from semanom_ros.core.embedding.card import Card
from semanom_ros.core.embedding.registry import SegmenterFamily
from semanom_ros.core.embedding.segmenters.segmenter import Segmenter, inference
from semanom_ros.core.embedding.weight_store import Owner, Published, WebFile, Weights
from semanom_ros.core.frames import Frame, Segments
from semanom_ros.errors import EncoderError, SegmenterError
from semanom_ros.settings import QuerySettings

if TYPE_CHECKING:
    import torch

NAMES = ('torchvision',)
TAG = 'COCO_V1'
OWNER = Owner('segmenter', NAMES[0])
MIN_SCORE = 0.5  # below, torchvision's own examples draw no instance
MASK_LEVEL = 0.5


class MaskRCNN(Segmenter):
    """Mask R-CNN: masks of the 80 COCO things; where two overlap, the surer one has the pixel."""

    name = 'torchvision'

    def __init__(self, max_segments: int, weights: Weights, device: torch.device, min_score: float = MIN_SCORE,
                 image_size: int = 800) -> None:
        """
        Args:
            max_segments: the surest so many are kept.
            weights: a state dict, or random ones.
            device: where to compute.
            min_score: confidence that an instance needs.
            image_size: shorter side that the network sees, pixels.

        Raises:
            SegmenterError: the weights are not those of this network.
        """
        import torch
        from torchvision.models.detection import maskrcnn_resnet50_fpn_v2  # seconds to import

        self.max_segments = max_segments
        self._device = device
        self._categories = _torchvision_weights().meta['categories']
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(weights.seed)
            network = maskrcnn_resnet50_fpn_v2(
                weights=None, weights_backbone=None, box_score_thresh=min_score, box_detections_per_img=max_segments,
                min_size=image_size, max_size=2 * image_size)
        if weights.file is not None:
            weight_store.verify_folder(OWNER, weights.file.parent)
            _load(network, weights.file)
        self._network = network.to(device).eval()

    @inference
    def segment(self, frame: Frame, patches: torch.Tensor) -> Segments:
        import torch

        image = frame.image
        pixels = torch.from_numpy(np.ascontiguousarray(image)).to(self._device).permute(2, 0, 1).float() / 255
        found = self._network([pixels])[0]
        labels = np.zeros(image.shape[:2], np.int32)
        masks = (found['masks'][:, 0] > MASK_LEVEL).cpu().numpy()
        visible = []
        for number, mask in enumerate(masks):  # the surest first
            free = mask & (labels == 0)
            if free.any():
                visible.append(number)
                labels[free] = len(visible)
        names = tuple(self._categories[int(found['labels'][number])] for number in visible)
        return Segments(labels, found['scores'].cpu().numpy()[visible].astype(np.float32), names)


class MaskRCNNFamily:
    """See SegmenterFamily: `torchvision`."""

    needs_masks = False

    def load(self, settings: QuerySettings, device: torch.device) -> Segmenter:
        """See SegmenterFamily.load."""
        return MaskRCNN(settings.max_segments, find(settings.segmenter_weights), device)

    def fetch(self, name: str, weights: str, store: Path) -> str:
        """See SegmenterFamily.fetch."""
        published = _published()
        if weights not in ('', TAG):
            raise OWNER.error(f'no weights {weights!r} are published, expected {TAG}; correct it')
        file, = published.candidates(TAG)
        folder = weight_store.fetch(OWNER, [[file]], store / published.library / published.model / TAG)
        return str(folder / published.file_names[0])

    def cards(self) -> list[Card]:
        """See SegmenterFamily.cards."""
        try:
            note, present = str(find(TAG).file), True
        except SegmenterError:
            note, present = f'semanom models fetch {OWNER.name}', False
        return [Card('segmenter', OWNER.name, TAG, present, note, 'BSD-3-Clause')]


def find(weights: str) -> Weights:
    """The weights that `segmenter_weights` means: see `weight_store.find`.

    Raises:
        SegmenterError: not on this machine.
    """
    return weight_store.find(OWNER, _published(), weights)


class _TorchvisionWeights:
    """What torchvision says of the weights; their address is known without it, which takes seconds to import."""

    url = 'https://download.pytorch.org/models/maskrcnn_resnet50_fpn_v2_coco-73cbd019.pth'

    @property
    def meta(self) -> dict[str, Any]:
        """With their `categories`."""
        from torchvision.models.detection import MaskRCNN_ResNet50_FPN_V2_Weights

        return MaskRCNN_ResNet50_FPN_V2_Weights[TAG].meta


def _torchvision_weights() -> _TorchvisionWeights:
    return _TorchvisionWeights()


def _published() -> Published:
    file = WebFile(_torchvision_weights().url)
    return Published('torchvision', 'maskrcnn_resnet50_fpn_v2', [TAG], TAG, (file.name,), lambda tag: [file])


def _load(network: torch.nn.Module, path: Path) -> None:
    """Loads weights as torchvision publishes them, or as training programs leave them.

    Raises:
        SegmenterError: they are not those of this network.
    """
    from semanom_ros.core.embedding.encoders import checkpoint

    remedy = f'or fetch them once where there is internet: `semanom models fetch {OWNER.name}`'
    try:
        content = checkpoint.read(path)
    except EncoderError as error:
        raise OWNER.error(f'weights file {path} is unreadable: {error}; {remedy}') from error
    try:
        checkpoint.load(network, checkpoint.unwrap(content, network.state_dict()), lambda name: False)
    except EncoderError as error:
        raise OWNER.error(f'{path} holds other weights than those of maskrcnn_resnet50_fpn_v2: {error}; {remedy}'
                          ) from error


FAMILY: SegmenterFamily = MaskRCNNFamily()
