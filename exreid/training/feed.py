"""From shares of batches to pixels: the sources of images, and reading ahead of the training."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Protocol, TypeVar

import numpy as np

from exreid.errors import ImageError
from exreid.storage.array_store import ArrayStore

Item = TypeVar("Item")


class ImageSource(Protocol):
    """Returns the decoded images of a training, by their indices."""

    def batches(self, places: Sequence[np.ndarray]) -> Iterator[np.ndarray]:
        """uint8 (b, H, W, C) for each array of places, in their order; empty ones included."""


class CachedImages:
    """Images out of the decoded cache, memory-mapped."""

    def __init__(self, folder: Path, keys: Sequence[str]) -> None:
        self.store, self.keys = ArrayStore(folder), list(keys)

    def batches(self, places: Sequence[np.ndarray]) -> Iterator[np.ndarray]:
        """One copy from the memory map for each batch."""
        for place_b in places:
            yield self.store.gather([self.keys[place] for place in place_b])


class DecodingImages:
    """Images decoded in this process each time they are wanted."""

    def __init__(
        self,
        prepare: Callable[[dict[str, np.ndarray]], dict[str, np.ndarray]],
        columns: dict[str, np.ndarray],
    ) -> None:
        self.prepare, self.columns = prepare, columns

    def batches(self, places: Sequence[np.ndarray]) -> Iterator[np.ndarray]:
        """Decoded when asked for; ImageError for one that has become unreadable."""
        for place_b in places:
            batch = self.prepare({name: values[place_b] for name, values in self.columns.items()})
            for path, error in zip(self.columns["path"][place_b], batch["error"], strict=True):
                if error:
                    raise ImageError(f"{path}: {error} It could be read before the training began.")
            yield batch["image"]


def read_ahead(items: Iterable[Item], depth: int = 2) -> Iterator[Item]:
    """The items, produced by a thread that stays up to ``depth`` items ahead.

    An error in the thread is raised here; leaving early stops the thread at its next item.
    """
    waiting: queue.Queue[Future[Item] | None] = queue.Queue(depth)
    stopped = threading.Event()

    def put(item: Future[Item] | None) -> None:
        while not stopped.is_set():
            try:
                waiting.put(item, timeout=0.1)
            except queue.Full:
                continue
            return

    def produce() -> None:
        try:
            for item in items:
                produced: Future[Item] = Future()
                produced.set_result(item)
                put(produced)
                if stopped.is_set():
                    return
            put(None)
        except BaseException as error:  # noqa: BLE001 - raised again where it is waited for
            failed: Future[Item] = Future()
            failed.set_exception(error)
            put(failed)

    threading.Thread(target=produce, daemon=True, name="read-ahead").start()
    try:
        while (produced := waiting.get()) is not None:
            yield produced.result()
    finally:
        stopped.set()
