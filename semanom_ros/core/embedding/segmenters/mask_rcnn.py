"""Instance masks of torchvision's Mask R-CNN v2 (Y. Li et al., 2021), trained on COCO."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import torch
from torchvision.models.detection import MaskRCNN_ResNet50_FPN_V2_Weights, maskrcnn_resnet50_fpn_v2

from semanom_ros.core.embedding.segmenters.segmenter import Segmenter
from semanom_ros.core.frames import Frame, Segments
from semanom_ros.errors import SegmenterError

MIN_SCORE = 0.5  # below, torchvision's own examples draw no instance
MASK_LEVEL = 0.5


class MaskRCNN(Segmenter):
    """Mask R-CNN: masks of the 80 COCO things; where two overlap, the surer one has the pixel."""

    name = 'torchvision'

    def __init__(self, max_segments: int, weights: str, device: torch.device, min_score: float = MIN_SCORE,
                 image_size: int = 800) -> None:
        """
        Args:
            max_segments: the surest so many are kept.
            weights: file with the state dict (.pth, .pt), `random:SEED`, or '' for what torchvision has downloaded.
            device: where to compute.
            min_score: confidence that an instance needs.
            image_size: shorter side that the network sees, pixels.

        Raises:
            SegmenterError: no weights, or not those of this network.
        """
        self.max_segments = max_segments
        self._device = device
        self._categories = MaskRCNN_ResNet50_FPN_V2_Weights.COCO_V1.meta['categories']
        if weights.startswith('random:'):
            torch.manual_seed(int(weights.partition(':')[2] or 0))
        network = maskrcnn_resnet50_fpn_v2(
            weights=None, weights_backbone=None, box_score_thresh=min_score, box_detections_per_img=max_segments,
            min_size=image_size, max_size=2 * image_size)
        if not weights.startswith('random:'):
            network.load_state_dict(_state(weights))
        self._network = network.to(device).eval()

    @torch.inference_mode()
    def segment(self, frame: Frame, patches: torch.Tensor) -> Segments:
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


def _state(weights: str) -> dict[str, torch.Tensor]:
    published = MaskRCNN_ResNet50_FPN_V2_Weights.COCO_V1
    path = Path(weights) if weights else Path(torch.hub.get_dir()) / 'checkpoints' / Path(published.url).name
    remedy = ('fetch them once where there is internet: `semanom models fetch torchvision`, or give '
              f'segmenter_weights a copy of {published.url}')
    if not path.is_file():
        raise SegmenterError(f'segmenter torchvision: {path} found no weights, expected a file; {remedy}')
    try:
        state = torch.load(path, map_location='cpu', weights_only=True)
    except (RuntimeError, EOFError, pickle.UnpicklingError) as error:
        raise SegmenterError(f'segmenter torchvision: {path} is unreadable '
                             f'({str(error).splitlines()[0]}); {remedy}') from error
    if not isinstance(state, dict) or 'roi_heads.mask_predictor.mask_fcn_logits.weight' not in state:
        raise SegmenterError(f'segmenter torchvision: {path} holds other weights, expected those of '
                             f'maskrcnn_resnet50_fpn_v2; {remedy}')
    return state
