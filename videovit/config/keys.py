"""The schema as a flat table: every key, the annotation of its field, and whether a resumed run may change it."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, get_args, get_origin, get_type_hints

from videovit.config.limits import MayChange
from videovit.config.schema import Config


@dataclass(frozen=True)
class _Field:
    key: str
    annotation: object
    free: bool


@functools.cache
def known_keys() -> dict[str, object]:
    """Every key that has a field, `SECTION.KEY` in the order of the schema, with the field's annotation."""
    return {field.key: field.annotation for field in _fields(Config)}


@functools.cache
def free_keys() -> frozenset[str]:
    """The keys that a resumed run may change, as `SECTION.KEY`; all others shape the training."""
    return frozenset(field.key for field in _fields(Config) if field.free)


@functools.cache
def section_names() -> frozenset[str]:
    """The names of all sections."""
    parts = [key.split(".") for key in known_keys()]
    return frozenset(".".join(part[:end]) for part in parts for end in range(1, len(part)))


def _fields(section: type, prefix: str = "", *, free: bool = False) -> Iterator[_Field]:
    for name, annotation in get_type_hints(section, include_extras=True).items():
        inner, marks = annotation, []
        if get_origin(annotation) is Annotated:
            inner, *marks = get_args(annotation)
        field_free = free or any(isinstance(mark, MayChange) for mark in marks)
        if isinstance(inner, type) and dataclasses.is_dataclass(inner):
            yield from _fields(inner, f"{prefix}{name}.", free=field_free)
        else:
            yield _Field(f"{prefix}{name}", annotation, field_free)
