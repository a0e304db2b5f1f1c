"""Zero-shot text labels."""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F

from semanom_ros.core.embedding.encoders.encoder import Encoder, TextAlignedEncoder
from semanom_ros.errors import ParameterError
from semanom_ros.small_files import read_phrases


class Labeller:
    """Zero-shot text labels for patch embeddings of a CLIP encoder."""

    def __init__(self, encoder: TextAlignedEncoder, labels: list[str]) -> None:
        self._encoder = encoder
        self._labels = labels
        self._texts = encoder.encode_text([f'a photo of a {label}' for label in labels])

    @classmethod
    def load(cls, encoder: Encoder, vocabulary: Path) -> Labeller:
        """Labels from a text file, one a line; `#` starts a comment.

        Raises:
            ParameterError: unreadable or empty file, or an encoder that knows no texts.
        """
        if not isinstance(encoder, TextAlignedEncoder):
            raise ParameterError(f'parameter label_vocabulary: encoder {encoder.name} knows no texts; choose '
                                 'a CLIP encoder or leave label_vocabulary empty')
        return cls(encoder, read_phrases(vocabulary, 'label_vocabulary', 'label'))

    @torch.inference_mode()
    def __call__(self, embeddings: torch.Tensor) -> tuple[str, float]:
        """The label of embeddings (N, D) together, and its cosine similarity."""
        mean = F.normalize(self._encoder.project_to_text(embeddings).mean(dim=0), dim=0)
        similarity = self._texts @ mean
        best = int(similarity.argmax())
        return self._labels[best], float(similarity[best])
