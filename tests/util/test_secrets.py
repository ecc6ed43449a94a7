"""What an error says in one line."""

from pathlib import Path

import pytest

from library.util.secrets import reason

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize(("error", "words"), [
    (OSError("first\nsecond"), "first"), (AssertionError(), "AssertionError"), (TimeoutError("\n "), "TimeoutError"),
    (ValueError("hf_" + "AbCdEf0123456789" * 2 + " is wrong"), "hf_*** is wrong")])
def test_an_errors_reason_is_its_first_line_without_secrets_or_its_kind(error, words):
    assert reason(error) == words


def test_no_room_takes_the_first_line_of_an_error_that_may_be_empty():
    found = [str(file.relative_to(ROOT)) for folder in ("library", "networks", "tools") for file in (ROOT / folder).rglob("*.py")
             if "error).splitlines()[0]" in file.read_text(encoding="utf-8")]
    assert not found
