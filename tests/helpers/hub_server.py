"""A server on the loopback with the part of the Hugging Face Hub's API that models and data sets need here."""

from __future__ import annotations

import base64
import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit

import pytest

from tests.helpers.range_server import Server

COMMIT = "c0ffee" + 34 * "0"


class Hub(ThreadingHTTPServer):
    """One commit per repository.

    Attributes:
        repos: user/name or datasets/user/name, with @revision for others than main -> path -> content.
        private: the names of private repositories.
        gated: those whose files need the conditions to be accepted.
        failures: the status of the next requests for files, in order.
        tokens: what the requests for files were authorized by.
        cdn: the server that requests for files are redirected to, except for text; None to answer them here.
    """

    daemon_threads = True

    def __init__(self, cdn: Server | None = None) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.repos: dict[str, dict[str, bytes]] = {}
        self.private: set[str] = set()
        self.gated: set[str] = set()
        self.failures: list[int] = []
        self.tokens: list[str] = []
        self.cdn = cdn

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
        match parts:
            case ["api", "models", user, name, kind, revision] if self._files(f"{user}/{name}", revision) is not None:
                repo = f"{user}/{name}"
                self._describe(repo, kind, self.server.repos[repo])
            case ["datasets", user, name, "resolve", revision, *path]:
                self._resolve(f"datasets/{user}/{name}", revision, "/".join(path))
            case [user, name, "resolve", revision, *path]:
                self._resolve(f"{user}/{name}", revision, "/".join(path))
            case _:
                self._missing()

    def _files(self, repo: str, revision: str) -> dict[str, bytes] | None:
        """The files of a revision; a commit is the one of main."""
        return self.server.repos.get(repo if revision in ("main", COMMIT) else f"{repo}@{revision}")

    def _describe(self, repo: str, kind: str, files: dict[str, bytes]) -> None:
        if kind == "revision":
            siblings = [{"rfilename": name} for name in files]
            self._json({"id": repo, "sha": COMMIT, "siblings": siblings, "private": False, "tags": []})
        elif kind == "tree":
            self._json(
                [
                    {"type": "file", "path": name, "size": len(content), "oid": hashlib.sha1(content).hexdigest()}
                    for name, content in files.items()
                ]
            )
        else:
            self._missing()

    def _resolve(self, repo: str, revision: str, path: str) -> None:
        """Answer a request for a file; status and headers of errors are those of huggingface.co."""
        self.server.tokens.append(self.headers.get("Authorization", ""))
        files = self._files(repo, revision)
        if self.server.failures:
            self._fail(self.server.failures.pop(0))
        elif repo not in self.server.repos:
            # So that nobody learns whether there is a private one of this name.
            self._fail(404 if self.server.tokens[-1] else 401, "RepoNotFound", "Repository not found")
        elif repo in self.server.gated:
            what = "Access to this dataset is restricted and you are not in the authorized list."
            self._fail(403 if self.server.tokens[-1] else 401, "GatedRepo", what)
        elif files is None:
            self._fail(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        elif path not in files:
            self._fail(404, "EntryNotFound", "Entry not found")
        elif self.server.cdn is None or path.endswith((".csv", ".json", ".md", ".yaml")):
            self._send(files[path], "application/octet-stream")
        else:
            self._redirect(files[path], self.server.cdn)

    def _redirect(self, content: bytes, cdn: Server) -> None:
        name = hashlib.sha256(content).hexdigest()
        (cdn.folder / name).write_bytes(content)
        self.send_response(302)
        self.send_header("Location", f"{cdn.url}/{name}?Signature=of-the-store")
        self.send_header("X-Linked-Size", str(len(content)))
        self.send_header("X-Linked-ETag", f'"{name}"')
        self.send_header("X-Repo-Commit", COMMIT)
        self.send_header("Content-Length", "0")
        self.end_headers()

    do_HEAD = do_GET

    def _json(self, value: object) -> None:
        self._send(json.dumps(value).encode(), "application/json")

    def _send(self, content: bytes, kind: str) -> None:
        etag = hashlib.sha1(content).hexdigest()
        span = self.headers.get("Range")
        if span:
            first, last = span.removeprefix("bytes=").split("-")
            content = content[int(first) : int(last) + 1]
        self.send_response(206 if span else 200)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(content)))
        self.send_header("ETag", f'"{etag}"')
        self.send_header("X-Repo-Commit", COMMIT)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def _missing(self) -> None:
        self._fail(404, "RepoNotFound")

    def _fail(self, status: int, code: str = "", message: str = "") -> None:
        self.send_response(status)
        if code:
            self.send_header("X-Error-Code", code)
            self.send_header("X-Error-Message", message)
        if status == 429:
            self.send_header("RateLimit", '"resolvers";r=0;t=1')
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        pass


@contextmanager
def serve_hub(cdn: Server | None = None) -> Iterator[Hub]:
    """A running server."""
    with Hub(cdn) as hub:
        thread = threading.Thread(target=hub.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield hub
        hub.shutdown()
        thread.join()


def point_to(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make huggingface_hub, and processes that are started, use this server."""
    from huggingface_hub import constants

    monkeypatch.setenv("HF_ENDPOINT", hub.url)
    monkeypatch.setattr(constants, "ENDPOINT", hub.url)
    template = hub.url + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
