"""Where figures go while a run goes on."""

import sys
import time
import types
from pathlib import Path

import pytest

from library.config.run_config import LogConfig
from library.report.trackers import NoTracker, Start, chosen, create, epoch_figures, log_folder, problems, step_figures
from library.util.records import UserError

WHEN = time.strptime("2026-01-02 03:04:05", "%Y-%m-%d %H:%M:%S")
KEY = "0123456789abcdef" * 2 + "01234567"


def test_without_a_folder_nothing_is_kept(tmp_path):
    assert isinstance(create(Start(LogConfig(), {}, WHEN)), NoTracker)
    assert isinstance(create(Start(LogConfig(tmp_path), {}, WHEN), is_main=False), NoTracker)
    assert not list(tmp_path.iterdir())


def test_a_logging_folder_alone_means_tensorboard():
    assert chosen(LogConfig(Path("logs"))) == ("tensorboard",)
    assert chosen(LogConfig(Path("logs"), "wandb")) == ("wandb",)
    assert chosen(LogConfig(Path("logs"), "all")) == ("tensorboard", "wandb")


def test_log_folders_are_named_as_kohyas(tmp_path):
    assert log_folder(LogConfig(tmp_path, log_prefix="lora_"), WHEN) == tmp_path / "lora_20260102030405"


def test_tensorboard_holds_kohyas_scalars_in_kohyas_folder(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    tracker = create(Start(LogConfig(tmp_path, log_prefix="p_"), {"network_dim": 4}, WHEN))
    for step in (1, 2):
        tracker.figures(step_figures(0.5 / step, 0.4, {"lr/unet": 1e-4, "lr/textencoder": 5e-5},
                                     {"norm/avg_key_norm": 0.1}), step)
    tracker.figures(epoch_figures(0.3), 1)
    tracker.close()
    events = EventAccumulator(str(tmp_path / "p_20260102030405" / "network_train"))
    events.Reload()
    assert set(events.Tags()["scalars"]) == {"loss/current", "loss/average", "loss/epoch_average", "lr/unet",
                                             "lr/textencoder", "norm/avg_key_norm"}
    assert [(event.step, event.value) for event in events.Scalars("loss/current")] == [(1, 0.5), (2, 0.25)]


def test_tensorboard_without_a_folder_is_refused():
    [problem] = problems(LogConfig(log_with="tensorboard"))
    assert problem.where == "--logging_dir"
    with pytest.raises(UserError):
        create(Start(LogConfig(log_with="tensorboard"), {}, WHEN))


@pytest.fixture
def wandb(monkeypatch):
    """A stand-in for wandb that keeps what it is told."""
    module = types.ModuleType("wandb")
    module.__spec__ = types.SimpleNamespace(name="wandb")
    module.told = told = {"logged": []}

    class Run:
        def define_metric(self, name, hidden):
            told.setdefault("metrics", []).append(name)

        def log(self, values, step=None, commit=None):
            told["logged"].append((values, step))

        def finish(self):
            told["finished"] = True

    def init(**arguments):
        told["init"] = arguments
        return Run()

    module.login = lambda key: told.update(key=key)
    module.init = init
    module.Image = lambda path, caption: (path, caption)
    module.errors = types.SimpleNamespace(Error=type("Error", (Exception,), {}))
    monkeypatch.setitem(sys.modules, "wandb", module)
    return told


def test_wandbs_key_goes_to_its_login_and_nowhere_else(wandb, tmp_path):
    log = LogConfig(tmp_path, "wandb", wandb_run_name="first")
    start = Start(log, {"wandb_api_key": KEY, "network_dim": 4, "comment": f"token={KEY}"}, WHEN, KEY)
    tracker = create(start)
    tracker.figures({"loss/current": 0.5}, 3)
    tracker.picture("sample_0", tmp_path / "a.png", "a cat", 3)
    tracker.close()
    assert wandb["key"] == KEY and KEY not in str(wandb["init"])
    assert wandb["init"]["name"] == "first" and wandb["init"]["project"] == "network_train"
    assert wandb["init"]["config"]["network_dim"] == "4"
    assert wandb["logged"][0] == ({"loss/current": 0.5, "global_step": 3}, None) and wandb["finished"]


def test_wandb_gets_both_axes_so_that_epochs_never_go_back_in_steps(wandb, tmp_path):
    tracker = create(Start(LogConfig(tmp_path, "wandb"), {}, WHEN))
    tracker.figures(epoch_figures(0.3), 2, {"global_step": 40, "epoch": 2})
    assert wandb["logged"] == [({"loss/epoch_average": 0.3, "global_step": 40, "epoch": 2}, None)]
    assert wandb["metrics"] == ["epoch", "val_step", "global_step"]


def test_the_tracker_file_overrides_the_run_name(wandb, tmp_path):
    log = LogConfig(tmp_path, "wandb", tracker_name="mine", wandb_run_name="first")
    create(Start(log, {}, WHEN, tracker_settings={"wandb": {"name": "second", "tags": ["a"]}}))
    assert wandb["init"]["name"] == "second" and wandb["init"]["tags"] == ["a"] and wandb["init"]["project"] == "mine"


def test_a_wandb_that_does_not_start_is_told_in_words_without_the_key(wandb, monkeypatch, tmp_path):
    module = sys.modules["wandb"]

    def init(**_settings):
        raise module.errors.Error(f"No API key configured. token={KEY}")

    monkeypatch.setattr(module, "init", init)
    with pytest.raises(UserError, match="No API key configured") as raised:
        create(Start(LogConfig(tmp_path, "wandb"), {}, WHEN))
    assert KEY not in str(raised.value)
