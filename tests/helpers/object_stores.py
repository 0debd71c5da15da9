"""Object stores on the loopback: S3 (moto), Google Cloud Storage (gcp-storage-emulator), data sets of the Hub,
and a web server.

    store.url + "/a/b.mp4"        what videovit reads
    store.put("a/b.mp4", content)
    store.failures = ["503"]      of the next requests with a range
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.helpers.failing_proxy import Proxy, proxying
from tests.helpers.hub_server import point_to, serve_hub
from tests.helpers.range_server import Server, serving
from videovit.data.decode import DecodeOptions, open_video

STORES = ("s3", "gs", "hf", "http")
BUCKET = "a-bucket"
SECRET = "wJalrXUtnFEMI-K7MDENG"


@dataclass
class ObjectStore:
    """A running store.

    Attributes:
        url: of its bucket or data set.
        put: writes a file, by its name there and content.
        server: what serves the bytes; its `failures` are lists of what becomes of requests.
    """

    url: str
    put: Callable[[str, bytes], None]
    server: Proxy | Server

    @property
    def failures(self) -> list[str]:
        """What becomes of the next requests with a range."""
        return self.server.failures

    def put_folder(self, folder: Path, below: str) -> None:
        """Write the files of a folder, and of the folders in it."""
        for path in sorted(folder.rglob("*")):
            if path.is_file():
                self.put(f"{below}/{path.relative_to(folder)}", path.read_bytes())


@contextmanager
def serve_store(kind: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ObjectStore]:
    """A store, and the environment that leads its client there; skips if the packages are not installed.

    Args:
        kind: one of STORES.
        folder: for what the server must write.
        monkeypatch: sets the environment.
    """
    with ExitStack() as stack:
        yield {"s3": _serve_s3, "gs": _serve_gs, "hf": _serve_hf, "http": _serve_http}[kind](folder, monkeypatch, stack)


def _serve_s3(folder: Path, monkeypatch: pytest.MonkeyPatch, stack: ExitStack) -> ObjectStore:
    s3fs = pytest.importorskip("s3fs", reason="s3fs of extra [remote] is not installed")
    moto = pytest.importorskip("moto.server", reason="moto[server] is not installed")
    boto3 = pytest.importorskip("boto3")
    server = moto.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    stack.callback(server.stop)
    proxy = stack.enter_context(proxying(server.get_host_and_port()[1]))
    monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.url)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "somebody")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    s3fs.S3FileSystem.clear_instance_cache()  # they keep the address of an earlier server
    client = boto3.client("s3", endpoint_url=f"http://127.0.0.1:{proxy.upstream}")
    client.create_bucket(Bucket=BUCKET)

    def put(name: str, content: bytes) -> None:
        client.put_object(Bucket=BUCKET, Key=name, Body=content)

    return ObjectStore(f"s3://{BUCKET}", put, proxy)


def _serve_gs(folder: Path, monkeypatch: pytest.MonkeyPatch, stack: ExitStack) -> ObjectStore:
    pytest.importorskip("gcsfs", reason="gcsfs of extra [remote] is not installed")
    emulator = pytest.importorskip("gcp_storage_emulator.server", reason="gcp-storage-emulator is not installed")
    from gcsfs.core import GCSFileSystem

    logging.getLogger("gcp_storage_emulator").setLevel(logging.CRITICAL)
    server = emulator.create_server("127.0.0.1", 0, in_memory=True, default_bucket=BUCKET)
    server.start()
    stack.callback(server.stop)
    proxy = stack.enter_context(proxying(server._api._httpd.server_port))
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", proxy.url)
    monkeypatch.setenv("NO_GCE_CHECK", "true")  # do not look for credentials in the network
    system = GCSFileSystem(token="anon", skip_instance_cache=True)

    def put(name: str, content: bytes) -> None:
        system.pipe_file(f"{BUCKET}/{name}", content)

    return ObjectStore(f"gs://{BUCKET}", put, proxy)


def _serve_hf(folder: Path, monkeypatch: pytest.MonkeyPatch, stack: ExitStack) -> ObjectStore:
    pytest.importorskip("huggingface_hub", reason="huggingface_hub of extra [remote] is not installed")
    (folder / "cdn").mkdir()
    cdn = stack.enter_context(serving(folder / "cdn"))
    hub = stack.enter_context(serve_hub(cdn))
    point_to(hub, monkeypatch)
    monkeypatch.setenv("HF_TOKEN", SECRET)
    files = hub.repos.setdefault("datasets/me/set", {})
    return ObjectStore("hf://datasets/me/set", files.__setitem__, cdn)


def _serve_http(folder: Path, monkeypatch: pytest.MonkeyPatch, stack: ExitStack) -> ObjectStore:
    pytest.importorskip("aiohttp", reason="aiohttp of extra [remote] is not installed")
    (folder / "served").mkdir()
    server = stack.enter_context(serving(folder / "served"))

    def put(name: str, content: bytes) -> None:
        path = server.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)

    return ObjectStore(server.url, put, server)


def read(prefix: str, name: str, *, timeout_s: float = 0.0) -> torch.Tensor:
    """Two frames of a video, for comparison."""
    with open_video(f"{prefix}/{name}", "decord", DecodeOptions(inside=prefix, timeout_s=timeout_s)) as video:
        return video.frames(np.array([5, 0]))
