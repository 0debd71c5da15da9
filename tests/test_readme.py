"""Every command of the README runs as written, on a small version of the demo data."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.helpers.project import ROOT

README = (ROOT / "README.md").read_text(encoding="utf-8")
COMMANDS = re.findall(r"```bash\n(.*?)```", README, flags=re.S)


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder like a checkout after `make demo`, with less data; `python` and `videovit` are this interpreter's."""
    folder = tmp_path_factory.mktemp("checkout")
    for name in ("configs", "tools", "videovit", "datasets"):
        (folder / name).symlink_to(ROOT / name)
    (folder / "bin").mkdir()
    for name, words in (("python", ""), ("videovit", " -m videovit")):
        (folder / "bin" / name).write_text(f'#!/bin/sh\nexec {sys.executable}{words} "$@"\n')
        (folder / "bin" / name).chmod(0o755)
    sizes = ["--train", "16", "--val", "12", "--test", "12", "--workers", "1"]
    prepare = [sys.executable, str(ROOT / "datasets/demo/prepare.py"), "--output", str(folder / "output/demo/data")]
    subprocess.run([*prepare, *sizes], check=True, capture_output=True, timeout=120)
    return folder


def test_readme_commands_run_in_order(checkout: Path) -> None:
    assert len(COMMANDS) >= 4
    for command in COMMANDS:
        path = f"{checkout / 'bin'}:/usr/bin:/bin"
        done = subprocess.run(
            ["bash", "-euc", f"export PATH={path}\n{command}"],
            cwd=checkout,
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    out = checkout / "output/mine"
    for name in (
        "config.yaml",
        "stdout.log",
        "stats.jsonl",
        "shuffle_eval.json",
        "shuffle_eval.png",
        "prediction.json",
    ):
        assert (out / name).is_file(), name


def test_readme_names_existing_files_and_keys() -> None:
    from videovit.config import load_config

    for path in re.findall(r"(?:videovit|configs|tools|docs|datasets)/[\w/.]+\w", README):
        assert (ROOT / path).exists(), path
    for section, key in set(re.findall(r"\b([A-Z]+(?:_[A-Z]+)*)\.([A-Z_]+)\b", README)):
        if section not in ("README", "CONTRIBUTING"):
            assert hasattr(getattr(load_config(), section), key), f"{section}.{key}"


def test_readme_is_short() -> None:
    assert len(README.splitlines()) < 200


@pytest.mark.parametrize("target", ["demo", "test", "check"])
def test_readme_make_targets_exist(target: str) -> None:
    make = shutil.which("make")
    assert make and subprocess.run([make, "-n", target], cwd=ROOT, capture_output=True, timeout=60).returncode == 0
