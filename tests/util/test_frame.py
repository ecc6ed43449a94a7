"""Problems are shown so that a beginner can read them, on any console."""

from __future__ import annotations

import io
import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest

from library.util import frame, log
from library.util.records import Problem

STOP = Problem("--resolution", '"512;512" is not a size.', "Write --resolution=512,512.", "stop")
WARN = Problem("GPU", "The card is busy.", "Close other programs.", "warn")
NOTE = Problem("steps", "12 pictures = 120 steps.", "", "note")


@pytest.fixture(autouse=True)
def _english(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PREFLIGHT_LANGUAGE", "en")


def stream(encoding: str) -> io.TextIOWrapper:
    return io.TextIOWrapper(io.BytesIO(), encoding=encoding)


def written(out: io.TextIOWrapper) -> str:
    out.flush()
    assert isinstance(out.buffer, io.BytesIO)
    return out.buffer.getvalue().decode(out.encoding)


def test_the_worst_comes_last_and_the_cause_is_the_last_line() -> None:
    out = stream("utf-8")
    frame.show([STOP, WARN, NOTE], out, launched=False)
    lines = written(out).strip().splitlines()
    heads = [
        line.split()[1]
        for line in lines
        if line[:1] == "┃" and line.split()[1:2] and line.split()[1] in ("STOP", "WARNING", "NOTE")
    ]
    assert heads == ["NOTE", "WARNING", "STOP"]
    assert lines[-1] == 'Not started. The cause: --resolution: "512;512" is not a size.'


def test_the_wrapper_is_explained_only_where_accelerate_started_the_program() -> None:
    assert "accelerate" in frame.last_line([STOP], launched=True)
    assert "accelerate" not in frame.last_line([STOP], launched=False)
    assert frame.last_line([WARN], launched=True) == ""


def test_further_stops_are_counted_in_the_last_line() -> None:
    assert frame.last_line([STOP, STOP, STOP], launched=False).endswith("(and 2 more above)")


@pytest.mark.parametrize("encoding", ["cp1252", "cp932", "ascii", "cp437", "utf-8"])
def test_no_console_fails_on_a_character(encoding: str) -> None:
    out = stream(encoding)
    frame.show([Problem("日本語フォルダ", "größer — “x”… 🙂", "対処", "stop")], out, "ja", launched=True)
    assert "STOP" in written(out) or "中止" in written(out)


def test_a_console_without_box_characters_gets_ascii() -> None:
    out = stream("ascii")
    frame.show([STOP], out, launched=False)
    assert written(out).isascii() and "+==" in written(out)


def test_lines_keep_to_the_width_and_paths_stay_whole() -> None:
    path = "C:\\" + "very\\long\\" * 20 + "file.safetensors"
    text = frame.render([Problem("--vae", "word " * 60, f"See {path}", "stop")], 80)
    assert path in text
    assert all(frame.columns(line) <= 80 for line in text.splitlines() if path not in line)


def test_japanese_lines_break_by_width_and_not_before_closing_signs() -> None:
    lines = frame.wrap("学習率が指定されていません。" * 10, 40)
    assert all(frame.columns(line) <= 42 for line in lines)
    assert not any(line[0] in "、。」" for line in lines)


def test_nothing_wrong_prints_nothing() -> None:
    out = stream("utf-8")
    frame.show([], out)
    assert written(out) == ""


def test_log_lines_survive_any_console_and_hold_no_secret() -> None:
    secret = "hf_" + "Zq9" * 12
    for encoding in ("cp1252", "cp932", "ascii"):
        out = stream(encoding)
        handler = log.set_up(stream=out)
        try:
            logging.getLogger("x").info("日本語 %s ⟨∞⟩", secret)
        finally:
            logging.getLogger().removeHandler(handler)
        assert "hf_***" in written(out) and "Zq9" not in written(out)


def test_setting_logging_up_twice_prints_a_line_once(tmp_path: Path) -> None:
    out = stream("utf-8")
    log.set_up(stream=stream("utf-8"))
    handler = log.set_up(stream=out, simple=True)
    try:
        logging.getLogger("x").info("once")
        logging.getLogger("urllib3").info("never")
    finally:
        logging.getLogger().removeHandler(handler)
    assert written(out) == "once\n"


def test_a_log_file_is_utf8(tmp_path: Path) -> None:
    handler = log.set_up(file=tmp_path / "logs" / "a.log")
    try:
        logging.getLogger("x").warning("日本語")
    finally:
        logging.getLogger().removeHandler(handler)
        handler.close()
    assert "日本語" in (tmp_path / "logs" / "a.log").read_text(encoding="utf-8")


def test_prints_to_a_japanese_or_western_pipe_end_no_run() -> None:
    code = "from library.util import log; log.safe_streams(); print('é 日本語 🙂 ━')"
    for encoding in ("cp932", "cp1252", "ascii"):
        done = subprocess.run(
            [sys.executable, "-c", code],
            capture_output=True,
            cwd=Path(__file__).resolve().parents[2],
            env={**os.environ, "PYTHONIOENCODING": encoding, "PYTHONUTF8": "0"},
            timeout=60,
        )
        assert done.returncode == 0, done.stderr


def test_what_ends_a_run_under_way_is_not_said_to_have_kept_it_from_starting() -> None:
    out = stream("utf-8")
    frame.show([STOP], out, launched=False, begun=True)
    text = written(out)
    assert "The training stopped: 1 to mend" in text and "start" not in text.replace("started", "")
    assert text.strip().splitlines()[-1].startswith("Stopped. The cause: --resolution")
