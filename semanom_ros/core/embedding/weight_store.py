"""The store of fetched weights, of encoders and of segmenters: what is meant, where it lies, fetching it once.

A fetched model is a folder `STORE/LIBRARY/MODEL/TAG` with a receipt, which holds the SHA-256 of every file. It comes
into place whole or not at all. The caches of the Hugging Face hub and of torch.hub are looked into as well. Nothing
here uses the network except `fetch` and `hub_folder_files`, which `semanom models fetch` leads to.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
import shutil
import sys
import tempfile
import urllib.error
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Protocol

from huggingface_hub import HfApi, constants, get_hf_file_metadata, hf_hub_download, hf_hub_url, try_to_load_from_cache
from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError, OfflineModeIsEnabled

from semanom_ros.errors import EncoderError, SegmenterError, SemanomError
from semanom_ros.home import expanded

if TYPE_CHECKING:
    import torch

STORE_VARIABLE = 'SEMANOM_MODELS'
RANDOM, LOCAL_FOLDER = 'random:', 'local-dir:'
SUFFIXES = ('.safetensors', '.pt', '.pth', '.bin', '.ckpt', '.tar')
RECEIPT = 'fetched.json'


@dataclass(frozen=True)
class Owner:
    """Whose weights: what messages name, and which error they are.

    Attributes:
        kind: of model.
        name: as in the parameter `encoder` or `segmenter`.
    """

    kind: Literal['encoder', 'segmenter']
    name: str

    @property
    def parameter(self) -> str:
        """The parameter that names the weights."""
        return f'{self.kind}_weights'

    def error(self, text: str) -> SemanomError:
        """An EncoderError or SegmenterError of one line that begins with the owner."""
        return (EncoderError if self.kind == 'encoder' else SegmenterError)(f'{self.kind} {self.name}: {text}')


class RemoteFile(Protocol):
    """A file somewhere else, which `str` names."""

    def cached(self) -> Path | None:
        """Where another program's cache on this machine holds it; None where none does."""

    @property
    def cache_folder(self) -> Path:
        """Where that cache would hold it."""

    def download(self, owner: Owner, folder: Path) -> tuple[Path, str] | None:
        """Downloads it into a folder.

        Returns:
            The file, and its SHA-256 (or the beginning of it) according to the other side, '' where it says none;
            None where there is no such file.

        Raises:
            EncoderError, SegmenterError: not reachable.
        """


@dataclass(frozen=True)
class HubFile:
    """A file on the Hugging Face hub."""

    repository: str
    name: str

    def cached(self) -> Path | None:
        """See RemoteFile: the hub's own cache."""
        found = try_to_load_from_cache(self.repository, self.name)
        return Path(found) if isinstance(found, str) else None

    @property
    def cache_folder(self) -> Path:
        """See RemoteFile: that of its repository."""
        return Path(constants.HF_HUB_CACHE) / f'models--{self.repository.replace("/", "--")}'

    def download(self, owner: Owner, folder: Path) -> tuple[Path, str] | None:
        """See RemoteFile."""
        try:
            path = hf_hub_download(self.repository, self.name, local_dir=folder)
            etag = get_hf_file_metadata(hf_hub_url(self.repository, self.name)).etag or ''
        except Exception as error:  # which HTTP library's errors these are changes with the hub's version
            if isinstance(error, EntryNotFoundError) and not isinstance(error, LocalEntryNotFoundError):
                return None
            raise _hub_error(owner, str(self), error) from error
        return Path(path), etag if len(etag) == 64 else ''

    def __str__(self) -> str:
        return f'{self.repository}/{self.name}'


@dataclass(frozen=True)
class WebFile:
    """A file at an address, named as torch.hub's are: `NAME-SHA256.pth` with the first digits of its SHA-256."""

    url: str

    @property
    def name(self) -> str:
        """Of the file."""
        return Path(self.url).name

    def cached(self) -> Path | None:
        """See RemoteFile: torch.hub's checkpoints."""
        path = self.cache_folder / self.name
        return path if path.is_file() else None

    @property
    def cache_folder(self) -> Path:
        """See RemoteFile."""
        if 'torch' in sys.modules:  # it may have been told another folder; it is not imported to be asked
            return Path(sys.modules['torch'].hub.get_dir()) / 'checkpoints'
        cache = os.environ.get('XDG_CACHE_HOME', '~/.cache')
        return expanded(os.environ.get('TORCH_HOME', f'{cache}/torch')) / 'hub' / 'checkpoints'

    def download(self, owner: Owner, folder: Path) -> tuple[Path, str] | None:
        """See RemoteFile."""
        import torch

        folder.mkdir(exist_ok=True)
        try:
            torch.hub.download_url_to_file(self.url, str(folder / self.name))
        except (urllib.error.URLError, OSError) as error:
            raise owner.error(f'{self.url} cannot be fetched ({reason(error)}); try again, or fetch where there is '
                              'internet and copy the folder') from error
        checksum = re.search(r'-([0-9a-f]{8,})\.', self.name)
        return folder / self.name, checksum.group(1) if checksum else ''

    def __str__(self) -> str:
        return self.url


