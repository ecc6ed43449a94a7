"""Learning-rate schedules by name, against transformers and diffusers."""

import pytest
import torch

from library.optim import schedules
from library.optim.optimizers import OptimizerSettings, create as create_optimizer
from library.optim.schedules import ScheduleSettings, create, factor, problems
from library.util.records import UserError

STEPS = 23


def optimizer(lr=1e-3):
    return torch.optim.SGD([{"params": [torch.nn.Parameter(torch.zeros(1))]},
                            {"params": [torch.nn.Parameter(torch.zeros(1))], "lr": lr / 2}], lr=lr)


def rates(schedule, opt, count=STEPS + 4):
    seen = []
    for _ in range(count):
        seen += [group["lr"] for group in opt.param_groups]
        opt.step()
        schedule.step()
    return seen


def peer(name, warmup, **kwargs):
    """The rates of transformers' or diffusers' own function."""
    import diffusers.optimization as diffusers
    import transformers.optimization as transformers

    opt = optimizer()
    make = {"constant": lambda: transformers.get_constant_schedule(opt),
            "constant_with_warmup": lambda: transformers.get_constant_schedule_with_warmup(opt, warmup),
            "linear": lambda: transformers.get_linear_schedule_with_warmup(opt, warmup, STEPS),
            "cosine": lambda: transformers.get_cosine_schedule_with_warmup(opt, warmup, STEPS, **kwargs),
            "cosine_with_restarts": lambda: transformers.get_cosine_with_hard_restarts_schedule_with_warmup(
                opt, warmup, STEPS, **kwargs),
            "polynomial": lambda: transformers.get_polynomial_decay_schedule_with_warmup(opt, warmup, STEPS, **kwargs),
            "inverse_sqrt": lambda: transformers.get_inverse_sqrt_schedule(opt, warmup, **kwargs),
            "cosine_with_min_lr": lambda: transformers.get_cosine_with_min_lr_schedule_with_warmup(
                opt, warmup, STEPS, **kwargs),
            "warmup_stable_decay": lambda: transformers.get_wsd_schedule(
                opt, warmup, num_training_steps=STEPS, **kwargs),
            "piecewise_constant": lambda: diffusers.get_piecewise_constant_schedule(opt, **kwargs)}
    return rates(make[name](), opt)


CASES = [
    ("constant", {}, {}),
    ("constant_with_warmup", {"warmup": 5}, {}),
    ("linear", {"warmup": 5}, {}),
    ("linear", {}, {}),
    ("cosine", {"warmup": 4}, {}),
    ("cosine", {"warmup": 4, "num_cycles": 3}, {}),
    ("cosine", {"args": {"num_cycles": 1.5}}, {"num_cycles": 1.5}),
    ("cosine_with_restarts", {"warmup": 2, "num_cycles": 3}, {"num_cycles": 3}),
    ("polynomial", {"warmup": 3, "power": 3.0}, {"power": 3.0}),
    ("polynomial", {"args": {"lr_end": 1e-5}}, {"lr_end": 1e-5}),
    ("inverse_sqrt", {"warmup": 3}, {}),
    ("inverse_sqrt", {"warmup": 3, "timescale": 7}, {"timescale": 7}),
    ("cosine_with_min_lr", {"warmup": 3, "min_lr_ratio": 0.1}, {"num_cycles": 0.5, "min_lr_rate": 0.1}),
    ("cosine_with_min_lr", {"num_cycles": 2, "args": {"min_lr": 1e-4}}, {"num_cycles": 1.0, "min_lr": 1e-4}),
    ("warmup_stable_decay", {"warmup": 4, "decay": 7, "min_lr_ratio": 0.2},
     {"num_decay_steps": 7, "num_cycles": 0.5, "min_lr_ratio": 0.2}),
    ("warmup_stable_decay", {"warmup": 4, "decay": 7, "num_cycles": 3, "args": {"decay_type": "1-sqrt",
                                                                              "warmup_type": "cosine"}},
     {"num_decay_steps": 7, "num_cycles": 1.5, "decay_type": "1-sqrt", "warmup_type": "cosine"}),
    ("piecewise_constant", {"args": {"step_rules": "1:5,0.1:12,0.01"}}, {"step_rules": "1:5,0.1:12,0.01"}),
]


