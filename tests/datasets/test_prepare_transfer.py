"""datasets/transfer/prepare.py: small archives in the layout of the official ones."""

from __future__ import annotations

import hashlib
import io
import json
import pickle
import tarfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from scipy.io import savemat
from torchvision.datasets import CIFAR10, CIFAR100, Flowers102

from tests.helpers.releases import kinds, picture, script
from videovit.data.readers.image_folder import read
from videovit.errors import UserError
from videovit.preparation.command import exit_code


def md5(content: bytes) -> str:
    return hashlib.md5(content).hexdigest()


def write_tar(path: Path, files: Mapping[str, bytes]) -> None:
    with tarfile.open(path, "w:gz") as tar:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))


def jpeg(label: int, seed: int) -> bytes:
    file = io.BytesIO()
    Image.fromarray(picture(label, seed)).save(file, "jpeg")
    return file.getvalue()


def mat(**values: Any) -> bytes:
    file = io.BytesIO()
    savemat(file, values)
    return file.getvalue()


@pytest.fixture
def module(monkeypatch: pytest.MonkeyPatch) -> Any:
    return script("transfer")


def accept(module: Any, name: str, archives: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the MD5 of the small archives pass for the official ones."""
    release = module.RELEASES[name]
    own = tuple(replace(one, md5=md5((archives / one.name).read_bytes())) for one in release.archives)
    monkeypatch.setitem(module.RELEASES, name, replace(release, archives=own))


def run(module: Any, name: str, archives: Path, output: Path, *more: str) -> int:
    words = [name, "--archives", str(archives), "--output", str(output), *more]
    return exit_code(lambda: module.main(words))


def batch(rng: np.random.Generator, labels: list[int], key: str) -> bytes:
    data = rng.integers(0, 255, (len(labels), 3072), dtype=np.uint8)
    return pickle.dumps({"data": data, key: labels, "filenames": ["x"] * len(labels)})


@pytest.mark.parametrize(("name", "kind"), [("cifar10", CIFAR10), ("cifar100", CIFAR100)])
def test_cifar_is_written_as_png(
    module: Any, name: str, kind: type[CIFAR10], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng, key = np.random.default_rng(0), "labels" if name == "cifar10" else "fine_labels"
    batches = {file: batch(rng, [0, 1, 2], key) for file, _ in [*kind.train_list, *kind.test_list]}
    meta = pickle.dumps({kind.meta["key"]: ["frog", "ship", "maple tree"]})
    archives = tmp_path / "archives"
    archives.mkdir()
    content = {**batches, kind.meta["filename"]: meta}
    write_tar(archives / kind.filename, {f"{kind.base_folder}/{file}": one for file, one in content.items()})
    accept(module, name, archives, monkeypatch)
    out = tmp_path / "out"
    # The archive passes here, but not the pickles in it, which run code when they are opened.
    assert run(module, name, archives, out) == 1
    for split in ("train_list", "test_list"):
        monkeypatch.setattr(kind, split, [[file, md5(batches[file])] for file, _ in getattr(kind, split)])
    monkeypatch.setattr(kind, "meta", {**kind.meta, "md5": md5(meta)})
    assert run(module, name, archives, out) == 0
    samples = read(out / "val", num_classes=3)
    assert [sample.label for sample in samples] == [0, 1, 2]
    original = pickle.loads(batches[kind.test_list[0][0]])["data"][1].reshape(3, 32, 32).transpose(1, 2, 0)
    with Image.open(samples[1].path) as image:
        assert np.array_equal(np.asarray(image), original)
    assert len(read(out / "train", num_classes=3)) == 3 * len(kind.train_list)
    assert json.loads((out / "classes.json").read_text()) == ["frog", "ship", "maple tree"]


def test_flowers_train_on_train_and_val(module: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    archives = tmp_path / "archives"
    archives.mkdir()
    write_tar(archives / "102flowers.tgz", {f"jpg/image_{i:05d}.jpg": jpeg(i % 3, i) for i in range(1, 9)})
    (archives / "imagelabels.mat").write_bytes(mat(labels=[i % 3 + 1 for i in range(1, 9)]))
    (archives / "setid.mat").write_bytes(mat(trnid=[1, 4], valid=[2, 5], tstid=[3, 6, 7, 8]))
    accept(module, "flowers", archives, monkeypatch)
    own = {one.name: one.md5 for one in module.RELEASES["flowers"].archives}
    names = {key: (file, own[file]) for key, (file, _) in Flowers102._file_dict.items()}
    monkeypatch.setattr(Flowers102, "_file_dict", names)
    out = tmp_path / "out"
    assert run(module, "flowers", archives, out) == 0
    train, val = (read(out / split, num_classes=102) for split in ("train", "val"))
    assert [Path(s.path).name for s in train] == [f"image_{i:05d}.jpg" for i in (1, 4, 2, 5)]
    assert [s.label for s in train] == [1, 1, 2, 2] and [s.label for s in val] == [0, 0, 1, 2]
    assert len(json.loads((out / "classes.json").read_text())) == 102


def test_cars_and_what_is_wrong_with_archives(
    module: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    archives, out = tmp_path / "archives", tmp_path / "out"
    archives.mkdir()
    assert run(module, "cars", archives, out) == 1
    assert "cars_train.tgz does not exist" in capsys.readouterr().err
    kind = [("fname", "O"), ("class", "i4")]
    train = np.array([(f"{i:05d}.jpg", i % 2 + 1) for i in range(1, 5)], dtype=kind)
    test = np.array([(f"{i:05d}.jpg", i % 2 + 1) for i in range(1, 4)], dtype=kind)
    write_tar(archives / "cars_train.tgz", {f"cars_train/{i:05d}.jpg": jpeg(i % 2, i) for i in range(1, 5)})
    write_tar(archives / "cars_test.tgz", {f"cars_test/{i:05d}.jpg": jpeg(i % 2, 9 + i) for i in range(1, 3)})
    meta = mat(class_names=np.array(["Ram C/V Cargo Van 2012", "smart fortwo 2012"], dtype=object))
    kit = {"cars_train_annos.mat": mat(annotations=train), "cars_meta.mat": meta}
    write_tar(archives / "car_devkit.tgz", {f"devkit/{name}": one for name, one in kit.items()})
    (archives / "cars_test_annos_withlabels.mat").write_bytes(mat(annotations=test))
    assert run(module, "cars", archives, out) == 1
    assert "not the official file, or not all of it; found " in capsys.readouterr().err
    accept(module, "cars", archives, monkeypatch)
    assert run(module, "cars", archives, out, "--check", "--workers", "1") == 1  # the third test image is missing
    assert kinds(out / "check.csv") == {"missing": 1}
    assert [sample.label for sample in read(out / "train", num_classes=2)] == [1, 0, 1, 0]
    assert json.loads((out / "classes.json").read_text())[0] == "Ram C/V Cargo Van 2012"
    # Files that lead out of the folder are not written.
    write_tar(archives / "cars_train.tgz", {"../../escaped.jpg": b"x", "cars_train/a.jpg": b"x"})
    accept(module, "cars", archives, monkeypatch)
    with pytest.raises(UserError, match="cannot be unpacked"):
        module.unpack(module.RELEASES["cars"].archives[0], archives, tmp_path / "other")
    assert not list(tmp_path.rglob("escaped.jpg"))


def test_damaged_archives_are_user_errors(
    module: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    archives, out = tmp_path / "archives", tmp_path / "out"
    assert run(module, "cifar10", archives, out) == 1
    assert "cifar-10-python.tar.gz does not exist; the folder" in (text := capsys.readouterr().err)
    assert "(--archives)" in text
    archives.mkdir()
    path = archives / "cifar-10-python.tar.gz"
    write_tar(path, {"cifar-10-batches-py/data_batch_1": b"x" * 5000})
    path.write_bytes(path.read_bytes()[:-20])
    accept(module, "cifar10", archives, monkeypatch)
    assert run(module, "cifar10", archives, out) == 1
    assert "cifar-10-python.tar.gz: cannot be unpacked: " in capsys.readouterr().err
    assert not list((out / "official").iterdir())
    write_tar(path, {"cifar-10-batches-py/data_batch_1": b"x"})
    accept(module, "cifar10", archives, monkeypatch)
    assert run(module, "cifar10", archives, out) == 1
    assert f"not the official ones. Remove {out / 'official'}" in capsys.readouterr().err