@dataclass(frozen=True)
class Published:
    """What is published of a model, and how fetched weights of it are kept.

    Attributes:
        library: first folder in the store, e.g. `timm`.
        model: its name in the library.
        tags: of the weights that there are.
        default_tag: the usual one; '' where there is none.
        file_names: names that the weights file of a folder may have, the preferred one first.
        candidates: tag -> files elsewhere that may hold the weights, the preferred one first.
    """

    library: str
    model: str
    tags: Sequence[str] = ()
    default_tag: str = ''
    file_names: tuple[str, ...] = ()
    candidates: Callable[[str], Sequence[RemoteFile]] = lambda tag: ()


@dataclass(frozen=True)
class Weights:
    """Weights that can be loaded.

    Attributes:
        owner: whose.
        label: what they are, for people: tag, file name or `random:0`.
        file: the weights file; None for random ones.
        tag: the pretrained tag where one is known, else ''.
        folder: the folder that describes them as well (`local-dir:`), else None.
        seed: of random weights.
    """

    owner: Owner
    label: str
    file: Path | None = None
    tag: str = ''
    folder: Path | None = None
    seed: int = 0

    def sha256(self, state: Mapping[str, torch.Tensor]) -> str:
        """SHA-256 of the file, compared with that of the day when it was fetched; of `state` for random weights.

        Raises:
            EncoderError, SegmenterError: the file is not as it was fetched.
        """
        return sha256_of_state(state) if self.file is None else verify(self.owner, self.file)


def store() -> Path:
    """Folder of fetched models: `$SEMANOM_MODELS`, else `~/.cache/semanom_ros/models`."""
    return expanded(os.environ.get(STORE_VARIABLE) or '~/.cache/semanom_ros/models')


def fetched(library: str) -> Iterator[tuple[str, str]]:
    """(model, tag) of everything of a library that is in the store, sorted."""
    for receipt in sorted((store() / library).glob(f'*/*/{RECEIPT}')):
        yield receipt.parts[-3], receipt.parts[-2]


def find(owner: Owner, published: Published, weights: str) -> Weights:
    """The weights that a parameter means.

    Args:
        owner: whose.
        published: what is known of the model.
        weights: a tag, a file, `local-dir:FOLDER`, `random:SEED`, or '': what was fetched, else the default tag.

    Raises:
        EncoderError, SegmenterError: not on this machine, or no such tag.
    """
    if weights.startswith(RANDOM):
        return Weights(owner, weights, seed=_seed(owner, weights))
    if weights.startswith(LOCAL_FOLDER):
        folder = expanded(weights.removeprefix(LOCAL_FOLDER))
        return Weights(owner, folder.name, _weights_file(owner, folder, published.file_names), folder=folder)
    if '/' in weights or weights.lower().endswith(SUFFIXES):
        return Weights(owner, Path(weights).name, _file(owner, expanded(weights)))
    if weights and weights not in published.tags:
        raise owner.error(
            f'weights {weights!r} are neither a file, {LOCAL_FOLDER}FOLDER, {RANDOM}SEED nor a tag; expected one of '
            f'{", ".join(published.tags) or "no tags (this model has none)"}')
    here = [tag for model, tag in fetched(published.library) if model == published.model]
    if not weights and len(here) > 1:
        raise owner.error(f'several weights were fetched ({", ".join(here)}); name one in {owner.parameter}')
    tag = weights or next(iter(here), published.default_tag)
    folder = store() / published.library / published.model / tag
    if tag in here:
        return Weights(owner, tag, _weights_file(owner, folder, published.file_names), tag, folder)
    if not tag:
        raise owner.error(f'no pretrained weights are known for it; give {owner.parameter} a file, '
                          f'{LOCAL_FOLDER}FOLDER or {RANDOM}SEED')
    candidates = published.candidates(tag)
    for candidate in candidates:
        if cached := candidate.cached():
            return Weights(owner, tag, cached, tag)
    raise _not_here(owner, tag, tag, folder, candidates)


