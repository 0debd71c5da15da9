"""Streams for tests: an HTTP server that sends a video in real time, and writers of pipes."""

from __future__ import annotations

import os
import socket
import struct
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path


@contextmanager
def serve(
    video: Path, *, seconds: float, cut_after: float = 1.0, times: int = 1_000, hold: threading.Event | None = None
) -> Iterator[str]:
    """Serve an MPEG-TS file as live video, without a length; yields the URL.

    Args:
        video: the file.
        seconds: how long sending takes.
        cut_after: share of the file after which the first connection is reset.
        times: connections that are served; later ones get 404.
        hold: when it is set, the last third of the file is sent.
    """
    content, served = video.read_bytes(), []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            served.append(self.path)
            if len(served) > times:
                self.send_error(404)
                return
            self.send_response(200)
            self.send_header("Content-Type", "video/mp2t")
            self.send_header("Connection", "close")
            self.end_headers()
            begin, step = time.monotonic(), 188 * 20
            stop = int(len(content) * cut_after) if len(served) == 1 else len(content)
            for place in range(0, stop, step):
                if hold is not None and place > len(content) * 2 // 3:
                    hold.wait(60)
                time.sleep(max(0.0, begin + seconds * place / len(content) - time.monotonic()))
                self.wfile.write(content[place : min(place + step, stop)])
            if stop < len(content):
                # Closing resets the connection, as a sender does that is killed.
                self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                self.connection.close()

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.handle_error = lambda request, address: None  # type: ignore[method-assign]
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}/live.ts"
    finally:
        server.shutdown()
        server.server_close()


def feed(folder: Path, content: bytes) -> str:
    """Make a named pipe that gets this content; returns its path."""
    path = folder / f"pipe{len(list(folder.iterdir()))}"
    os.mkfifo(path)
    threading.Thread(target=_write, args=(path, content), daemon=True).start()
    return str(path)


def _write(path: Path, content: bytes) -> None:
    with suppress(BrokenPipeError):
        path.write_bytes(content)
