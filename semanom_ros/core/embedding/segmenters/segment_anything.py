"""Segment Anything and OWLv2, through Hugging Face transformers.

`sam` (A. Kirillov et al., ICCV 2023) and `sam2` (N. Ravi et al., arXiv 2408.00714) find masks of
everything, from a grid of points. `owlv2+sam2` is what the paper does: OWLv2 (M. Minderer et al.,
NeurIPS 2023) finds boxes for text prompts, SAM 2 turns each into a mask.

Weights are folders in the form of `save_pretrained`, or repositories of the hub that were fetched.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from semanom_ros.core.embedding import weight_store
from semanom_ros.core.embedding.card import Card
from semanom_ros.core.embedding.registry import SegmenterFamily
from semanom_ros.core.embedding.segmenters.segmenter import Segmenter, inference
from semanom_ros.core.embedding.weight_store import LOCAL_FOLDER, Owner, reason
from semanom_ros.core.frames import Frame, Segments
from semanom_ros.errors import SegmenterError
from semanom_ros.home import expanded
from semanom_ros.settings import QuerySettings
from semanom_ros.small_files import read_phrases

if TYPE_CHECKING:
    import torch

NAMES = ('owlv2+sam2', 'sam2', 'sam')
LIBRARY = 'transformers'
REPOSITORIES = {
    'owlv2+sam2': ('google/owlv2-base-patch16-ensemble', 'facebook/sam2.1-hiera-tiny'),
    'sam2': ('facebook/sam2.1-hiera-tiny',),
    'sam': ('facebook/sam-vit-base',)}
"""On the Hugging Face hub, for each segmenter, where no weights are named."""

PROMPTS = Path(__file__).with_name('prompts.txt')
LICENCE = 'Apache-2.0'
"""Of all their weights."""

FILES = ('*.json', '*.safetensors', '*.txt')
"""Of a repository: what loading needs."""

EXTRA = "pip install 'semanom_ros[segmentation]'"
_BOX_SCORE = 0.2  # OWLv2's own example draws boxes from 0.1 on; below 0.2 most are double
_BOX_OVERLAP = 0.7  # of two boxes of the same thing
_POINTS_ACROSS = 16  # of the grid of points; SAM's own 32 takes four times as long
_BATCH = 64  # points that are looked at together


class AnySegmenter(Segmenter):
    """Masks of everything: a grid of points, masks that are sure and stable, duplicates removed.

    transformers' own mask-generation pipeline, with SAM's thresholds.
    """

    def __init__(self, name: str, max_segments: int, weights: Path, device: torch.device, points: int = _POINTS_ACROSS,
                 least_score: float = 0.88, least_stability: float = 0.95) -> None:
        """
        Args:
            name: `sam` or `sam2`.
            max_segments: the surest so many are kept.
            weights: folder in the form of `save_pretrained`.
            device: where to compute.
            points: of the grid, across and down.
            least_score: predicted overlap with the true mask that a mask needs.
            least_stability: overlap of the mask with itself at other thresholds.

        Raises:
            SegmenterError: transformers or the weights are missing or unusable.
        """
        transformers = _transformers()
        self.name, self.max_segments = name, max_segments
        kind = transformers.SamModel if name == 'sam' else transformers.Sam2Model
        model = _load(name, kind, weights)
        processor = _load(name, transformers.AutoImageProcessor, weights)
        self._generate: Any = transformers.pipeline(
            'mask-generation', model=model.to(device).eval(), image_processor=processor, device=device)
        self._settings = {'points_per_batch': _BATCH, 'points_per_crop': points, 'pred_iou_thresh': least_score,
                          'stability_score_thresh': least_stability}

    @inference
    def segment(self, frame: Frame, patches: torch.Tensor) -> Segments:
        from PIL import Image  # transformers needs it

        found = self._generate(Image.fromarray(frame.image), **self._settings)
        masks = [np.asarray(mask, bool) for mask in found['masks']]
        import torch

        scores = np.asarray(torch.as_tensor(found['scores']).float().cpu(), np.float32).reshape(-1)
        return layered(masks, scores, ('',) * len(masks), frame.image.shape[:2], self.max_segments)


class PromptedSegmenter(Segmenter):
    """OWLv2's boxes for text prompts, and SAM 2's mask of each."""

    name = 'owlv2+sam2'

    def __init__(self, max_segments: int, boxes: Path, masks: Path, device: torch.device, prompts: Path,
                 least_score: float = _BOX_SCORE) -> None:
        """
        Args:
            max_segments: the surest so many are kept.
            boxes, masks: folders of OWLv2 and SAM 2 in the form of `save_pretrained`.
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
        self._prompts = read_phrases(prompts, 'segmenter_prompts', 'prompt')
        self._owl = _load(self.name, transformers.Owlv2ForObjectDetection, boxes).to(device).eval()
        self._owl_processor = _load(self.name, transformers.Owlv2Processor, boxes)
        self._sam = _load(self.name, transformers.Sam2Model, masks).to(device).eval()
        self._sam_processor = _load(self.name, transformers.Sam2Processor, masks)

    @inference
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

    @inference
    def _boxes(self, image: npt.NDArray[np.uint8]
               ) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32], npt.NDArray[np.int64]]:
        """Boxes (N, 4) as corners (x, y, x, y) in pixels, scores (N,) and numbers of prompts (N,), the surest first."""
        import torch
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


