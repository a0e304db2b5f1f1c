"""Segment Anything and OWLv2, through Hugging Face transformers.

`sam` (A. Kirillov et al., ICCV 2023) and `sam2` (N. Ravi et al., arXiv 2408.00714) find masks of
everything, from a grid of points. `owlv2+sam2` is what the paper does: OWLv2 (M. Minderer et al.,
NeurIPS 2023) finds boxes for text prompts, SAM 2 turns each into a mask.

Weights are folders in the form of `save_pretrained`, or what the hub's own cache holds; nothing
is downloaded here.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from semanom_ros.core.embedding.segmenters.segmenter import Segmenter
from semanom_ros.core.frames import Frame, Segments
from semanom_ros.errors import ParameterError, SegmenterError

REPOSITORIES = {
    'owlv2+sam2': ('google/owlv2-base-patch16-ensemble', 'facebook/sam2.1-hiera-tiny'),
    'sam2': ('facebook/sam2.1-hiera-tiny',),
    'sam': ('facebook/sam-vit-base',)}
"""On the Hugging Face hub, for each segmenter, where no weights are named."""

PROMPTS = Path(__file__).with_name('prompts.txt')
EXTRA = "pip install 'semanom_ros[segmentation]'"
_BOX_SCORE = 0.2  # OWLv2's own example draws boxes from 0.1 on; below 0.2 most are double
_BOX_OVERLAP = 0.7  # of two boxes of the same thing
_POINTS_ACROSS = 16  # of the grid of points; SAM's own 32 takes four times as long
_BATCH = 64  # points that are looked at together


class AnySegmenter(Segmenter):
    """Masks of everything: a grid of points, masks that are sure and stable, duplicates removed.

    transformers' own mask-generation pipeline, with SAM's thresholds.
    """

    def __init__(self, name: str, max_segments: int, weights: str, device: torch.device, points: int = _POINTS_ACROSS,
                 least_score: float = 0.88, least_stability: float = 0.95) -> None:
        """
        Args:
            name: `sam` or `sam2`.
            max_segments: the surest so many are kept.
            weights: folder, or name on the hub whose files are in its cache; '': of REPOSITORIES.
            device: where to compute.
            points: of the grid, across and down.
            least_score: predicted overlap with the true mask that a mask needs.
            least_stability: overlap of the mask with itself at other thresholds.

        Raises:
            SegmenterError: transformers or the weights are missing or unusable.
        """
        transformers = _transformers()
        self.name, self.max_segments = name, max_segments
        path = _weights(name, weights)[0]
        kind = transformers.SamModel if name == 'sam' else transformers.Sam2Model
        model = _load(name, kind, path)
        processor = _load(name, transformers.AutoImageProcessor, path)
        self._generate: Any = transformers.pipeline(
            'mask-generation', model=model.to(device).eval(), image_processor=processor, device=device)
        self._settings = {'points_per_batch': _BATCH, 'points_per_crop': points, 'pred_iou_thresh': least_score,
                          'stability_score_thresh': least_stability}

    @torch.inference_mode()
    def segment(self, frame: Frame, patches: torch.Tensor) -> Segments:
        from PIL import Image  # transformers needs it

        found = self._generate(Image.fromarray(frame.image), **self._settings)
        masks = [np.asarray(mask, bool) for mask in found['masks']]
        scores = np.asarray(torch.as_tensor(found['scores']).float().cpu(), np.float32).reshape(-1)
        return layered(masks, scores, ('',) * len(masks), frame.image.shape[:2], self.max_segments)


class PromptedSegmenter(Segmenter):
    """OWLv2's boxes for text prompts, and SAM 2's mask of each."""

    name = 'owlv2+sam2'

    def __init__(self, max_segments: int, weights: str, device: torch.device, prompts: Path,
                 least_score: float = _BOX_SCORE) -> None:
        """
        Args:
            max_segments: the surest so many are kept.
            weights: OWLv2's and SAM 2's, with a comma between, each a folder or a name on the hub whose files are in
                its cache; '': of REPOSITORIES.
            device: where to compute.
            prompts: text file, one a line.
            least_score: confidence that a box needs.

        Raises:
            SegmenterError: transformers or the weights are missing or unusable.
            ParameterError: the file holds no prompt.
        """
        transformers = _transformers()
        self.max_segments = max_segments
        self._device, self._least_score = device, least_score
        self._prompts = read_prompts(prompts)
        boxes, masks = _weights(self.name, weights)
        self._owl = _load(self.name, transformers.Owlv2ForObjectDetection, boxes).to(device).eval()
        self._owl_processor = _load(self.name, transformers.Owlv2Processor, boxes)
        self._sam = _load(self.name, transformers.Sam2Model, masks).to(device).eval()
        self._sam_processor = _load(self.name, transformers.Sam2Processor, masks)

    @torch.inference_mode()
    def segment(self, frame: Frame, patches: torch.Tensor) -> Segments:
        size = frame.image.shape[0], frame.image.shape[1]
        boxes, scores, numbers = self._boxes(frame.image)
        names = tuple(self._prompts[int(number)] for number in numbers)
        if not len(boxes):
            return layered([], scores, (), size, self.max_segments)
        given = self._sam_processor(images=frame.image, input_boxes=[boxes.tolist()], return_tensors='pt')
        sizes = given.pop('original_sizes')
        found = self._sam(**given.to(self._device), multimask_output=False)
        masks = self._sam_processor.post_process_masks(found.pred_masks.cpu(), sizes)[0]
        return layered([np.asarray(mask[0], bool) for mask in masks], scores, names, size, self.max_segments)

    @torch.inference_mode()
    def _boxes(self, image: npt.NDArray[np.uint8]
               ) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32], npt.NDArray[np.int64]]:
        """Boxes (N, 4) as corners (x, y, x, y) in pixels, scores (N,) and numbers of prompts (N,), the surest first."""
        from torchvision.ops import nms

        given = self._owl_processor(
            images=image, text=[[f'a photo of {prompt}' for prompt in self._prompts]], padding='max_length',
            truncation=True, max_length=self._owl.config.text_config.max_position_embeddings,
            return_tensors='pt').to(self._device)
        found = self._owl_processor.post_process_grounded_object_detection(
            self._owl(**given), threshold=self._least_score, target_sizes=torch.tensor([image.shape[:2]]))[0]
        height, width = image.shape[:2]
        limits = torch.tensor([width, height, width, height], device=found['boxes'].device)
        boxes = torch.minimum(found['boxes'].clamp(min=0), limits)
        kept = nms(boxes, found['scores'], _BOX_OVERLAP)[:self.max_segments].cpu()
        return (boxes.cpu()[kept].numpy().astype(np.float32), found['scores'].cpu()[kept].numpy().astype(np.float32),
                found['labels'].cpu()[kept].numpy())


def layered(masks: list[npt.NDArray[np.bool_]], scores: npt.NDArray[np.float32], names: tuple[str, ...],
            size: tuple[int, ...], limit: int) -> Segments:
    """Segments of masks that may overlap: where they do, the smallest has the pixel, as the part of a whole.

    Args:
        masks: N masks (H, W).
        scores: (N,) confidence.
        names: of each.
        size: (H, W).
        limit: the surest so many are kept.
    """
    surest = np.argsort(-scores, kind='stable')[:limit]
    labels = np.zeros(size, np.int32)
    for number in sorted(surest, key=lambda number: -int(masks[number].sum())):
        labels[masks[number]] = number + 1
    visible = np.unique(labels[labels > 0]) - 1  # one may lie wholly under others
    visible = visible[np.argsort(-scores[visible], kind='stable')]
    place = np.zeros(len(masks) + 1, np.int32)
    place[visible + 1] = np.arange(1, len(visible) + 1)
    return Segments(place[labels], np.clip(scores[visible], 0, 1).astype(np.float32),
                    tuple(names[number] for number in visible))


def read_prompts(path: Path) -> list[str]:
    """Prompts of a text file, one a line; `#` starts a comment.

    Raises:
        ParameterError: unreadable, or without a prompt.
    """
    try:
        lines = path.read_text().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ParameterError(f'parameter segmenter_prompts: {path} is unreadable ({error}); give a text file with one '
                             'prompt a line') from error
    prompts = [prompt for line in lines if (prompt := line.split('#')[0].strip())]
    if not prompts:
        raise ParameterError(f'parameter segmenter_prompts: {path} holds no prompt; give one a line')
    return prompts


def _transformers() -> Any:
    try:
        import transformers
    except ImportError as error:
        raise SegmenterError(f'segmenter: found no module {error.name}, expected Hugging Face transformers; '
                             f'{EXTRA}') from error
    transformers.logging.disable_progress_bar()  # it writes into the node's log
    return transformers


def _weights(name: str, weights: str) -> list[str]:
    """Folder or name on the hub of each model of a segmenter.

    Raises:
        SegmenterError: more or fewer than it has are named.
    """
    wanted = REPOSITORIES[name]
    found = [part.strip() for part in weights.split(',')] if weights else list(wanted)
    if len(found) != len(wanted) or not all(found):
        raise SegmenterError(f'segmenter {name}: segmenter_weights found {weights!r}, expected {len(wanted)} folders '
                             f'with a comma between, of {" and ".join(wanted)}; correct it')
    return [str(Path(part).expanduser()) if part.startswith(('~', '.', '/')) else part for part in found]


def _load(name: str, kind: Any, path: str) -> Any:
    """A model or processor from what is on this machine.

    Raises:
        SegmenterError: it is not there, or unusable.
    """
    arguments = {'use_safetensors': True} if hasattr(kind, 'main_input_name') else {}
    with _one_line(name, path):
        return kind.from_pretrained(path, local_files_only=True, **arguments)


@contextmanager
def _one_line(name: str, path: str) -> Iterator[None]:
    try:
        yield
    except (OSError, ValueError, KeyError, TypeError, RuntimeError) as error:  # whatever a wrong folder makes it throw
        first = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise SegmenterError(f'segmenter {name}: {path} cannot be loaded from this machine ({first}); fetch it once '
                             f'where there is internet: `semanom models fetch {name}`, and name the folders in '
                             'segmenter_weights') from error
