"""The wheel holds the whole package and works outside a checkout."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from tests.helpers.project import ROOT


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    files = subprocess.run(
        ["git", "ls-files", "--", "setup.py", "pyproject.toml", "README.md", "videovit"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    for name in files.stdout.splitlines():
        if (ROOT / name).exists():
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            (source / name).write_bytes((ROOT / name).read_bytes())
    pip = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "-w", str(folder)]
    subprocess.run([*pip, str(source)], check=True, capture_output=True, timeout=120)
    (path,) = folder.glob("*.whl")
    return path


def test_every_module_is_in_the_wheel(wheel: Path) -> None:
    packed = set(zipfile.ZipFile(wheel).namelist())
    files = subprocess.run(["git", "ls-files", "videovit"], cwd=ROOT, capture_output=True, text=True, check=True)
    assert set(files.stdout.split()) <= packed
    assert not any(name.startswith(("tests/", "datasets/", "tools/")) for name in packed)


def test_installed_package_builds_a_model(wheel: Path, tmp_path: Path) -> None:
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(tmp_path / "site")]
    subprocess.run([*pip, str(wheel)], check=True, capture_output=True, timeout=120)
    code = (
        "import videovit, torch; from videovit.config import load_config; from videovit.models import build_model\n"
        "opts = 'MVIT.DEPTH 1 MVIT.PATCH_PADDING [1,3,3] DATA.TRAIN_CROP_SIZE 32 DATA.NUM_FRAMES 4'.split()\n"
        "print(videovit.__file__, build_model(load_config(None, opts)).eval()(torch.zeros(1, 3, 4, 32, 32)).shape)"
    )
    env = {**os.environ, "PYTHONPATH": str(tmp_path / "site")}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=env, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    assert str(tmp_path / "site") in done.stdout and "[1, 400]" in done.stdout


def test_nothing_optional_is_imported(wheel: Path) -> None:
    code = "import sys, videovit.cli\nprint(sorted({m.split('.')[0] for m in sys.modules}))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120)
    for name in ("timm", "sklearn", "tensorboard", "safetensors", "pytorchvideo", "submitit", "matplotlib"):
        assert f"'{name}'" not in done.stdout, name
