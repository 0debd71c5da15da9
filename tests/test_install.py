"""Wheels and editable installs: the whole package, the command, and the shipped configs."""

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import yaml

from tests.helpers.project import ROOT

PIP = [sys.executable, "-m", "pip"]
SHIPPED = sorted(path.relative_to(ROOT / "configs").as_posix() for path in (ROOT / "configs").glob("*/*.yaml"))


def run(*command: object, **others: object) -> subprocess.CompletedProcess[str]:
    done = subprocess.run([*map(str, command)], capture_output=True, text=True, timeout=120, **others)  # type: ignore[call-overload]
    assert done.returncode == 0, done.stderr
    return done  # type: ignore[no-any-return]


def tracked(*paths: str) -> list[str]:
    return run("git", "ls-files", "--", *paths, cwd=ROOT).stdout.splitlines()


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the files that a package is built from."""
    folder = tmp_path_factory.mktemp("source")
    for name in tracked("setup.py", "pyproject.toml", "README.md", "LICENSE", "videovit", "configs"):
        if (ROOT / name).exists():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, folder / name, follow_symlinks=False)
    return folder


@pytest.fixture(scope="module")
def wheel(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    run(*PIP, "wheel", "--quiet", "--no-deps", "--no-build-isolation", "-w", folder, source)
    (path,) = folder.glob("*.whl")
    return path


@pytest.fixture(scope="module")
def site(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which the wheel is installed."""
    folder = tmp_path_factory.mktemp("site")
    run(*PIP, "install", "--quiet", "--no-deps", "--target", folder, wheel)
    return folder


def environment(site: Path) -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(site), "PATH": f"{site / 'bin'}{os.pathsep}{os.environ['PATH']}"}


def test_wheel_has_every_module_and_config(wheel: Path) -> None:
    packed = set(zipfile.ZipFile(wheel).namelist())
    assert {name for name in tracked("videovit") if name != "videovit/configs"} <= packed
    assert len(SHIPPED) > 50 and {f"videovit/configs/{name}" for name in SHIPPED} <= packed
    assert any(name.endswith(("dist-info/LICENSE", "dist-info/licenses/LICENSE")) for name in packed)
    assert not any(name.startswith(("tests/", "datasets/", "tools/", "configs/")) for name in packed)


def test_installed_package_builds_a_model(site: Path, tmp_path: Path) -> None:
    code = (
        "import videovit, torch\n"
        "opts = 'MVIT.DEPTH 1 MVIT.PATCH_PADDING [1,3,3] DATA.TRAIN_CROP_SIZE 32 DATA.NUM_FRAMES 4'.split()\n"
        "model = videovit.build_model(videovit.load_config(None, opts)).eval()\n"
        "print(videovit.__file__, model(torch.zeros(1, 3, 4, 32, 32)).shape)"
    )
    done = run(sys.executable, "-c", code, cwd=tmp_path, env=environment(site))
    assert str(site) in done.stdout and "[1, 400]" in done.stdout


def test_installed_command_finds_configs_by_name(site: Path, tmp_path: Path) -> None:
    env = environment(site)
    assert run("videovit", "--version", cwd=tmp_path, env=env).stdout.startswith("videovit ")
    code = "import videovit; print(videovit.load_config('Demo/MVIT_TINY').MVIT.EMBED_DIM, videovit.__file__)"
    done = run(sys.executable, "-c", code, cwd=tmp_path, env=env)
    assert done.stdout.startswith("48 ") and str(site) in done.stdout
    wrong = subprocess.run(
        ["videovit", "run", "--cfg", "Demo/MVIT_TINI"],
        cwd=tmp_path,
        env=env,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert wrong.returncode == 1 and "did you mean Demo/MVIT_TINY?" in wrong.stderr


def test_editable_install_reads_the_configs_of_the_checkout(source: Path, tmp_path: Path) -> None:
    site, folder = tmp_path / "site", tmp_path / "checkout"
    shutil.copytree(source, folder, symlinks=True)
    run(*PIP, "install", "--quiet", "--no-deps", "--no-build-isolation", "--target", site, "-e", folder)
    (folder / "configs/Demo/NEW.yaml").write_text("RNG_SEED: 77\n")
    # -I -S: no other install of the project may come first, so the folders are added by hand.
    dependencies = str(Path(yaml.__file__).parents[1])
    code = (
        f"import site, sys; site.addsitedir({str(site)!r}); sys.path.append({dependencies!r})\n"
        "import videovit; print(videovit.load_config('Demo/NEW').RNG_SEED, videovit.__file__)"
    )
    done = run(sys.executable, "-I", "-S", "-c", code, cwd=tmp_path)
    assert done.stdout.split() == ["77", str(folder / "videovit/__init__.py")]


@pytest.mark.parametrize(
    "statement", ["import videovit", "import videovit.cli", "import videovit; videovit.load_config"]
)
def test_imports_bring_nothing_heavy(statement: str) -> None:
    code = f"import sys\n{statement}\nprint(sorted({{m.split('.')[0] for m in sys.modules}}))"
    found = run(sys.executable, "-c", code).stdout
    heavy = [
        "torch",
        "numpy",
        "timm",
        "sklearn",
        "tensorboard",
        "safetensors",
        "pytorchvideo",
        "submitit",
        "matplotlib",
    ]
    for name in heavy if "videovit." in statement else [*heavy, "yaml"]:
        assert f"'{name}'" not in found, name


def test_public_names_resolve() -> None:
    import videovit

    assert all(getattr(videovit, name) is not None for name in videovit.__all__)
    assert set(videovit.__all__) <= set(dir(videovit))
    with pytest.raises(AttributeError, match="no attribute 'load_confg'"):
        videovit.load_confg  # noqa: B018
