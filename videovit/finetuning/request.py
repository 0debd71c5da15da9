"""The arguments of a fine-tuning run. Imports no PyTorch, so that the command line checks its arguments at once."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from videovit.errors import UserError
from videovit.messages import did_you_mean_beside


@dataclass(frozen=True)
class Request:
    """What to fine-tune, and how. See `videovit.finetune`, whose arguments these are."""

    data: str = ""
    table: str = ""
    path_column: str = "video"
    label_column: str = "label"
    split_column: str = ""
    multi_label: bool = False
    model: str = ""
    cfg: str = ""
    from_scratch: bool = False
    epochs: int | None = None
    minutes: float | None = None
    freeze: str = ""
    batch_size: int | None = None
    output: str = ""
    seed: int = 0
    opts: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if bool(self.data) == bool(self.table):
            raise UserError(
                "give a folder of class folders, or a table" if not self.data else "give a folder or a table, not both",
                hint="videovit finetune my_videos, or videovit finetune --table my.csv",
            )
        if self.from_scratch and self.model:
            raise UserError(f"--from-scratch and --model {self.model} exclude each other")
        if self.epochs is not None and self.minutes is not None:
            raise UserError("--epochs and --minutes exclude each other")
        for name, value in (("--epochs", self.epochs), ("--minutes", self.minutes), ("--batch-size", self.batch_size)):
            if value is not None and value <= 0:
                raise UserError(where=name, found=value, expected="a number above 0")

    @property
    def source(self) -> Path:
        """The folder or table of the data."""
        return Path(self.data or self.table)

    @property
    def output_dir(self) -> Path:
        """Folder of the run, absolute."""
        return Path(self.output or f"output/{self.source.absolute().stem or 'finetune'}").absolute()

    def check_source(self) -> None:
        """Look for the data before PyTorch is imported and anything is downloaded.

        Raises:
            UserError: there is no such folder or table, or one was given as the other.
        """
        source = self.source
        if self.data:
            if source.is_dir():
                return
            hint = f"If it is a table: --table {self.data}" if source.is_file() else ""
            what = "no such folder" if not source.is_file() else "a file, not a folder"
        else:
            if source.is_file():
                return
            hint = f"If it has a folder per class, leave out --table: videovit finetune {self.table}"
            what, hint = ("a folder, not a table", hint) if source.is_dir() else ("no such file", "")
        raise UserError(what, where=source, near="" if hint else did_you_mean_beside(source), hint=hint)
