"""A server on the loopback with the part of the Hugging Face Hub's API that uploads and downloads of models need."""

from __future__ import annotations

import base64
import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit

COMMIT = "c0ffee" + 34 * "0"


class Hub(ThreadingHTTPServer):
    """One commit per repository.

    Attributes:
        repos: user/name -> path -> content.
        private: the names of private repositories.
    """

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.repos: dict[str, dict[str, bytes]] = {}
        self.private: set[str] = set()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class _Handler(BaseHTTPRequestHandler):
    server: Hub

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        parts = urlsplit(self.path).path.strip("/").split("/")
        match parts:
            case ["api", "repos", "create"]:
                wanted = json.loads(body)
                name = f"{wanted.get('organization') or 'me'}/{wanted['name']}"
                if wanted.get("private") or wanted.get("visibility") == "private":
                    self.server.private.add(name)
                self.server.repos.setdefault(name, {})
                self._json({"url": f"{self.server.url}/{name}"})
            case ["api", "validate-yaml"]:
                self._json({"errors": [], "warnings": []})
            case ["api", "models", user, name, "preupload", _] if f"{user}/{name}" in self.server.repos:
                files = json.loads(body)["files"]
                self._json(
                    {"files": [{"path": f["path"], "uploadMode": "regular", "shouldIgnore": False} for f in files]}
                )
            case ["api", "models", user, name, "commit", _] if f"{user}/{name}" in self.server.repos:
                for line in body.splitlines():
                    item = json.loads(line)
                    if item["key"] == "file":
                        content = base64.b64decode(item["value"]["content"])
                        self.server.repos[f"{user}/{name}"][item["value"]["path"]] = content
                self._json({"commitUrl": f"{self.server.url}/{user}/{name}/commit/{COMMIT}", "commitOid": COMMIT})
            case _:
                self._missing()

    def do_GET(self) -> None:
        parts = [unquote(part) for part in urlsplit(self.path).path.strip("/").split("/")]
        repo = "/".join(parts[2:4] if parts[0] == "api" else parts[:2])
        files = self.server.repos.get(repo)
        match parts:
            case ["api", "models", _, _, "revision", _] if files is not None:
                siblings = [{"rfilename": name} for name in files]
                self._json({"id": repo, "sha": COMMIT, "siblings": siblings, "private": False, "tags": []})
            case ["api", "models", _, _, "tree", _] if files is not None:
                self._json(
                    [
                        {"type": "file", "path": name, "size": len(content), "oid": hashlib.sha1(content).hexdigest()}
                        for name, content in files.items()
                    ]
                )
            case [_, _, "resolve", _, name] if files is not None and name in files:
                self._send(files[name], "application/octet-stream")
            case _:
                self._missing()

    do_HEAD = do_GET

    def _json(self, value: object) -> None:
        self._send(json.dumps(value).encode(), "application/json")

    def _send(self, content: bytes, kind: str) -> None:
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(content)))
        self.send_header("ETag", f'"{hashlib.sha1(content).hexdigest()}"')
        self.send_header("X-Repo-Commit", COMMIT)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def _missing(self) -> None:
        self.send_response(404)
        self.send_header("X-Error-Code", "RepoNotFound")
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        pass


@contextmanager
def serve_hub() -> Iterator[Hub]:
    """A running server."""
    with Hub() as hub:
        thread = threading.Thread(target=hub.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield hub
        hub.shutdown()
        thread.join()
