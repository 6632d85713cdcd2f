"""Several servers behind one client: whom to ask next, whom to leave alone for a while, how long to wait before asking again."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Retry:
    """When to ask again.

    Attributes:
        rounds: How often a request goes through the servers at most, the first time included. In a round each server is asked
            once, without a wait between two of them.
        first_wait: Seconds before the second round; doubled each time, less up to half of it at random, so that clients that
            failed together do not come back together.
        longest_wait: Seconds.
    """

    rounds: int = 4
    first_wait: float = 0.05
    longest_wait: float = 2.0

    def waits(self) -> Iterator[float]:
        """Seconds to wait before each further round."""
        wait = self.first_wait
        for _ in range(self.rounds - 1):
            yield min(wait, self.longest_wait) * random.uniform(0.5, 1.0)  # noqa: S311 - no secret
            wait *= 2


DEFAULT_RETRY = Retry()


class Endpoints:
    """Addresses taken in turn, those with fewer requests under way first; may be used from many threads.

    One that failed is passed over for `rest_seconds`, unless there is no other left.
    """

    def __init__(self, addresses: Sequence[str], rest_seconds: float = 5.0) -> None:
        """Args: the addresses, at least one; how long to pass over one that failed, in seconds."""
        self.addresses = tuple(dict.fromkeys(addresses))
        self._rest_seconds = rest_seconds
        self._under_way = dict.fromkeys(self.addresses, 0)
        self._rests_until = dict.fromkeys(self.addresses, 0.0)
        self._next = 0
        self._lock = threading.Lock()

    def take(self, tried: Collection[str] = ()) -> str:
        """The next address that is not among `tried`, which must not be all; to be given back with `give_back`."""
        if len(self.addresses) == 1:
            return self.addresses[0]
        now = time.monotonic()
        with self._lock:
            turn = [address for address in self.addresses[self._next :] + self.addresses[: self._next] if address not in tried]
            # min takes the first of equals: the one whose turn it is.
            chosen = min(turn, key=lambda address: (self._rests_until[address] > now, self._under_way[address]))
            self._next = (self.addresses.index(chosen) + 1) % len(self.addresses)
            self._under_way[chosen] += 1
            return chosen

    def give_back(self, address: str) -> None:
        """Ends what `take` began."""
        if len(self.addresses) > 1:
            with self._lock:
                self._under_way[address] -= 1

    def failed(self, address: str) -> None:
        """Lets an address rest."""
        with self._lock:
            self._rests_until[address] = time.monotonic() + self._rest_seconds

    def answered(self, address: str) -> None:
        """Takes an address back at once."""
        if self._rests_until[address]:
            with self._lock:
                self._rests_until[address] = 0.0
