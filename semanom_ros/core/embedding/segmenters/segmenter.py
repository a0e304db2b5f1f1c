"""The interface that every segmenter has."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from functools import wraps
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar, cast

from semanom_ros.core.frames import Frame, Segments

if TYPE_CHECKING:  # modules of segmenters are imported to be listed: PyTorch when it is used
    import torch

Method = TypeVar('Method', bound=Callable[..., Any])


def inference(method: Method) -> Method:
    """`torch.inference_mode` for a method."""

    @wraps(method)
    def within(*arguments: Any, **named: Any) -> Any:
        import torch

        with torch.inference_mode():
            return method(*arguments, **named)

    return cast(Method, within)


class Segmenter(ABC):
    """Image and its patch embeddings in, instance masks out. It remembers nothing between frames.

    Attributes:
        name: as in the parameter `segmenter`.
        max_segments: the most segments that one image may have.
        needs_masks: whether it takes the masks that come with the frame.
    """

    name: str
    max_segments: int
    needs_masks: ClassVar[bool] = False

    @abstractmethod
    def segment(self, frame: Frame, patches: torch.Tensor) -> Segments:
        """Segments of a frame.

        Args:
            frame: whose picture is segmented.
            patches: (rows, columns, D) float32 patch embeddings of length 1.
        """
