"""Stands in for the Hugging Face hub: the part of its HTTP interface that a reader of repositories needs.

Answers as the hub does, errors included: repository information and branches are public even where the files are for
those who accepted a licence; a repository that one may not see is said not to be there.
"""

import hashlib
import json
import re
import threading
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

LARGE = 200
"""Bytes from which on a file is a large one, whose SHA-256 the hub knows."""


@dataclass
class Repo:
    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    branches: dict[str, str] = field(default_factory=dict)
    gated: bool = False
    private: bool = False


class Hub:
    """A hub on a free port of this machine; `with Hub() as hub` ends it."""

    def __init__(self) -> None:
        self.repos: dict[tuple[str, str], Repo] = {}
        self.tokens: dict[str, set[str]] = {}
        """Valid token to the repositories that its account may read although they are gated or private."""
        self.requests: list[str] = []
        self.status = 200
        """Anything else is all that the hub answers."""
        self.answer: bytes | None = None
        """What the hub answers instead of JSON."""
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> "Hub":
        threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def commit(self, kind: str, name: str, files: Mapping[str, bytes], branch: str = "main", **flags: bool) -> str:
        """Puts files into a repository as the newest commit of a branch, and returns the commit."""
        repo = self.repos.setdefault((kind, name), Repo(**flags))
        parts = [kind, name, branch, *(f"{path}:{hashlib.sha1(data).hexdigest()}" for path, data in files.items())]
        commit = hashlib.sha1("|".join(parts).encode()).hexdigest()
        repo.commits[commit] = dict(files)
        repo.branches[branch] = commit
        return commit

    def downloads(self) -> list[str]:
        """The files that were sent, in order."""
        sent = [line for line in self.requests if line.startswith("GET ") and "/resolve/" in line]
        return [line.partition("/resolve/")[2].partition("/")[2] for line in sent]

    def _handler(hub) -> type[BaseHTTPRequestHandler]:  # noqa: N805
        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_: object) -> None:
                pass

            def do_HEAD(self) -> None:
                self.do_GET()

            def do_GET(self) -> None:
                path = unquote(urlsplit(self.path).path)
                hub.requests.append(f"{self.command} {path}")
                if hub.status != 200:
                    return self._fail(hub.status, "", "out of order")
                token = (self.headers.get("Authorization") or "").removeprefix("Bearer ")
                if token and token not in hub.tokens:
                    return self._fail(401, "", "Invalid credentials in Authorization header")
                api = re.fullmatch(r"/api/(dataset|model)s/([^/]+/[^/]+)(?:/(refs|revision|tree)(?:/(.+))?)?", path)
                file = re.fullmatch(r"/(?:(dataset)s/)?([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path)
                match = api or file
                if not match:
                    return self._fail(404, "", "no such page")
                kind, name = match[1] or "model", match[2]
                repo = hub.repos.get((kind, name))
                may = name in hub.tokens.get(token, set())
                if repo is None or (repo.private and not may):
                    if token:
                        return self._fail(404, "RepoNotFound", "Repository not found")
                    return self._fail(401, "", "Invalid username or password.")
                if api and api[3] == "refs":
                    refs = [
                        {"name": branch, "ref": f"refs/heads/{branch}", "targetCommit": commit}
                        for branch, commit in repo.branches.items()
                    ]
                    return self._json({"branches": refs, "converts": [], "tags": []})
                revision = (api[4] if api else file[3]) or "main"
                commit = repo.branches.get(revision, revision)
                if commit not in repo.commits:
                    return self._fail(404, "RevisionNotFound", f"Invalid rev id: {revision}")
                files = repo.commits[commit]
                if api:
                    if api[3] == "tree":
                        return self._json([self._tree_entry(path, data) for path, data in files.items()])
                    siblings = [self._sibling(path, data) for path, data in files.items()]
                    return self._json({"id": name, "sha": commit, "private": repo.private, "siblings": siblings})
                if repo.gated and not may:
                    return self._fail(403 if token else 401, "GatedRepo", f"Access to {kind} {name} is restricted.")
                if file[4] not in files:
                    return self._fail(404, "EntryNotFound", "Entry not found", {"X-Repo-Commit": commit})
                data = files[file[4]]
                self._send(200, data, {"X-Repo-Commit": commit, "ETag": f'"{_etag(data)}"'})

            def _tree_entry(self, path: str, data: bytes) -> dict[str, Any]:
                entry = {"type": "file", "path": path, "size": len(data), "oid": hashlib.sha1(data).hexdigest()}
                lfs = {"oid": hashlib.sha256(data).hexdigest(), "size": len(data), "pointerSize": 134}
                return entry | ({"lfs": lfs} if len(data) >= LARGE else {})

            def _sibling(self, path: str, data: bytes) -> dict[str, Any]:
                entry = {"rfilename": path, "size": len(data), "blobId": hashlib.sha1(data).hexdigest()}
                lfs = {"sha256": hashlib.sha256(data).hexdigest(), "size": len(data), "pointerSize": 134}
                return entry | ({"lfs": lfs} if len(data) >= LARGE else {})

            def _json(self, value: Any) -> None:
                self._send(
                    200,
                    json.dumps(value).encode() if hub.answer is None else hub.answer,
                    {"Content-Type": "application/json"},
                )

            def _fail(self, status: int, code: str, message: str, headers: dict[str, str] | None = None) -> None:
                said = {"X-Error-Message": message} | ({"X-Error-Code": code} if code else {})
                self._send(status, json.dumps({"error": message}).encode(), said | (headers or {}))

            def _send(self, status: int, body: bytes, headers: dict[str, str]) -> None:
                self.send_response(status)
                for name, value in {**headers, "Content-Length": str(len(body))}.items():
                    self.send_header(name, value)
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(body)

        return Handler


def use(hub: Hub, monkeypatch: Any, home: Path) -> None:
    """Points the client at the stand-in: in this process, where it may be imported already, and in those it starts."""
    from huggingface_hub import constants

    home.mkdir(parents=True, exist_ok=True)
    for variable in ("HF_TOKEN", "HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_HUB_CACHE", "FORGETTING_LAUNCH"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("HF_ENDPOINT", hub.url)
    monkeypatch.setenv("HF_HOME", str(home))
    monkeypatch.setattr(constants, "ENDPOINT", hub.url)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", hub.url + "/{repo_id}/resolve/{revision}/{filename}")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(home / "hub"))
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(home / "token"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)


def wheel(directory: Path, package: str, version: str, members: Mapping[str, bytes]) -> Path:
    """A wheel that holds `members`, as small as pip accepts one."""
    name = package.replace("-", "_")
    info = f"{name}-{version}.dist-info"
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / f"{name}-{version}-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for member, data in members.items():
            archive.writestr(member, data)
        archive.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {package}\nVersion: {version}\n")
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{info}/RECORD", "")
    return path


def _etag(data: bytes) -> str:
    return (hashlib.sha256 if len(data) >= LARGE else hashlib.sha1)(data).hexdigest()
