"""Weights: which ones are meant, where they lie on this machine, and fetching them once.

Nothing here uses the network except `fetch`, which `semanom models fetch` calls.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from huggingface_hub import constants, get_hf_file_metadata, hf_hub_download, hf_hub_url, try_to_load_from_cache
from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError, OfflineModeIsEnabled
from safetensors.torch import save_file

from semanom_ros.errors import EncoderError

STORE_VARIABLE = 'SEMANOM_MODELS'
RANDOM, LOCAL_FOLDER = 'random:', 'local-dir:'
SUFFIXES = ('.safetensors', '.pt', '.pth', '.bin')
RECEIPT = 'fetched.json'


@dataclass(frozen=True)
class HubFile:
    """A file on the Hugging Face hub."""

    repository: str
    name: str

    def cached(self) -> Path | None:
        """Where the hub's own cache on this machine holds it; None where it does not."""
        found = try_to_load_from_cache(self.repository, self.name)
        return Path(found) if isinstance(found, str) else None

    @property
    def cache_folder(self) -> Path:
        """Where the hub's own cache would hold its repository."""
        return Path(constants.HF_HUB_CACHE) / f'models--{self.repository.replace("/", "--")}'

    def __str__(self) -> str:
        return f'{self.repository}/{self.name}'


@dataclass(frozen=True)
class Weights:
    """Weights that can be loaded.

    Attributes:
        label: what they are, for people: tag, file name or `random:0`.
        file: the weights file; None for random ones.
        tag: the pretrained tag where one is known, else ''.
        folder: the folder that describes them as well (`local-dir:`), else None.
        seed: of random weights.
    """

    label: str
    file: Path | None = None
    tag: str = ''
    folder: Path | None = None
    seed: int = 0

    def sha256(self, state: Mapping[str, torch.Tensor]) -> str:
        """SHA-256 of the file, compared with the one of the day when it was fetched; of `state` for random weights.

        Raises:
            EncoderError: the file is not as it was fetched.
        """
        if self.file is None:
            return sha256_of_state(state)
        found = sha256_of_file(self.file)
        receipt = self.file.parent / RECEIPT
        if receipt.is_file():
            try:
                expected = json.loads(receipt.read_text())['files'][self.file.name]['sha256']
            except (OSError, ValueError, KeyError, TypeError) as error:
                raise EncoderError(f'{receipt}: unreadable; fetch the weights again') from error
            if found != expected:
                raise EncoderError(f'{self.file}: SHA-256 is {found}, expected {expected}; fetch the weights again')
        return found


@dataclass(frozen=True)
class Library:
    """How a library's weights are named.

    Attributes:
        name: of the family of encoders, e.g. `timm`.
        files: file names that a folder's weights may have, the preferred one first.
        hub_files: tag -> files on the hub that may hold them, the preferred one first.
    """

    name: str
    files: tuple[str, ...]
    hub_files: Callable[[str], Sequence[HubFile]]


def store() -> Path:
    """Folder of fetched models: `$SEMANOM_MODELS`, else `~/.cache/semanom_ros/models`."""
    return Path(os.environ.get(STORE_VARIABLE) or Path.home() / '.cache' / 'semanom_ros' / 'models').expanduser()


def store_folder(library: str, model: str, tag: str, root: Path | None = None) -> Path:
    """Where fetched weights of a model lie."""
    return (root or store()) / library / model / tag


def find(encoder: str, model: str, weights: str, library: Library, default_tag: str, tags: Sequence[str]) -> Weights:
    """The weights that the parameter `encoder_weights` means.

    Args:
        encoder: full name, for messages.
        model: its name in the library.
        weights: a tag, a file, `local-dir:FOLDER`, `random:SEED`, or '': what was fetched, else the default tag.
        library: how its weights are named.
        default_tag: '' where the model has none.
        tags: the tags that the library knows.

    Raises:
        EncoderError: not on this machine, or no such tag.
    """
    if weights.startswith(RANDOM):
        return Weights(weights, seed=_seed(encoder, weights))
    if weights.startswith(LOCAL_FOLDER):
        folder = Path(weights.removeprefix(LOCAL_FOLDER)).expanduser()
        return Weights(folder.name, weights_file(encoder, folder, library.files), folder=folder)
    if '/' in weights or weights.endswith(SUFFIXES):
        return Weights(Path(weights).name, _file(encoder, Path(weights).expanduser()))
    if weights and weights not in tags:
        raise EncoderError(
            f'encoder {encoder}: weights {weights!r} are neither a file, {LOCAL_FOLDER}FOLDER, {RANDOM}SEED nor a tag; '
            f'expected one of {", ".join(tags) or "no tags (this model has none)"}')
    fetched = sorted(path.parent.name for path in store_folder(library.name, model, '').glob(f'*/{RECEIPT}'))
    if not weights and len(fetched) > 1:
        raise EncoderError(f'encoder {encoder}: several weights were fetched ({", ".join(fetched)}); '
                           'name one in encoder_weights')
    tag = weights or next(iter(fetched), default_tag)
    folder = store_folder(library.name, model, tag)
    if tag in fetched:
        return Weights(tag, weights_file(encoder, folder, library.files), tag, folder)
    looked = {str(folder)}
    for hub_file in library.hub_files(tag) if tag else ():
        cached = hub_file.cached()
        if cached:
            return Weights(tag, cached, tag)
        looked.add(str(hub_file.cache_folder))
    if not tag:
        raise EncoderError(f'encoder {encoder}: no pretrained weights are known for it; give encoder_weights a file, '
                           f'{LOCAL_FOLDER}FOLDER or {RANDOM}SEED')
    raise EncoderError(f'encoder {encoder}: weights {tag} not found, looked in {" and ".join(sorted(looked))}; fetch '
                       f'them once where there is internet: `semanom models fetch {encoder} --weights {tag}`')


