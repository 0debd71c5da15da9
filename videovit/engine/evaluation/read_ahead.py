"""Reading ahead: several threads read several sources at the same time."""

from __future__ import annotations

import contextlib
import queue
import threading
from collections.abc import Callable, Generator, Iterable, Iterator
from dataclasses import dataclass
from typing import Generic, TypeVar

S = TypeVar("S")
T = TypeVar("T")
LOOK_S = 0.2  # how often a thread that waits for room looks whether it is still needed


@dataclass(frozen=True)
class _Item(Generic[T]):
    value: T


def read_ahead(
    sources: Iterable[S], read: Callable[[S], Generator[T, None, None]], *, num_threads: int, room: int
) -> Iterator[T]:
    """What `read` yields of all sources, as it arrives; the items of one source stay in order.

    Args:
        sources: taken one by one; None would end them.
        read: of a source; runs in a thread. Its errors are raised here.
        num_threads: sources that are read at once; 0 reads one after the other, in this thread.
        room: items that may wait.
    """
    if not num_threads:
        for source in sources:
            yield from read(source)
        return
    crew = _Crew(sources, read, room)
    threads = [threading.Thread(target=crew.work, name=f"read ahead {i}", daemon=True) for i in range(num_threads)]
    for thread in threads:
        thread.start()
    try:
        yield from crew.taken(num_threads)
    finally:
        crew.stopped.set()
        for thread in threads:
            thread.join()


class _Crew(Generic[S, T]):
    """What the threads share; see `read_ahead`."""

    def __init__(self, sources: Iterable[S], read: Callable[[S], Generator[T, None, None]], room: int) -> None:
        self.stopped = threading.Event()
        self._left, self._lock, self._read = iter(sources), threading.Lock(), read
        self._items: queue.Queue[_Item[T] | BaseException | None] = queue.Queue(room)

    def work(self) -> None:
        """Read sources until none is left; the body of a thread."""
        try:
            while (source := self._next()) is not None:
                with contextlib.closing(self._read(source)) as found:
                    if not all(self._put(_Item(value)) for value in found):
                        break
        except BaseException as error:  # noqa: BLE001 - raised again where the items are taken
            self._put(error)
        self._put(None)

    def taken(self, running: int) -> Iterator[T]:
        """The items, until all threads have ended."""
        while running:
            item = self._items.get()
            if isinstance(item, BaseException):
                raise item
            if item is None:
                running -= 1
            else:
                yield item.value

    def _next(self) -> S | None:
        with self._lock:
            return None if self.stopped.is_set() else next(self._left, None)

    def _put(self, item: _Item[T] | BaseException | None) -> bool:
        """Wait for room; False if nobody takes items any longer."""
        while not self.stopped.is_set():
            with contextlib.suppress(queue.Full):
                self._items.put(item, timeout=LOOK_S)
                return True
        return False
