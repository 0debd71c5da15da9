"""An HTTP server on the loopback that serves a folder by ranges, and fails in the ways that a test asks for."""

from __future__ import annotations

import contextlib
import hashlib
import http.server
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote, urlsplit


class Server(http.server.ThreadingHTTPServer):
    """Serves a folder.

    Attributes:
        requests: (method, path) of every request.
        failures: what becomes of the next GET requests, in order: "503", "cut off", "slow", "change", "short" or "long"
            (of another length than was asked for), or "ok".
        tokens: what requests were authorized by.
        folder: what is served.
    """

    daemon_threads = True

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.requests: list[tuple[str, str]] = []
        self.failures: list[str] = []
        self.tokens: list[str] = []
        super().__init__(("127.0.0.1", 0), Handler)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def count(self, method: str) -> int:
        """Requests of a kind."""
        return sum(found == method for found, _ in self.requests)


class Handler(http.server.BaseHTTPRequestHandler):
    server: Server
    protocol_version = "HTTP/1.1"

    def do_HEAD(self) -> None:
        self._answer(with_body=False)

    def do_GET(self) -> None:
        self._answer(with_body=True)

    def log_message(self, *arguments: object) -> None:
        pass

    def _answer(self, *, with_body: bool) -> None:
        path = self.server.folder / unquote(urlsplit(self.path).path).lstrip("/")
        self.server.requests.append((self.command, path.name))
        self.server.tokens += self.headers.get_all("Authorization", [])
        failure = self.server.failures.pop(0) if with_body and self.server.failures else "ok"
        if failure == "change":
            path.write_bytes(bytes(reversed(path.read_bytes())))
        if failure.isdigit() or not path.is_file():
            self.send_response(int(failure) if failure.isdigit() else 404)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        content = whole = path.read_bytes()
        span = self.headers.get("Range")
        if span:
            first, last = span.removeprefix("bytes=").split("-")
            content = whole[int(first) : int(last or len(whole)) + 1]
        if failure in ("short", "long"):
            content = content[: len(content) // 2] if failure == "short" else content + content
        self.send_response(206 if span else 200)
        self.send_header("Content-Length", str(len(content)))
        self.send_header("Accept-Ranges", "bytes")
        self.send_header("ETag", hashlib.sha256(whole).hexdigest())
        self.end_headers()
        if not with_body:
            return
        if failure == "slow":
            time.sleep(2)
        self.wfile.write(content[: len(content) // 2] if failure == "cut off" else content)
        if failure == "cut off":
            self.close_connection = True


@contextlib.contextmanager
def serving(folder: Path) -> Iterator[Server]:
    """A server of a folder, while the block runs."""
    server = Server(folder)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
