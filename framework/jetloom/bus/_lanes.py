"""Events held by key: which one may be handled next. Pure."""

from __future__ import annotations

from bisect import insort
from collections import deque
from heapq import heappop, heappush

from ..transport import Delivery


class Item:
    """An event that is held. `tries` counts those in this process."""

    __slots__ = ("delivery", "key", "tries")

    def __init__(self, delivery: Delivery, key: str) -> None:
        self.delivery = delivery
        self.key = key
        self.tries = 0


class Lanes:
    """A lane per key, each in the order of the stream.

    The head of a lane is handled alone; one that failed waits there until its time has come, and its lane with it.
    """

    def __init__(self) -> None:
        self.held: dict[int, Item] = {}
        self._lanes: dict[str, list[int]] = {}
        self._ready: deque[str] = deque()
        """Keys whose head may be handled, each once."""
        self._delayed: list[tuple[float, str]] = []
        self._busy: set[str] = set()
        """Keys whose head is handled, or waits for its time."""

    def __len__(self) -> int:
        return len(self.held)

    def add(self, delivery: Delivery, key: str) -> None:
        self.held[delivery.sequence] = Item(delivery, key)
        lane = self._lanes.get(key)
        if lane is None:
            lane = self._lanes[key] = []
        insort(lane, delivery.sequence)
        if len(lane) == 1 and key not in self._busy:
            self._ready.append(key)

    def take(self) -> Item | None:
        """The head of a lane whose turn it is; its lane waits until it is finished or put off."""
        if not self._ready:
            return None
        key = self._ready.popleft()
        self._busy.add(key)
        return self.held[self._lanes[key][0]]

    def finish(self, item: Item) -> None:
        """It was answered: the next one of its key may follow."""
        sequence, key = item.delivery.sequence, item.key
        del self.held[sequence]
        lane = self._lanes[key]
        lane.remove(sequence)
        self._busy.discard(key)
        if lane:
            self._ready.append(key)
        else:
            del self._lanes[key]

    def put_off(self, item: Item, until: float) -> None:
        """It failed, and is tried again then."""
        heappush(self._delayed, (until, item.key))

    def put_back(self, item: Item) -> None:
        """It was not handled after all."""
        self._busy.discard(item.key)
        self._ready.appendleft(item.key)

    def advance(self, now: float) -> None:
        """What was put off until now is ready again."""
        while self._delayed and self._delayed[0][0] <= now:
            key = heappop(self._delayed)[1]
            self._busy.discard(key)
            self._ready.append(key)

    @property
    def next_due(self) -> float | None:
        """When the next one that was put off is tried again."""
        return self._delayed[0][0] if self._delayed else None
