"""Videos in shards: packed, read bit for bit as from files, and what is wrong with them is named."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.helpers.videos import write_list, write_video
from videovit import cli
from videovit.data.columns import Columns, columns_in_memory
from videovit.data.decode import BACKENDS, DecodeError, DecodeOptions, open_video, shards
from videovit.data.decode.shards import INDEX, KEY, ShardIndex, index_columns, number_of
from videovit.preparation import pack as packing

CODECS = {".webm": "libvpx-vp9", ".avi": "mpeg4"}
NAMES = ["a/one.mp4", "a b/zwei ü.mkv", "three.webm", "x.y/" + "long" * 40 + ".avi", "p.png"]


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of videos, an image, and their list."""
    folder = tmp_path_factory.mktemp("videos")
    for number, name in enumerate(NAMES):
        path = folder / name
        path.parent.mkdir(exist_ok=True)
        if path.suffix == ".png":
            from PIL import Image

            Image.effect_noise((32, 24), 50).save(path)
        else:
            write_video(path, num_frames=12 + number, size=(48, 32), codec=CODECS.get(path.suffix, "libx264"))
    write_list(folder / "train.csv", [(name, number % 3) for number, name in enumerate(NAMES)])
    return folder


@pytest.fixture(scope="module")
def packed(tree: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("shards") / "out"
    assert pack(tree, folder) == 0
    return folder


def pack(tree: Path, folder: Path, *more: str, size: str = "6kB") -> int:
    words = ["pack", str(tree / "train.csv"), "--prefix", str(tree), "--output", str(folder), "--size", size, *more]
    return cli.main(words)


@pytest.fixture(autouse=True)
def _closed() -> Iterator[None]:
    yield
    shards._forget()


def read(prefix: str, name: str, backend: str, timeout_s: float = 0.0) -> torch.Tensor:
    options = DecodeOptions(inside=prefix, timeout_s=timeout_s)
    with open_video(f"{prefix}/{name}", backend, options) as video:
        return video.frames(np.array([video.num_frames - 1, 0, 0]))


@pytest.mark.parametrize("backend", ["decord", "pyav", "torchcodec"])
def test_frames_equal_those_of_files(tree: Path, packed: Path, backend: str) -> None:
    if backend == "torchcodec":
        pytest.importorskip("torchcodec")
    assert backend in BACKENDS
    for name in NAMES[:-1]:
        for timeout_s in (0.0, 60.0):
            expected = read(str(tree), name, backend)
            assert torch.equal(read(f"shards:{packed}", name, backend, timeout_s), expected)
            # Members that are too large for memory are read by their place.
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(shards, "MEMORY_MB", 0)
                assert torch.equal(read(f"shards:{packed}", name, backend), expected)


def test_images_equal_those_of_files(tree: Path, packed: Path) -> None:
    assert torch.equal(read(f"shards:{packed}", "p.png", "image"), read(str(tree), "p.png", "image"))


def test_shards_are_plain_tar_files(tree: Path, packed: Path, tmp_path: Path) -> None:
    files = sorted(packed.glob("*.tar"))
    assert len(files) > 1
    index = ShardIndex(Columns(os.open(packed / INDEX, os.O_RDONLY)))
    for row, name in enumerate(index.names):
        with tarfile.open(packed / index.shards[int(index.shard_M[row])]) as tar:
            info = tar.getmember(name)
            assert (info.offset_data, info.size) == (index.place_M[row], index.size_M[row])
            label = tar.extractfile(os.path.splitext(name)[0] + ".cls")
            assert label is not None and label.read() == str(NAMES.index(name) % 3).encode()
    for file in files:
        subprocess.run(["tar", "xf", file, "-C", tmp_path], check=True)
    assert all((tmp_path / name).read_bytes() == (tree / name).read_bytes() for name in NAMES)
    assert (packed / "videos.csv").read_text() == (tree / "train.csv").read_text()


def test_damaged_and_truncated_shards_named(packed: Path, tmp_path: Path) -> None:
    folder = tmp_path / "shards"
    shutil.copytree(packed, folder)
    prefix = f"shards:{folder}"
    index = ShardIndex(Columns(os.open(folder / INDEX, os.O_RDONLY)))
    row = index.find(NAMES[0])
    assert row is not None
    shard = folder / index.shards[int(index.shard_M[row])]
    whole, place = shard.read_bytes(), int(index.place_M[row])
    shard.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
    with pytest.raises(DecodeError, match=f"{shard.name} is damaged: the checksum"):
        read(prefix, NAMES[0], "pyav")
    shard.write_bytes(whole[: place + 100])
    for memory in (64, 0):
        with pytest.MonkeyPatch.context() as patch, pytest.raises(DecodeError, match=f"{shard.name} is truncated"):
            patch.setattr(shards, "MEMORY_MB", memory)
            read(prefix, NAMES[0], "decord")
    shard.unlink()
    shards._forget()
    with pytest.raises(DecodeError, match=f"{shard.name} does not exist"):
        read(prefix, NAMES[0], "pyav")
    with pytest.raises(DecodeError, match=r"not among the 5 members of the shards"):
        read(prefix, "a/other.mp4", "pyav")
    with pytest.raises(DecodeError, match="need DATA.PATH_PREFIX shards:FOLDER"):
        open_video(f"{prefix}/{NAMES[0]}", "pyav")
    (folder / INDEX).write_bytes(b"x" * 100)
    shards._forget()
    with pytest.raises(DecodeError, match="index.columns of .* is damaged"):
        read(prefix, NAMES[0], "pyav")


def test_pack_continues_after_kill(tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "out"

    def killed() -> None:
        write, count = packing.write_shard, 0

        def third(*arguments: object) -> object:
            nonlocal count
            count += 1
            if count == 3:
                os.kill(os.getpid(), 9)
            return write(*arguments)  # type: ignore[arg-type]

        packing.write_shard = third  # type: ignore[assignment]
        pack(tree, folder)

    pid = os.fork()
    if not pid:
        killed()
        os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -9
    kept = {path.name: path.stat().st_mtime_ns for path in folder.glob("*.tar")}
    assert sorted(kept) == ["shard-000000.tar", "shard-000001.tar"] and not (folder / INDEX).exists()
    assert pack(tree, folder) == 0
    assert all((folder / name).stat().st_mtime_ns == changed for name, changed in kept.items())
    assert torch.equal(read(f"shards:{folder}", NAMES[2], "pyav"), read(str(tree), NAMES[2], "pyav"))
    # Larger shards replace those that are left over.
    assert pack(tree, folder, size="1GB") == 0
    assert sorted(path.name for path in folder.glob("*.tar*")) == ["shard-000000.tar", "shard-000000.tar.columns"]


def test_pack_lists_what_it_cannot_read(tree: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "in").mkdir()
    shutil.copy(tree / NAMES[0], tmp_path / "in" / "good.mp4")
    (tmp_path / "in" / "empty\x1b[31m.mp4").touch()
    os.mkfifo(tmp_path / "in" / "pipe.mp4")
    write_list(
        tmp_path / "in" / "train.csv", [("good.mp4", 0), ("missing.mp4", 1), ("pipe.mp4", 1), ("empty\x1b[31m.mp4", 1)]
    )
    assert pack(tmp_path / "in", tmp_path / "out") == 1
    text = capsys.readouterr().err
    assert "3 of 4 videos were not packed" in text and "\x1b" not in text
    assert (
        "missing.mp4: No such file" in text and "pipe.mp4: not a regular file" in text and "x1b[31m.mp4: empty" in text
    )
    assert (tmp_path / "out" / "videos.csv").read_text() == "good.mp4 0\n"


@pytest.mark.parametrize("name", ["/etc/passwd", "../x.mp4", "a/../../x.mp4", "link.mp4"])
def test_pack_refuses_paths_that_lead_out(tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "x.mp4").write_text("x")
    (tmp_path / "in" / "link.mp4").symlink_to(tmp_path / "x.mp4")
    write_list(tmp_path / "in" / "train.csv", [(name, 0)])
    assert pack(tmp_path / "in", tmp_path / "out") == 1
    assert "lead" in capsys.readouterr().err and not (tmp_path / "out").exists()


def test_one_open_and_one_stat_per_video(tmp_path: Path) -> None:
    """As the kernel sees it, in the first epoch and later."""
    if shutil.which("strace") is None:
        pytest.skip("no strace")
    code = (
        "import sys, numpy as np\n"
        "from videovit.data.decode import open_video, DecodeOptions\n"
        "for prefix in sys.argv[1:] * 2:\n"
        "    for backend in ('decord', 'pyav'):\n"
        "        with open_video(f'{prefix}/{backend}.mp4', backend, DecodeOptions(inside=prefix)) as video:\n"
        "            video.frames(np.arange(9))\n"
    )
    tree, folder, log = tmp_path / "in", tmp_path / "out", tmp_path / "log"
    tree.mkdir()
    for backend in ("decord", "pyav"):
        write_video(tree / f"{backend}.mp4", num_frames=40, bframes=2)
    write_list(tree / "train.csv", [("decord.mp4", 0), ("pyav.mp4", 1)])
    assert pack(tree, folder) == 0
    words = [sys.executable, "-c", code, str(tree), f"shards:{folder}"]
    subprocess.run(["strace", "-f", "-e", "trace=file", "-o", log, *words], check=True)
    lines = log.read_text().splitlines()
    for backend in ("decord", "pyav"):
        calls = [line for line in lines if f'"{tree}/{backend}.mp4"' in line]
        # Two epochs.
        assert sum("openat(" in call for call in calls) == 2 and len(calls) == 4, calls
    opened = [line for line in lines if f'"{folder}/' in line]
    assert len(opened) == 1 + len(list(folder.glob("*.tar"))), opened  # the index, and every shard once


def test_index_of_few_members_with_distant_hashes_is_sound() -> None:
    names = ["0.mp4", "6.mp4"]
    hash_0, hash_1 = sorted(map(number_of, names))
    assert hash_1 - hash_0 >= 2**63  # more than an int64 holds
    columns = index_columns(names, ["shard-000000.tar"], *np.zeros((4, 2), dtype=np.int64))
    index = ShardIndex(columns_in_memory(columns, KEY))
    assert sorted(map(index.find, names)) == [0, 1]
