"""Tensors computed from parameters (packed, resized, gathered weights), kept between forwards in inference."""

from collections.abc import Callable, Hashable, Sequence
from typing import Any

import torch
from torch import Tensor, nn


class Derived:
    """Remembers tensors made from parameters until one of the parameters changes.

    Only when gradients are off and no compiler is looking; otherwise every call computes, so training, `torch.compile`
    and `torch.export` see plain operations. A change is noticed by the parameter's version counter and address; a fused
    optimiser moves neither, so a forward with gradients, without which it has nothing to do, forgets everything.
    Writing through `param.data` or a NumPy view moves neither too: call `train()` or `eval()` on the model afterwards
    (both forget everything), as every evaluation loop does anyway.
    """

    def __init__(self) -> None:
        # Threads may share a model: every access to the dicts is a single step.
        self._made: dict[Hashable, tuple[Any, Tensor]] = {}
        self._passing: dict[Hashable, tuple[Any, Tensor]] = {}

    def __call__(
        self,
        key: Hashable,
        sources: Sequence[Tensor | None],
        make: Callable[[], Tensor],
        *,
        size: Hashable = None,
        passing: bool = False,
    ) -> Tensor:
        """`make()`, or what it returned last time for this key while `sources` stayed the same.

        Args:
            key: names the result; holds what else it depends on, but for `size`.
            sources: the parameters that `make` reads; None entries are skipped.
            make: computes the tensor.
            size: of the input that it is for; only the result for the last one is kept, as there may be any number.
            passing: keep it until `forget_passing` only: too large to hold between forwards.

        Returns:
            The tensor, not to be written to.
        """
        if self.forget_in_training() or torch.compiler.is_compiling():
            return make()
        tensors = [t for t in sources if t is not None]
        if any(t.is_meta or t.is_inference() for t in tensors):
            return make()
        stamp = (size, [(t.data_ptr(), t._version) for t in tensors])
        store = self._passing if passing else self._made
        known = store.get(key)
        if known is None or known[0] != stamp:
            # An inference tensor could not be used by a later training step: make a normal one.
            with torch.inference_mode(False), torch.no_grad():
                known = (stamp, make())
            store[key] = known
        return known[1]

    def forget_in_training(self) -> bool:
        """Forget everything if gradients are on, and say whether they are."""
        if torch.is_grad_enabled() and not torch.compiler.is_compiling():
            self.clear()
        return torch.is_grad_enabled()

    def clear(self) -> None:
        """Forget everything."""
        self._made.clear()
        self._passing.clear()

    def forget_passing(self) -> None:
        """Forget what was made to be used for a short while."""
        self._passing.clear()

    def __len__(self) -> int:
        return len(self._made) + len(self._passing)

    def __deepcopy__(self, memo: dict[int, Any]) -> "Derived":
        return Derived()

    def __reduce__(self) -> tuple[type["Derived"], tuple[()]]:
        return Derived, ()


def forget_derived(model: nn.Module) -> None:
    """Forget everything that the modules of a model derived from their weights."""
    for module in model.modules():
        derived = getattr(module, "_derived", None)
        if isinstance(derived, Derived):
            derived.clear()


def forget_passing(module: nn.Module) -> None:
    """Let go of the passing tensors of a module and all modules in it; nothing to do while training or compiling."""
    if torch.is_grad_enabled() or torch.compiler.is_compiling():
        return
    for inner in module.modules():
        derived = getattr(inner, "_derived", None)
        if isinstance(derived, Derived):
            derived.forget_passing()
