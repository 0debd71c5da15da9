"""Remote files: downloaded once, in whatever order servers fail, and never more than the cache holds."""

from __future__ import annotations

import logging
import os
import pickle
import time
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest
import torch

from tests.helpers.failing_proxy import proxying
from tests.helpers.object_stores import read
from tests.helpers.range_server import Server, serving
from tests.helpers.videos import write_list, write_video
from videovit import cli
from videovit.config import ConfigError, load_config
from videovit.config.urls import has_credentials, without_secrets
from videovit.data import remote, stores
from videovit.data.dataset import ClipDataset, FixedCrops
from videovit.data.decode import DecodeError, DecodeOptions, open_video, remote_videos
from videovit.data.decode.remote_videos import is_missing
from videovit.data.records import Sample
from videovit.data.remote import RemoteError, Wanted, fetch
from videovit.data.sampling import EvenSpans

GB = 1e9
pytest.importorskip("aiohttp", reason="extra [remote] is not installed")
pytest.importorskip("fsspec", reason="extra [remote] is not installed")


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """An empty folder that is served, and an empty cache."""
    monkeypatch.setenv("VIDEOVIT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(remote, "PAUSE_S", 0.01)
    remote_videos._index.cache_clear()
    (tmp_path / "served").mkdir()
    with serving(tmp_path / "served") as running:
        yield running


def put(server: Server, name: str, content: bytes) -> str:
    (server.folder / name).write_bytes(content)
    return f"{server.url}/{name}"


def cached(tmp_path: Path) -> list[Path]:
    return [path for path in (tmp_path / "cache").rglob("*") if path.is_file()]


@pytest.mark.parametrize("failures", [["503", "503", "503"], ["cut off", "503"], ["slow"], ["slow", "cut off"]])
def test_fetch_survives_failures(server: Server, monkeypatch: pytest.MonkeyPatch, failures: list[str]) -> None:
    monkeypatch.setattr(stores, "SILENCE_S", 1.0)
    monkeypatch.setattr(stores, "SLOWEST", 1e9)
    url = put(server, "a b.mp4", os.urandom(5000))
    server.failures = list(failures)
    file = fetch(Wanted(url, suffix=".mp4"), GB)
    assert Path(file).read_bytes() == (server.folder / "a b.mp4").read_bytes() and file.endswith(".mp4")
    assert server.count("GET") == len(failures) + 1
    # From the cache: no request at all.
    server.requests.clear()
    assert fetch(Wanted(url, suffix=".mp4"), GB) == file and not server.requests


def test_fetch_gives_up(server: Server, tmp_path: Path) -> None:
    url = put(server, "a.mp4", b"x" * 100)
    server.failures = ["503"] * 20
    with pytest.raises(RemoteError, match="could not be downloaded in 4 attempts: .*503"):
        fetch(Wanted(url), GB)
    server.failures = ["cut off"] * 4
    with pytest.raises(RemoteError, match=r"4 attempts: .*(cut off|not enough|payload)"):
        fetch(Wanted(url), GB)
    with pytest.raises(RemoteError, match=r"missing\.mp4: file does not exist"):
        fetch(Wanted(f"{server.url}/missing.mp4"), GB)
    with pytest.raises(RemoteError, match=r"more than half of the cache.*REMOTE_CACHE_GB"):
        fetch(Wanted(put(server, "big.mp4", b"x" * 1000)), 1500)
    assert not cached(tmp_path)


def test_server_fails_for_every_request_is_not_a_missing_file(server: Server) -> None:
    put(server, "404.mp4", b"x")
    with proxying(server.server_port) as proxy:
        proxy.refused = 503
        with pytest.raises(RemoteError, match=r"404\.mp4: could not be downloaded in 4 attempts: 503"):
            fetch(Wanted(f"{proxy.url}/404.mp4"), GB)


def test_server_without_ranges_serves_files_but_no_parts(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    content = os.urandom(5000)
    put(server, "a b.mp4", content)
    handler = partial(SilentHandler, directory=str(server.folder))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as plain:
        Thread(target=plain.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{plain.server_port}/a b.mp4"
        assert Path(fetch(Wanted(url), GB)).read_bytes() == content
        with pytest.raises(RemoteError, match="the server sends whole files only, but shards and files above 32 MB"):
            fetch(Wanted(url, start=100, size=200), GB)
        monkeypatch.setattr(remote, "CHUNK", 1000)
        monkeypatch.setattr(remote, "CHECK_S", 0.0)
        (server.folder / "a b.mp4").write_bytes(content[::-1] + b"more")
        with pytest.raises(RemoteError, match="the server sends whole files only"):
            fetch(Wanted(url), GB)
        plain.shutdown()


class SilentHandler(SimpleHTTPRequestHandler):
    """`python -m http.server`, which knows no ranges."""

    def log_message(self, format: str, *args: object) -> None:
        pass


def test_changed_file_fetched_again(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    url = put(server, "a.mp4", os.urandom(5000))
    first = fetch(Wanted(url), GB)
    (server.folder / "a.mp4").write_bytes(b"new")
    assert fetch(Wanted(url), GB) == first  # looked at less than an hour ago
    monkeypatch.setattr(remote, "CHECK_S", 0.0)
    second = fetch(Wanted(url), GB)
    assert Path(second).read_bytes() == b"new" and not os.path.exists(first)
    server.requests.clear()
    assert fetch(Wanted(url), GB) == second and server.count("GET") == 0  # the same ETag
    # Changed between two requests for one file: its parts must be of one version.
    monkeypatch.setattr(remote, "CHUNK", 1000)
    content = os.urandom(3000)
    url = put(server, "b.mp4", content)
    server.failures = ["ok", "change"]
    assert Path(fetch(Wanted(url), GB)).read_bytes() == content[::-1]


def test_cache_stays_below_limit(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote, "FRESH_S", 0.0)
    monkeypatch.setattr(remote, "_room", remote._Room())
    limit = 10_000
    files = []
    for number in range(20):
        files.append(fetch(Wanted(put(server, f"{number}.mp4", bytes([number]) * 1000)), limit))
        if number >= 2:
            fetch(Wanted(f"{server.url}/0.mp4"), limit)  # used all the time
        time.sleep(0.002)
        assert sum(path.stat().st_size for path in cached(tmp_path)) <= limit
    assert os.path.exists(files[0]) and os.path.exists(files[-1]) and not os.path.exists(files[1])


def test_several_processes_download_once(server: Server) -> None:
    url = put(server, "a.mp4", os.urandom(100_000))
    children = []
    for _ in range(4):
        pid = os.fork()
        if not pid:
            fetch(Wanted(url), GB)
            os._exit(0)
        children.append(pid)
    assert [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in children] == [0] * 4
    assert server.count("GET") == 1


@pytest.fixture
def videos(server: Server) -> list[str]:
    names = [f"c{number % 2}/v {number}.mp4" for number in range(4)]
    for number, name in enumerate(names):
        (server.folder / name).parent.mkdir(exist_ok=True)
        write_video(server.folder / name, num_frames=10 + number, size=(48, 32))
    write_list(server.folder / "train.csv", [(name, number % 2) for number, name in enumerate(names)])
    return names


def test_remote_videos_and_shards_equal_files(server: Server, videos: list[str]) -> None:
    tree, shards = str(server.folder), server.folder / "shards"
    words = ["pack", f"{tree}/train.csv", "--prefix", tree, "--output", str(shards), "--size", "6kB"]
    assert cli.main(words) == 0
    for name in videos:
        expected = read(tree, name)
        for timeout_s in (0.0, 60.0):
            assert torch.equal(read(server.url, name, timeout_s=timeout_s), expected)
            assert torch.equal(read(f"shards:{server.url}/shards", name, timeout_s=timeout_s), expected)
    # Every video once from its file; the index and every member once from shards.
    assert server.count("GET") == 2 * len(videos) + 1


def test_remote_shard_damaged_or_cut_off_is_named(server: Server, videos: list[str]) -> None:
    tree, shards = str(server.folder), server.folder / "shards"
    assert cli.main(["pack", f"{tree}/train.csv", "--prefix", tree, "--output", str(shards)]) == 0
    prefix, shard = f"shards:{server.url}/shards", shards / "shard-000000.tar"
    shard.write_bytes(shard.read_bytes()[:2000])
    with pytest.raises(DecodeError, match=r"shard-000000\.tar is truncated"):
        read(prefix, videos[-1])
    shard.write_bytes(bytes(100_000))
    with pytest.raises(DecodeError, match=r"shard-000000\.tar is damaged"):
        read(prefix, videos[0])


def test_batch_downloaded_in_parallel(server: Server, videos: list[str]) -> None:
    samples = [Sample(f"{server.url}/{name}", 0) for name in videos]
    plan = EvenSpans(2, 1, 30.0)
    dataset = ClipDataset(
        samples, plan=plan, crops=FixedCrops(lambda x: [x]), decoding=DecodeOptions(inside=server.url)
    )
    server.failures = ["slow"] * len(videos)  # 2 seconds each
    start = time.monotonic()
    items = dataset.__getitems__([(0, number) for number in range(4)])
    assert [len(item.clips) for item in items] == [1] * 4 and server.count("GET") == 4
    assert time.monotonic() - start < 2 * len(videos)


def test_lists_read_from_a_url(server: Server, videos: list[str]) -> None:
    from videovit.data.catalog import read_kinetics

    words = ["DATA.PATH_TO_DATA_DIR", server.url, "DATA.PATH_PREFIX", server.url, "MODEL.NUM_CLASSES", "2"]
    cfg = load_config("Demo/MVIT_TINY", words)
    assert [sample.path for sample in read_kinetics(cfg, "train")] == [f"{server.url}/{name}" for name in videos]
    (server.folder / "val.csv").write_text("good.mp4 1\nbad.mp4 7\n")
    with pytest.raises(Exception, match=r"val\.csv:2: bad\.mp4 7\n"):
        read_kinetics(cfg, "val")


def test_lists_do_not_choose_servers(server: Server, videos: list[str], tmp_path: Path) -> None:
    for inside in ("", str(tmp_path), f"{server.url}/c1"):
        with pytest.raises(DecodeError, match="does not exist; a URL is read only below DATA.PATH_PREFIX"):
            open_video(f"{server.url}/{videos[0]}", "pyav", DecodeOptions(inside=inside))
    with pytest.raises(DecodeError, match="leads out of DATA.PATH_PREFIX"):
        read(f"{server.url}/c1", "../c0/v 0.mp4")
    assert not server.requests
    assert is_missing("nowhere.mp4", "") and not is_missing(f"{server.url}/a.mp4", server.url)


SECRET = "wJalrXUtnFEMI-K7MDENG"


@pytest.mark.parametrize(
    "url", [f"https://me:{SECRET}@127.0.0.1:9/d", f"https://127.0.0.1:9/d/a.mp4?X-Amz-Signature={SECRET}"]
)
def test_credentials_never_shown(
    url: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    monkeypatch.setenv("VIDEOVIT_CACHE", str(tmp_path))
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    monkeypatch.setattr(remote, "PAUSE_S", 0.0)
    assert has_credentials(url) and SECRET not in without_secrets(url)
    caplog.set_level(logging.DEBUG, "videovit")
    texts = []
    for key in ("DATA.PATH_PREFIX", "DATA.PATH_TO_DATA_DIR"):
        with pytest.raises(ConfigError) as config_error:
            load_config("Demo/MVIT_TINY", [key, url])
        texts.append(str(config_error.value))
    with pytest.raises(DecodeError) as decode_error:
        open_video(f"{url}/a.mp4", "pyav", DecodeOptions(inside=url))
    texts += [str(decode_error.value), repr(pickle.dumps(decode_error.value)), decode_error.value.path]
    texts.append(remote.shown_error(ConnectionError(f"GET {url} with {SECRET}")))
    assert SECRET not in "\n".join([*texts, caplog.text]) and "127.0.0.1" in texts[0]
