"""What comes before and after the encoder, in threads beside it."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import ParamSpec, TypeVar

from semanom_ros.errors import SemanomError

_END = object()

P = ParamSpec('P')
T = TypeVar('T')


def ahead(items: Iterable[T], count: int) -> Generator[T, None, None]:
    """The items, up to `count` of them computed in a thread before they are asked for."""
    iterator = iter(items)
    with ThreadPoolExecutor(1, 'ahead') as pool:
        waiting = deque(pool.submit(next, iterator, _END) for _ in range(count))
        try:
            while (item := waiting.popleft().result()) is not _END:
                waiting.append(pool.submit(next, iterator, _END))
                yield item  # type: ignore[misc]
        finally:
            pool.shutdown(cancel_futures=True)


class Behind:
    """Calls in a thread behind the caller, one after the other; the caller is one ahead of them at most.

    What a call raises is raised by the next one, or at the end.
    """

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(1, 'behind')
        self._last: Future[object] | None = None

    def __call__(self, work: Callable[P, object], *arguments: P.args, **named: P.kwargs) -> None:
        """Waits for the call before, and begins this one."""
        self._wait()
        self._last = self._pool.submit(work, *arguments, **named)

    def _wait(self) -> None:
        last, self._last = self._last, None
        if last is not None:
            last.result()

    def __enter__(self) -> Behind:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
                 ) -> None:
        self._pool.shutdown()
        if error is None or isinstance(error, GeneratorExit):
            self._wait()


def batches(items: Iterable[T], size: int) -> Iterator[list[T]]:
    """Lists of `size` items; a shorter one at the end, or before a SemanomError of the items."""
    batch: list[T] = []
    failure: SemanomError | None = None
    try:
        for item in items:
            batch.append(item)
            if len(batch) == size:
                yield batch
                batch = []
    except SemanomError as error:
        failure = error
    if batch:
        yield batch
    if failure is not None:
        raise failure
