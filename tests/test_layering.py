"""Which package may import which, and that no two files import each other."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.helpers.project import ROOT

PACKAGE = ROOT / "videovit"
FILES = sorted(PACKAGE.rglob("*.py"))

# Every layer may import the ones listed beside it, and itself.
LAYERS: dict[str, set[str]] = {
    "errors": {"messages"},
    "messages": set(),
    "interrupt": set(),
    "config": {"errors", "messages"},
    "data": {"config", "errors", "messages"},
    "models": {"config", "errors", "messages"},
    "analysis": {"models", "config", "errors", "messages"},
    "preparation": {"data", "config", "errors", "messages"},
    "engine": {"analysis", "data", "models", "config", "errors", "messages"},
    "model": {"engine", "analysis", "data", "models", "config", "errors", "messages"},
    "loading": {"model", "engine", "models", "config"},
    "finetuning": {"engine", "data", "models", "preparation", "config", "errors", "messages"},
    "report": {"loading", "model", "engine", "analysis", "data", "models", "config", "errors", "messages"},
    "app": {"model", "engine", "analysis", "data", "errors", "messages"},
    "commands": {
        "app",
        "report",
        "loading",
        "model",
        "finetuning",
        "preparation",
        "engine",
        "analysis",
        "data",
        "models",
        "config",
        "errors",
        "messages",
        "cli",
    },
    "cli": {"commands", "engine", "config", "errors", "interrupt", "messages"},
    "__init__": {"config", "models", "engine", "loading", "model", "finetuning"},
    "__main__": {"cli"},
}
# Inside engine and models: the rooms, lowest first; a room imports only rooms on lower floors and itself.
FLOORS: dict[str, list[set[str]]] = {
    "engine": [
        {"reporting", "cpu"},
        {"distributed"},
        {"checkpoints"},
        {"exported"},
        {"run_context"},
        {"objectives", "evaluation"},
        {"problem"},
        {"training"},
        {"tasks"},
        {"launch"},
        {"slurm"},
    ],
    "models": [
        {"zoo"},
        {"download"},
        {"contract"},
        {"layers"},
        {"mvit", "vit", "pit", "progressive_sampling", "pooling_sharing", "convolutional", "external", "detection"},
        {"masked"},
        {"cpu"},
        {"macs", "convert"},
        {"build"},
    ],
}


def module_name(path: Path) -> str:
    """`videovit.data.build` for videovit/data/build.py, `videovit.data` for its `__init__`."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_name(path): path for path in FILES}


def imported(path: Path, *, lazily: bool = True) -> Iterator[str]:
    """Absolute names of what a file imports; `lazily` includes imports inside functions and for type checkers."""
    package = list(path.relative_to(ROOT).parent.parts)
    tree = ast.parse(path.read_text(encoding="utf-8"))
    nodes = list(ast.walk(tree)) if lazily else tree.body
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            source = ".".join([*base, *([node.module] if node.module else [])])
            for alias in node.names:
                whole = f"{source}.{alias.name}"
                yield whole if whole in MODULES else source


def layer_of(name: str) -> str:
    """`data` for `videovit.data.build`, `__init__` for `videovit` itself."""
    parts = name.split(".")
    return parts[1] if len(parts) > 1 else "__init__"


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_layers_import_downwards(path: Path) -> None:
    layer = layer_of(module_name(path))
    for name in imported(path):
        parts = name.split(".")
        if parts[0] == "videovit" and len(parts) > 1:
            assert parts[1] in LAYERS[layer] | {layer}, f"{layer} imports {name}"
        if layer == "config":
            assert parts[0] not in ("torch", "numpy"), f"config imports {name}"


def test_layers_are_all_listed() -> None:
    assert {layer_of(name) for name in MODULES} <= LAYERS.keys()


@pytest.mark.parametrize("layer", FLOORS)
def test_rooms_import_downwards(layer: str) -> None:
    height = {room: number for number, rooms in enumerate(FLOORS[layer]) for room in rooms}
    for name, path in MODULES.items():
        parts = name.split(".")
        if len(parts) < 3 or parts[1] != layer:
            continue
        assert parts[2] in height, f"{name} is in no room of FLOORS"
        for other in imported(path):
            target = other.split(".")
            if target[:2] != parts[:2] or len(target) < 3 or target[2] == parts[2]:
                continue
            assert height[target[2]] < height[parts[2]], f"{name} imports {other}"


def test_imports_have_no_circle() -> None:
    edges = {name: {n for n in imported(path, lazily=False) if n in MODULES} - {name} for name, path in MODULES.items()}
    # A package's __init__ runs before its modules, but whoever imports a module does not depend on all of them.
    open_: list[str] = []
    done: set[str] = set()

    def visit(name: str) -> None:
        if name in done:
            return
        assert name not in open_, " -> ".join([*open_[open_.index(name) :], name])
        open_.append(name)
        for other in sorted(edges[name]):
            visit(other)
        open_.pop()
        done.add(name)

    for name in MODULES:
        visit(name)


SOURCES = sorted([*FILES, *(ROOT / "tools").glob("*.py"), *(ROOT / "tests").rglob("*.py")])


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_files_are_small(path: Path) -> None:
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 450


def test_only_builders_see_the_config() -> None:
    """Below the engine, `cfg` appears in functions that build from it and nowhere else."""
    builder = re.compile(r"^(build_|read_|train_batch|eval_batch|\w+_from_config)")
    for path in FILES:
        if layer_of(module_name(path)) not in ("data", "models"):
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef) and any(a.arg == "cfg" for a in node.args.args):
                assert builder.match(node.name), f"{path}: {node.name} takes a config"
