"""Endless shuffled orders of a set that do not depend on the number of processes and can be resumed anywhere."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np


class InfiniteSampler:
    """Endless shuffled indices, divided among processes, that can be resumed anywhere.

    The whole stream is a function of (n, seed): epoch after epoch, each a fresh permutation in which every index
    occurs once. Process ``rank`` of ``num_replicas`` gets every ``num_replicas``-th of it.

    Args:
        n: size of the dataset.
        rank, num_replicas: which part of the stream.
        seed: the same in all processes.
        start: indices already used by all processes together; resuming with it continues the stream exactly.

    Raises:
        ValueError: sizes or ranks that do not fit together.
    """

    def __init__(self, n: int, rank: int = 0, num_replicas: int = 1, seed: int = 0, start: int = 0) -> None:
        if n < 1 or not 0 <= rank < num_replicas or start < 0:
            raise ValueError(f"no sampler for n={n}, rank={rank} of {num_replicas}, start={start}")
        self.n, self.rank, self.num_replicas, self.seed, self.start = n, rank, num_replicas, seed, start

    def __iter__(self) -> Iterator[int]:
        position = self.start + self.rank
        while True:
            epoch = position // self.n
            index_at = self._epoch(epoch)
            while position // self.n == epoch:
                yield index_at(position % self.n)
                position += self.num_replicas

    def _epoch(self, epoch: int) -> Callable[[int], int]:
        """A function from the position in an epoch to the index."""
        order = np.random.default_rng((self.seed, epoch)).permutation(self.n)
        return lambda position: int(order[position])


class ShardSampler(InfiniteSampler):
    """As `InfiniteSampler`, in an order that reads every tar shard from front to back, once an epoch.

    In each epoch the shards are shuffled, concatenated and cut into ``lanes`` equal pieces; inside a piece the pictures
    of each shard are shuffled; the stream takes from the lanes in turn. So neighbours in the stream come from ``lanes``
    different shards, and where ``num_replicas`` divides ``lanes`` a process needs the shards of its own lanes only.

    Args:
        sizes: pictures in each shard; picture i of the set is the i-th of all shards concatenated.
        rank, num_replicas, seed, start: as in `InfiniteSampler`.
        copies: 2 for a set doubled by mirror images (index ``i + sum(sizes)`` is the mirror image of i).
        lanes: part of what the order depends on, so the same in all processes.
    """

    def __init__(
        self,
        sizes: Sequence[int],
        rank: int = 0,
        num_replicas: int = 1,
        seed: int = 0,
        start: int = 0,
        *,
        copies: int = 1,
        lanes: int = 8,
    ) -> None:
        self.pictures = sum(sizes)
        super().__init__(self.pictures * copies, rank, num_replicas, seed, start)
        if lanes < 1:
            raise ValueError(f"no sampler with {lanes} lanes")
        self.sizes, self.copies, self.lanes = np.asarray(sizes, np.int64), copies, lanes
        self._first = np.cumsum(self.sizes) - self.sizes

    def _epoch(self, epoch: int) -> Callable[[int], int]:
        shards = np.random.default_rng((self.seed, epoch)).permutation(len(self.sizes))
        ends = np.cumsum(self.sizes[shards] * self.copies)
        short, longer = divmod(self.n, self.lanes)  # the first `longer` lanes hold one more
        shuffled: dict[int, tuple[int, np.ndarray]] = {}  # lane -> the piece of a shard it is in

        def pick(place: int) -> int:
            lane = place % self.lanes
            begin = lane * short + min(lane, longer)
            at = begin + place // self.lanes
            turn = int(np.searchsorted(ends, at, side="right"))
            shard = shards[turn]
            size = self.sizes[shard]
            opens = int(ends[turn] - size * self.copies)
            low = max(begin, opens)
            if shuffled.get(lane, (-1,))[0] != turn:
                high = min(begin + short + (lane < longer), int(ends[turn]))
                order = np.random.default_rng((self.seed, epoch, lane, turn)).permutation(high - low)
                shuffled[lane] = turn, order
            mirrored, inside = divmod(int(shuffled[lane][1][at - low]) + low - opens, int(size))
            return mirrored * self.pictures + int(self._first[shard]) + inside

        return pick
