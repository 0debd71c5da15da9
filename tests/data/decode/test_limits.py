"""Decoders that hang, crash, or use too much memory: the file is reported and the epoch continues, without leaks."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import time
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from tests.helpers.videos import VIDEO_BACKENDS, read_barcodes, rotate, write_video
from videovit.data.build import ClipLoader
from videovit.data.dataset import ClipDataset, RepeatedCrops
from videovit.data.decode import BACKENDS, DecodeError, DecodeOptions, Video, open_video, time_limit
from videovit.data.order import EpochSampler
from videovit.data.records import Sample, collate
from videovit.data.sampling import RandomSpans
from videovit.data.workers import workers_named
from videovit.errors import UserError

Numbered = Callable[..., Path]
LIMIT_S = 2.0  # valid files must open within this time even on a busy machine
LIMITED = DecodeOptions(timeout_s=20.0)


@pytest.fixture(autouse=True)
def no_helpers() -> Iterator[None]:
    """Every test starts and ends without helpers."""
    time_limit._end_idle()
    yield
    time_limit._end_idle()


def children() -> set[int]:
    """Child processes of this one."""
    found = set()
    for entry in Path("/proc").glob("[0-9]*/stat"):
        try:
            pid, rest = entry.read_text().split(" (", 1)
        except OSError:
            continue
        if int(rest.rsplit(") ", 1)[1].split()[1]) == os.getpid():
            found.add(int(pid))
    return found


@pytest.fixture
def bad_decoder(monkeypatch: pytest.MonkeyPatch) -> str:
    """A backend that misbehaves like native code, as the file name says, and otherwise decodes."""

    def misbehave(path: str, moment: str) -> None:
        if f"spin_{moment}" in path:
            ctypes.PyDLL(None).sleep(1000)  # holds the interpreter's lock, so the whole process hangs
        if f"crash_{moment}" in path:
            os.kill(os.getpid(), signal.SIGSEGV)

    def open_bad(path: str, options: DecodeOptions) -> Video:
        misbehave(path, "open")
        video = open_video(path, "pyav", DecodeOptions())
        decode, close = video.frames, video.close
        video.frames = lambda indices: misbehave(path, "frames") or decode(indices)  # type: ignore[method-assign]
        video.close = lambda: misbehave(path, "close") or close()  # type: ignore[method-assign]
        return video

    monkeypatch.setitem(BACKENDS, "bad", open_bad)
    return "bad"


@pytest.mark.parametrize("num_workers", [0, 2])
def test_epoch_continues(numbered: Numbered, tmp_path: Path, bad_decoder: str, num_workers: int) -> None:
    good = numbered("limits_good.mp4", num_frames=20).read_bytes()
    names = ["spin_open", "good0", "crash_frames", "good1", "spin_frames", "good2", "spin_close", "crash_open", "good3"]
    for name in names:
        (tmp_path / f"{name}.mp4").write_bytes(good)
    dataset = ClipDataset(
        [Sample(str(tmp_path / f"{name}.mp4"), label) for label, name in enumerate(names)],
        plan=RandomSpans(4, 1, 30.0),
        crops=RepeatedCrops(lambda frames, rng: frames),
        backend=bad_decoder,
        decoding=DecodeOptions(timeout_s=LIMIT_S),
        replace_unreadable=True,
        seed=3,
    )
    before = children()
    start = time.monotonic()
    keys = [(0, index) for index in range(len(names))]
    loader: Any = DataLoader(dataset, sampler=keys, batch_size=3, num_workers=num_workers, collate_fn=collate)
    batches = list(loader)
    assert time.monotonic() - start < 30
    assert sum(len(batch) for batch in batches) == len(names)
    reasons = {Path(f.path).stem: (f.reason, f.backend) for batch in batches for f in batch.failures}
    late = f"took longer than DATA.DECODE_TIMEOUT_S {LIMIT_S:g} s; its decoder was ended"
    crashed = "the decoder crashed (SIGSEGV)"
    assert reasons == {
        "spin_open": (late, "bad"),
        "spin_frames": (late, "bad"),
        "crash_open": (crashed, "bad"),
        "crash_frames": (crashed, "bad"),
    }
    time_limit._end_idle()
    deadline = time.monotonic() + 10
    while children() - before and time.monotonic() < deadline:
        time.sleep(0.05)
    assert children() <= before


def test_helper_never_returns_to_parent_code(
    numbered: Numbered, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A helper with an unexpected error and a closed stderr must still not execute the code of its parent."""

    def open_odd(path: str, options: DecodeOptions) -> Video:
        raise TypeError("this argument is no more")

    monkeypatch.setitem(BACKENDS, "odd", open_odd)
    came_out = tmp_path / "came out"
    parent = os.getpid()
    with (tmp_path / "log").open("w", buffering=1) as log:  # the helper closes this file of its parent
        monkeypatch.setattr(sys, "stderr", log)
        try:
            with pytest.raises(DecodeError, match="the decoder ended with code 1"):
                open_video(str(numbered("limits_good.mp4", num_frames=20)), "odd", LIMITED)
        finally:
            if os.getpid() != parent:
                came_out.touch()
    assert not came_out.exists()