def _transformers() -> Any:
    try:
        import transformers
    except ImportError as error:
        raise SegmenterError(f'segmenter: found no module {error.name}, expected Hugging Face transformers; '
                             f'{EXTRA}') from error
    transformers.logging.disable_progress_bar()  # it writes into the node's log
    return transformers


class SegmentAnythingFamily:
    """See SegmenterFamily: `sam`, `sam2` and `owlv2+sam2`."""

    needs_masks = False

    def load(self, settings: QuerySettings, device: torch.device) -> Segmenter:
        """See SegmenterFamily.load; `segmenter_weights` are those of `find`."""
        name, limit = settings.segmenter, settings.max_segments
        folders = find(name, settings.segmenter_weights)
        for folder in folders:
            weight_store.verify_folder(Owner('segmenter', name), folder)
        if name != 'owlv2+sam2':
            return AnySegmenter(name, limit, folders[0], device)
        prompts = expanded(settings.segmenter_prompts) if settings.segmenter_prompts else PROMPTS
        return PromptedSegmenter(limit, folders[0], folders[1], device, prompts)

    def fetch(self, name: str, weights: str, store: Path) -> str:
        """See SegmenterFamily.fetch; `weights` are names on the hub, with a comma between."""
        owner, folders = Owner('segmenter', name), []
        for repository in _parts(name, weights):
            files = weight_store.hub_folder_files(owner, repository, FILES)
            folders.append(weight_store.fetch(
                owner, [[file] for file in files], weight_store.hub_folder(LIBRARY, repository, store)))
        return ','.join(map(str, folders))

    def cards(self) -> Iterator[Card]:
        """See SegmenterFamily.cards."""
        for name, repositories in REPOSITORIES.items():
            try:
                note, present = ', '.join(map(str, find(name, ''))), True
            except SegmenterError:
                note, present = f'semanom models fetch {name}', False
            if importlib.util.find_spec('transformers') is None:
                note, present = EXTRA, False
            yield Card('segmenter', name, ','.join(repositories), present, note, LICENCE)


def find(name: str, weights: str) -> list[Path]:
    """Folders of a segmenter's models on this machine.

    Args:
        name: of the segmenter.
        weights: of each model a folder or a name on the hub, with a comma between; '': of REPOSITORIES.

    Raises:
        SegmenterError: more or fewer than it has are named, or one is not on this machine.
    """
    owner, folders = Owner('segmenter', name), []
    for part in _parts(name, weights):
        path = expanded(part.removeprefix(LOCAL_FOLDER))
        if not path.is_dir() and part.startswith((LOCAL_FOLDER, '~', '.', '/')):
            raise owner.error(f'folder {path} does not exist; correct {owner.parameter}, or fetch weights once where '
                              f'there is internet: `semanom models fetch {name}`')
        folders.append(path if path.is_dir() else weight_store.find_folder(owner, LIBRARY, part, weights))
    return folders


def _parts(name: str, weights: str) -> list[str]:
    """What is named for each model of a segmenter."""
    wanted = REPOSITORIES[name]
    found = [part.strip() for part in weights.split(',')] if weights else list(wanted)
    if len(found) != len(wanted) or not all(found):
        raise SegmenterError(f'segmenter {name}: segmenter_weights found {weights!r}, expected {len(wanted)} folders '
                             f'with a comma between, of {" and ".join(wanted)}; correct it')
    return found


def _load(name: str, kind: Any, path: Path) -> Any:
    """A model or processor from a folder.

    Raises:
        SegmenterError: it is unusable.
    """
    arguments = {'use_safetensors': True} if hasattr(kind, 'main_input_name') else {}
    try:
        return kind.from_pretrained(str(path), local_files_only=True, **arguments)
    except (OSError, ValueError, KeyError, TypeError, RuntimeError) as error:  # whatever a wrong folder makes it throw
        raise SegmenterError(f'segmenter {name}: {path} cannot be loaded ({reason(error)}); fetch it once where there '
                             f'is internet: `semanom models fetch {name}`, and name the folders in '
                             'segmenter_weights') from error


FAMILY: SegmenterFamily = SegmentAnythingFamily()
