"""Every check speaks in its bad run and is silent in the good one; texts and levels hold together."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from library.preflight import probes
from library.preflight.machine import Machine
from library.preflight.registry import LEVELS, check, context_of, merge, registered, run, run_check, unique
from library.preflight.texts import TEXTS
from library.util.language import language_of
from library.util.records import Problem
from library.util.said import in_language

from .cases import CASES, DATA, ELSEWHERE, NO_GPU, state
from .world import World, fire


@pytest.fixture(autouse=True)
def _own_trial(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probes, "trial", probes.trial)


@pytest.mark.parametrize("name", sorted(CASES))
def test_a_check_speaks_in_its_bad_run_in_both_languages(world: World, name: str) -> None:
    context = CASES[name](world)
    found = fire(name, context)
    assert found
    for problem in found:
        assert problem.where and problem.what
        assert problem.remedy or problem.severity == "note"
        assert in_language(problem.what, "ja") != problem.what
        assert in_language(problem.remedy, "ja") != problem.remedy or not problem.remedy


def test_every_check_is_silent_in_the_good_run(world: World) -> None:
    context = world.full()
    spoken = {name: found for name in CASES if (found := fire(name, context))}
    assert set(spoken) == {"plan_steps"}


def test_the_good_run_has_nothing_to_say_but_its_plan(world: World) -> None:
    assert [p.check for p in run(world.full(), ("words", "files", "data", "machine"))] == ["plan_steps"]


def test_every_own_network_module_passes_also_where_no_file_of_its_name_is(world: World) -> None:
    from networks import registry

    for name in registry.names():
        context = world.context(network_module=name, machine={"has_module": lambda n: False})
        assert not fire("network_module_unknown", context), name


@pytest.mark.parametrize(("module", "args", "rate", "speaks"), [
    ("networks.ia3", [], 2e-2, False), ("networks.ia3", [], 1e-4, True), ("networks.lora", [], 2e-2, True),
    ("networks.oft", [], 3e-5, False), ("networks.oft_flux", [], 3e-2, True), ("lycoris.kohya", ["algo=ia3"], 2e-2, False),
    ("lycoris.kohya", ["preset=full", "algo=ia3"], 1e-5, True), ("lycoris.kohya", ["algo=locon"], 1e-4, False)])
def test_a_rate_is_judged_by_the_adapter_it_is_for(world: World, module: str, args: list[str], rate: float, speaks: bool) -> None:
    context = world.context(network_module=module, network_args=args, learning_rate=rate, text_encoder_lr=[5e-5])
    assert bool(fire("rate_high", context)) == speaks


def test_an_alpha_that_scales_nothing_is_not_called_too_large(world: World) -> None:
    assert fire("alpha_over_dim", world.context(network_alpha=16.0))
    assert not fire("alpha_over_dim", world.context(network_alpha=16.0, network_module="networks.oft"))
    assert not fire("effect_small", world.context(network_dim=128, network_alpha=1.0, network_module="networks.ia3"))


def test_every_check_has_a_bad_run() -> None:
    assert {c.name for c in registered()} == set(CASES) | ELSEWHERE
    assert len(registered()) >= 75


def test_every_message_begins_with_the_name_of_its_check_or_of_its_guard() -> None:
    names = {c.name for c in registered()} | {
        "check_failed",
        "scan_many",
        "slider_few",
        "reg_doubles",
        "steps_few",
    }
    assert {key.split(".")[0] for key in TEXTS if not key.startswith("guard_")} <= names


def test_the_language_follows_the_locale() -> None:
    assert language_of({"LANG": "ja_JP.UTF-8"}) == "ja"
    assert language_of({"LANG": "ja_JP.UTF-8", "LC_ALL": "C"}) == "en"
    assert language_of({"PREFLIGHT_LANGUAGE": "ja", "LANG": "de_DE"}) == "ja"
    assert language_of({}) == "en"


def test_a_fault_inside_a_check_becomes_a_note_that_names_it(world: World) -> None:
    @check("breaks", level="words")
    def check_breaks(context):  # type: ignore[no-untyped-def]
        """A check that fails."""
        yield from [1 / 0]

    from library.preflight import registry

    try:
        found = run_check(registry._CHECKS["breaks"], world.context())
    finally:
        del registry._CHECKS["breaks"]
    assert [(p.severity, p.where) for p in found] == [("note", "breaks")]
    assert "ZeroDivisionError" in found[0].what


def test_a_stop_ends_the_checks_after_its_stage(world: World) -> None:
    both = world.context(output_dir=None, pretrained_model_name_or_path=str(world.root / "none.ckpt"), machine=NO_GPU)
    found = {p.check.split(".")[0] for p in run(both, LEVELS)}
    assert {"output_dir_missing", "model_not_found"} <= found
    assert "no_gpu" not in found


def test_problems_of_other_rooms_are_added_unless_a_check_has_spoken_of_the_models_files() -> None:
    model = "--pretrained_model_name_or_path"
    ours = [Problem("--a", "bad", "mend", "warn"), Problem(model, "cut off", "mend", "stop")]
    theirs = [
        Problem("--a", "bad", "mend", "stop"),
        Problem(model, "said already", "", "stop"),
        Problem("--a", "was mended", "", "note"),
    ]
    assert [p.what for p in merge(ours, theirs)] == ["bad", "cut off", "was mended"]
    assert unique([ours[0], ours[0]]) == [ours[0]]


def test_real_flags_make_a_context_with_their_origins(world: World) -> None:
    from library.flags import parse

    context = context_of(parse(world.argv()))
    assert context.given("learning_rate") and not context.given("max_grad_norm")


def test_cheap_levels_import_nothing_heavy(world: World) -> None:
    code = (
        "import sys, json\n"
        "from library.flags import parse\nfrom library.preflight.registry import context_of, run\n"
        "found = run(context_of(parse(json.loads(sys.argv[1]))), ('words', 'files'))\n"
        "heavy = [m for m in ('torch', 'diffusers', 'transformers', 'numpy', 'huggingface_hub') if m in sys.modules]\n"
        "print(json.dumps([heavy, len(found)]))"
    )
    import json

    root = Path(__file__).resolve().parents[2]
    argv = json.dumps(world.argv(train_data_dir=str(world.root / "dta")))
    done = subprocess.run([sys.executable, "-c", code, argv], capture_output=True, text=True, cwd=root, check=True)
    heavy, found = json.loads(done.stdout)
    assert heavy == [] and found


def test_the_page_of_checks_is_what_the_registry_says() -> None:
    from library.preflight.docs import page

    path = Path(__file__).resolve().parents[2] / "docs" / "start-up-checks.md"
    assert path.read_text(encoding="utf-8") == page(), "run: python -m library.preflight.docs"


def test_no_warning_of_a_missing_gpu_is_more_than_one(world: World) -> None:
    for precision in ("fp16", "bf16"):
        found = run(world.context(mixed_precision=precision, machine=NO_GPU), ("machine",))
        assert [p.severity for p in found] == ["warn"]
        assert "fp32" in found[0].what and "steps" in found[0].what


def test_data_checks_need_a_plan(world: World) -> None:
    assert not any(run_check(c, world.full(plan=False)) for c in registered() if c.name in DATA and "plan" in c.needs)


@pytest.mark.parametrize(("variables", "netrc"), [
    ({"WANDB_API_KEY": "k"}, ""), ({"WANDB_MODE": "offline"}, ""), ({"WANDB_MODE": "disabled"}, ""),
    ({}, "machine api.wandb.ai login user password k"),
    ({"WANDB_BASE_URL": "https://wandb.mine.org"}, "machine wandb.mine.org login user password k"),
])
def test_wandb_without_a_login_stops_and_with_one_is_silent(world: World, variables: dict[str, str], netrc: str) -> None:
    home = world.root / "home"
    home.mkdir()
    packages = {**Machine.fake().packages, "wandb": "0.20"}
    bare = world.context(log_with="wandb", machine={"env": {}, "home": home, "packages": packages})
    assert [(p.severity, p.check) for p in fire("log_with", bare)] == [("stop", "log_with.key")]
    (home / ".netrc").write_text(netrc, encoding="utf-8")
    logged_in = world.context(log_with="wandb", machine={"env": variables, "home": home, "packages": packages})
    assert fire("log_with", logged_in) == []


@pytest.mark.parametrize(("flags", "place"), [
    ({"pretrained_model_name_or_path": None}, "--pretrained_model_name_or_path"),
    ({"output_dir": None}, "--output_dir"),
    ({"train_data_dir": None}, "--train_data_dir"),
    ({"lr_warmup_steps": 10, "lr_scheduler": "constant"}, "--lr_warmup_steps"),
    ({"lr_warmup_steps": 10, "lr_scheduler": "adafactor", "optimizer_type": "Adafactor"}, "--lr_warmup_steps"),
    ({"random_crop": True}, "--cache_latents"),
    ({"min_timestep": 900, "max_timestep": 100}, "--min_timestep"),
    ({"min_bucket_reso": 256, "max_bucket_reso": 64}, "--min_bucket_reso"),
    ({"resolution": "a"}, "--resolution"),
    ({"resolution": None}, "--resolution"),
    ({"network_dim": 0}, "--network_dim"),
    ({"full_bf16": True}, "--full_bf16"),
    ({"use_8bit_adam": True, "use_lion_optimizer": True}, "--optimizer_type"),
    ({"network_module": None}, "--network_module"),
])
def test_what_the_settings_contradict_is_said_once(world: World, flags: dict[str, object], place: str) -> None:
    from library.flags import parse
    from library.train.run import examine

    found = examine(parse(world.argv(**flags))).problems
    assert len([p for p in found if p.where == place]) == 1, found


def test_cached_texts_and_captions_that_move_are_one_problem(world: World) -> None:
    from library.flags import parse
    from library.train.run import examine

    argv = world.argv(cache_text_encoder_outputs=True, network_train_unet_only=True, text_encoder_lr=None)
    found = examine(parse(argv, "sdxl_train_network.py")).problems
    assert [p.what for p in found if p.where == "--cache_text_encoder_outputs"] == [
        "With --cache_text_encoder_outputs captions are read once and must not change, but these are on: shuffle_caption."]


@pytest.mark.parametrize(("saved", "words"), [
    ({"optimizer": "lion"}, "--optimizer_type lion, now it is adamw"),
    ({"trains_text_encoder": False}, "text encoder was not trained; now it is"),
    ({"trains_denoiser": False}, "image model was not trained; now it is"),
])
def test_a_state_of_another_optimizer_or_other_parts_stops_before_anything_is_loaded(
    world: World, saved: dict[str, object], words: str
) -> None:
    context = world.full(resume=str(state(world, run=saved)))
    (found,) = fire("state_differs", context)
    assert found.severity == "stop" and words in found.what


def test_adafactors_own_schedule_is_known(world: World) -> None:
    assert fire("schedule_unknown", world.context(optimizer_type="Adafactor", lr_scheduler="adafactor")) == []


@pytest.mark.parametrize(("visible", "key"), [("7", "no_gpu.hidden"), (None, "no_gpu.old_driver")])
def test_a_card_that_the_driver_lists_and_pytorch_does_not_see_has_its_reason(
    world: World, visible: str | None, key: str
) -> None:
    env = {"CUDA_VISIBLE_DEVICES": visible} if visible else {}
    machine = {**NO_GPU, "driver_names": ("NVIDIA GeForce RTX 3060",), "env": env}
    assert [p.check for p in fire("no_gpu", world.context(machine=machine))] == [key]


def test_an_ending_without_its_dot_makes_no_caption_an_orphan(world: World) -> None:
    assert not fire("captions_orphan", world.full(caption_extension="txt"))


def test_captions_of_many_pictures_are_matched_in_a_moment(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    context = world.full()
    one, count = context.plan.items[0], 10_000
    items = tuple(replace(one, path=one.path.with_name(f"picture{n}_1_2_3_4.png")) for n in range(count))
    monkeypatch.setattr(os, "listdir", lambda folder: [f"other{n}.txt" for n in range(count)] + ["picture7.txt"])
    since = time.process_time()
    (found,) = fire("captions_orphan", replace(context, plan=replace(context.plan, items=items)))
    assert time.process_time() - since < 2 and f"{count} " in found.what