def weights_file(encoder: str, folder: Path, names: Sequence[str]) -> Path:
    """The weights file in a folder.

    Raises:
        EncoderError: no such folder or file.
    """
    for name in names:
        if (folder / name).is_file():
            return folder / name
    if not folder.is_dir():
        raise EncoderError(f'encoder {encoder}: folder {folder} does not exist; correct encoder_weights')
    raise EncoderError(f'encoder {encoder}: {folder} has no weights, expected {" or ".join(names)}; give the folder '
                       'that `semanom models fetch` prints')


def sha256_of_file(path: Path) -> str:
    """SHA-256 of a file's bytes, hexadecimal; what `sha256sum` prints."""
    with open(path, 'rb') as file:
        if hasattr(hashlib, 'file_digest'):
            return hashlib.file_digest(file, 'sha256').hexdigest()
        digest = hashlib.sha256()  # Python 3.10
        while block := file.read(1 << 20):
            digest.update(block)
        return digest.hexdigest()


def sha256_of_state(state: Mapping[str, torch.Tensor]) -> str:
    """SHA-256 over names, types, shapes and values of all tensors, hexadecimal."""
    digest = hashlib.sha256()
    for name in sorted(state):
        tensor = state[name].detach().cpu().contiguous()
        digest.update(f'{name} {tensor.dtype} {tuple(tensor.shape)}\n'.encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def fetch(candidates: Sequence[HubFile], folder: Path, finish: Callable[[Path, Path], None]) -> None:
    """Downloads the first of the candidates that exists, checks it, and puts the finished folder into place at once.

    Args:
        candidates: the preferred file first.
        folder: the final folder; what lies there is replaced.
        finish: (downloaded file, new folder) -> None; leaves in the folder what loading needs.

    Raises:
        EncoderError: not reachable, no such file, or the checksum is wrong.
    """
    logging.getLogger('huggingface_hub').propagate = False  # it has a handler of its own
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix='.fetch-', dir=folder.parent) as scratch:
        hub_file, file, expected = _download(candidates, Path(scratch) / 'download')
        found = sha256_of_file(file)
        if expected and found != expected:
            raise EncoderError(f'{hub_file}: SHA-256 is {found}, the hub says {expected}; fetch it again')
        staged = Path(scratch) / 'folder'
        staged.mkdir()
        finish(file, staged)
        files = {path.name: {'bytes': path.stat().st_size, 'sha256': sha256_of_file(path)}
                 for path in sorted(staged.iterdir())}
        receipt = {'source': str(hub_file), 'source_sha256': found, 'files': files}
        (staged / RECEIPT).write_text(json.dumps(receipt, indent=2) + '\n')
        if folder.exists():
            shutil.rmtree(folder)
        staged.rename(folder)


def _download(candidates: Sequence[HubFile], folder: Path) -> tuple[HubFile, Path, str]:
    """The file that was fetched, where it is, and its SHA-256 according to the hub ('' where the hub says none)."""
    for hub_file in candidates:
        try:
            path = hf_hub_download(hub_file.repository, hub_file.name, local_dir=folder)
            etag = get_hf_file_metadata(hf_hub_url(hub_file.repository, hub_file.name)).etag or ''
        except OfflineModeIsEnabled as error:
            raise EncoderError(f'{hub_file}: HF_HUB_OFFLINE is set; unset it to fetch') from error
        except LocalEntryNotFoundError as error:
            raise EncoderError(f'{hub_file}: {constants.ENDPOINT} cannot be reached; fetch where there is internet, '
                               'and copy the folder') from error
        except EntryNotFoundError:
            continue
        except Exception as error:  # which HTTP library's errors these are changes with the hub's version
            raise EncoderError(f'{hub_file}: {constants.ENDPOINT} does not give it ({reason(error)}); check the '
                               'connection, and `hf auth login` for models behind a licence') from error
        return hub_file, Path(path), etag if len(etag) == 64 else ''
    raise EncoderError(f'{", ".join(map(str, candidates))}: not on {constants.ENDPOINT}; choose another tag')


def keep(file: Path, kept: Path, read: Callable[[], Mapping[str, torch.Tensor]]) -> None:
    """Puts fetched weights into place as safetensors; `read` reads a file of another format."""
    if file.suffix == '.safetensors':
        shutil.move(file, kept)
    else:
        save_file({name: tensor.contiguous().clone() for name, tensor in read().items()}, kept)


def reason(error: BaseException) -> str:
    """What an error says in its first sentence, for messages of one line."""
    line = next(iter(str(error).strip().splitlines()), type(error).__name__)
    return line.split('. ')[0].rstrip('.:')


def _seed(encoder: str, weights: str) -> int:
    seed = weights.removeprefix(RANDOM)
    if not (seed.isascii() and seed.isdigit()) or int(seed) >= 2**63:
        raise EncoderError(f'encoder {encoder}: weights {weights!r}, expected {RANDOM}SEED with a whole number as '
                           f'seed, e.g. {RANDOM}0')
    return int(seed)


def _file(encoder: str, path: Path) -> Path:
    if not path.is_file():
        raise EncoderError(f'encoder {encoder}: weights file {path} does not exist; correct encoder_weights')
    if path.suffix not in SUFFIXES:
        raise EncoderError(f'encoder {encoder}: weights file {path}, expected one of {", ".join(SUFFIXES)}')
    return path
