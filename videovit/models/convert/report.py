"""The report on loaded weights: what happened to every tensor."""

from __future__ import annotations

from dataclasses import dataclass, field

MOST_LISTED = 8  # names with the same reason


@dataclass(frozen=True)
class LoadReport:
    """The outcome of `load_pretrained`; `str(report)` is a table.

    Attributes:
        source: layout that the weights were read as; `own` if names were taken as they are (convolutional networks).
        loaded: names of the model whose values are those of the file (renamed, joined or split as the layout requires).
        resized: names of the model whose values were changed to fit; `how` says in which way.
        skipped: names of the file that were not used.
        missing: names of the model that keep their initial values: the head, and what `how` explains.
        how: name -> what was done to it, or why it was left out.
        notes: sentences for the user, warnings included.
        pool_norm_eps: eps set on the pooling norms; None if it was left alone.
    """

    source: str
    loaded: list[str] = field(default_factory=list)
    resized: list[str] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    how: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    pool_norm_eps: float | None = None

    def _by_reason(self, names: list[str]) -> dict[str, list[str]]:
        groups: dict[str, list[str]] = {}
        for name in names:
            groups.setdefault(self.how.get(name, ""), []).append(name)
        return groups

    def __str__(self) -> str:
        listed = {"resized": self.resized, "skipped": self.skipped, "missing": self.missing}
        counts = [f"{len(names)} {title}" for title, names in {"loaded": self.loaded, **listed}.items()]
        lines = [f"weights in the layout {self.source}: {', '.join(counts)}"]
        width = max((len(name) for names in listed.values() for name in names), default=0)
        for title, names in listed.items():
            for reason, same in self._by_reason(names).items():
                # Such as those of a whole decoder.
                shown = same if len(same) <= MOST_LISTED else [f"{same[0]} and {len(same) - 1} more"]
                lines += [f"  {title:8} {name:{width}}  {reason}".rstrip() for name in shown]
        if self.pool_norm_eps is not None:
            lines.append(f"  eps of the pooling norms: {self.pool_norm_eps:g}")
        return "\n".join(lines + [f"  note: {note}" for note in self.notes])