@pytest.mark.parametrize("backend", VIDEO_BACKENDS)
def test_limited_equals_unlimited(numbered: Numbered, tmp_path: Path, backend: str) -> None:
    path = numbered("limits_good.mp4", num_frames=20)
    with open_video(path, backend) as plain, open_video(path, backend, LIMITED) as helped:
        assert (helped.num_frames, helped.fps, helped.served_by) == (plain.num_frames, plain.fps, plain.served_by)
        for wanted in ([3], [0, 19, 7, 7], list(range(20))):
            frames = helped.frames(np.array(wanted))
            assert frames.dtype == torch.uint8 and torch.equal(frames, plain.frames(np.array(wanted)))
        with pytest.raises(IndexError, match="frame 20 .* frames 0 to 19"):
            helped.frames(np.array([20]))
        with pytest.raises(ValueError, match="no frames"):
            helped.frames(np.array([], dtype=np.int64))
        frames += 1  # writable: the memory is not shared
        assert torch.equal(helped.frames(np.arange(20)) + 1, frames)
    with pytest.raises(ValueError, match="closed"):
        helped.frames(np.array([3]))
    (tmp_path / "text.mp4").write_text("this is no video\n" * 100)
    with pytest.raises(DecodeError) as caught:
        open_video(tmp_path / "text.mp4", backend, LIMITED)
    assert caught.value.reason == "damaged, or not a video file"


def test_helper_reused(numbered: Numbered) -> None:
    path = numbered("limits_good.mp4", num_frames=20)
    before = children()
    for _ in range(5):
        with open_video(path, "pyav", LIMITED) as one:
            assert read_barcodes(one.frames(np.array([4]))) == [4]
    assert len(children() - before) == 1
    with open_video(path, "pyav", LIMITED) as one, open_video(path, "pyav", LIMITED) as other:
        assert read_barcodes(one.frames(np.array([4]))) == [4] and read_barcodes(other.frames(np.array([5]))) == [5]
    assert len(children() - before) == 2
    forgotten = open_video(path, "pyav", LIMITED)
    del forgotten
    assert len(children() - before) == 1


def test_relative_paths_after_chdir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in (1, 2):
        (tmp_path / str(number)).mkdir()
        write_video(tmp_path / str(number) / "a.mp4", num_frames=number)
        monkeypatch.chdir(tmp_path / str(number))
        with open_video("a.mp4", "pyav", LIMITED) as video:
            assert video.num_frames == number


@pytest.mark.parametrize("spinning", [False, True])
def test_helper_ends_with_parent(numbered: Numbered, spinning: bool) -> None:
    path = str(numbered("limits_good.mp4", num_frames=20))
    program = (
        "import ctypes, threading, time, numpy\n"
        "from videovit.data.decode import BACKENDS, DecodeOptions, time_limit, open_pyav, open_video\n"
        "class Slow:\n"
        "    num_frames, fps, knots, start_s, served_by = 1, 1.0, None, 0.0, 'slow'\n"
        "    def frames(self, indices): ctypes.PyDLL(None).sleep(1000)\n"
        "BACKENDS['slow'] = lambda path, options: Slow()\n"
        f"video = open_video({path!r}, 'slow', DecodeOptions(timeout_s=99.0))\n"
        "print(video._helper._pid, flush=True)\n"
        + ("video.frames(numpy.array([0]))\n" if spinning else "time.sleep(1000)\n")
    )
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True) as owner:
        assert owner.stdout is not None
        helper = int(owner.stdout.readline())
        time.sleep(0.3)
        assert is_running(helper)
        owner.kill()
    deadline = time.monotonic() + 10
    while is_running(helper) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not is_running(helper)


