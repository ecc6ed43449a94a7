"""A model hub on this machine, just enough of it for huggingface_hub: repository info, HEAD and GET of files."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@contextmanager
def serve(
    repositories: dict[str, Path], log: list[str], gated: tuple[str, ...] = (), bad_token: str = "none"
) -> Iterator[str]:
    """Address of a hub that serves folders by repository id; paths of all requests are appended to ``log``.

    Whoever comes with ``bad_token`` is refused, public repositories included, as the real hub does.
    """

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *args: object) -> None: ...

        def do_HEAD(self) -> None:
            self.answer(body=False)

        def do_GET(self) -> None:
            self.answer(body=True)

        def answer(self, body: bool) -> None:
            path = self.path.split("?")[0]
            log.append(f"{self.command} {path}")
            if bad_token in (self.headers.get("Authorization") or ""):
                return self.refuse(401, "", "Invalid credentials in Authorization header")
            for repo, folder in repositories.items():
                if path in (
                    f"/api/models/{repo}",
                    f"/api/models/{repo}/revision/main",
                    f"/api/models/{repo}/revision/{COMMIT}",
                ):
                    return self.info(repo, folder)
                for revision in ("main", COMMIT):
                    prefix = f"/{repo}/resolve/{revision}/"
                    if path.startswith(prefix):
                        return self.file(repo, folder / path[len(prefix) :], body)
            self.refuse(404, "RepoNotFound")

        def info(self, repo: str, folder: Path) -> None:
            names = sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())
            self.reply(
                json.dumps(
                    {"id": repo, "modelId": repo, "sha": COMMIT, "siblings": [{"rfilename": n} for n in names]}
                ).encode(),
                {"Content-Type": "application/json"},
                True,
            )

        def file(self, repo: str, path: Path, body: bool) -> None:
            if repo in gated:
                return self.refuse(403, "GatedRepo")
            if not path.is_file():
                return self.refuse(404, "EntryNotFound")
            content = path.read_bytes()
            self.reply(content, {"ETag": f'"{hashlib.sha256(content).hexdigest()}"', "X-Repo-Commit": COMMIT}, body)

        def reply(self, content: bytes, headers: dict[str, str], body: bool) -> None:
            self.send_response(200)
            for name, value in {**headers, "Content-Length": str(len(content))}.items():
                self.send_header(name, value)
            self.end_headers()
            if body:
                self.wfile.write(content)

        def refuse(self, status: int, code: str, words: str = "") -> None:
            self.send_response(status)
            self.send_header("X-Error-Code", code)
            self.send_header("X-Error-Message", words)
            self.send_header("Content-Length", "0")
            self.end_headers()

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
