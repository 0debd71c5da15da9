"""S3, Google Cloud Storage and data sets of the Hub: real clients, with servers on the loopback that fail."""

from __future__ import annotations

import logging
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from tests.helpers.hub_server import Hub, point_to, serve_hub
from tests.helpers.object_stores import SECRET, STORES, ObjectStore, read, serve_store
from tests.helpers.range_server import serving
from tests.helpers.videos import write_list, write_video
from videovit import cli
from videovit.config import load_config
from videovit.config.rules import changed
from videovit.data import remote, stores
from videovit.data.catalog import build_spec, read_kinetics, read_names
from videovit.data.decode import DecodeError, remote_videos
from videovit.data.remote import RemoteError, Wanted, fetch
from videovit.errors import UserError

GB = 1e9
NAMES = ["c0/v 0.mp4", "c1/50% off.mp4", "c0/a%20b.mp4", "c1/what #1?x=2.mp4", "c0/ünï@ço+de.mp4"]


@pytest.fixture(params=STORES)
def store(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ObjectStore]:
    """An empty store, and an empty cache."""
    monkeypatch.setenv("VIDEOVIT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(remote, "PAUSE_S", 0.01)
    remote_videos._index.cache_clear()
    with serve_store(request.param, tmp_path, monkeypatch) as running:
        yield running


@pytest.mark.parametrize("failures", [["503", "500"], ["cut off", "503", "cut off"], ["short", "long", "429"]])
def test_fetch_survives_failures(store: ObjectStore, failures: list[str]) -> None:
    content = os.urandom(5000)
    store.put("a b.mp4", content)
    store.failures[:] = failures
    assert Path(fetch(Wanted(f"{store.url}/a b.mp4", suffix=".mp4"), GB)).read_bytes() == content
    assert not store.failures
    store.failures[:] = failures
    part = fetch(Wanted(f"{store.url}/a b.mp4", start=4990, size=100), GB)
    assert Path(part).read_bytes() == content[4990:] and not store.failures


def test_fetch_gives_up_with_the_reason(store: ObjectStore, tmp_path: Path) -> None:
    store.put("a.mp4", os.urandom(5000))
    url = f"{store.url}/a.mp4"
    for failure, reason in (
        ("503", "503|[Ss]ervice [Uu]navailable"),
        ("short", "cut off after 2,500 of 5,000 bytes|checksum"),
        ("long", "more than the 5,000 bytes of the range|checksum"),
    ):
        store.failures[:] = [failure] * 20
        with pytest.raises(RemoteError, match=f"a.mp4: could not be downloaded in 4 attempts: .*({reason})"):
            fetch(Wanted(url), GB)
        assert len(store.failures) == 16
    store.failures.clear()
    store.put("folder.mp4/b.mp4", b"x")
    with pytest.raises(RemoteError, match=r"folder\.mp4: (is a folder, not a file|file does not exist)"):
        fetch(Wanted(f"{store.url}/folder.mp4"), GB)
    with pytest.raises(RemoteError, match=r"none\.mp4: file does not exist"):
        fetch(Wanted(f"{store.url}/none.mp4"), GB)
    missing = store.url.replace("a-bucket", "no-bucket").replace("me/set", "me/none")
    with pytest.raises(RemoteError, match=r"a\.mp4: (bucket no-bucket|repository|file) does not exist"):
        fetch(Wanted(f"{missing}/d/a.mp4"), GB)
    store.failures[:] = ["403"] * 4
    with pytest.raises(RemoteError, match=r"a\.mp4: no permission to read it"):
        fetch(Wanted(url), GB)
    assert len(store.failures) == 3  # not retried
    assert not [path for path in (tmp_path / "cache").rglob("*") if path.is_file()]


def test_empty_file_is_a_file(store: ObjectStore) -> None:
    store.put("a.mp4", b"")
    assert Path(fetch(Wanted(f"{store.url}/a.mp4"), GB)).read_bytes() == b""


def test_changed_file_fetched_again(store: ObjectStore, monkeypatch: pytest.MonkeyPatch) -> None:
    store.put("d/a.mp4", b"first")
    wanted = Wanted(f"{store.url}/d/a.mp4")
    first = fetch(wanted, GB)
    store.put("d/a.mp4", b"again")  # of the same size
    assert fetch(wanted, GB) == first  # looked at less than an hour ago
    monkeypatch.setattr(remote, "CHECK_S", 0.0)
    second = fetch(wanted, GB)
    assert Path(second).read_bytes() == b"again" and not os.path.exists(first)
    store.failures[:] = ["503"] * 20
    assert fetch(wanted, GB) == second and len(store.failures) == 20  # the same version: nothing is read


def test_large_file_read_by_ranges(store: ObjectStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote, "CHUNK", 1000)
    content = os.urandom(3500)
    store.put("a.mp4", content)
    store.failures[:] = ["ok"] * 10
    assert Path(fetch(Wanted(f"{store.url}/a.mp4"), GB)).read_bytes() == content
    assert len(store.failures) == 6


def test_videos_lists_and_shards_equal_files(store: ObjectStore, tmp_path: Path) -> None:
    tree, shards = tmp_path / "tree", tmp_path / "shards"
    for number, name in enumerate(NAMES):
        (tree / name).parent.mkdir(parents=True, exist_ok=True)
        write_video(tree / name, num_frames=10 + number, size=(48, 32))
    write_list(tree / "train.csv", [(name, number % 2) for number, name in enumerate(NAMES)])
    words = ["pack", f"{tree}/train.csv", "--prefix", str(tree), "--output", str(shards), "--size", "6kB"]
    assert cli.main(words) == 0
    store.put_folder(tree, "set")
    store.put_folder(shards, "shards")
    prefix = f"{store.url}/set"
    cfg = load_config(
        "Demo/MVIT_TINY", ["DATA.PATH_TO_DATA_DIR", prefix, "DATA.PATH_PREFIX", prefix, "MODEL.NUM_CLASSES", "2"]
    )
    assert [sample.path for sample in read_kinetics(cfg, "train")] == [f"{prefix}/{name}" for name in NAMES]
    with pytest.raises(UserError, match=r"CLASS_NAMES_FILE: .*/set/classes\.json: file does not exist"):
        read_names(cfg)
    unnamed = changed(cfg, {"DATA.CLASS_NAMES_FILE": ""})
    assert read_names(unnamed) == ["class 0", "class 1"]
    store.put("set/classes.json", b'["left", "right"]')
    assert read_names(cfg) == read_names(unnamed) == ["left", "right"]
    store.put("set/more/names.txt", b"links\nrechts\n")
    assert read_names(changed(cfg, {"DATA.CLASS_NAMES_FILE": "more/names.txt"})) == ["links", "rechts"]
    with pytest.raises(UserError, match=r"PATH_TO_DATA_DIR: a URL, but the lists of 'ssv2' .* only those of kinetics"):
        build_spec(changed(cfg, {"TRAIN.DATASET": "ssv2"}), "train")
    for name in NAMES:
        expected = read(str(tree), name)
        for timeout_s in (0.0, 60.0):
            assert torch.equal(read(prefix, name, timeout_s=timeout_s), expected)
            assert torch.equal(read(f"shards:{store.url}/shards", name, timeout_s=timeout_s), expected)
        assert torch.equal(read(prefix, f"./{name}".replace("/", "//")), expected)  # as on a disk
    store.put("v.mp4", (tree / NAMES[0]).read_bytes())
    for top in (store.url, f"{store.url}/", f"{store.url}//"):  # of the bucket
        assert torch.equal(read(top, "v.mp4"), read(str(tree), NAMES[0]))
    with pytest.raises(DecodeError, match="leads out of DATA.PATH_PREFIX"):
        read(f"{prefix}/c0", f"../{NAMES[1]}")


def test_secrets_never_shown(
    store: ObjectStore, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    caplog.set_level(logging.DEBUG, "videovit")
    store.put("a.mp4", os.urandom(5000))
    store.failures[:] = ["503", "cut off", "403"]
    texts = []
    for name in ("a.mp4", "none.mp4", "none/none.mp4"):
        with pytest.raises(RemoteError) as found:
            fetch(Wanted(f"{store.url}/{name}"), GB)
        texts.append(str(found.value))
    texts += [caplog.text, *capfd.readouterr()]
    assert SECRET not in "\n".join(texts) and "Signature" not in "\n".join(texts)


def test_data_set_of_the_hub_has_revisions(hub: Hub) -> None:
    hub.repos["datasets/me/set@v1"] = {"d@2/a.mp4": b"older", "d@2/a.csv": b"older list"}
    hub.repos["datasets/me/set@refs/convert/parquet"] = {"a.mp4": b"converted"}
    hub.repos["me/model"] = {"a.mp4": b"of a model"}
    for path, content in (
        ("datasets/me/set/d@2/a.mp4", b"newer"),
        ("datasets/me/set@v1/d@2/a.mp4", b"older"),
        ("datasets/me/set@v1/d@2/a.csv", b"older list"),
        ("datasets/me/set@refs/convert/parquet/a.mp4", b"converted"),
        ("datasets/me/set@refs%2Fconvert%2Fparquet/a.mp4", b"converted"),
        ("me/model/a.mp4", b"of a model"),
    ):
        assert Path(fetch(Wanted(f"hf://{path}"), GB)).read_bytes() == content
    # The token goes to the Hub alone, not to the server of large files.
    assert set(hub.tokens) == {f"Bearer {SECRET}"} and hub.cdn is not None
    assert hub.cdn.count("GET") == 5 and not hub.cdn.tokens


def test_errors_of_the_hub_are_messages(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    def reason(path: str) -> str:
        with pytest.raises(RemoteError) as found:
            fetch(Wanted(f"hf://{path}"), GB)
        return str(found.value)

    a = "datasets/me/set/d@2/a.mp4"
    assert "repository does not exist, or needs a token (HF_TOKEN)" in reason("datasets/me/none/a.mp4")
    assert "revision does not exist" in reason("datasets/me/set@v7/a.mp4")
    assert "file does not exist" in reason("datasets/me/set/d@2")
    for path in ("datasets/me/set", "datasets/me", "buckets/me/set/a.mp4", "datasets/m e/set/a.mp4", "x"):
        assert "expected hf://datasets/user/name/path" in reason(path)
    hub.gated.add("datasets/me/set")
    gated = f"hf://{a}: gated repository: Access to this dataset is restricted and you are not in the authorized list."
    assert reason(a) == f"{gated} Accept its conditions on the Hub and set HF_TOKEN"
    monkeypatch.delenv("HF_TOKEN")
    assert reason(a) == f"{gated} Accept its conditions on the Hub and set HF_TOKEN"
    assert "needs a token (HF_TOKEN)" in reason("datasets/me/none/a.mp4")
    num_requests = len(hub.tokens)
    hub.gated.clear()
    hub.failures = [503, 429, 500]
    start = time.monotonic()
    assert Path(fetch(Wanted(f"hf://{a}"), GB)).read_bytes() == b"newer"
    assert time.monotonic() - start > 1  # as long as the Hub asks for with status 429
    assert len(hub.tokens) == num_requests + 5  # three failures, HEAD and GET
    hub.failures = [503] * 4
    assert "could not be downloaded in 4 attempts" in reason("datasets/me/set/b.mp4") and not hub.failures


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A Hub with one data set, and an empty cache."""
    monkeypatch.setenv("VIDEOVIT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    monkeypatch.setenv("HF_TOKEN", SECRET)
    monkeypatch.setattr(remote, "PAUSE_S", 0.01)
    pytest.importorskip("huggingface_hub", reason="huggingface_hub of extra [remote] is not installed")
    (tmp_path / "cdn").mkdir()
    with serving(tmp_path / "cdn") as cdn, serve_hub(cdn) as running:
        point_to(running, monkeypatch)
        running.repos["datasets/me/set"] = {"d@2/a.mp4": b"newer"}
        yield running


@pytest.mark.parametrize("kind", ["s3", "gs"])
def test_credentials_missing_is_an_error_at_once(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("VIDEOVIT_CACHE", str(tmp_path / "cache"))
    with serve_store(kind, tmp_path, monkeypatch) as store:
        store.put("a.mp4", b"x")
        monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
        monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
        monkeypatch.delenv("AWS_ACCESS_KEY_ID", raising=False)
        monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(tmp_path / "none"))
        store.server.refused = 401  # what Google answers to anonymous requests
        with pytest.raises(RemoteError, match=r"a\.mp4: no permission to read it: .*([Cc]redentials|Anonymous)"):
            fetch(Wanted(f"{store.url}/a.mp4"), GB)
        assert not any(capfd.readouterr())


@pytest.mark.parametrize(
    ("url", "module", "package"),
    [
        ("s3://a-bucket/a.mp4", "s3fs", "s3fs"),
        ("gs://a-bucket/a.mp4", "gcsfs", "gcsfs"),
        ("hf://datasets/me/set/a.mp4", "huggingface_hub", "huggingface_hub"),
        ("https://127.0.0.1:9/a.mp4", "aiohttp", "aiohttp"),
    ],
)
def test_package_missing_is_named(
    url: str, module: str, package: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("fsspec", reason="extra [remote] is not installed")
    monkeypatch.setenv("VIDEOVIT_CACHE", str(tmp_path))
    for name in [name for name in sys.modules if name.partition(".")[0] == module]:
        monkeypatch.delitem(sys.modules, name)
    for name in ("gcsfs.core", "fsspec.implementations.http"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.setattr(sys.modules["fsspec.registry"], "_registry", {})
    monkeypatch.setattr(sys.modules["fsspec.registry"], "registry", {})
    stores._google.cache_clear()
    monkeypatch.setitem(sys.modules, module, None)
    words = rf"a\.mp4: {url.partition(':')[0]}:// needs the package {package}: .*pip install 'videovit\[remote\]'"
    with pytest.raises(RemoteError, match=words):
        fetch(Wanted(url), GB)
