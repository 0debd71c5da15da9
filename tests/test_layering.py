"""Who may import whom: tools -> engine -> {models, data} -> config."""

import ast
import re
from pathlib import Path

import pytest

from tests.helpers.project import ROOT

PACKAGE = ROOT / "videovit"
ALLOWED = {
    "config": {"config"},
    "data": {"data", "config"},
    "models": {"models", "config"},
    "engine": {"engine", "models", "data", "config"},
}
FILES = sorted(PACKAGE.rglob("*.py"))


def imported(path: Path) -> list[str]:
    """Absolute names of the modules that a file imports."""
    package = [PACKAGE.name, *path.relative_to(PACKAGE).parent.parts]
    names = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            names.append(".".join([*base, *([node.module] if node.module else [])]))
    return names


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_layers(path: Path) -> None:
    layer = path.relative_to(PACKAGE).parts[0]
    if layer == "__init__.py":
        return
    for name in imported(path):
        parts = name.split(".")
        if parts[0] == "videovit" and len(parts) > 1:
            assert parts[1] in ALLOWED[layer], f"{layer} imports {name}"
        if layer == "config":
            assert parts[0] not in ("torch", "numpy"), f"config imports {name}"


def test_every_layer_is_there() -> None:
    assert {p.relative_to(PACKAGE).parts[0] for p in FILES} - {"__init__.py"} == ALLOWED.keys()


@pytest.mark.parametrize(
    "path", sorted([*FILES, *(ROOT / "tools").glob("*.py"), *(ROOT / "tests").rglob("*.py")]), ids=str
)
def test_files_are_small(path: Path) -> None:
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 450


def test_only_adapters_see_the_config() -> None:
    """Below the engine, `cfg` appears in functions that build from it and nowhere else."""
    builder = re.compile(r"^(build_|read_|train_batch|eval_batch|\w+_from_config)")
    for path in FILES:
        if path.relative_to(PACKAGE).parts[0] not in ("data", "models"):
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef) and any(a.arg == "cfg" for a in node.args.args):
                assert builder.match(node.name), f"{path}: {node.name} takes a config"
