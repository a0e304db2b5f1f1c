"""FAISS, and approximate indices as they are stored."""

from __future__ import annotations

import os
import threading
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from semanom_ros.core.database.folder_files import open_inside
from semanom_ros.core.database.manifest import IndexEntry
from semanom_ros.errors import DatabaseError
from semanom_ros.settings import SearchSettings


@cache
def processor_flags() -> frozenset[str]:
    """What the CPU can do, in the words of Linux; empty where that is not told."""
    try:
        return frozenset(Path('/proc/cpuinfo').read_text().partition('flags')[2].partition('\n')[0].split())
    except OSError:
        return frozenset()


def _import_faiss():  # type: ignore[no-untyped-def]
    """Imports FAISS with matrix kernels that fit the CPU.

    The OpenBLAS inside the FAISS wheels (0.3.15) falls back to SSE kernels, 2 to 5
    times slower, on CPUs newer than itself. It can be told by an environment
    variable, which is set only while it loads.
    """
    variable = 'OPENBLAS_CORETYPE'
    if variable not in os.environ:
        flags = processor_flags()
        if {'avx512f', 'avx512cd', 'avx512bw', 'avx512dq', 'avx512vl'} <= flags:
            os.environ[variable] = 'SKYLAKEX'
        elif {'avx2', 'fma'} <= flags:
            os.environ[variable] = 'HASWELL'
        else:
            variable = ''
        try:
            import faiss
        finally:
            os.environ.pop(variable, None)
    import faiss
    return faiss


faiss = _import_faiss()
_READING = threading.Lock()


def coordinates(search: SearchSettings) -> int:
    """How many coordinates of the place stand behind an embedding's where that is how it is searched."""
    return (2 if search.position_weight else 0) + (1 if search.scale_weight else 0)


def read_index(root: Path, entry: IndexEntry, dimension: int) -> Any:
    """An approximate index of a database, in memory; it holds what its entry says, or it is refused.

    Raises:
        DatabaseError: unreadable, of another type, dimension or size, or with its lists in other files.
    """
    path, remedy = root / entry.file, f'build it anew with semanom db index {root}'
    try:
        with open_inside(root, entry.file) as file, _READING:
            # What a few thousand bytes say they hold can be many gigabytes. The limits are the whole process's.
            size = os.fstat(file.fileno()).st_size
            faiss.set_deserialization_vector_byte_limit(size)
            faiss.set_deserialization_loop_limit(size)
            # From a reader that is no file of FAISS's own, and with this flag, it refuses lists in files (which an
            # index names with their whole path) before it opens them.
            index = faiss.read_index(faiss.PyCallbackIOReader(file.read), faiss.IO_FLAG_ONDISK_SAME_DIR)
    except OSError as error:
        raise DatabaseError(f'{path}: unreadable ({error.strerror}); {remedy}') from error
    except (RuntimeError, MemoryError, ValueError) as error:
        raise DatabaseError(f'{path}: unreadable as a FAISS index; {remedy}') from error
    if index.ntotal != entry.vectors:
        raise DatabaseError(f'{path}: found {index.ntotal} vectors, expected {entry.vectors}; {remedy}')
    expected = dimension + coordinates(SearchSettings.of(entry.search))
    if not isinstance(index, faiss.IndexIVF) or index.d != expected or index.metric_type != faiss.METRIC_L2:
        raise DatabaseError(f'{path}: found {type(index).__name__} of {index.d} dimensions, expected an inverted file '
                            f'of {expected}, of Euclidean distances; {remedy}')
    lists = faiss.downcast_InvertedLists(index.invlists)
    if not isinstance(lists, faiss.ArrayInvertedLists) or lists.nlist != index.nlist \
            or lists.code_size != index.code_size or not index.is_trained \
            or (index.quantizer.d, index.quantizer.ntotal) != (expected, index.nlist) or not _ids_within(lists, entry):
        raise DatabaseError(f'{path}: found inverted lists that do not fit it, expected {entry.vectors} vectors in '
                            f'{index.nlist} lists; {remedy}')
    index.set_direct_map_type(faiss.DirectMap.NoMap)  # one that the file holds was not looked at
    return index


def _ids_within(lists: Any, entry: IndexEntry) -> bool:
    """Whether each vector stands in the lists once: what a search finds must be there to be looked up."""
    sizes = [lists.list_size(number) for number in range(lists.nlist)]
    if sum(sizes) != entry.vectors:
        return False
    seen = np.zeros(entry.vectors, bool)
    for number, size in enumerate(sizes):
        if size:
            ids = faiss.rev_swig_ptr(lists.get_ids(number), size)
            if ids.min() < 0 or ids.max() >= entry.vectors:
                return False
            seen[ids] = True
    return bool(seen.all())
