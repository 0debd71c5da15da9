"""Downloads against a real web server: cut off, continued, wrong, moved, slow, by several processes, on a full disk."""

from __future__ import annotations

import hashlib
import multiprocessing
import os
import random
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.helpers.weights_server import WeightsServer, serving
from videovit.errors import UserError
from videovit.models import download
from videovit.models.download import cached_path, local_file
from videovit.models.zoo import ZOO

CONTENT = random.Random(0).randbytes(3_300_000)
SHA256 = hashlib.sha256(CONTENT).hexdigest()
FILE = "/models/tiny.pth"
FORK = multiprocessing.get_context("fork")  # importing PyTorch again takes seconds


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[WeightsServer]:
    monkeypatch.setenv("VIDEOVIT_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("VIDEOVIT_MIRROR", raising=False)
    monkeypatch.setattr(download, "PAUSE_S", 0.01)
    with serving({FILE: CONTENT}) as running:
        yield running


def files_in(folder: Path) -> list[str]:
    """What is in the cache, apart from locks."""
    return sorted(p.name for p in folder.rglob("*") if p.is_file() and p.suffix != ".lock")


def test_file_is_downloaded_once_and_then_needs_no_network(server: WeightsServer, tmp_path: Path) -> None:
    url = server.url(FILE)
    path = local_file(url)
    assert path == tmp_path / f"cache/127.0.0.1_{server.port}/models/tiny.pth"
    assert path.read_bytes() == CONTENT
    server.files.clear()
    assert local_file(url) == path
    assert len(server.requests) == 1 and files_in(tmp_path) == ["tiny.pth"]


def test_local_paths_are_returned_as_they_are(tmp_path: Path) -> None:
    assert local_file("a/b.pyth") == Path("a/b.pyth")
    assert local_file(tmp_path) == tmp_path


@pytest.mark.parametrize("cut", [1_500_000, 70_000])
def test_connection_that_ends_early_is_continued(server: WeightsServer, cut: int) -> None:
    server.cuts = [cut]
    assert local_file(f"{server.url(FILE)}#sha256={SHA256}").read_bytes() == CONTENT
    assert [wanted for _, wanted in server.requests] == ["", f"bytes={cut}-"]


def test_next_process_continues_what_an_earlier_one_received(server: WeightsServer, tmp_path: Path) -> None:
    server.cuts = [2_000_000]

    def die(_: float) -> None:
        os._exit(9)  # when the connection has ended, before the next attempt

    def run() -> None:
        download.time.sleep = die
        local_file(server.url(FILE))

    child = FORK.Process(target=run)
    child.start()
    child.join(60)
    assert child.exitcode == 9 and files_in(tmp_path) == ["tiny.pth.part", "tiny.pth.part.tag"]
    assert local_file(server.url(FILE)).read_bytes() == CONTENT
    assert server.requests[-1][1] == "bytes=2000000-" and files_in(tmp_path) == ["tiny.pth"]


def test_file_that_changed_in_between_is_started_again(server: WeightsServer, tmp_path: Path) -> None:
    part = cached_path(server.url(FILE)).with_name("tiny.pth.part")
    part.parent.mkdir(parents=True)
    part.write_bytes(b"old" * 1000)
    part.with_name("tiny.pth.part.tag").write_text('"an older version"')
    assert local_file(server.url(FILE)).read_bytes() == CONTENT
    assert server.requests == [(FILE, "bytes=3000-")]


def test_server_without_ranges_or_tags_starts_again(server: WeightsServer) -> None:
    server.cuts, server.has_ranges = [500_000], False
    assert local_file(server.url(FILE)).read_bytes() == CONTENT
    server.files["/weak.pth"], server.cuts, server.etag = CONTENT, [500_000], 'W/"weak"'
    assert local_file(server.url("/weak.pth")).read_bytes() == CONTENT
    assert server.requests[-1] == ("/weak.pth", "")


def test_damaged_part_file_is_downloaded_again(server: WeightsServer) -> None:
    part = cached_path(server.url(FILE)).with_name("tiny.pth.part")
    part.parent.mkdir(parents=True)
    part.write_bytes(b"\0" * 1000)
    part.with_name("tiny.pth.part.tag").write_text(f'"{hashlib.md5(CONTENT).hexdigest()}"')
    assert local_file(f"{server.url(FILE)}#sha256={SHA256[:8]}").read_bytes() == CONTENT
    assert [wanted for _, wanted in server.requests] == ["bytes=1000-", ""]


def test_wrong_hash_never_gets_the_name(server: WeightsServer, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=f"another file than expected: its SHA-256 is {SHA256}, not 0123abcd"):
        local_file(f"{server.url(FILE)}#sha256=0123abcd")
    assert "tiny.pth" not in files_in(tmp_path) and "tiny.pth.part" not in files_in(tmp_path)


def test_hash_that_a_redirect_states_is_checked(server: WeightsServer) -> None:
    server.redirects["/moved.pth"] = FILE
    server.headers["X-Linked-Etag"] = f'"{SHA256}"'
    assert local_file(server.url("/moved.pth")).read_bytes() == CONTENT
    server.redirects["/other.pth"] = FILE
    server.headers["X-Linked-Etag"] = f'"{"0" * 64}"'
    with pytest.raises(UserError, match="another file than expected"):
        local_file(server.url("/other.pth"))


def test_missing_file_is_taken_from_the_next_url(server: WeightsServer, monkeypatch: pytest.MonkeyPatch) -> None:
    from dataclasses import replace

    row = ZOO["x3d_m_k400"]
    urls = (server.url("/gone.pth"), server.url(FILE))
    monkeypatch.setitem(ZOO, row.name, replace(row, urls=urls))
    assert local_file("zoo:x3d_m_k400").read_bytes() == CONTENT
    assert [path for path, _ in server.requests] == ["/gone.pth", FILE]
    assert local_file("zoo:x3d_m_k400") == cached_path(urls[1])
    assert len(server.requests) == 2


def test_error_of_the_server_is_retried_but_not_for_ever(server: WeightsServer) -> None:
    server.statuses = [503, 500]
    assert local_file(server.url(FILE)).read_bytes() == CONTENT
    assert len(server.requests) == 3
    server.files["/b.pth"], server.statuses = CONTENT, [503] * 20
    with pytest.raises(UserError, match="503 Service Unavailable"):
        local_file(server.url("/b.pth"))
    assert len(server.requests) == 3 + download.ATTEMPTS


def test_web_page_is_not_a_weight_file(server: WeightsServer) -> None:
    server.headers["Content-Type"] = "text/html; charset=utf-8"
    with pytest.raises(UserError, match="a web page, not a file"):
        local_file(server.url(FILE))


def test_silent_server_ends_in_an_error(server: WeightsServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(download, "TIMEOUT_S", 0.2)
    monkeypatch.setattr(download, "ATTEMPTS", 2)
    server.pause_s = 3.0
    with pytest.raises(UserError, match=r"no answer for 0\.2 s"):
        local_file(server.url(FILE))


def test_several_processes_download_once(server: WeightsServer) -> None:
    server.pause_s = 0.02
    running = [FORK.Process(target=local_file, args=(server.url(FILE),)) for _ in range(3)]
    for process in running:
        process.start()
    for process in running:
        process.join(60)
    assert [process.exitcode for process in running] == [0, 0, 0]
    assert cached_path(server.url(FILE)).read_bytes() == CONTENT
    assert len(server.requests) == 1


def test_message_without_network_says_where_to_put_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VIDEOVIT_CACHE", str(tmp_path / "my cache"))
    monkeypatch.setattr(download, "PAUSE_S", 0.0)
    url = "http://127.0.0.1:9/a.pth"  # nothing listens there
    with pytest.raises(UserError) as raised:
        local_file(url)
    text, path = str(raised.value), str(cached_path(url))
    for part in ("Connection refused", url, f"put it at {path}", f"curl -L --create-dirs -o '{path}' {url}"):
        assert part in text
    cached_path(url).parent.mkdir(parents=True, exist_ok=True)
    cached_path(url).write_bytes(b"put by hand")
    assert local_file(url).read_bytes() == b"put by hand"


def test_host_without_address_is_not_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VIDEOVIT_CACHE", str(tmp_path))
    monkeypatch.setattr(download, "PAUSE_S", 600.0)
    with pytest.raises(UserError, match=r"https://weights\.invalid/a\.pth: no network, or no such host: "):
        local_file("https://weights.invalid/a.pth")


def test_file_put_by_hand_is_checked(server: WeightsServer) -> None:
    url = f"{server.url(FILE)}#sha256={SHA256[:8]}"
    path = cached_path(url)
    path.parent.mkdir(parents=True)
    path.write_bytes(CONTENT[:-1])
    with pytest.raises(UserError, match=f"expected one that begins with {SHA256[:8]}. Delete the file"):
        local_file(url)
    path.write_bytes(CONTENT)
    assert local_file(url) == path and server.requests == []


def test_mirror_is_tried_first(server: WeightsServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VIDEOVIT_MIRROR", server.url("/mirror/"))
    url = "https://weights.invalid/a b/tiny.pth"
    server.files["/mirror/weights.invalid/a%20b/tiny.pth"] = CONTENT
    assert local_file(url).read_bytes() == CONTENT
    assert local_file(server.url(FILE)).read_bytes() == CONTENT  # not on the mirror
    assert len(server.requests) == 3


@pytest.mark.skipif(os.geteuid() != 0, reason="mounts a file system")
def test_full_disk_is_one_clear_message(server: WeightsServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small = tmp_path / "small"
    small.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", small], check=False).returncode:
        pytest.skip("mounting is not allowed here")
    try:
        monkeypatch.setenv("VIDEOVIT_CACHE", str(small))
        with pytest.raises(UserError, match=r"no room for tiny\.pth \(3\.3 MB\).*VIDEOVIT_CACHE"):
            local_file(server.url(FILE))
        monkeypatch.setattr(download, "_check_room", lambda *_: None)  # another program fills the disk meanwhile
        with pytest.raises(UserError, match=r"no room for tiny\.pth"):
            local_file(server.url(FILE))
    finally:
        subprocess.run(["umount", small], check=True)


def test_cache_that_cannot_be_written_is_a_clear_message(
    server: WeightsServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("VIDEOVIT_CACHE", str(tmp_path / "file"))
    with pytest.raises(UserError, match="cannot be written: .*VIDEOVIT_CACHE"):
        local_file(server.url(FILE))


@pytest.mark.parametrize(
    ("url", "place"),
    [
        ("https://a.org/x/y.pth", "a.org/x/y.pth"),
        ("https://a.org/../../etc/%2e%2e/y.pth", "a.org/etc/y.pth"),
        ("https://me:secret@a.org:8080//x//y.pth#sha256=00", "a.org_8080/x/y.pth"),
        ("https://a.org/%2e%2e%2fy.pth", "a.org/..%2Fy.pth"),
        ("https://a.org", "a.org/file"),
    ],
)
def test_places_stay_in_the_cache(url: str, place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VIDEOVIT_CACHE", "/cache")
    assert cached_path(url) == Path("/cache") / place
    assert cached_path("https://a.org/get?id=1") != cached_path("https://a.org/get?id=2")


def test_cache_follows_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("VIDEOVIT_CACHE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert download.cache_folder() == tmp_path / "videovit"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert download.cache_folder() == tmp_path / ".cache/videovit"


@pytest.mark.parametrize(
    ("content", "headers", "statuses", "why"),
    [
        (CONTENT, {"Content-Encoding": "gzip"}, [], "Content-Encoding gzip"),
        (CONTENT, {}, [206], "206"),  # a part that was not requested
        (b"", {}, [], "an empty file"),
        (b"", {}, [204], "an empty file"),
    ],
)
def test_answer_that_is_not_the_file_gets_no_name(
    server: WeightsServer,
    tmp_path: Path,
    content: bytes,
    headers: dict[str, str],
    statuses: list[int],
    why: str,
) -> None:
    server.files[FILE], server.headers, server.statuses = content, headers, statuses * download.ATTEMPTS
    with pytest.raises(UserError, match=why):
        local_file(server.url(FILE))
    assert "tiny.pth" not in files_in(tmp_path)
    server.files[FILE], server.headers, server.statuses = CONTENT, {}, []
    assert local_file(server.url(FILE)).read_bytes() == CONTENT
