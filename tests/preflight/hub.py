"""A hub on this machine that answers as the real one does: public, gated, private, moved, busy and slow repositories."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

GOOD, FINE, READ, OLD = (f"hf_{letter * 34}" for letter in "gfro")
"""Tokens: of a user with all rights, fine-grained without gated repositories, read only, expired."""
USERS: dict[str, dict[str, Any]] = {
    GOOD: {"name": "anna", "auth": {"accessToken": {"role": "write"}}},
    FINE: {
        "name": "finn",
        "auth": {"accessToken": {"role": "fineGrained", "fineGrained": {"canReadGatedRepos": False, "scoped": []}}},
    },
    READ: {"name": "rita", "auth": {"accessToken": {"role": "read"}}},
}
FILES = {
    "public/model": ["model_index.json", "unet/config.json"],
    "gated/model": ["model_index.json"],
    "single/file": ["README.md", "model.safetensors"],
    "some/lora": ["pytorch_lora_weights.safetensors"],
    "empty/repo": ["README.md"],
}


class Hub(BaseHTTPRequestHandler):
    """The part of the hub's interface that a question about a repository touches."""

    asked: list[str] = []

    def log_message(self, *args: object) -> None: ...

    def do_GET(self) -> None:
        path = self.path.split("?")[0]
        token = (self.headers.get("Authorization") or "").removeprefix("Bearer ")
        type(self).asked.append(f"{path} {'token' if token else 'open'}")
        if token == OLD:
            return self.reply(401, {"error": f'User Access Token "mine" is expired: {OLD}'})
        if token and token not in USERS:
            return self.reply(401, {"error": "Invalid credentials in Authorization header"})
        if path == "/api/whoami-v2":
            return self.reply(200, USERS[token]) if token else self.reply(401, {"error": "Invalid username or password."})
        repo = path.removeprefix("/api/models/").removesuffix("/auth-check")
        return self.repository(repo, path, token)

    do_HEAD = do_GET

    def repository(self, repo: str, path: str, token: str) -> None:
        if repo == "slow/model":
            time.sleep(1.0)
        if repo == "busy/model":
            return self.reply(429, {"error": "Too many requests"})
        if repo == "broken/model":
            return self.reply(503, {"error": "Service unavailable"})
        if repo not in FILES:
            return self.reply(404 if token else 401, {"error": "Repository not found"}, {"X-Error-Code": "RepoNotFound"})
        if path.endswith("/auth-check"):
            if repo == "gated/model" and token != GOOD:
                return self.reply(403 if token else 401, {"error": "restricted"}, {"X-Error-Code": "GatedRepo"})
            return self.reply(200, {})
        return self.reply(
            200,
            {
                "id": repo,
                "modelId": repo,
                "sha": "0" * 40,
                "gated": "auto" if repo == "gated/model" else False,
                "siblings": [{"rfilename": name} for name in FILES[repo]],
            },
        )

    def reply(self, status: int, body: dict[str, Any], headers: dict[str, str] | None = None) -> None:
        content = json.dumps(body).encode()
        self.send_response(status)
        for name, value in {
            "Content-Type": "application/json",
            "Content-Length": str(len(content)),
            "X-Error-Message": str(body.get("error", "")),
            **(headers or {}),
        }.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)


@contextmanager
def serve() -> Iterator[str]:
    """Address of a hub that runs while the context lasts."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