def find_folder(owner: Owner, library: str, repository: str, asked: str) -> Path:
    """A model that is a folder, by its name on the Hugging Face hub: in the store, else in the hub's own cache.

    Args:
        owner: whose.
        library: first folder in the store.
        repository: its name on the hub.
        asked: what the parameter says, for the message.

    Raises:
        EncoderError, SegmenterError: not on this machine.
    """
    folder, config = hub_folder(library, repository), HubFile(repository, 'config.json')
    if (folder / RECEIPT).is_file():
        return folder
    if cached := config.cached():
        return cached.parent
    raise _not_here(owner, repository, asked, folder, [config])


def hub_folder(library: str, repository: str, root: Path | None = None) -> Path:
    """Where a model that is a folder on the Hugging Face hub lies in the store once it is fetched."""
    return (root or store()) / library / repository.replace('/', '--') / 'main'


def hub_folder_files(owner: Owner, repository: str, patterns: Sequence[str]) -> list[HubFile]:
    """The files of a repository on the Hugging Face hub, none of its folders', that match one of the patterns.

    Raises:
        EncoderError, SegmenterError: not reachable, or there are none.
    """
    try:
        listed = HfApi().model_info(repository).siblings or []
    except Exception as error:  # see HubFile.download
        raise _hub_error(owner, repository, error) from error
    names = [file.rfilename for file in listed]
    files = [HubFile(repository, name) for name in names
             if '/' not in name and any(fnmatch(name, pattern) for pattern in patterns)]
    if not files:
        raise owner.error(f'{repository}: has no {", ".join(patterns)} on {constants.ENDPOINT}; choose another')
    return files


def verify(owner: Owner, file: Path) -> str:
    """SHA-256 of a file, hexadecimal; compared with its folder's receipt where there is one.

    Raises:
        EncoderError, SegmenterError: the file is not as it was fetched.
    """
    found, receipt = sha256_of_file(file), _receipt(owner, file.parent)
    if receipt is not None and found != (expected := receipt.get(file.name, 'none, it was not fetched')):
        raise owner.error(f'{file}: SHA-256 is {found}, expected {expected}; fetch the weights again')
    return found


def verify_folder(owner: Owner, folder: Path) -> None:
    """Compares every file that a folder's receipt names with it; a folder without a receipt was not fetched by us.

    Raises:
        EncoderError, SegmenterError: a file is missing, or not as it was fetched.
    """
    for name in _receipt(owner, folder) or {}:
        if not (folder / name).is_file():
            raise owner.error(f'{folder / name}: does not exist any more; fetch the weights again')
        verify(owner, folder / name)


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
    import torch

    digest = hashlib.sha256()
    for name in sorted(state):
        tensor = state[name].detach().cpu().contiguous()
        digest.update(f'{name} {tensor.dtype} {tuple(tensor.shape)}\n'.encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def fetch(owner: Owner, wanted: Sequence[Sequence[RemoteFile]], folder: Path,
          finish: Callable[[list[Path], Path], None] | None = None) -> Path:
    """Downloads files, checks them, and puts the finished folder into place at once.

    Args:
        owner: whose.
        wanted: of each file the places where it may be: the first that exists counts.
        folder: the final folder; what lies there is replaced.
        finish: (downloaded files, new folder) -> None, leaves in the folder what loading needs; None: the files.

    Returns:
        The folder, absolute.

    Raises:
        EncoderError, SegmenterError: not reachable, no such file, or the checksum is wrong.
    """
    logging.getLogger('huggingface_hub').propagate = False  # it has a handler of its own
    folder = expanded(folder).resolve()
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix='.fetch-', dir=folder.parent) as scratch:
        files, sources = [], []
        for candidates in wanted:
            remote, file, expected = _download(owner, candidates, Path(scratch) / 'download')
            found = sha256_of_file(file)
            if not found.startswith(expected):
                raise owner.error(f'{remote}: SHA-256 is {found}, it was announced as {expected}; fetch it again')
            files.append(file)
            sources.append({'source': str(remote), 'sha256': found})
        staged = Path(scratch) / 'folder'
        staged.mkdir()
        (finish or _move)(files, staged)
        kept = {path.name: {'bytes': path.stat().st_size, 'sha256': sha256_of_file(path)}
                for path in sorted(staged.iterdir())}
        (staged / RECEIPT).write_text(json.dumps({'sources': sources, 'files': kept}, indent=2) + '\n')
        if folder.exists():
            folder.rename(Path(scratch) / 'replaced')
        staged.rename(folder)
    return folder


