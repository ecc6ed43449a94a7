"""Optimizers by name."""

import importlib.util
import subprocess
import sys

import pytest
import torch

from library.optim import optimizers
from library.optim.optimizers import OptimizerSettings, create, find, problems
from library.optim.rates import logged_rates
from library.util.records import UserError

KOHYA = ["AdamW", "AdamW8bit", "PagedAdamW", "PagedAdamW8bit", "PagedAdamW32bit", "Lion", "Lion8bit", "PagedLion8bit",
         "SGDNesterov", "SGDNesterov8bit", "DAdaptation", "DAdaptAdamPreprint", "DAdaptAdaGrad", "DAdaptAdam",
         "DAdaptAdan", "DAdaptAdanIP", "DAdaptLion", "DAdaptSGD", "Prodigy", "Adafactor", "RAdamScheduleFree",
         "AdamWScheduleFree", "SGDScheduleFree"]


def parameters(seed=0, size=(8, 16)):
    torch.manual_seed(seed)
    return [torch.nn.Parameter(torch.randn(size)) for _ in range(2)]


def groups(text_lr=5e-5, unet_lr=1e-4):
    first, second = parameters()
    return [{"params": [first], "lr": text_lr}, {"params": [second], "lr": unet_lr}]


def descend(created, group_list, steps=3):
    params = [p for group in group_list for p in group["params"]]
    for _ in range(steps):
        created.optimizer.zero_grad()
        sum((p**2).sum() for p in params).backward()
        created.optimizer.step()
    return [p.detach().clone() for p in params]


def stop(settings, group_list=None):
    with pytest.raises(UserError) as caught:
        create(settings, group_list or groups())
    return caught.value.problems[0]


@pytest.mark.parametrize("name", KOHYA)
def test_kohyas_name_in_any_case_makes_an_optimizer_that_descends(name):
    if importlib.util.find_spec(find(name).module) is None:
        pytest.skip(f"{find(name).package} is not installed")
    unit = find(name).unit_lr
    group_list = groups(1.0, 1.0) if unit else groups(1e-2, 1e-2)
    before = [p.detach().clone() for group in group_list for p in group["params"]]
    created = create(OptimizerSettings(name.upper(), 1.0 if unit else 1e-2), group_list)
    after = descend(created, group_list, 5)
    assert sum((p**2).sum() for p in after) < sum((p**2).sum() for p in before)


def test_adamw_steps_as_torchs_own_with_a_rate_per_group():
    ours, theirs = groups(), groups()
    mine = descend(create(OptimizerSettings("adamw", 1e-4, {"weight_decay": 0.1, "betas": (0.9, 0.99)}), ours), ours)
    plain = torch.optim.AdamW(theirs, lr=1e-4, weight_decay=0.1, betas=(0.9, 0.99))
    for _ in range(3):
        plain.zero_grad()
        sum((p**2).sum() for group in theirs for p in group["params"]).backward()
        plain.step()
    assert all(torch.equal(a, b) for a, b in zip(mine, (p for g in theirs for p in g["params"]), strict=True))


@pytest.mark.parametrize(("name", "args", "metadata"), [
    ("AdamW", {}, "torch.optim.adamw.AdamW"),
    ("AdamW", {"weight_decay": 0.1, "betas": [0.9, 0.99]},
     "torch.optim.adamw.AdamW(weight_decay=0.1,betas=[0.9, 0.99])"),
    ("SGDNesterov", {}, "torch.optim.sgd.SGD(momentum=0.9)"),
    ("Adafactor", {}, "transformers.optimization.Adafactor(relative_step=True)"),
])
def test_metadata_names_class_and_arguments_as_kohya_does(name, args, metadata):
    assert create(OptimizerSettings(name, 1e-4, args), groups()).metadata == metadata


def test_adafactor_with_relative_steps_drops_all_rates_and_brings_its_schedule():
    given = groups()
    created = create(OptimizerSettings("AdaFactor", 1e-3), given)
    assert created.schedule == "adafactor:0.001"
    assert [group["lr"] for group in created.optimizer.param_groups] == [None, None]
    assert [group["lr"] for group in given] == [5e-5, 1e-4], "the caller's groups stay as they are"
    assert created.notes


def test_adafactor_with_warmup_init_turns_relative_steps_on_and_says_so():
    created = create(OptimizerSettings("Adafactor", 1e-3, {"relative_step": False, "warmup_init": True}), groups())
    assert created.args == "relative_step=True,warmup_init=True"
    assert any("relative_step" in note for note in created.notes)


def test_adafactor_without_relative_steps_keeps_the_users_rates():
    settings = OptimizerSettings("Adafactor", 1e-3, {"relative_step": False, "scale_parameter": False,
                                                     "warmup_init": False})
    created = create(settings, groups())
    assert created.schedule is None
    assert [group["lr"] for group in created.optimizer.param_groups] == [5e-5, 1e-4]


def test_any_class_of_torch_and_any_dotted_path_can_be_used():
    assert create(OptimizerSettings("RMSprop"), groups()).name == "torch.optim.rmsprop.RMSprop"
    assert create(OptimizerSettings("torch.optim.NAdam"), groups()).name == "torch.optim.nadam.NAdam"


