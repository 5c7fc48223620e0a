"""Pages in the host's memory: what had to leave the device can come back, instead of being computed again.

Bookkeeping only, beside pages.py. Pages leave and come back at a dispatch: `moves` says which. What left is here when
the step that carried it was read; until then it cannot come back. What came back stays here too, so that it need not
be carried again. The least recently used goes first.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable
from typing import Generic, TypeVar

import numpy as np

Key = TypeVar("Key", bound=Hashable)


class HostPages(Generic[Key]):
    """Room for `count` pages, each with the key of whoever may want it back."""

    def __init__(self, count: int):
        self.count = count
        self.clear()

    def clear(self) -> None:
        """Forgets everything."""
        self._kept: OrderedDict[Key, np.ndarray | None] = OrderedDict()  # None: on its way
        self._leaving: list[tuple[Key, int]] = []
        self._coming: dict[int, np.ndarray] = {}

    def __contains__(self, key: Key) -> bool:
        return key in self._kept

    def leave(self, key: Key, page: int, wanted: Key | None = None) -> list[Key]:
        """The page leaves the device, at the next dispatch. Whose pages are here no more, to make room for it: never
        that of `wanted`; rather its own."""
        if key in self._kept:
            self._kept.move_to_end(key)
            return []
        self._kept[key] = None
        self._leaving.append((key, page))
        if wanted in self._kept:
            self._kept.move_to_end(wanted)
        return [self._kept.popitem(last=False)[0] for _ in range(len(self._kept) - self.count)]

    def arrive(self, key: Key, content: np.ndarray) -> None:
        """What left is here, if anybody may still want it."""
        if key in self._kept:
            self._kept[key] = content

    def content(self, key: Key) -> np.ndarray | None:
        """What can come back."""
        return self._kept.get(key)

    def come(self, key: Key, page: int) -> None:
        """The content comes back into a page of the device, at the next dispatch."""
        content = self._kept[key]
        assert content is not None, "what is on its way cannot turn round"
        self._kept.move_to_end(key)
        self._coming[page] = content

    def taken(self, page: int) -> None:
        """The page of the device is somebody else's: nothing comes into it."""
        self._coming.pop(page, None)

    def drop(self, key: Key) -> None:
        """Nobody wants it back. Harmless where there is nothing."""
        self._kept.pop(key, None)

    def moves(self) -> tuple[list[tuple[Key, int]], list[tuple[int, np.ndarray]]]:
        """What leaves, before anything else of the next dispatch, and what comes, after its copies."""
        leaving = [(key, page) for key, page in self._leaving if key in self._kept]
        coming = [*self._coming.items()]
        self._leaving, self._coming = [], {}
        return leaving, coming
