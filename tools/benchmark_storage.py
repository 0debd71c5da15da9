#!/usr/bin/env python3
"""Compare how fast videos are read from files, from shards, and from an object store on the loopback."""

from __future__ import annotations

import argparse
import logging
import os
import resource
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

try:
    from videovit import cli
except ModuleNotFoundError as error:
    sys.exit(f"{error}; install the project into this Python: {sys.executable} -m pip install -e .")

import torch

from videovit.data.dataset import ClipDataset, FixedCrops
from videovit.data.decode import DecodeOptions
from videovit.data.records import Sample
from videovit.data.sampling import EvenSpans
from videovit.engine.reporting.log import format_table

BUCKET = "benchmark"
INSTALL = "s3 needs pip install s3fs 'moto[server]'; gs needs pip install gcsfs gcp-storage-emulator."


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, epilog=INSTALL)
    parser.add_argument("videos", nargs="+", metavar="VIDEO", help="video files")
    parser.add_argument("--copies", type=int, default=20, metavar="N", help="copies of every video (default 20)")
    parser.add_argument("--store", default="s3", choices=("s3", "gs"), help="which store (default s3)")
    parser.add_argument("--backend", default="decord", choices=("decord", "pyav"))
    return parser.parse_args(argv)


def read_all(prefix: str, names: list[str], backend: str) -> dict[str, float]:
    """Read a 16x4 clip of every video, in batches of eight: clips per second, and CPU milliseconds per clip."""
    dataset = ClipDataset(
        [Sample(f"{prefix}/{name}", 0) for name in names],
        plan=EvenSpans(16, 4, 30.0),
        crops=FixedCrops(lambda frames: [frames]),
        backend=backend,
        decoding=DecodeOptions(inside=prefix),
    )
    start, cpu = time.monotonic(), cpu_s()
    for first in range(0, len(names), 8):
        for item in dataset.__getitems__([(0, row) for row in range(first, min(first + 8, len(names)))]):
            if not item.clips:
                raise SystemExit(item.failures[0].reason)
    return {
        "clips/s": len(names) / (time.monotonic() - start),
        "CPU ms per clip": 1000 * (cpu_s() - cpu) / len(names),
    }


def cpu_s() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


@contextmanager
def store(kind: str, folders: dict[str, Path]) -> Iterator[str]:
    """An object store with these folders; yields its URL."""
    with start_s3() if kind == "s3" else start_gs() as put:
        for start, folder in folders.items():
            for path in folder.iterdir():
                put(f"{start}/{path.name}", path.read_bytes())
        yield f"{kind}://{BUCKET}"


Put = Callable[[str, bytes], object]


@contextmanager
def start_s3() -> Iterator[Put]:
    """S3 by moto; yields what writes a file."""
    import boto3
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    os.environ |= {
        "AWS_ENDPOINT_URL": f"http://{host}:{port}",
        "AWS_ACCESS_KEY_ID": "benchmark",
        "AWS_SECRET_ACCESS_KEY": "benchmark",
        "AWS_DEFAULT_REGION": "us-east-1",
    }
    client = boto3.client("s3")
    client.create_bucket(Bucket=BUCKET)
    yield lambda name, content: client.put_object(Bucket=BUCKET, Key=name, Body=content)
    server.stop()


@contextmanager
def start_gs() -> Iterator[Put]:
    """Google Cloud Storage by gcp-storage-emulator; yields what writes a file."""
    from gcp_storage_emulator.server import create_server
    from gcsfs.core import GCSFileSystem

    logging.getLogger("gcp_storage_emulator").setLevel(logging.CRITICAL)
    server = create_server("127.0.0.1", 0, in_memory=True, default_bucket=BUCKET)
    server.start()
    os.environ |= {
        "STORAGE_EMULATOR_HOST": f"http://127.0.0.1:{server._api._httpd.server_port}",
        "NO_GCE_CHECK": "true",
    }
    system = GCSFileSystem(token="anon")
    yield lambda name, content: system.pipe_file(f"{BUCKET}/{name}", content)
    server.stop()


def main(argv: list[str] | None = None) -> None:
    args = parse(argv)
    logging.getLogger("werkzeug").setLevel(logging.ERROR)  # a line per request
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as home:
        files, shards = Path(home) / "files", Path(home) / "shards"
        files.mkdir()
        os.environ["VIDEOVIT_CACHE"] = f"{home}/cache"
        for number in range(args.copies):
            for video in args.videos:
                shutil.copy(video, files / f"{number}_{Path(video).name}")
        names = sorted(path.name for path in files.iterdir())
        cli.main(["pack", str(files), "--output", str(shards), "--size", "20MB"])
        rows = []
        with store(args.store, {"files": files, "shards": shards}) as url:
            places = [
                ("files", str(files)),
                ("shards", f"shards:{shards}"),
                (f"{args.store}, files", f"{url}/files"),
                (f"{args.store}, shards", f"shards:{url}/shards"),
            ]
            for place, prefix in places:
                for epoch in ("first", "second"):
                    found = read_all(prefix, names, args.backend)
                    rows.append([place, epoch, *(f"{value:.1f}" for value in found.values())])
        print(format_table(["from", "epoch", "clips/s", "CPU ms per clip"], rows))


if __name__ == "__main__":
    sys.exit(cli.exit_code(main))