def keep(file: Path, kept: Path, read: Callable[[], Mapping[str, torch.Tensor]]) -> None:
    """Puts fetched weights into place as safetensors; `read` reads a file of another format."""
    if file.suffix == '.safetensors':
        shutil.move(file, kept)
    else:
        from safetensors.torch import save_file

        save_file({name: tensor.contiguous().clone() for name, tensor in read().items()}, kept)


def reason(error: BaseException) -> str:
    """What an error says in its first sentence, for messages of one line."""
    line = next(iter(str(error).strip().splitlines()), type(error).__name__)
    return line.split('. ')[0].rstrip('.:')


def _receipt(owner: Owner, folder: Path) -> dict[str, str] | None:
    """File name -> SHA-256 of the day when a folder was fetched; None where there is no receipt."""
    receipt = folder / RECEIPT
    if not receipt.is_file():
        return None
    try:
        return {name: str(file['sha256']) for name, file in json.loads(receipt.read_text())['files'].items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise owner.error(f'{receipt}: unreadable; fetch the weights again') from error


def _move(files: list[Path], folder: Path) -> None:
    for file in files:
        shutil.move(file, folder / file.name)


def _download(owner: Owner, candidates: Sequence[RemoteFile], folder: Path) -> tuple[RemoteFile, Path, str]:
    """The file that was fetched, where it is, and its SHA-256 according to the other side ('' where it says none)."""
    for candidate in candidates:
        if downloaded := candidate.download(owner, folder):
            return candidate, *downloaded
    raise owner.error(f'{", ".join(map(str, candidates))}: not on {constants.ENDPOINT}; choose other weights')


def _not_here(owner: Owner, weights: str, asked: str, folder: Path, candidates: Sequence[RemoteFile]) -> SemanomError:
    """The error that says where weights were looked for and how to get them."""
    looked = sorted({str(folder), *(str(candidate.cache_folder) for candidate in candidates)})
    option = f' --weights {asked}' if asked else ''
    return owner.error(f'weights {weights} not found, looked in {" and ".join(looked)}; fetch them once where there is '
                       f'internet: `semanom models fetch {owner.name}{option}`')


def _hub_error(owner: Owner, what: str, error: Exception) -> SemanomError:
    if isinstance(error, OfflineModeIsEnabled):
        return owner.error(f'{what}: HF_HUB_OFFLINE is set; unset it to fetch')
    if isinstance(error, LocalEntryNotFoundError):
        return owner.error(f'{what}: {constants.ENDPOINT} cannot be reached; fetch where there is internet, and copy '
                           'the folder')
    return owner.error(f'{what}: {constants.ENDPOINT} does not give it ({reason(error)}); check the connection, and '
                       '`hf auth login` for models behind a licence')


def _weights_file(owner: Owner, folder: Path, names: Sequence[str]) -> Path:
    for name in names:
        if (folder / name).is_file():
            return folder / name
    if not folder.is_dir():
        raise owner.error(f'folder {folder} does not exist; correct {owner.parameter}')
    raise owner.error(f'{folder} has no weights, expected {" or ".join(names)}; give the folder that `semanom models '
                      'fetch` prints')


def _seed(owner: Owner, weights: str) -> int:
    seed = weights.removeprefix(RANDOM)
    if not (seed.isascii() and seed.isdigit()) or int(seed) >= 2**63:
        raise owner.error(f'weights {weights!r}, expected {RANDOM}SEED with a whole number as seed, e.g. {RANDOM}0')
    return int(seed)


def _file(owner: Owner, path: Path) -> Path:
    if path.is_dir():
        raise owner.error(f'weights file {path} is a folder; give a file, or {LOCAL_FOLDER}{path}')
    if not path.is_file():  # a device or a pipe would never end, or keep it waiting
        found = 'is no regular file' if path.exists() else 'does not exist'
        raise owner.error(f'weights file {path} {found}; correct {owner.parameter}')
    if path.suffix.lower() not in SUFFIXES:
        raise owner.error(f'weights file {path}, expected one of {", ".join(SUFFIXES)}')
    return path
