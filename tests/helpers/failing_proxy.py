"""A proxy on the loopback in front of a server of HTTP, which fails in the ways that a test asks for."""

from __future__ import annotations

import contextlib
import http.client
import http.server
import json
import sys
import threading
from collections.abc import Iterator


class Proxy(http.server.ThreadingHTTPServer):
    """Forwards requests to a port of the loopback.

    Attributes:
        requests: (method, path) of every request.
        failures: what becomes of the next requests with a range, in order: a status such as "503", "cut off" (the
            connection is lost), "short" or "long" (of another length than was asked for), or "ok".
        refused: the status of all requests, if not 0, with the message that Google Cloud Storage has.
    """

    daemon_threads = True

    def __init__(self, port: int) -> None:
        self.upstream = port
        self.requests: list[tuple[str, str]] = []
        self.failures: list[str] = []
        self.refused = 0
        super().__init__(("127.0.0.1", 0), _Handler)

    def handle_error(self, request: object, client_address: object) -> None:
        """Clients drop requests whose answers they do not need."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)  # type: ignore[arg-type]

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class _Handler(http.server.BaseHTTPRequestHandler):
    server: Proxy

    def do_GET(self) -> None:
        self.server.requests.append((self.command, self.path))
        if self.server.refused:
            self._refuse(self.server.refused)
            return
        failures = self.server.failures
        failure = failures.pop(0) if failures and self.headers.get("Range") else "ok"
        if failure.isdigit():
            self.send_response(int(failure))
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        connection = http.client.HTTPConnection("127.0.0.1", self.server.upstream)
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        connection.request(self.command, self.path, body, dict(self.headers))
        answer = connection.getresponse()
        content = answer.read()
        connection.close()
        if failure == "short":
            content = content[: len(content) // 2]
        elif failure == "long":
            content += content
        self.send_response(answer.status)
        for name, value in answer.getheaders():
            if name.lower() not in ("content-length", "transfer-encoding", "connection", "date", "server"):
                self.send_header(name, value)
        length = answer.headers.get("Content-Length", "0") if self.command == "HEAD" else str(len(content))
        self.send_header("Content-Length", length)
        self.end_headers()
        self.wfile.write(content[: len(content) // 2] if failure == "cut off" else content)

    def _refuse(self, status: int) -> None:
        message = "Anonymous caller does not have storage.objects.get access to the Google Cloud Storage object."
        content = json.dumps({"error": {"code": status, "message": message}}).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    do_HEAD = do_POST = do_PUT = do_GET

    def log_message(self, format: str, *args: object) -> None:
        pass


@contextlib.contextmanager
def proxying(port: int) -> Iterator[Proxy]:
    """A running proxy."""
    with Proxy(port) as proxy:
        threading.Thread(target=proxy.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        try:
            yield proxy
        finally:
            proxy.shutdown()