def is_running(pid: int) -> bool:
    """Whether a process exists and is not a zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(") ", 1)[1][0] != "Z"
    except OSError:
        return False


def test_helper_ignores_group_signals(numbered: Numbered) -> None:
    with open_video(numbered("limits_good.mp4", num_frames=20), "pyav", LIMITED) as video:
        (helper,) = [pid for pid in children() if pid == video._helper._pid]  # type: ignore[attr-defined]
        for name in time_limit.IGNORED_SIGNALS:
            os.kill(helper, getattr(signal, name))
        assert read_barcodes(video.frames(np.array([4]))) == [4]


# --------------------------------------------------------------------------------------------- limits by headers


@pytest.mark.parametrize("backend", VIDEO_BACKENDS)
@pytest.mark.parametrize("name", ["limits_size.mp4", "limits_size.mkv", "limits_size.ts"])
def test_size_and_length_limits(numbered: Numbered, name: str, backend: str) -> None:
    path = numbered(name, num_frames=30)
    for options, reason in {
        DecodeOptions(max_pixels=3071): "frames of 64 x 48 pixels, more than DATA.MAX_PIXELS 3071",
        DecodeOptions(max_frames=29): "30 frames, more than DATA.MAX_FRAMES 29",
    }.items():
        with pytest.raises(DecodeError, match=reason):
            open_video(path, backend, options)
    with open_video(path, backend, DecodeOptions(max_pixels=3072, max_frames=30)) as video:
        assert read_barcodes(video.frames(np.array([29]))) == [29]


@pytest.mark.parametrize("backend", VIDEO_BACKENDS)
def test_gigapixel_video_rejected(numbered: Numbered, tmp_path: Path, backend: str) -> None:
    data = bytearray(numbered("limits_good.mp4", num_frames=20).read_bytes())
    place = data.index(b"avc1", data.index(b"stsd")) + 28
    data[place : place + 4] = (30_000).to_bytes(2, "big") * 2
    path = tmp_path / "huge.mp4"
    path.write_bytes(data)
    before = peak_memory()
    try:
        with open_video(path, backend) as video:
            assert read_barcodes(video.frames(np.arange(20))) == list(range(20))
    except DecodeError as error:
        assert "30000 x 30000" in error.reason or "damaged" in error.reason
    assert peak_memory() - before < 100


def test_gigapixel_image_rejected(tmp_path: Path) -> None:
    header = b"IHDR" + (30_000).to_bytes(4, "big") * 2 + bytes([8, 2, 0, 0, 0])
    chunk = (13).to_bytes(4, "big") + header + zlib.crc32(header).to_bytes(4, "big")
    path = tmp_path / "huge.png"
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk + (1).to_bytes(4, "big") + b"IDAT")
    before = peak_memory()
    with pytest.raises(DecodeError, match="30000 x 30000|900000000 pixels"):
        open_video(path, "image")
    assert peak_memory() - before < 50


def peak_memory() -> float:
    """Peak memory of this process, in MB."""
    return status("VmHWM")


def status(field: str) -> float:
    text = Path("/proc/self/status").read_text()
    return int(text.split(f"{field}:")[1].split()[0]) / 1024


# ----------------------------------------------------------------------------------------------------------- leaks


def test_no_leaks(numbered: Numbered, tmp_path: Path) -> None:
    good = [
        numbered("limits_good.mp4", num_frames=20),
        numbered("limits_open.mp4", num_frames=20, open_gop=True),
        numbered("limits_good.ts", num_frames=8, size=(32, 32)),
        rotate(write_video(tmp_path / "turned.mp4", num_frames=10, size=(32, 32)), 90),
    ]
    bad = [tmp_path / name for name in ("missing.mp4", "empty.mp4", "text.mp4", "cut.mp4", "flipped.mp4")]
    bad[1].write_bytes(b"")
    bad[2].write_bytes(b"this is no video\n" * 100)
    data = good[0].read_bytes()
    bad[3].write_bytes(data[: len(data) // 2])
    bad[4].write_bytes(data[:600] + bytes(reversed(data[600:1200])) + data[1200:])

    def open_all(times: int) -> None:
        for turn in range(times):
            path = (good + bad)[turn % (len(good) + len(bad))]
            try:
                with open_video(path, ("decord", "pyav")[turn // 9 % 2]) as video:
                    video.frames(np.array([0, video.num_frames - 1]))
            except DecodeError:
                continue

    open_all(200)
    memory, files = status("VmRSS"), len(os.listdir("/proc/self/fd"))
    open_all(1000)
    assert len(os.listdir("/proc/self/fd")) == files
    assert status("VmRSS") - memory < 20


def test_no_leaks_limited(numbered: Numbered, tmp_path: Path) -> None:
    path, text = numbered("limits_good.mp4", num_frames=20), tmp_path / "text.mp4"
    text.write_bytes(b"this is no video\n" * 100)

    def open_all(times: int) -> None:
        for _ in range(times):
            with open_video(path, "pyav", LIMITED) as video:
                video.frames(np.array([3, 12]))
            with pytest.raises(DecodeError):
                open_video(text, "pyav", LIMITED)

    open_all(20)
    memory, files, started = status("VmRSS"), len(os.listdir("/proc/self/fd")), children()
    open_all(150)
    assert len(os.listdir("/proc/self/fd")) == files
    assert children() == started
    assert status("VmRSS") - memory < 20


# ------------------------------------------------------------------- what is not the fault of the video


@pytest.mark.parametrize("signum", [signal.SIGKILL, signal.SIGTERM, signal.SIGXCPU])
@pytest.mark.parametrize("moment", ["open", "frames"])
def test_helper_killed_from_outside(
    moment: str, signum: int, numbered: Numbered, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As by the system when memory runs out: the video is decoded by another helper."""
    monkeypatch.setattr(time_limit, "PAUSE_S", 0.0)
    if signum == signal.SIGTERM:
        monkeypatch.setattr(time_limit, "IGNORED_SIGNALS", ())
    backend = killed_once(monkeypatch, moment, signum, tmp_path / "killed")
    with open_video(numbered("limits_good.mp4", num_frames=20), backend, LIMITED) as video:
        assert read_barcodes(video.frames(np.array([4, 7]))) == [4, 7]
    assert (tmp_path / "killed").exists()