def test_a_front_ends_own_class_is_replaced_by_the_packages_and_said():
    pytest.importorskip("pytorch_optimizer")
    created = create(OptimizerSettings("LoraEasyCustomOptimizer.came.CAME", 1e-4, {"weight_decay": 0.04}), groups())
    assert created.name.startswith("pytorch_optimizer.") and created.name.endswith("CAME")
    assert any("pytorch_optimizer.CAME" in note for note in created.notes)


def test_a_misspelt_optimizer_is_refused_with_the_near_names():
    problem = stop(OptimizerSettings("AdmW"))
    assert problem.where == "--optimizer_type" and "AdmW" in problem.what and "AdamW" in problem.remedy


def test_a_misspelt_class_or_argument_is_refused_with_the_near_names():
    assert "AdamW" in stop(OptimizerSettings("torch.optim.AdmaW")).remedy
    problem = stop(OptimizerSettings("AdamW", args={"weight_decai": 0.1}))
    assert problem.where == "--optimizer_args" and "weight_decay" in problem.remedy


def test_a_value_that_the_optimizer_refuses_is_shown():
    assert "betas=2" in stop(OptimizerSettings("AdamW", args={"betas": (2, 2)})).what.replace("(2, 2)", "2")


def test_a_missing_package_is_named_with_its_pip_line():
    problem = stop(OptimizerSettings("no_such_package_xyz.Optimizer"))
    assert "no_such_package_xyz" in problem.what.replace("-", "_") and "pip install" in problem.remedy


def test_a_number_in_quotes_is_read_as_a_number():
    created = create(OptimizerSettings("AdamW", args={"weight_decay": "0.1"}), groups())
    assert created.optimizer.defaults["weight_decay"] == 0.1


def test_nothing_to_train_is_said_instead_of_torchs_empty_list():
    problem = stop(OptimizerSettings(), [{"params": []}])
    assert "nothing to train" in problem.what


@pytest.mark.parametrize("name", ["Prodigy", "DAdaptAdam"])
def test_optimizers_that_find_the_step_size_refuse_two_rates(name):
    found = problems(OptimizerSettings(name, 1.0), (1.0, 0.5))
    assert any("one learning rate" in problem.what and problem.severity == "stop" for problem in found)
    assert not [p for p in problems(OptimizerSettings(name, 1.0), (1.0, 1.0, 0.0)) if p.check and "rate" in p.what]


def test_a_low_rate_for_prodigy_is_advice_and_not_a_stop():
    found = [p for p in problems(OptimizerSettings("Prodigy", 1e-4)) if p.where == "--learning_rate"]
    assert [p.severity for p in found] == ["warn"]


def test_prodigys_estimate_is_logged_beside_its_rate():
    pytest.importorskip("prodigyopt")
    group_list = groups(1.0, 1.0)
    created = create(OptimizerSettings("Prodigy", 1.0), group_list)
    descend(created, group_list, 1)
    logged = logged_rates(created.optimizer, ["textencoder", "unet"])
    assert set(logged) == {"lr/textencoder", "lr/unet", "lr/d*lr/textencoder", "lr/d*lr/unet"}
    assert logged["lr/d*lr/unet"] == created.optimizer.param_groups[1]["d"]


def test_schedule_free_weights_differ_between_training_and_evaluation_and_come_back():
    pytest.importorskip("schedulefree")
    group_list = groups(1e-2, 1e-2)
    created = create(OptimizerSettings("AdamWScheduleFree", 1e-2), group_list)
    training = descend(created, group_list, 4)
    created.eval()
    paused = group_list[0]["params"][0].detach().clone()
    created.train()
    assert not torch.equal(paused, training[0])
    assert torch.allclose(group_list[0]["params"][0], training[0], atol=1e-6)


def test_other_optimizers_have_nothing_to_do_when_training_pauses():
    created = create(OptimizerSettings(), groups())
    assert created.train() is None and created.eval() is None


def test_an_8bit_optimizer_that_cannot_step_here_is_refused_in_a_sentence(monkeypatch):
    class Fails(torch.optim.SGD):
        def step(self, closure=None):
            raise NotImplementedError("no CPU kernel\nsecond line")

    monkeypatch.setattr(optimizers, "load_class", lambda spec: Fails)
    problem = stop(OptimizerSettings("AdamW8bit"))
    assert "AdamW8bit" in problem.what and "no CPU kernel" in problem.what and "second line" not in problem.what
    assert "AdamW" in problem.remedy


def test_optimizers_and_schedules_are_looked_up_without_torch():
    code = ("import sys; sys.modules['torch'] = None\n"
            "from library.optim.optimizers import find, problems, OptimizerSettings\n"
            "from library.optim import schedules\n"
            "assert find('adamw8BIT').name == 'AdamW8bit'\n"
            "assert problems(OptimizerSettings('AdmW'))\n"
            "assert schedules.problems(schedules.ScheduleSettings('cosinee', 10))\n")
    subprocess.run([sys.executable, "-c", code], check=True)


def test_every_record_is_found_under_its_name_and_leads_to_a_class():
    for key, spec in optimizers.SPECS.items():
        assert key == spec.name.lower() and spec.path.count(".") >= 1
        if importlib.util.find_spec(spec.module) is not None:
            assert issubclass(optimizers.load_class(spec), torch.optim.Optimizer)
