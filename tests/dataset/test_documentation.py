"""The commands of docs/dataset.md are run on a copy of the shipped pictures; those that need a model or a network are parsed."""

import re
import shlex
import shutil
from pathlib import Path

from tools import dataset

ROOT = Path(__file__).resolve().parents[2]
NOT_HERE = {"collect", "tag", "caption"}


def test_the_documentations_commands_work_on_the_shipped_pictures(tmp_path, monkeypatch, capsys):
    shutil.copytree(ROOT / "examples" / "dataset", tmp_path / "train")
    (tmp_path / "drop-list.json").write_text('{"drop": ["10_zobi/002.png"]}', encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    page = (ROOT / "docs" / "dataset.md").read_text(encoding="utf-8")
    lines = [line for block in re.findall(r"^```bash\n(.*?)^```", page, re.S | re.M) for line in block.splitlines()]
    named = {shlex.split(line)[2] for line in lines}
    assert named == set(dataset.COMMANDS)
    for line in [*lines[1:], lines[0]]:
        words = shlex.split(line)[2:]
        if words[0] in NOT_HERE:
            dataset.setup_parser().parse_args(words)
        else:
            assert dataset.main(words) == 0, (line, capsys.readouterr().err)
    assert "Taken back" in capsys.readouterr().out
