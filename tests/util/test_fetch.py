"""Downloads against a server on this machine that breaks connections, asks for keys and redirects."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import ClassVar

import pytest

from library.util import fetch as module
from library.util.fetch import fetch, redacted
from library.util.records import UserError

BODY = bytes(range(256)) * 5000


class Handler(BaseHTTPRequestHandler):
    """/plain/x.safetensors; /broken/... (cuts the first answer in half); /key/... (wants a key); /page; /moved/..."""

    log: ClassVar[list[tuple[str, str | None, str | None]]] = []
    broken = 0

    def log_message(self, *args: object) -> None: ...

    def do_GET(self) -> None:
        Handler.log.append((self.path, self.headers.get("Range"), self.headers.get("Authorization")))
        kind = self.path.split("?")[0].split("/")[1]
        if kind == "page":
            self._answer(b"<html>login</html>", "text/html; charset=utf-8")
        elif kind == "key" and self.headers.get("Authorization") != "Bearer secret-key":
            self.send_error(401)
        elif kind == "moved":
            self.send_response(302)
            self.send_header("Location", f"http://127.0.0.1:{self.server.server_address[1]}/plain/target.safetensors")
            self.end_headers()
        else:
            self._answer(BODY, "application/octet-stream", cut=kind == "broken")

    def _answer(self, body: bytes, content: str, cut: bool = False) -> None:
        start = int((self.headers.get("Range") or "bytes=0-")[6:-1])
        self.send_response(206 if start else 200)
        self.send_header("Content-Type", content)
        self.send_header("ETag", '"one"')
        self.send_header("Content-Length", str(len(body) - start))
        self.end_headers()
        Handler.broken += cut
        self.wfile.write(body[start : len(body) // 2] if cut and Handler.broken == 1 else body[start:])


@pytest.fixture
def server() -> Iterator[str]:
    Handler.log, Handler.broken = [], 0
    running = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=running.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{running.server_address[1]}"
    running.shutdown()
    running.server_close()


def test_a_link_is_downloaded_once(server: str, tmp_path: Path) -> None:
    first = fetch(f"{server}/plain/model.safetensors", tmp_path)
    assert first.name == "model.safetensors" and first.read_bytes() == BODY
    assert fetch(f"{server}/plain/model.safetensors", tmp_path) == first
    assert len(Handler.log) == 1


def test_a_broken_download_goes_on_where_it_stopped(server: str, tmp_path: Path) -> None:
    assert fetch(f"{server}/broken/m.safetensors", tmp_path).read_bytes() == BODY
    assert [entry[1] for entry in Handler.log] == [None, f"bytes={len(BODY) // 2}-"]


def test_no_half_file_ever_carries_the_files_name(server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "TRIES", 1)
    with pytest.raises(UserError, match="could not be downloaded"):
        fetch(f"{server}/broken/m.safetensors", tmp_path)
    assert not list(tmp_path.rglob("*.safetensors")) and list(tmp_path.rglob("*.part"))


def test_the_key_comes_from_the_environment_and_is_shown_nowhere(
    server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "KEYS", {"127.0.0.1": "CIVITAI_TOKEN"})
    monkeypatch.delenv("CIVITAI_TOKEN", raising=False)
    with pytest.raises(UserError) as error:
        fetch(f"{server}/key/m.safetensors", tmp_path)
    assert "CIVITAI_TOKEN" in error.value.problems[0].remedy
    monkeypatch.setenv("CIVITAI_TOKEN", "secret-key")
    assert fetch(f"{server}/key/m.safetensors", tmp_path).read_bytes() == BODY
    assert not any(b"secret-key" in p.read_bytes() for p in tmp_path.rglob("*") if p.is_file())


def test_the_key_is_not_sent_on_to_where_a_server_redirects(
    server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "KEYS", {"127.0.0.1": "CIVITAI_TOKEN"})
    monkeypatch.setenv("CIVITAI_TOKEN", "secret-key")
    fetch(f"{server}/moved/m.safetensors", tmp_path)
    assert [(path, key) for path, _, key in Handler.log] == [
        ("/moved/m.safetensors", "Bearer secret-key"),
        ("/plain/target.safetensors", None),
    ]


def test_a_page_instead_of_a_file_is_refused(server: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="leads to a web page"):
        fetch(f"{server}/page/models/1", tmp_path)


def test_a_key_in_a_link_is_not_shown() -> None:
    shown = redacted("https://user:pw@civitai.com/api/download/models/1?type=Model&token=abcdef0123")
    assert shown == "https://civitai.com/api/download/models/1?type=Model&token=***"


def test_plain_http_is_refused_except_on_this_machine(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="not an https link"):
        fetch("http://example.com/m.safetensors", tmp_path)
