"""Build the model of a stranger's config only as far as its weights can fill it."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from torch import Tensor, nn
from torch.nn.modules.module import (
    register_module_buffer_registration_hook,
    register_module_module_registration_hook,
    register_module_parameter_registration_hook,
)

from videovit.errors import UserError
from videovit.messages import Plain
from videovit.models.convert.expansion import ALWAYS_ALLOWED, MOST_TIMES

_MODULE_BYTES = 4096  # of the Python objects of a module, at least


@contextmanager
def bounded(weights: Path | None) -> Iterator[None]:
    """Stop building a model in the block once it is larger than a file of its weights may unfold to.

    Parameters are counted before they are initialized, when they take no memory yet.

    Args:
        weights: a file, or a folder of files; None for no bound.

    Raises:
        UserError: the model is larger.
    """
    if weights is None:
        yield
        return
    files = [path for path in weights.iterdir() if path.is_file()] if weights.is_dir() else [weights]
    size = sum(path.stat().st_size for path in files)
    thread, total, allowed = threading.get_ident(), 0, max(MOST_TIMES * size, ALWAYS_ALLOWED)

    def refuse(what: str) -> UserError:
        return UserError(
            "its config describes a model that is much larger than its weights",
            where=weights,
            found=Plain(what),
            expected=f"at most {allowed:,}, since its files have {size:,}",
        )

    def count(module: nn.Module, name: str, part: object) -> None:
        nonlocal total
        if threading.get_ident() == thread:  # the hooks are those of all threads
            total += part.numel() * part.element_size() if isinstance(part, Tensor) else _MODULE_BYTES
            if total > allowed:
                raise refuse(f"{total:,} bytes or more")

    hooks = [
        register_module_parameter_registration_hook(count),
        register_module_buffer_registration_hook(count),
        register_module_module_registration_hook(count),
    ]
    try:
        yield
    except RuntimeError as error:
        if "allocate memory" not in str(error):
            raise
        raise refuse("a tensor that does not fit into the memory") from error
    finally:
        for hook in hooks:
            hook.remove()
