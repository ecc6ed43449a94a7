"""``collect`` against boards on this machine: count first, ask, load, go on."""

import io
import json
import threading
import urllib.parse
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from PIL import Image

from library.dataset import booru
from tools import dataset

POSTS = [(number, f"/data/{number}.{'mp4' if number == 3 else 'png'}", f"1girl red_hair pose_{number}") for number in range(1, 6)]


class Board(BaseHTTPRequestHandler):
    """Danbooru's and Gelbooru's answers to what the collector asks."""

    log: list[str] = []
    broken: set[str] = set()

    def log_message(self, *args: object) -> None: ...

    def do_GET(self) -> None:
        self.log.append(self.path)
        address = urllib.parse.urlsplit(self.path)
        asked = dict(urllib.parse.parse_qsl(address.query))
        if address.path in self.broken:
            self.send_error(503)
        elif address.path == "/counts/posts.json":
            self.reply({"counts": {"posts": len(POSTS)}})
        elif address.path == "/posts.json":
            assert asked["tags"] == "1girl red_hair"
            self.reply([{"id": n, "file_url": url, "tag_string": tags} for n, url, tags in POSTS] if asked["page"] == "1" else [])
        elif address.path == "/index.php":
            posts = [{"id": n, "file_url": url, "tags": tags} for n, url, tags in POSTS] if asked.get("pid", "0") == "0" else []
            self.reply({"@attributes": {"count": len(POSTS)}, **({"post": posts} if posts else {})})
        else:
            memory = io.BytesIO()
            Image.new("RGB", (8, 8), "red").save(memory, "PNG")
            self.reply(memory.getvalue())

    def reply(self, content: object) -> None:
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


@pytest.fixture
def address():
    Board.log, Board.broken = [], set()
    server = ThreadingHTTPServer(("127.0.0.1", 0), Board)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()


def collect(folder, address, *more):
    return dataset.main(["collect", str(folder), "--tags", "1girl red_hair", "--address", address, "--pause", "0", *more])


@pytest.mark.parametrize("board", booru.BOARDS)
def test_pictures_and_tags_are_loaded_after_the_count_was_shown(tmp_path, address, capsys, board):
    folder = tmp_path / "train" / "10_ぞび"
    assert collect(folder, address, "--board", board) == 1 and not folder.exists(), "nobody can be asked here"
    assert "5 pictures have the tags" in capsys.readouterr().out
    assert collect(folder, address, "--board", board, "--yes") == 0
    names = {path.name for path in folder.glob("*.png")}
    assert names == {f"{board}_{number}.png" for number in (1, 2, 4, 5)}, "a video is left out"
    assert (folder / f"{board}_2.txt").read_text(encoding="utf-8") == "1girl, red hair, pose 2\n"


def test_it_goes_on_where_it_stopped_and_loads_nothing_twice(tmp_path, address, capsys):
    Board.broken = {"/data/2.png"}
    collect(tmp_path / "x", address, "--yes")
    assert "1 left out" in capsys.readouterr().out and not (tmp_path / "x" / "danbooru_2.png").exists()
    Board.broken = set()
    Board.log.clear()
    collect(tmp_path / "x", address, "--yes")
    assert [path for path in Board.log if path.startswith("/data")] == ["/data/2.png"]


def test_most_limits_what_is_loaded_and_no_answer_is_a_sentence(tmp_path, address, capsys):
    collect(tmp_path / "x", address, "--yes", "--most", "2")
    assert len(list((tmp_path / "x").glob("*.png"))) == 2
    assert collect(tmp_path / "x", "http://127.0.0.1:9", "--yes") == 1
    assert "cannot be reached" in capsys.readouterr().err


def test_requests_are_a_pause_apart(address):
    import time

    client = booru.Client(booru.BOARDS["danbooru"], address, pause=0.15)
    start = time.monotonic()
    for _ in range(3):
        client.count("1girl red_hair")
    assert time.monotonic() - start >= 0.3
