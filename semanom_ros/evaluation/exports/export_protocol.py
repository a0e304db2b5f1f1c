"""What an export is, and how none is left half written."""

from __future__ import annotations

from types import TracebackType
from typing import Protocol

import numpy as np
import numpy.typing as npt

from semanom_ros.core.frames import Frame
from semanom_ros.core.results import FrameResult


class Export(Protocol):
    """Takes the frames of a replay, one after the other; a context manager.

    It is there when the context ends. After an exception nothing is there that was not there before.
    """

    def __enter__(self) -> Export:
        """Begins beside the place where it is to be.

        Raises:
            SemanomError: something else is there, or it cannot be written.
        """

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
                 ) -> None:
        """Puts it into place, or removes it."""

    def begin(self, recording: str) -> None:
        """The frames that follow are of another recording, of this name."""

    def add(self, frame: Frame, result: FrameResult, truth: npt.NDArray[np.uint8] | None) -> None:
        """The next frame, what is said about it, and its ground truth (H, W) where there is one."""
