"""What is remembered in the folder of a run: the request, and the state of every file when the data were divided."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

from videovit.errors import UserError
from videovit.finetuning.request import Request
from videovit.messages import plural, printable
from videovit.preparation.checks import fingerprint
from videovit.preparation.labeled import LabeledVideo

RECORD = "finetune.json"
MOST_NAMED = 5  # files in a message


@dataclass(frozen=True)
class FileState:
    """Classes, size, time of change and fingerprint of a file, to detect changes."""

    labels: list[str]
    size: int
    time_ns: int
    content: str

    @classmethod
    def of(cls, video: LabeledVideo, before: FileState | None = None) -> FileState:
        """The state of a video; files of the same size and time as before are not read again."""
        labels = list(video.labels)
        try:
            stat = os.stat(video.path)
            if before and (stat.st_size, stat.st_mtime_ns) == (before.size, before.time_ns):
                return cls(labels, stat.st_size, stat.st_mtime_ns, before.content)
            return cls(labels, stat.st_size, stat.st_mtime_ns, fingerprint(video.path))
        except OSError:
            return cls(labels, -1, 0, "")

    def differs(self, other: FileState) -> bool:
        """Whether classes or content differ; the times of copied files do not count."""
        return (self.labels, self.size, self.content) != (other.labels, other.size, other.content)


def file_states(videos: Iterable[LabeledVideo], before: dict[str, FileState] | None = None) -> dict[str, FileState]:
    """Path -> state of the videos."""
    return {video.path: FileState.of(video, (before or {}).get(video.path)) for video in videos}


def write_record(folder: Path, request: Request, files: dict[str, FileState]) -> None:
    """Record what the run was prepared from; written last, so that a run without it is prepared again."""
    content = {"request": asdict(request), "files": {path: asdict(state) for path, state in files.items()}}
    partial = folder / f".{RECORD}.tmp"
    partial.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    os.replace(partial, folder / RECORD)


def read_record(folder: Path) -> tuple[Request, dict[str, FileState]] | None:
    """What a run was prepared from; None if it was not prepared to the end.

    Raises:
        UserError: the folder holds another run, or the record is damaged.
    """
    file = folder / RECORD
    if not file.is_file():
        if (folder / "checkpoints").is_dir():
            raise UserError(
                "holds a run that was not started by finetune", where=folder, hint="Choose another folder by --output"
            )
        return None
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        request = content["request"]
        states = {path: FileState(**state) for path, state in content["files"].items()}
        return Request(**{**request, "opts": tuple(request["opts"])}), states
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        hint = "Choose another folder by --output, or remove this one"
        raise UserError(f"damaged: {error}", where=file, hint=hint) from None


def check_same(before: Request, now: Request) -> None:
    """Refuse to continue a run with other arguments.

    Raises:
        UserError: names the arguments that differ.
    """
    first, second = asdict(before), asdict(now)
    changed = [name for name in first if first[name] != second[name] and name != "output"]
    if changed:
        listed = ", ".join(f"{name} {second[name]!r} (was {first[name]!r})" for name in changed)
        raise UserError(
            f"holds a run with other arguments: {listed}",
            where=now.output_dir,
            hint="Choose another folder by --output. To change keys of a started run: videovit run --cfg "
            f"{now.output_dir / 'config.yaml'} KEY VALUE",
        )


def describe_changes(before: dict[str, FileState], now: dict[str, FileState]) -> list[str]:
    """What has happened to the data since the split was made; one line per kind of change."""
    changes = {
        "new and not used": [path for path in now if path not in before],
        "no longer there": [
            path for path, state in before.items() if path not in now or state.size >= 0 > now[path].size
        ],
        "changed": [path for path, s in now.items() if path in before and s.size >= 0 and s.differs(before[path])],
    }
    return [
        f"{plural(len(paths), 'video')} {what}: {', '.join(map(printable, paths[:MOST_NAMED]))}"
        + (f" and {len(paths) - MOST_NAMED} more" if len(paths) > MOST_NAMED else "")
        for what, paths in changes.items()
        if paths
    ]
