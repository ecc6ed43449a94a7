"""tools/doctor.py examines without training, for people and for programs, and never shows a token."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tools import doctor

from .world import World

SECRET = "hf_" + "Zq9" * 12


@pytest.fixture(autouse=True)
def _alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No network, a token of our own, English."""
    for name, value in {
        "PREFLIGHT_LANGUAGE": "en",
        "HF_TOKEN": SECRET,
        "HF_HOME": str(tmp_path / "hf"),
        "HF_HUB_OFFLINE": "1",
    }.items():
        monkeypatch.setenv(name, value)


@pytest.mark.parametrize(
    ("typed", "script", "flags"),
    [
        (["accelerate", "launch", "--num_processes", "1", "train_network.py", "--v2"], "train_network.py", ["--v2"]),
        (["python", "C:\\sd\\sdxl_train_network.py", "--seed=1"], "sdxl_train_network.py", ["--seed=1"]),
        (["--seed=1"], "train_network.py", ["--seed=1"]),
    ],
)
def test_a_command_line_is_understood_as_it_is_typed(typed: list[str], script: str, flags: list[str]) -> None:
    assert doctor.command_words(typed) == (script, flags)


def test_the_installation_is_shown_as_a_table_without_the_token(capsys: pytest.CaptureFixture[str]) -> None:
    doctor.main(["--no_network"])
    shown = capsys.readouterr().out
    assert "torch" in shown and "GPU" in shown and "from HF_TOKEN" in shown
    assert "Zq9" not in shown


def test_the_installation_is_told_to_programs_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    doctor.main(["--json", "--no_network"])
    shown = capsys.readouterr().out
    facts = json.loads(shown)
    assert facts["installation"]["packages"]["torch"] and facts["installation"]["hub"]["token_from"] == "HF_TOKEN"
    assert "Zq9" not in shown


def test_a_good_command_ends_with_0_and_a_bad_one_with_1(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    good = world.argv(mixed_precision=None)
    assert doctor.main(["--json", "--no_network", "train_network.py", *good]) == 0
    capsys.readouterr()
    bad = world.argv(train_data_dir=str(world.root / "dta"), huggingface_token=SECRET, training_comment=f"mine {SECRET}")
    assert doctor.main(["--json", "--no_network", "train_network.py", *bad]) == 1
    shown = capsys.readouterr().out
    found = json.loads(shown)["problems"]
    assert {"folder_missing.near", "secret_typed", "secret_in_text"} <= {p["check"] for p in found}
    assert "Zq9" not in shown
    assert not (world.root / "out").exists()
