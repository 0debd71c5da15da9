"""A web server on the loopback that serves files as the Internet does: with ranges, redirects, cuts and errors."""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass
class WeightsServer:
    """What the server has, how it behaves, and the requests it received.

    Attributes:
        files: path -> content.
        redirects: path -> path or URL.
        headers: sent with every file and redirect.
        cuts: for each request to come, the bytes after which its connection ends; empty: none.
        statuses: for each request to come, a status instead of a file; below 300, with half of it.
        pause_s: before each 64 KiB.
        has_ranges: whether it continues files.
        etag: of all files; empty: the hash of the content.
        requests: (path, Range header) of all requests.
        port: of the server.
    """

    files: dict[str, bytes]
    redirects: dict[str, str] = field(default_factory=dict)
    headers: dict[str, str] = field(default_factory=dict)
    cuts: list[int] = field(default_factory=list)
    statuses: list[int] = field(default_factory=list)
    pause_s: float = 0.0
    has_ranges: bool = True
    etag: str = ""
    requests: list[tuple[str, str]] = field(default_factory=list)
    port: int = 0

    def url(self, path: str) -> str:
        return f"http://127.0.0.1:{self.port}{path}"


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    state: WeightsServer

    def log_message(self, format: str, *args: object) -> None:
        pass

    def do_GET(self) -> None:
        state, wanted = self.state, self.headers.get("Range", "")
        state.requests.append((self.path, wanted))
        self.close_connection = True
        if state.statuses and state.statuses[0] < 300:
            self.send_response(state.statuses.pop(0))
            body = state.files[self.path]
            self._finish_headers(len(body) // 2)
            self.wfile.write(body[: len(body) // 2])
        elif state.statuses:
            self.send_error(state.statuses.pop(0))
        elif self.path in state.redirects:
            self.send_response(302)
            self.send_header("Location", state.redirects[self.path])
            self._finish_headers(0)
        elif self.path not in state.files:
            self.send_error(404)
        else:
            self._send(state.files[self.path], wanted)

    def _finish_headers(self, length: int) -> None:
        for name, value in {"Content-Length": str(length), **self.state.headers}.items():
            self.send_header(name, value)
        self.end_headers()

    def _send(self, content: bytes, wanted: str) -> None:
        state = self.state
        etag = state.etag or f'"{hashlib.md5(content).hexdigest()}"'
        start = int(wanted.removeprefix("bytes=").rstrip("-")) if wanted and state.has_ranges else 0
        if self.headers.get("If-Range", etag) != etag:
            start = 0
        if start >= len(content) > 0:
            self.send_error(416)
            return
        self.send_response(206 if start else 200)
        self.send_header("ETag", etag)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        body = content[start:]
        self._finish_headers(len(body))
        end = min(state.cuts.pop(0) if state.cuts else len(body), len(body))
        for i in range(0, end, 1 << 16):
            self.wfile.write(body[i : min(i + (1 << 16), end)])
            time.sleep(state.pause_s)


class _Server(ThreadingHTTPServer):
    def handle_error(self, request: object, client_address: object) -> None:
        """A client that hangs up is part of the tests."""


@contextmanager
def serving(files: dict[str, bytes]) -> Iterator[WeightsServer]:
    """Serve files until the block ends."""
    state = WeightsServer(files)
    server = _Server(("127.0.0.1", 0), type("Handler", (_Handler,), {"state": state}))
    state.port = server.server_port
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    try:
        yield state
    finally:
        server.shutdown()
        server.server_close()
