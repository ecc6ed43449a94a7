"""The commands of the guide can be read: every flag exists, every axis is one."""

import importlib
import re
import shlex
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tools"))
GUIDE = (ROOT / "docs" / "from-pictures-to-file.md").read_text(encoding="utf-8")
COMMANDS = re.findall(r"^python tools/(\w+)\.py (.*)$", GUIDE, re.M)


@pytest.mark.parametrize(("tool", "line"), COMMANDS, ids=[tool for tool, _ in COMMANDS])
def test_a_command_of_the_guide_is_read_by_its_program(tool, line, monkeypatch):
    monkeypatch.chdir(ROOT)
    program = importlib.import_module(tool)
    words = shlex.split(line)
    cut = words.index("--") if "--" in words else len(words)
    args, further = program.setup_parser().parse_args(words[:cut]), words[cut + 1:]
    right = {
        "study": lambda: len(program.study_of(args, further).runs) == 9,  # alpha 1 and alpha = dim are one at dim 1
        "xyz_grid": lambda: Path(args.config_file).is_file(),
        "dataset": lambda: Path(args.where).is_dir(),
        "diagnose": lambda: all(name.startswith("output/six/zobi") for name in args.files),
    }
    assert right[tool]()


def test_the_study_that_its_settings_name_is_the_known_grid_of_fifteen(monkeypatch):
    monkeypatch.chdir(ROOT)
    program = importlib.import_module("study")
    line = re.search(r"^#   python tools/study\.py (.*)$", (ROOT / "examples" / "study.toml").read_text(encoding="utf-8"), re.M)[1]
    assert len(program.study_of(program.setup_parser().parse_args(shlex.split(line)), []).runs) == 15


def test_every_axis_of_the_grid_stands_in_the_guide():
    from library.study.axes import KINDS

    table = GUIDE[GUIDE.index("| axis |"):GUIDE.index("`--score`")]
    assert set(KINDS) <= set(re.findall(r"`(\w+)`", table))
