"""A hub of our own on the loopback address: what huggingface_hub asks of one to download and to commit."""

from __future__ import annotations

import base64
import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit


class Hub:
    """Repositories in memory.

    Attributes:
        revisions: repository -> {branch or commit: {path: content}}.
        gated: repositories whose files are for others.
        private: those that were created as private ones.
        writer: the token that may write; None means that anyone may.
        sizes: path -> the size that is told of a file in place of its own.
        asked: "METHOD path" of each request.
        messages: of the commits.
    """

    def __init__(self) -> None:
        self.revisions: dict[str, dict[str, dict[str, bytes]]] = {}
        self.gated: set[str] = set()
        self.private: set[str] = set()
        self.writer: str | None = None
        self.sizes: dict[str, int] = {}
        self.asked: list[str] = []
        self.messages: list[str] = []
        self.url = ""

    def commit(self, repository: str, files: dict[str, bytes], branch: str = "main") -> str:
        """Add files to a branch, and return the commit."""
        branches = self.revisions.setdefault(repository, {})
        tree = {**branches.get(branch, {}), **files}
        commit = hashlib.sha1(repr(sorted(tree.items())).encode()).hexdigest()
        branches[branch] = branches[commit] = tree
        return commit

    def add_folder(self, repository: str, folder: Path, branch: str = "main", **more: bytes) -> str:
        """Commit the files of a folder, and more."""
        return self.commit(repository, {p.name: p.read_bytes() for p in folder.iterdir()} | more, branch)

    def fetched(self, repository: str) -> set[str]:
        """The paths of files that were downloaded."""
        prefix = f"GET /{repository}/resolve/"
        return {each.removeprefix(prefix).partition("/")[2] for each in self.asked if each.startswith(prefix)}


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: Hub

    def log_message(self, *_: Any) -> None:
        pass

    def do_GET(self) -> None:
        path = self._asked()
        if path.startswith("/api/models/"):
            repository, rest = self._split(path.removeprefix("/api/models/"))
            kind, _, revision = rest.partition("/")
            if (tree := self._tree(repository, revision or "main")) is None:
                return
            commit = self._commit_of(repository, revision or "main")
            if kind == "tree":
                self._json([
                    {"type": "file", "oid": hashlib.sha1(data).hexdigest(), "size": len(data), "path": name}
                    for name, data in tree.items()
                ])  # fmt: skip
            else:
                self._json({"id": repository, "modelId": repository, "sha": commit, "siblings": []})
            return
        repository, rest = self._split(path[1:])
        _, revision, name = rest.split("/", 2)
        if (tree := self._tree(repository, revision)) is None:
            return
        if repository in self.hub.gated:
            self._refuse(403, "GatedRepo")
        elif name not in tree:
            self._refuse(404, "EntryNotFound")
        else:
            commit, etag = self._commit_of(repository, revision), hashlib.sha1(tree[name]).hexdigest()
            self._answer(200, tree[name], **{"X-Repo-Commit": commit, "ETag": f'"{etag}"'})

    do_HEAD = do_GET

    def do_POST(self) -> None:
        path, body = self._asked(), self._body()
        if "/paths-info/" in path:
            self._tell_sizes(path, parse_qs(body.decode())["paths"])
        elif self.hub.writer and self.headers["Authorization"] != f"Bearer {self.hub.writer}":
            self._refuse(401, "")
        elif path == "/api/repos/create":
            given = json.loads(body)
            repository = f"{given['organization'] or 'me'}/{given['name']}"
            if repository in self.hub.revisions:
                self._refuse(409, "", url=f"{self.hub.url}/{repository}")
                return
            self.hub.commit(repository, {".gitattributes": b""})
            self.hub.private |= {repository} if given.get("visibility") == "private" else set()
            self._json({"url": f"{self.hub.url}/{repository}"})
        elif path == "/api/validate-yaml":
            self._json({"errors": [], "warnings": []})
        else:
            repository, rest = self._split(path.removeprefix("/api/models/"))
            kind, _, branch = rest.partition("/")
            if kind == "preupload":
                files = [each["path"] for each in json.loads(body)["files"]]
                modes = [{"path": p, "uploadMode": "regular", "shouldIgnore": False} for p in files]
                self._json({"files": modes})
            elif kind == "branch":
                self.hub.commit(repository, self.hub.revisions[repository]["main"], branch)
                self._json({})
            else:
                lines = [json.loads(line) for line in body.splitlines()]
                files = {
                    line["value"]["path"]: base64.b64decode(line["value"]["content"])
                    for line in lines
                    if line["key"] == "file"
                }
                commit = self.hub.commit(repository, files, branch)
                self.hub.messages.append(lines[0]["value"]["summary"])
                url = f"{self.hub.url}/{repository}/commit/{commit}"
                self._json({"success": True, "commitOid": commit, "commitUrl": url, "hookOutput": ""})

    def _tell_sizes(self, path: str, names: list[str]) -> None:
        repository, rest = self._split(path.removeprefix("/api/models/"))
        if (tree := self._tree(repository, rest.partition("/")[2])) is not None:
            sizes = {name: self.hub.sizes.get(name, len(tree[name])) for name in names if name in tree}
            self._json([{"type": "file", "oid": "", "size": sizes[name], "path": name} for name in sizes])

    def _asked(self) -> str:
        path = unquote(urlsplit(self.path).path)
        self.hub.asked.append(f"{self.command} {path}")
        return path

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers["Content-Length"] or 0))
        parts = []
        while size := int(self.rfile.readline(), 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(parts)

    def _split(self, path: str) -> tuple[str, str]:
        user, name, *rest = path.split("/", 2)
        return f"{user}/{name}", rest[0] if rest else ""

    def _commit_of(self, repository: str, revision: str) -> str:
        branches = self.hub.revisions[repository]
        return next(c for c, tree in branches.items() if len(c) == 40 and tree == branches[revision])

    def _tree(self, repository: str, revision: str) -> dict[str, bytes] | None:
        branches = self.hub.revisions.get(repository)
        if branches is None:
            self._refuse(401, "RepoNotFound")
        elif revision not in branches:
            self._refuse(404, "RevisionNotFound")
        return None if branches is None else branches.get(revision)

    def _json(self, data: Any, status: int = 200) -> None:
        self._answer(status, json.dumps(data).encode(), **{"Content-Type": "application/json"})

    def _refuse(self, status: int, code: str, **more: str) -> None:
        data = json.dumps({"error": code, **more}).encode()
        self._answer(status, data, **({"X-Error-Code": code} if code else {}))

    def _answer(self, status: int, data: bytes, **headers: str) -> None:
        self.send_response(status)
        for key, value in {**headers, "Content-Length": str(len(data))}.items():
            self.send_header(key, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)


@contextmanager
def serve() -> Iterator[Hub]:
    """A hub that answers at `Hub.url` meanwhile."""
    hub = Hub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": hub}))
    hub.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
