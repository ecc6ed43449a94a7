"""Picture boards that answer in JSON: how many pictures some tags have, which they are, and loading them politely."""

from __future__ import annotations

import json
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

from library.data.files import IMAGES
from library.util.fetch import redacted
from library.util.records import Problem, UserError
from library.util.said import say

AGENT = "lora-dataset-collector/1 (one request at a time)"
PAUSE = 1.0
"""Seconds between two requests; boards ask for at most one a second."""
LARGEST = 100 << 20
"""Bytes of one picture from which it is left out."""


@dataclass(frozen=True)
class Post:
    """A picture on a board."""

    number: int
    url: str
    tags: tuple[str, ...]
    ending: str


@dataclass(frozen=True)
class Board:
    """How a board is asked."""

    name: str
    address: str
    terms: str
    """Where its terms of use stand."""
    count_path: str
    page_path: str
    first_page: int
    count_of: Callable[[Any], int]
    posts_of: Callable[[Any], list[Post]]


def _post(number: Any, url: Any, tags: Any) -> Post | None:
    """None for what cannot be loaded: hidden pictures, videos, animations."""
    if not isinstance(url, str) or not url:
        return None
    ending = PurePosixPath(urllib.parse.urlsplit(url).path).suffix.lower()
    return Post(int(number), url, tuple(str(tags or "").split()), ending) if ending in IMAGES else None


def _danbooru_posts(answer: Any) -> list[Post]:
    made = [_post(one.get("id", 0), one.get("file_url"), one.get("tag_string")) for one in answer]
    return [one for one in made if one is not None]


def _gelbooru_list(answer: Any) -> list[Any]:
    """The posts, which stand in a list of their own or are the answer."""
    found = answer.get("post") or [] if isinstance(answer, dict) else answer
    return [found] if isinstance(found, dict) else found


def _gelbooru_posts(answer: Any) -> list[Post]:
    made = [_post(one.get("id", 0), one.get("file_url"), one.get("tags")) for one in _gelbooru_list(answer)]
    return [one for one in made if one is not None]


def _gelbooru_count(answer: Any) -> int:
    return int(answer["@attributes"]["count"]) if isinstance(answer, dict) else len(answer)


BOARDS = {
    "danbooru": Board("danbooru", "https://danbooru.donmai.us", "https://danbooru.donmai.us/terms_of_service",
                      "/counts/posts.json?tags={tags}", "/posts.json?tags={tags}&limit={limit}&page={page}", 1,
                      lambda answer: int(answer["counts"]["posts"]), _danbooru_posts),
    "gelbooru": Board("gelbooru", "https://gelbooru.com", "https://gelbooru.com/index.php?page=tos",
                      "/index.php?page=dapi&s=post&q=index&json=1&tags={tags}&limit=1",
                      "/index.php?page=dapi&s=post&q=index&json=1&tags={tags}&limit={limit}&pid={page}", 0,
                      _gelbooru_count, _gelbooru_posts),
}
"""Boards by the kind of their interface; others of the same kind are reached with --address."""


class Client:
    """Asks one board, one request after the other."""

    def __init__(self, board: Board, address: str | None = None, pause: float = PAUSE):
        self.board, self.address, self.pause, self.last = board, (address or board.address).rstrip("/"), pause, 0.0

    def count(self, tags: str) -> int:
        """How many pictures have all the tags. Raises UserError."""
        answer = self._json(self.board.count_path.format(tags=urllib.parse.quote(tags)))
        try:
            return self.board.count_of(answer)
        except (KeyError, TypeError, ValueError) as error:
            raise self._strange(error) from error

    def posts(self, tags: str, most: int) -> Iterator[Post]:
        """The first pictures with all the tags. Raises UserError."""
        page, found = self.board.first_page, 0
        while found < most:
            path = self.board.page_path.format(tags=urllib.parse.quote(tags), limit=100, page=page)
            answer = self._json(path)
            try:
                posts = self.board.posts_of(answer)
                entries = answer if isinstance(answer, list) else _gelbooru_list(answer)
            except (AttributeError, TypeError, ValueError) as error:
                raise self._strange(error) from error
            if not entries:
                return
            yield from posts[:most - found]
            found, page = found + len(posts), page + 1

    def load(self, post: Post) -> bytes:
        """A picture's bytes. Raises UserError."""
        return self._get(urllib.parse.urljoin(self.address + "/", post.url))

    def _json(self, path: str) -> Any:
        content = self._get(self.address + path)
        try:
            return json.loads(content or b"[]")
        except ValueError as error:
            raise self._strange(error) from error

    def _get(self, url: str) -> bytes:
        time.sleep(max(0.0, self.last + self.pause - time.monotonic()))
        self.last = time.monotonic()
        if urllib.parse.urlsplit(url).scheme not in ("http", "https"):
            raise UserError(Problem(self.board.name, say("{url} is no address of the web.", url=redacted(url)), "Check --address."))
        try:
            with urllib.request.urlopen(urllib.request.Request(url, headers={"User-Agent": AGENT}), timeout=60) as answer:
                return answer.read(LARGEST)
        except urllib.error.HTTPError as error:
            what = say("{url} is refused ({code}).", url=redacted(url), code=error.code)
            raise UserError(Problem(self.board.name, what, self._refused(error.code))) from error
        except (urllib.error.URLError, OSError) as error:
            raise UserError(
                Problem(
                    self.board.name,
                    say("{url} cannot be reached ({kind}).", url=redacted(url), kind=type(error).__name__),
                    "Check the connection; started again, it goes on where it stopped.",
                )
            ) from error

    def _refused(self, status: int) -> str:
        if status in (401, 403, 422):
            return "The board asks for an account, or for fewer tags at once; its terms say which."
        return "Wait, and start again: it goes on where it stopped." if status in (429, 503) else "Check the tags and the address."

    def _strange(self, error: Exception) -> UserError:
        return UserError(
            Problem(
                self.board.name,
                say("Its answer is not of {board}'s kind ({kind}).", board=self.board.name, kind=type(error).__name__),
                "Give the right --board: danbooru or gelbooru.",
            )
        )
