"""A hub of datasets on this machine: what `huggingface_hub` and `datasets` ask the real one for, out of a directory."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from urllib.parse import parse_qs, unquote, urlparse

COMMIT = "a" * 40
CLOSED = "closed"
"""Owner whose datasets are there for those only who have asked for access."""


@contextmanager
def dataset_hub(root: Path) -> Iterator[str]:
    """Serve the directories ``root/owner/name`` as datasets, and give the address."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(_Hub, root))
    thread = Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Hub(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def __init__(self, root: Path, *args: object) -> None:
        self.root = root
        super().__init__(*args)  # type: ignore[arg-type]

    def log_message(self, *_: object) -> None:
        """Nothing is printed."""

    def do_GET(self) -> None:  # noqa: N802
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        kind, *parts = unquote(urlparse(self.path).path).strip("/").split("/")
        if kind == "api" and parts[:1] == ["datasets"] and len(parts) >= 3:
            self._api("/".join(parts[1:3]), parts[3:], body)
        elif kind == "datasets" and len(parts) > 4:
            self._file("/".join(parts[:2]), "/".join(parts[4:]))
        else:
            self._say(404)

    do_HEAD = do_POST = do_GET  # noqa: N815

    def _api(self, name: str, parts: list[str], body: bytes) -> None:
        directory = self.root / name
        if not directory.is_dir():
            return self._refuse(401, "RepoNotFound")
        what, under = parts[0] if parts else "revision", directory / "/".join(parts[2:])
        if what == "revision":
            return self._json({"id": name, "sha": COMMIT, "private": False, "tags": [], "siblings": []})
        if what == "tree" and under.is_dir():
            return self._json([self._entry(directory, path) for path in sorted(under.iterdir())])
        if what == "paths-info":
            paths = [directory / path for path in parse_qs(body.decode())["paths"]]
            return self._json([self._entry(directory, path) for path in paths if path.exists()])
        return self._refuse(404, "EntryNotFound")

    def _entry(self, directory: Path, path: Path) -> Mapping[str, object]:
        kind = "directory" if path.is_dir() else "file"
        name = path.relative_to(directory).as_posix()
        return {"type": kind, "oid": _digest(path), "size": path.stat().st_size, "path": name}

    def _file(self, name: str, path: str) -> None:
        if name.startswith(f"{CLOSED}/"):
            return self._refuse(401, "GatedRepo")
        file = self.root / name / path
        if not file.is_file():
            return self._refuse(404, "EntryNotFound")
        content, headers = file.read_bytes(), {"X-Repo-Commit": COMMIT, "ETag": f'"{_digest(file)}"'}
        wanted = self.headers.get("Range")
        if wanted is None:
            return self._say(200, content, headers)
        first, _, last = wanted.removeprefix("bytes=").partition("-")
        part = content[int(first) : int(last or len(content)) + 1]
        place = f"bytes {first}-{int(first) + len(part) - 1}/{len(content)}"
        return self._say(206, part, headers | {"Content-Range": place})

    def _refuse(self, code: int, error: str) -> None:
        self._say(code, headers={"X-Error-Code": error, "X-Error-Message": error, "X-Repo-Commit": COMMIT})

    def _json(self, document: object) -> None:
        self._say(200, json.dumps(document).encode(), {"Content-Type": "application/json"})

    def _say(self, code: int, content: bytes = b"", headers: Mapping[str, str] | None = None) -> None:
        self.send_response(code)
        for name, value in {"Content-Length": str(len(content)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)


def _digest(path: Path) -> str:
    return hashlib.sha1(path.as_posix().encode()).hexdigest()
