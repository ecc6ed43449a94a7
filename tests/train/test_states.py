import json
import os

import pytest
import torch

from library.train import state
from library.train.state import read_state
from library.train.watchers import Journal
from library.util.records import UserError


def test_a_state_folder_of_kohyas_is_gone_on_from(train):
    """kohya's ``train_state.json`` knows epoch and step alone; the position in the epoch follows from them."""
    settings = {"max_train_steps": 4, "seed": 1}
    whole = train("whole", save_every_n_steps=2, save_state=True, **settings)
    saved = whole.folder / "whole-step00000002-state"
    (saved / "train_state.json").write_text(json.dumps({"current_epoch": 1, "current_step": 2}), encoding="utf-8")
    resumed = train("resumed", resume=saved, **settings)
    assert resumed.losses == whole.losses[2:]
    ours, theirs = whole.tensors(), resumed.tensors()
    assert all(torch.equal(ours[key], theirs[key]) for key in ours)


def test_what_is_no_state_folder_is_refused_with_what_there_is(tmp_path):
    (tmp_path / "mine-000003-state").mkdir()
    file = tmp_path / "mine.safetensors"
    file.write_bytes(b"")
    with pytest.raises(UserError, match="does not exist") as missing:
        read_state(tmp_path / "mine-state")
    assert "mine-000003-state" in missing.value.problems[0].remedy
    with pytest.raises(UserError, match=r"is a file") as wrong:
        read_state(file)
    assert "--network_weights" in wrong.value.problems[0].remedy
    with pytest.raises(UserError, match="no saved state"):
        read_state(tmp_path / "mine-000003-state")


def folder_with(path, word):
    path.mkdir()
    (path / "train_state.json").write_text(word, encoding="utf-8")
    return path


def test_a_former_state_goes_only_when_the_new_one_stands(tmp_path, monkeypatch):
    """A run that is cut off in between leaves one whole state or the other, never none."""
    folder, partial = folder_with(tmp_path / "x-state", "old"), folder_with(tmp_path / "x-state.partial", "new")
    whole = []
    monkeypatch.setattr(state.shutil, "rmtree", lambda path, **_: whole.append(sorted(p.name for p in tmp_path.iterdir())))
    assert state._put_in_place(partial, folder) == folder
    assert (folder / "train_state.json").read_text(encoding="utf-8") == "new"
    assert all("x-state" in names for names in whole) and len(whole) == 2


def test_a_state_in_use_stays_whole_and_the_new_one_stands_beside_it(tmp_path, monkeypatch):
    folder, partial = folder_with(tmp_path / "x-state", "old"), folder_with(tmp_path / "x-state.partial", "new")
    rename = os.replace

    def held(source, target):
        if source == folder:
            raise PermissionError
        rename(source, target)

    monkeypatch.setattr(state.os, "replace", held)
    spare = state._put_in_place(partial, folder)
    assert spare.name == "x-again1-state"
    assert [(p / "train_state.json").read_text(encoding="utf-8") for p in (folder, spare)] == ["old", "new"]


def test_a_journal_that_a_power_cut_left_half_is_gone_on_in(tmp_path):
    file = tmp_path / "log.jsonl"
    file.write_text('{"step": 1}\n{"step": 2}\n{"step": 3, "lo', encoding="utf-8")
    assert Journal(file)._lines_up_to(3) == ['{"step": 1}\n', '{"step": 2}\n']
