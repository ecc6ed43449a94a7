"""benchmarks/gpu.py, which is for machines with a graphics card, runs anywhere on tiny models."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    import gpu

    return gpu


def asked(**more) -> argparse.Namespace:
    return argparse.Namespace(tiny=True, side=512, steps=2, **more)


def test_a_case_is_measured_in_a_process_of_its_own(gpu, tmp_path: Path) -> None:
    place = gpu.model("sdxl", tmp_path, tiny=True)
    result = gpu.run(gpu.arguments("sdxl", place, tmp_path, "half of the blocks swapped", asked()))
    assert result.fault == "" and result.loss is not None and result.main > 0.1, result


def test_every_case_is_a_command_that_the_script_understands(gpu, tmp_path: Path) -> None:
    from library.flags import parse

    for case in gpu.CASES:
        script, *argv = gpu.arguments("sd1", tmp_path, tmp_path, case, asked())
        assert not [note for note in parse(argv, script).notes if note.severity != "note"], case
    flags = parse(gpu.arguments("sd1", tmp_path, tmp_path, "no checkpointing", asked())[1:], "train_network.py")
    assert flags["gradient_checkpointing"] is False and flags["max_train_steps"] == 2


def test_a_row_tells_whether_the_mark_was_met(gpu) -> None:
    assert "within 6 GB" in gpu.row("sd1", "fp16", gpu.Result(0.1, 4.0, 5.0, 2.0, 0.1))
    assert "OVER 8 GB" in gpu.row("sd1", "fp16, dim 128", gpu.Result(0.1, 4.0, 9.0, 2.0, 0.1))
    assert gpu.row("sd1", "xformers", gpu.Result(fault="xformers is not installed")).endswith("| xformers is not installed |")
    assert set(gpu.MARKS) <= {("sd1", case) for case in gpu.CASES}


def test_a_case_that_cannot_run_is_told_and_the_others_go_on(gpu, tmp_path: Path) -> None:
    assert sys.executable and gpu.run(["train_network.py", "--network_dimm=4"]).fault.startswith("Not started.")
