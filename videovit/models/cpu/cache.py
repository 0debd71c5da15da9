"""Tensors computed from weights, kept between forward passes or for the length of one block."""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor


def in_eager_inference() -> bool:
    """Whether gradients are off and no compiler, exporter or tracer is active.

    At any other time fast modules do what the ordinary ones do: gradients stay right, and a graph holds plain
    operations on parameters instead of constants (but see `constants_in_graphs`).
    """
    return not (torch.compiler.is_compiling() or torch.is_grad_enabled() or torch._C._is_tracing())


class _Graphs(threading.local):
    """Whether this thread captures a graph that may hold kept tensors."""

    hold_kept = False


_GRAPHS = _Graphs()


@contextmanager
def constants_in_graphs() -> Iterator[None]:
    """A graph captured in this block holds kept tensors as constants, in place of what computes them from weights.

    The model must have run before with an input of this size, so that they are there.
    """
    _GRAPHS.hold_kept = True
    try:
        yield
    finally:
        _GRAPHS.hold_kept = False


def uses_kept() -> bool:
    """Whether tables may be taken from a `Cache`: in eager inference, and in graphs that hold them as constants."""
    return _GRAPHS.hold_kept or in_eager_inference()


class Cache:
    """Tensors of one module, computed once; copies and pickles of the module start with an empty cache."""

    def __init__(self) -> None:
        # Threads may share a model. Every access to the dict is atomic; at worst two of them compute the same tensor.
        self._kept: dict[Hashable, tuple[Hashable, Tensor]] = {}

    def __call__(self, key: Hashable, compute: Callable[[], Tensor], *, size: Hashable = None) -> Tensor:
        """`compute()`, or its result of an earlier call with the same key and size.

        Args:
            key: name of the tensor, and what it depends on besides `size`.
            compute: called without gradients.
            size: of the input. Only the tensor of the last size is kept, since inputs may have any number of sizes.

        Returns:
            The tensor, which must not be written to.
        """
        kept = self._kept.get(key)
        if kept is None or kept[0] != size:
            kept = (size, without_gradients(compute))
            self._kept[key] = kept
        return kept[1]

    def __len__(self) -> int:
        return len(self._kept)

    def __deepcopy__(self, memo: object) -> Cache:
        return Cache()

    def __reduce__(self) -> tuple[type[Cache], tuple[()]]:
        return Cache, ()


def without_gradients(compute: Callable[[], Tensor]) -> Tensor:
    """`compute()` as an ordinary tensor, also within `torch.inference_mode`, so that any later pass may use it."""
    with torch.inference_mode(False), torch.no_grad():
        return compute()


class _Held(threading.local):
    """Tensors that this thread holds for the block that it runs; None outside of `hold_for_block`."""

    tensors: dict[Hashable, Tensor] | None = None


_HELD = _Held()


@contextmanager
def hold_for_block() -> Iterator[None]:
    """Keep what `held` computes until the outermost of these contexts ends: too large to keep between blocks."""
    if _HELD.tensors is not None:
        yield
        return
    _HELD.tensors = {}
    try:
        yield
    finally:
        _HELD.tensors = None


def held(key: Hashable, compute: Callable[[], Tensor]) -> Tensor:
    """`compute()`, or its earlier result in the same block; `key` must be unique among all modules."""
    if _HELD.tensors is None:
        return without_gradients(compute)
    if key not in _HELD.tensors:
        _HELD.tensors[key] = without_gradients(compute)
    return _HELD.tensors[key]