def killed_once(monkeypatch: pytest.MonkeyPatch, moment: str, signum: int, mark: Path, times: int = 1) -> str:
    """A decoder whose process receives a signal at a moment, the first time that it comes there."""

    def hit(here: str) -> None:
        if here == moment and (not mark.exists() or mark.stat().st_size < times):
            with mark.open("a") as file:
                file.write("x")
            os.kill(os.getpid(), signum)

    def open_hit(path: str, options: DecodeOptions) -> Video:
        hit("open")
        video = open_video(path, "pyav", DecodeOptions())
        decode = video.frames
        video.frames = lambda indices: hit("frames") or decode(indices)  # type: ignore[method-assign]
        return video

    monkeypatch.setitem(BACKENDS, "hit", open_hit)
    return "hit"


def test_helper_stopped(numbered: Numbered, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time_limit, "PAUSE_S", 0.0)
    backend = killed_once(monkeypatch, "frames", signal.SIGSTOP, tmp_path / "stopped")
    with open_video(numbered("limits_good.mp4", num_frames=20), backend, DecodeOptions(timeout_s=LIMIT_S)) as video:
        assert read_barcodes(video.frames(np.array([4]))) == [4]


def kill_once(mark: str) -> int:
    if not os.path.exists(mark):
        os.mkdir(mark)
        os.kill(os.getpid(), signal.SIGKILL)
    return 7


def test_call_killed_from_outside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`videovit probe` and `reencode` try the video again, too."""
    monkeypatch.setattr(time_limit, "PAUSE_S", 0.0)
    assert time_limit.call_limited(kill_once, str(tmp_path / "mark"), path="a.mp4", timeout_s=60) == 7
    assert (tmp_path / "mark").exists()


def test_helper_killed_again_and_again(numbered: Numbered, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Training must not go on with another video in its place: the run ends, and names it."""
    monkeypatch.setattr(time_limit, "PAUSE_S", 0.0)
    backend = killed_once(monkeypatch, "frames", signal.SIGKILL, tmp_path / "killed", times=9)
    path = numbered("limits_good.mp4", num_frames=20)
    dataset = ClipDataset(
        [Sample(str(path), 0)],
        plan=RandomSpans(4, 1, 30.0),
        crops=RepeatedCrops(lambda frames, rng: frames),
        backend=backend,
        decoding=LIMITED,
        replace_unreadable=True,
    )
    message = r"limits_good.mp4: its decoder was killed \(SIGKILL\), 3 times in a row.*memory"
    with pytest.raises(UserError, match=message):
        dataset[0, 0]
    loader: Any = ClipLoader(dataset, num_workers=1, batch_size=1, sampler=EpochSampler(1, batch_size=1))
    (tmp_path / "killed").unlink()
    with pytest.raises(UserError, match=message) as caught, workers_named():
        list(loader)
    assert "Traceback" not in str(caught.value)


PAUSED = """
import sys, time
import numpy as np
from videovit.data.decode import BACKENDS, DecodeOptions, open_pyav, open_video

def slow(path, options):
    print("decoding", flush=True)
    time.sleep(1.0)
    return open_pyav(path, options)

BACKENDS["slow"] = slow
with open_video(sys.argv[1], "slow", DecodeOptions(timeout_s=6.0)) as video:
    print(len(video.frames(np.array([4]))), flush=True)
"""


def test_pause_is_not_counted(numbered: Numbered) -> None:
    """As after Ctrl-Z, or scontrol suspend."""
    path = numbered("limits_good.mp4", num_frames=20)
    command = [sys.executable, "-c", PAUSED, str(path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True) as owner:
        assert owner.stdout is not None and owner.stdout.readline() == "decoding\n"
        os.killpg(owner.pid, signal.SIGSTOP)
        time.sleep(7.0)
        os.killpg(owner.pid, signal.SIGCONT)
        assert owner.stdout.readline() == "1\n"
    assert owner.returncode == 0