@pytest.mark.parametrize(("name", "ours", "theirs"), CASES)
def test_every_rate_equals_that_of_transformers_or_diffusers(name, ours, theirs):
    opt = optimizer()
    mine = rates(create(ScheduleSettings(name, STEPS, **ours), opt), opt)
    assert mine == pytest.approx(peer(name, ours.get("warmup", 0), **theirs), rel=1e-12, abs=1e-18)


def test_a_fraction_of_warm_up_is_that_part_of_all_scheduler_steps():
    assert ScheduleSettings("linear", 200, warmup=0.05).warmup_steps == 10
    assert ScheduleSettings("linear", 200, warmup=7).warmup_steps == 7
    assert factor(ScheduleSettings("linear", 200, warmup=0.05))(5) == 0.5


def test_a_run_twice_as_long_passes_through_the_same_curve_at_half_the_pace():
    one, two = factor(ScheduleSettings("cosine", 100)), factor(ScheduleSettings("cosine", 200))
    assert [two(2 * step) for step in range(100)] == pytest.approx([one(step) for step in range(100)])


def test_names_are_found_in_any_case():
    assert factor(ScheduleSettings("Cosine_With_Restarts", 10))(0) == 1.0


@pytest.mark.parametrize(("typed", "meant"), [("cosinee", "cosine"), ("constant_with_warmpu", "constant_with_warmup"),
                                              ("linaer", "linear")])
def test_a_misspelt_schedule_is_refused_with_the_near_names(typed, meant):
    [problem] = problems(ScheduleSettings(typed, 10))
    assert problem.severity == "stop" and typed in problem.what and meant in problem.remedy


@pytest.mark.parametrize("name", ["constant", "piecewise_constant"])
def test_a_warm_up_with_a_schedule_that_has_none_is_refused_with_the_way_out(name):
    found = problems(ScheduleSettings(name, 10, warmup=3, args={"step_rules": "1:5,0.1"} if "piece" in name else {}))
    assert [p.where for p in found] == ["--lr_warmup_steps"] and "constant_with_warmup" in found[0].remedy


def test_a_warm_up_longer_than_the_run_is_a_warning():
    assert [p.severity for p in problems(ScheduleSettings("cosine", 10, warmup=30))] == ["warn"]


def test_an_end_rate_above_the_learning_rate_is_refused():
    with pytest.raises(UserError, match="not below"):
        factor(ScheduleSettings("polynomial", 10), 1e-8)


def test_cosine_with_min_lr_without_a_minimum_is_refused():
    assert "min_lr_ratio" in problems(ScheduleSettings("cosine_with_min_lr", 10))[0].remedy


def test_an_unknown_argument_of_a_schedule_is_refused():
    [problem] = problems(ScheduleSettings("warmup_stable_decay", 10, args={"decay_typ": "linear"}))
    assert "decay_type" in problem.remedy


def test_rules_that_cannot_be_read_are_refused():
    assert "step_rules" in problems(ScheduleSettings("piecewise_constant", 10, args={"step_rules": "1:x"}))[0].what


def test_a_class_of_torch_is_used_with_the_users_arguments():
    opt = optimizer()
    schedule = create(ScheduleSettings("CosineAnnealingLR", STEPS, args={"T_max": 9}, is_class=True), opt)
    reference = optimizer()
    other = torch.optim.lr_scheduler.CosineAnnealingLR(reference, T_max=9)
    assert rates(schedule, opt) == rates(other, reference)


def test_a_dotted_class_path_is_used():
    opt = optimizer()
    path = "torch.optim.lr_scheduler.StepLR"
    assert isinstance(create(ScheduleSettings(path, STEPS, args={"step_size": 3}, is_class=True), opt),
                      torch.optim.lr_scheduler.StepLR)


@pytest.mark.parametrize(("name", "args"), [("CosineAnnealingRL", {}), ("no_such_module_xyz.Schedule", {}),
                                            ("CosineAnnealingLR", {"T_maxx": 3})])
