"""How runs end, and what their files then hold: validation, early stopping, the moving average, Ctrl+C."""

import json
import signal
from dataclasses import dataclass, replace
from types import SimpleNamespace

import pytest
import torch

from library.train.seeds import derive
from library.train.validation import EarlyStopping, fixed_timesteps, validate


@dataclass(frozen=True)
class Schedule:
    first: int = 0
    last: int = 1000


def objective(session, batch):
    yield SimpleNamespace(loss=torch.tensor(float(batch)) + session.schedule.first + torch.rand(()))


def test_timesteps_of_validation_are_evenly_inside_the_range():
    assert fixed_timesteps(0, 1000) == [200, 400, 600, 800]


def test_validation_is_the_mean_over_fixed_timesteps_with_fixed_noise():
    session, expected = SimpleNamespace(schedule=Schedule()), []
    for number, batch in enumerate([10, 20]):
        for timestep in (200, 400, 600, 800):
            generator = torch.Generator().manual_seed(derive(7, "validation", number, timestep))
            expected.append(batch + timestep + torch.rand((), generator=generator).item())
    torch.manual_seed(1)
    before = torch.get_rng_state()
    found = validate(session, [10, 20], objective, 7)
    assert found == pytest.approx(sum(expected) / 8, rel=1e-6)
    assert torch.equal(torch.get_rng_state(), before) and session.schedule == replace(Schedule())
    assert validate(session, [10, 20], objective, 7) == found


def test_measuring_disturbs_nothing_of_the_training(train):
    settings = {"validation_split": 0.2, "validation_seed": 3, "network_dropout": 0.3}
    often = train("often", validate_every_n_steps=1, max_validation_steps=2, **settings)
    never = train("never", validate_every_n_steps=100, **settings)
    assert often.losses == never.losses


class Kept:
    """Stands in for saving; notes when the best file is written."""

    def __init__(self):
        self.best, self.ends_here = [], False
        self.names = SimpleNamespace(best=lambda: "a-best.safetensors")

    def keep_best(self, session):
        self.best.append(session)


def test_early_stopping_waits_for_its_patience_and_keeps_the_best():
    from library.train.loop import StopTraining
    from library.train.validation import Validation

    validation, saving = Validation(None, None, None, 0, None), Kept()
    stopping = EarlyStopping(validation, saving, 2)
    for step, (best, without) in enumerate([(0.5, 0), (0.5, 1), (0.4, 0), (0.4, 1)]):
        validation.best, validation.without_gain = best, without
        stopping.judge(step)
    assert saving.best == [0, 2] and not saving.ends_here
    validation.without_gain = 2
    with pytest.raises(StopTraining):
        stopping.judge(4)
    assert saving.ends_here


def test_a_run_that_gets_worse_stops_early_with_its_best_and_its_last_file(train):
    run = train(early_stopping_patience=2, validation_split=0.2, validate_every_n_steps=1, max_train_steps=40,
                max_validation_steps=2, learning_rate=1.0, max_grad_norm=0)
    assert run.code == 0 and len(run.losses) < 40
    assert {"lora.safetensors", "lora-best.safetensors"} <= run.files
    assert not any("step" in name for name in run.files)


def test_early_stopping_needs_held_out_pictures(train, capsys):
    assert train(early_stopping_patience=2).code == 1
    assert "--validation_split" in capsys.readouterr().err


def test_the_file_holds_the_moving_average_and_the_other_file_the_weights(train):
    plain = train("plain", save_every_n_steps=1, max_train_steps=3)
    run = train("mean", ema_decay=0.9, save_without_ema=True, max_train_steps=3)
    steps = [plain.tensors(f"plain-step{step:08d}.safetensors") for step in (1, 2, 3)]
    assert run.losses == plain.losses
    key = next(key for key in steps[0] if key.endswith("lora_up.weight"))
    average = torch.zeros_like(steps[0][key])
    for number, step in enumerate(steps, 1):
        keep = min(0.9, (1 + number) / (10 + number))
        average = keep * average + (1 - keep) * step[key]
    assert torch.allclose(run.tensors()[key], average, atol=1e-7)
    assert torch.equal(run.tensors("mean-noema.safetensors")[key], steps[2][key])


def test_a_resumed_average_equals_an_unbroken_one(train):
    settings = {"ema_decay": 0.9, "max_train_steps": 4}
    whole = train("whole", save_state=True, save_every_n_steps=2, **settings)
    again = train("again", resume=whole.folder / "whole-step00000002-state", **settings)
    assert all(torch.equal(tensor, again.tensors()[key]) for key, tensor in whole.tensors().items())


def test_an_average_begins_at_a_state_that_has_none(train, capsys):
    first = train("first", save_state=True)
    again = train("again", resume=first.folder / "first-state", ema_decay=0.5, max_train_steps=6)
    assert again.code == 0 and "without a moving average" in " ".join(capsys.readouterr().err.split())


def test_ctrl_c_saves_file_and_state_and_says_how_to_go_on(train, monkeypatch, capsys):
    from library.train.telling import Telling

    handler = signal.getsignal(signal.SIGINT)
    whole = train("whole", max_train_steps=6)
    told = Telling.on_step

    def press(self, session, log):
        told(self, session, log)
        if log.step == 3:
            signal.raise_signal(signal.SIGINT)

    with monkeypatch.context() as pressed:
        pressed.setattr(Telling, "on_step", press)
        stopped = train("stopped", max_train_steps=6)
    shown = capsys.readouterr().out
    assert stopped.code == 0 and len(stopped.losses) == 3
    assert {"stopped-step00000003.safetensors", "stopped-step00000003-state"} <= stopped.files
    assert "stopped-step00000003-state" in shown and "--resume" in shown
    assert signal.getsignal(signal.SIGINT) is handler
    again = train("again", max_train_steps=6, resume=stopped.folder / "stopped-step00000003-state")
    assert again.losses == whole.losses[3:]


def test_the_numbered_last_file_and_fewer_digits_are_options(train):
    run = train(max_train_epochs=2, train_batch_size=80, save_every_n_epochs=1, epoch_digits=2, number_last=True)
    assert {"lora-01.safetensors", "lora-02.safetensors", "lora.safetensors"} <= run.files


def test_a_file_that_is_there_is_announced_before_it_is_replaced(train, capsys):
    train(max_train_steps=1)
    capsys.readouterr()
    train(max_train_steps=1)
    shown = " ".join(capsys.readouterr().err.replace("┃", " ").split())
    assert "--output_name" in shown and "lora.safetensors" in shown


def test_states_go_by_their_own_rule(train):
    run = train(max_train_steps=6, save_every_n_steps=1, save_state=True, save_last_n_steps=4, save_last_n_steps_state=1)
    files = sorted(name for name in run.files if name.endswith(".safetensors") and "step" in name)
    states = sorted(name for name in run.files if name.endswith("-state") and "step" in name)
    assert len(files) > len(states) > 0 and states[-1] == "lora-step00000006-state"


def test_state_at_the_end_alone(train):
    run = train(max_train_steps=2, save_every_n_steps=1, save_state_on_train_end=True)
    assert [name for name in sorted(run.files) if name.endswith("-state")] == ["lora-state"]
    record = json.loads((run.folder / "lora-state" / "train_state.json").read_text(encoding="utf-8"))
    assert record["current_step"] == 2
