import json

import pytest
import torch

from library.train.state import read_state
from library.util.records import UserError


def test_a_state_folder_of_kohyas_is_gone_on_from(train):
    """kohya's ``train_state.json`` knows epoch and step alone; the position in the epoch follows from them."""
    settings = {"max_train_steps": 4, "seed": 1}
    whole = train("whole", save_every_n_steps=2, save_state=True, **settings)
    state = whole.folder / "whole-step00000002-state"
    (state / "train_state.json").write_text(json.dumps({"current_epoch": 1, "current_step": 2}), encoding="utf-8")
    resumed = train("resumed", resume=state, **settings)
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
