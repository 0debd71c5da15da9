"""What became of every tensor when weights were loaded."""

from dataclasses import dataclass, field


@dataclass(frozen=True)
class LoadReport:
    """The outcome of `load_pretrained`; `str(report)` is a table.

    Attributes:
        source: layout the weights were read as; `own` where names are taken as they are (models other than MViT).
        loaded: names of the model taken over as they are (renamed, joined or split where the layout asks for it).
        resized: names of the model whose values were changed to fit; `how` says in which way.
        skipped: names of the file that were not used.
        missing: names of the model that keep their initial values (the head; nothing else is tolerated unsaid).
        how: name -> what was done to it, or why it was left out.
        notes: sentences for the reader, warnings included.
        pool_norm_eps: eps set on the pooling norms; None when it was left alone.
    """

    source: str
    loaded: list[str] = field(default_factory=list)
    resized: list[str] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    how: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    pool_norm_eps: float | None = None

    def __str__(self) -> str:
        counts = [(title, getattr(self, title)) for title in ("loaded", "resized", "skipped", "missing")]
        lines = [
            f"weights in the layout {self.source}: " + ", ".join(f"{len(names)} {title}" for title, names in counts)
        ]
        width = max((len(n) for _, names in counts[1:] for n in names), default=0)
        for title, names in counts[1:]:
            lines += [f"  {title:8} {name:{width}}  {self.how.get(name, '')}".rstrip() for name in names]
        if self.pool_norm_eps is not None:
            lines.append(f"  eps of the pooling norms: {self.pool_norm_eps:g}")
        return "\n".join(lines + [f"  note: {note}" for note in self.notes])
