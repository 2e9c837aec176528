"""A stand-in for the Hugging Face Hub: the parts of its API that uploading and downloading files use."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

COMMIT = "0" * 39 + "1"
TOKEN = "hf_test"


@dataclass
class Hub:
    """Repositories, each a mapping of names to contents."""

    repos: dict[str, dict[str, bytes]] = field(default_factory=dict)
    private: set[str] = field(default_factory=set)
    requests: list[str] = field(default_factory=list)
    endpoint: str = ""


@contextmanager
def serving() -> Iterator[Hub]:
    hub = Hub()

    class Handler(_Handler):
        state = hub

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    hub.endpoint = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Handler(BaseHTTPRequestHandler):
    state: Hub

    def log_message(self, *_: Any) -> None: ...

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        self.state.requests.append(f"{self.command} {self.path}")
        path = self.path.partition("?")[0]
        if found := re.fullmatch(r"/api/models/([^/]+/[^/]+)(/revision/([^/]+))?", path):
            repo, _, revision = found.groups()
            if self._refused(repo, revision):
                return
            files = [{"rfilename": name} for name in self.state.repos[repo]]
            self._json({"id": repo, "modelId": repo, "sha": COMMIT, "siblings": files, "private": False, "tags": []})
        elif found := re.fullmatch(r"/api/models/([^/]+/[^/]+)/tree/([^/]+).*", path):
            repo, revision = found.groups()
            if not self._refused(repo, revision):
                self._json([
                    {"type": "file", "path": name, "size": len(content), "oid": hashlib.sha1(content).hexdigest()}
                    for name, content in self.state.repos[repo].items()
                ])  # fmt: skip
        elif found := re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path):
            repo, revision, name = found.groups()
            if not self._refused(repo, revision):
                content = self.state.repos[repo].get(name)
                if content is None:
                    self._error(404, "EntryNotFound")
                    return
                etag = hashlib.sha256(content).hexdigest()
                self._send(200, content, {"ETag": f'"{etag}"', "X-Repo-Commit": COMMIT, "Accept-Ranges": "bytes"})
        else:
            self._error(404, "EntryNotFound")

    def do_POST(self) -> None:
        self.state.requests.append(f"POST {self.path}")
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if self.headers.get("Authorization") != f"Bearer {TOKEN}":
            self._error(401, None, "Invalid username or password.")
        elif self.path == "/api/validate-yaml":
            self._json({"errors": [], "warnings": []})
        elif self.path == "/api/repos/create":
            wanted = json.loads(body)
            repo = f"{wanted.get('organization') or 'me'}/{wanted['name']}"
            if repo in self.state.repos:
                self._send(409, json.dumps({"url": f"{self.state.endpoint}/{repo}"}).encode(), {})
                return
            self.state.repos[repo] = {".gitattributes": b""}
            if wanted.get("private") or wanted.get("visibility") == "private":
                self.state.private.add(repo)
            self._json({"url": f"{self.state.endpoint}/{repo}", "id": repo})
        elif found := re.fullmatch(r"/api/models/([^/]+/[^/]+)/preupload/main", self.path.partition("?")[0]):
            files = json.loads(body)["files"]
            self._json({"files": [
                {"path": file["path"], "uploadMode": "regular", "shouldIgnore": False} for file in files
            ]})  # fmt: skip
        elif found := re.fullmatch(r"/api/models/([^/]+/[^/]+)/commit/main", self.path.partition("?")[0]):
            for line in body.splitlines():
                entry = json.loads(line)
                if entry["key"] == "file":
                    self.state.repos[found[1]][entry["value"]["path"]] = base64.b64decode(entry["value"]["content"])
            self._json({"commitUrl": f"{self.state.endpoint}/{found[1]}/commit/{COMMIT}", "commitOid": COMMIT})
        else:
            self._error(404, "EntryNotFound")

    def _refused(self, repo: str, revision: str | None) -> bool:
        if repo not in self.state.repos:
            self._error(401, "RepoNotFound")
        elif revision not in (None, "main", COMMIT):
            self._error(404, "RevisionNotFound")
        else:
            return False
        return True

    def _error(self, status: int, code: str | None, message: str = "not found") -> None:
        self._send(status, json.dumps({"error": message}).encode(), {"X-Error-Code": code} if code else {})

    def _json(self, value: object) -> None:
        self._send(200, json.dumps(value).encode(), {"Content-Type": "application/json"})

    def _send(self, status: int, content: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)
