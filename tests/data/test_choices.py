"""Tables of implementations against the choices of the config."""

from __future__ import annotations

from typing import Annotated, Literal, get_args, get_origin, get_type_hints

import pytest

from videovit.config import Config
from videovit.data.decode import BACKENDS
from videovit.data.transforms.erasing import NOISE_SHAPES
from videovit.data.transforms.frame_orders import ORDERS
from videovit.data.transforms.randaugment import APPLY, RESAMPLING


def choices(section: object, name: str) -> set[str]:
    """The values that a field of the config allows."""
    hint = get_type_hints(type(section), include_extras=True)[name]
    if get_origin(hint) is Annotated:
        hint, *metadata = get_args(hint)
        allowed = [data.allowed for data in metadata if hasattr(data, "allowed")]
        if allowed:
            return set(allowed[0])
    assert get_origin(hint) is Literal
    return set(get_args(hint))


@pytest.mark.parametrize(
    ("section", "name", "table"),
    [
        (Config().DATA, "DECODING_BACKEND", BACKENDS),
        (Config().AUG, "INTERPOLATION", RESAMPLING),
        (Config().AUG, "BACKEND", APPLY),
        (Config().AUG, "RE_MODE", NOISE_SHAPES),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_tables_match_config(section: object, name: str, table: object) -> None:
    assert choices(section, name) == set(table)  # type: ignore[call-overload]


def test_frame_orders_match_config() -> None:
    assert tuple(ORDERS) == Config().SHUFFLE_EVAL.ORDERS