def test_a_class_that_cannot_be_made_is_refused_by_flag(name, args):
    with pytest.raises(UserError) as caught:
        create(ScheduleSettings(name, STEPS, args=args, is_class=True), optimizer())
    assert caught.value.problems[0].where in ("--lr_scheduler_type", "--lr_scheduler_args")


def test_a_class_with_a_warm_up_is_refused():
    with pytest.raises(UserError, match="lr_warmup_steps"):
        create(ScheduleSettings("StepLR", STEPS, warmup=3, args={"step_size": 3}, is_class=True), optimizer())


def test_adafactors_schedule_shows_the_rate_it_chose():
    parameter = torch.nn.Parameter(torch.ones(4, 4))
    created = create_optimizer(OptimizerSettings("Adafactor", 1e-3), [{"params": [parameter], "lr": 1e-3}])
    schedule = create(ScheduleSettings(created.schedule, STEPS), created.optimizer)
    assert schedule.get_last_lr() == [1e-3]
    (parameter**2).sum().backward()
    created.optimizer.step()
    schedule.step()
    assert schedule.get_last_lr() == [pytest.approx(1e-2)]


def test_adafactors_schedule_is_refused_without_adafactor():
    with pytest.raises(UserError, match="Adafactor"):
        create(ScheduleSettings("adafactor:0.001", STEPS), optimizer())


def test_a_schedule_free_optimizer_keeps_its_rate():
    opt = optimizer()
    assert set(rates(create(ScheduleSettings("cosine", STEPS), opt, True), opt)) == {1e-3, 5e-4}


def test_rex_falls_along_its_formula_and_begins_each_cycle_lower():
    path = "LoraEasyCustomOptimizer.RexAnnealingWarmRestarts.RexAnnealingWarmRestarts"
    settings = ScheduleSettings(path, 20, num_cycles=2, args={"min_lr": 1e-9, "gamma": 0.9, "d": 0.9}, is_class=True)
    made = factor(settings, 1e-3)
    low = 1e-6
    assert made(0) == 1.0
    assert made(5) == pytest.approx(low + (1 - low) * 0.5 / (0.1 + 0.9 * 0.5))
    assert made(10) == pytest.approx(0.9)
    assert made(15) == pytest.approx(low + (0.9 - low) * 0.5 / (0.1 + 0.9 * 0.5))


def test_warm_restarts_ramp_up_in_every_cycle():
    settings = ScheduleSettings("RexAnnealingWarmRestarts", 20, warmup=2, num_cycles=2, args={"min_lr": 0.0})
    made = factor(settings)
    assert [made(step) for step in (0, 1, 2, 10, 11, 12)] == pytest.approx([0, 0.5, 1, 0, 0.5, 1])


def test_a_schedule_resumes_at_its_step():
    opt = optimizer()
    schedule = create(ScheduleSettings("cosine_with_restarts", STEPS, warmup=3, num_cycles=2), opt)
    unbroken = rates(schedule, opt)
    first = optimizer()
    schedule = create(ScheduleSettings("cosine_with_restarts", STEPS, warmup=3, num_cycles=2), first)
    rates(schedule, first, 9)
    state, opt_state = schedule.state_dict(), first.state_dict()
    second = optimizer()
    schedule = create(ScheduleSettings("cosine_with_restarts", STEPS, warmup=3, num_cycles=2), second)
    schedule.load_state_dict(state)
    second.load_state_dict(opt_state)
    assert rates(schedule, second, STEPS + 4 - 9) == unbroken[2 * 9:]


def test_every_schedule_of_the_table_begins_at_a_rate_between_nothing_and_the_full_one():
    needed = {"piecewise_constant": {"args": {"step_rules": "1:5,0.1"}}, "cosine_with_min_lr": {"min_lr_ratio": 0.1}}
    for name in schedules.names():
        made = factor(ScheduleSettings(name, STEPS, **needed.get(name, {})), 1.0)
        assert all(0 <= made(step) <= 1 for step in range(STEPS))
