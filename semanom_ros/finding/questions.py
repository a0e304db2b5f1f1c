"""What is looked for: a picture or a part of it, a moment of a recording, or words."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import numpy.typing as npt
import torch

from semanom_ros.core.database.storage import thumbnail
from semanom_ros.core.embedding.embedder import Embedder
from semanom_ros.core.embedding.encoders.encoder import TextAlignedEncoder
from semanom_ros.core.frames import Frame
from semanom_ros.errors import BagError, EncoderError, ParameterError
from semanom_ros.finding.embedded_recordings import EmbeddedRecordings
from semanom_ros.recordings.bags import BagReader
from semanom_ros.recordings.images import image_from_compressed
from semanom_ros.recordings.picture_files import read_picture

Box = tuple[int, int, int, int]
NEAR_NS = 500_000_000
"""Nanoseconds: how far a frame may be from the stamp that is asked for."""
PICTURE_SIZE = 480  # longer side of the picture that is shown of a question, pixels
CONTRAST = ('a road', 'a street', 'a house', 'the sky', 'a pavement', 'a tree')
"""What is in most pictures: words describe a patch only as far as they do so better than each of these (as canonical
phrases do in LERF, Kerr et al., ICCV 2023)."""

_BOX = re.compile(r'(.+?):(-?\d+),(-?\d+),(-?\d+),(-?\d+)', re.S)
_MOMENT = re.compile(r'(.+)@(\+?)(\d+(?:\.\d+)?)', re.S)


class Question(ABC):
    """Something to look for.

    Attributes:
        words: what it is, for people.
        picture: JPEG of it; empty where it is none.
        box: (x, y, width, height) in pixels of the picture that it was cut out of; None: all of it.
        image_size: (height, width) of that picture in pixels.
    """

    def __init__(self, words: str, picture: bytes = b'', box: Box | None = None, image_size: tuple[int, int] = (0, 0)
                 ) -> None:
        self.words, self.picture, self.box, self.image_size = words, picture, box, image_size

    @abstractmethod
    def similarities(self, vectors: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """(N, Q) how similar embeddings (N, D) are to each of its Q pieces; the higher, the more."""


class Likeness(Question):
    """Looks for what resembles the patches of a picture."""

    def __init__(self, words: str, vectors: npt.NDArray[np.float32], image_size: tuple[int, int],
                 picture: bytes = b'', box: Box | None = None) -> None:
        super().__init__(words, picture, box, image_size)
        self._patches = torch.from_numpy(np.ascontiguousarray(vectors))

    def similarities(self, vectors: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """Cosine similarity, -1 to 1."""
        return (torch.from_numpy(vectors) @ self._patches.T).numpy()


class Words(Question):
    """Looks for what a text describes."""

    def __init__(self, text: str, encoder: TextAlignedEncoder) -> None:
        super().__init__(text)
        self._encoder = encoder
        self._text = encoder.encode_text([text]).cpu()
        self._contrast = encoder.encode_text(list(CONTRAST)).cpu()

    def similarities(self, vectors: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """Cosine similarity beyond that of the most fitting phrase of CONTRAST, -2 to 2."""
        there = self._encoder.project_to_text(torch.from_numpy(vectors).to(self._encoder.device)).cpu()
        contrast = (there @ self._contrast.T).max(dim=1, keepdim=True).values
        return (there @ self._text.T - contrast).numpy()


def words(text: str, embedder: Embedder, whose: Path) -> Words:
    """A text as a question.

    Args:
        text: what is looked for.
        embedder: that the recordings were embedded with.
        whose: what is searched, for errors.

    Raises:
        EncoderError: the encoder knows no texts.
        ParameterError: there is no text.
    """
    if not text.strip():
        raise ParameterError("--text: found '', expected what to look for, such as 'a person lying on the road'")
    if not isinstance(embedder.encoder, TextAlignedEncoder):
        raise EncoderError(f'--text: found encoder {embedder.encoder.name}, which {whose} was made with, without '
                           'texts, expected a CLIP encoder (open_clip:MODEL, or semanom-tiny); ask with --like '
                           'PICTURE, or index with such an encoder')
    return Words(text, embedder.encoder)


def likeness(asked: str, recordings: EmbeddedRecordings, embedder: Embedder) -> Likeness:
    """What `--like` names: `PICTURE`, or `BAG@STAMP`, both with `:x,y,w,h` behind where a part is meant.

    A stamp is in seconds; with a `+` before it since the first embedded frame of the recording. What is embedded
    already is not embedded again, so the recording need not be there.

    Args:
        asked: the option's value.
        recordings: to search.
        embedder: what they were embedded with.

    Raises:
        SemanomError: there is no such picture, recording, frame or part of it.
    """
    name, box = asked, None
    if (found := _BOX.fullmatch(asked)) and not Path(asked).exists():
        x, y, width, height = (int(found[group]) for group in range(2, 6))
        name, box = found[1], (x, y, width, height)
    moment = _MOMENT.fullmatch(name)
    if moment and not Path(name).exists():
        return _of_moment(asked, moment, box, recordings, embedder)
    upright = read_picture(Path(name))
    # through the same door as a recorded picture, so that it has the same pixels
    image = image_from_compressed(SimpleNamespace(format=upright.format, data=np.frombuffer(upright.data, np.uint8)))
    return _of_frame(asked, Frame(image, 0), box, embedder)


def _of_frame(asked: str, frame: Frame, box: Box | None, embedder: Embedder) -> Likeness:
    _check_box(asked, box, frame.size)
    queries = embedder.queries(embedder.embed([frame])[0])
    chosen = inside(queries.boxes, box)
    return Likeness(asked, queries.vectors.cpu().numpy()[chosen], frame.size, thumbnail(frame.image, PICTURE_SIZE), box)


def _of_moment(asked: str, moment: re.Match[str], box: Box | None, recordings: EmbeddedRecordings, embedder: Embedder
               ) -> Likeness:
    path, since_start, seconds = Path(moment[1]), bool(moment[2]), moment[3]
    whole, _, fraction = seconds.partition('.')
    asked_ns = int(whole) * 10**9 + int(f'{fraction:0<9}'[:9])
    sha256 = ''
    if path.exists():
        with BagReader(path) as reader:
            sha256 = reader.fingerprint()
    names = {str(path), str(path.absolute()), str(path.resolve())}
    best: tuple[int, int, int] | None = None
    first: int | None = None
    own = []
    for number, one in enumerate(recordings.stored):
        if not one.entry.whole:
            continue
        for index in range(len(one.part.frames)):
            record = one.record(index)
            if record.source_sha256 == sha256 if sha256 else record.source in names:
                own.append((record.stamp_ns, number, index))
    if own:
        first = min(own)[0]
        wanted = asked_ns + first if since_start else asked_ns
        gap, best_at = min((abs(stamp - wanted), place) for place, (stamp, _, _) in enumerate(own))
        if gap <= NEAR_NS:
            best = own[best_at]
    if best is not None:
        one, index = recordings.stored[best[1]], best[2]
        stored, size = one.part.frame(index, held_out=False), one.record(index).image_size
        _check_box(asked, box, size)
        chosen = inside(stored.boxes, box)
        return Likeness(asked, stored.vectors[chosen], size, one.part.thumbnail(index), box)
    if not path.exists():
        raise BagError(f'--like {asked}: found no recording {path}'
                       + (', nor a frame at that time among those that are embedded' if own else
                          ', nor one of that name among those that are embedded')
                       + '; correct it, or name where it lies now')
    return _of_frame(asked, _frame_at(asked, path, asked_ns, since_start), box, embedder)


def _frame_at(asked: str, path: Path, asked_ns: int, since_start: bool) -> Frame:
    """The frame of a recording at a time.

    Raises:
        BagError: there is none so near.
    """
    with BagReader(path) as reader:
        topic = reader.image_topic()
        stamps = sorted(reader.stamps([topic]))
        wanted = asked_ns + stamps[0] if since_start and stamps else asked_ns
        nearest = min(stamps, key=lambda stamp: abs(stamp - wanted), default=None)
        frame = None
        if nearest is not None and abs(nearest - wanted) <= NEAR_NS:
            frame = next(reader.images(topic, lambda _, stamp: stamp == nearest), None)
    if frame is None:
        when = 'no frame' if not stamps else f'frames from {stamps[0] / 1e9:.3f} to {stamps[-1] / 1e9:.3f} s'
        raise BagError(f'--like {asked}: found {when} in {path}, expected one within {NEAR_NS / 1e9:g} s of '
                       f'{wanted / 1e9:.3f} s; correct the stamp, or give +SECONDS since its start')
    return frame


def _check_box(asked: str, box: Box | None, size: tuple[int, int]) -> None:
    if box is None:
        return
    x, y, width, height = box
    if x < 0 or y < 0 or width < 1 or height < 1 or x + width > size[1] or y + height > size[0]:
        raise ParameterError(f'--like {asked}: found the box {x},{y},{width},{height} in a picture of '
                             f'{size[1]}x{size[0]}, expected x,y,width,height in pixels inside of it; correct it')


def inside(boxes: npt.NDArray[np.int32], box: Box | None) -> npt.NDArray[np.int64]:
    """Indices of the boxes (N, 4) whose centre lies in a box; of the nearest one where none does; all for None."""
    if box is None:
        return np.arange(len(boxes))
    x, y, width, height = box
    centres = boxes[:, :2] + boxes[:, 2:] / 2
    within = ((centres >= (x, y)) & (centres < (x + width, y + height))).all(axis=1)
    if within.any():
        return np.flatnonzero(within)
    return np.array([np.square(centres - (x + width / 2, y + height / 2)).sum(axis=1).argmin()])
