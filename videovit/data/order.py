"""In which order videos are read, on which rank.

Training with 10 videos, global batches of 4, and 2 ranks. The order of an epoch is cut into batches:

    7 2 9 0 | 4 1 8 3 | (5 6)        the last, incomplete batch is dropped
    r0  r1    r0  r1                 each rank takes its slice of every batch
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import Sampler

from videovit.data.dataset import Key, Stream, random_stream

Ints = NDArray[np.int64]
CHUNK = 4096  # draws that are turned into Python objects at once


class EpochSampler(Sampler[Key]):
    """The keys of one rank, in reading order.

    With a seed (training), the videos of every epoch are permuted and cut into global batches, of which this rank takes
    its slice; the incomplete last batch is dropped. The global batches are the same for any number of ranks. Without a
    seed (evaluation), video i goes to rank i % world_size, and every video comes exactly once.

    Args:
        num_videos: videos in the data set.
        batch_size: videos of this rank per step.
        rank: this process.
        world_size: processes that share the data set.
        seed: seed of the order, or None.
        classes: of every video, to draw every class equally often in training; None: every video once.
        groups: of every video; training batches then hold videos of one group, as far as possible.
    """

    def __init__(
        self,
        num_videos: int,
        *,
        batch_size: int,
        rank: int = 0,
        world_size: int = 1,
        seed: int | None = None,
        classes: Sequence[int] | Ints | None = None,
        groups: Sequence[int] | None = None,
    ) -> None:
        if not 0 <= rank < world_size:
            raise ValueError(f"rank {rank} is not in 0..{world_size - 1}")
        self._num_videos = num_videos
        self._batch_size = batch_size
        self._rank = rank
        self._world_size = world_size
        self._seed = seed
        self._classes_V = None if classes is None else np.asarray(classes, dtype=np.int64)
        self._groups_V = None if groups is None else np.asarray(groups, dtype=np.int64)
        self._epoch = 0
        self._first_step = 0

    def set_epoch(self, epoch: int, first_step: int = 0) -> None:
        """Set the epoch that the next iteration reads, and the number of steps to skip at its start (on resuming)."""
        self._epoch = epoch
        self._first_step = first_step

    def __len__(self) -> int:
        """Videos of this rank in a whole epoch, regardless of `first_step`."""
        if self._seed is None:
            return len(range(self._rank, self._num_videos, self._world_size))
        return self._num_videos // (self._batch_size * self._world_size) * self._batch_size

    def __iter__(self) -> Iterator[Key]:
        epoch = self._epoch
        # Steps are skipped before they reach the workers, so their videos are not decoded.
        draws_N2 = self._draws(epoch)[self._first_step * self._batch_size :]
        # Lists of millions of numbers would take many times the memory of the array.
        for start in range(0, len(draws_N2), CHUNK):
            for index, time in draws_N2[start : start + CHUNK].tolist():
                # A video that is drawn again must give another clip, so it needs another key.
                yield (epoch, index, time) if time else (epoch, index)

    def _draws(self, epoch: int) -> Ints:
        """(N, 2): the videos of this rank, and how often each came before in the epoch."""
        if self._seed is None:
            # Interleaved, so that the numbers of videos of two ranks differ by at most one.
            return _once(np.arange(self._rank, self._num_videos, self._world_size))
        rng = random_stream(Stream.ORDER_OF_VIDEOS, self._seed, epoch)
        if self._classes_V is None:
            draws_N2 = _once(rng.permutation(self._num_videos))
        else:
            draws_N2 = balanced_draws(self._classes_V, rng)
        if self._groups_V is not None:
            groups_N = self._groups_V[draws_N2[:, 0]]
            draws_N2 = draws_N2[grouped_order(groups_N, self._batch_size * self._world_size, rng)]
        # Cut into global batches first and into ranks second, so that another world size gives the same batches.
        num_steps = len(self) // self._batch_size
        used = draws_N2[: num_steps * self._batch_size * self._world_size]
        return used.reshape(num_steps, self._world_size, self._batch_size, 2)[:, self._rank].reshape(-1, 2)


def _once(videos_N: Ints) -> Ints:
    return np.stack([videos_N, np.zeros_like(videos_N)], axis=1)


def balanced_draws(classes_V: Ints, rng: np.random.Generator) -> Ints:
    """As many draws as there are videos, every class equally often (to one draw), in random order.

    Within a class, every video comes equally often (to one draw) too: those of a rare class several times, those of a
    common one at most once, others in each epoch.

    Args:
        classes_V: class of every video; classes without videos are not drawn.
        rng: source of randomness.

    Returns:
        (V, 2): the video, and how often it came before.
    """
    by_class = np.argsort(classes_V, kind="stable")
    members = np.split(by_class, np.flatnonzero(np.diff(classes_V[by_class])) + 1)
    draws = np.full(len(members), len(classes_V) // len(members))
    draws[rng.permutation(len(members))[: len(classes_V) % len(members)]] += 1
    rows = []
    for videos, number in zip(members, draws.tolist(), strict=True):
        times, rest = divmod(number, len(videos))
        rows += [np.stack([videos, np.full_like(videos, time)], axis=1) for time in range(times)]
        some = rng.permutation(videos)[:rest]
        rows.append(np.stack([some, np.full_like(some, times)], axis=1))
    drawn_V2: Ints = rng.permutation(np.concatenate(rows))
    return drawn_V2


def grouped_order(groups_N: Ints, batch_size: int, rng: np.random.Generator) -> Ints:
    """Reorder draws so that batches hold one group each; what is left over of the groups makes mixed ones.

    Args:
        groups_N: group of every draw.
        batch_size: draws per batch.
        rng: source of the order of the batches.

    Returns:
        (N,): places of the draws. The last, incomplete batch comes last.
    """
    batches, rest = [], []
    for group in np.unique(groups_N):
        places = np.flatnonzero(groups_N == group)
        full = len(places) // batch_size * batch_size
        batches += list(places[:full].reshape(-1, batch_size))
        rest.append(places[full:])
    left_over = rng.permutation(np.concatenate(rest))
    full = len(left_over) // batch_size * batch_size
    batches += list(left_over[:full].reshape(-1, batch_size))
    order = [batches[place] for place in rng.permutation(len(batches))]
    return np.concatenate([*order, left_over[full:]]).astype(np.int64)
