"""Real command lines of users and guides: on a machine on which they would have worked, no check stops them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from library.config.resolve import Detected, resolve
from library.families import registry as families
from library.flags import flags_of, parse
from library.preflight.machine import Machine
from library.preflight.registry import Context, later, run
from library.util.records import UserError

from .world import World, write_folder

LINES = json.loads((Path(__file__).resolve().parents[1] / "data" / "command_lines.json").read_text(encoding="utf-8"))
RECIPE = [
    "--pretrained_model_name_or_path=runwayml/stable-diffusion-v1-5",
    "--train_data_dir=dataset/lineart",
    "--output_dir=lora_out",
    "--resolution=512,512",
    "--network_alpha=4",
    "--network_dim=4",
    "--network_module=networks.lora",
    "--output_name=lineart_lora",
    "--train_batch_size=1",
    "--max_train_steps=1000",
    "--learning_rate=1e-4",
    "--lr_scheduler=constant",
    "--text_encoder_lr=5e-5",
    "--mixed_precision=fp16",
    "--save_every_n_steps=100",
    "--save_model_as=safetensors",
    "--caption_extension=.txt",
    "--enable_bucke",
    "--save_state",
]
PATHS = {
    "train_data_dir": "data",
    "output_dir": "out",
    "logging_dir": "logs",
    "network_weights": None,
    "resume": None,
    "vae": None,
    "sample_prompts": None,
    "reg_data_dir": None,
    "dataset_config": None,
    "in_json": None,
    "log_tracker_config": None,
    "config_file": None,
}
"""Paths of a recorded line -> what stands in for them here; None leaves the flag out."""
TRULY_WRONG = {"one_rate"}
"""A guide's line gives D-Adaptation two rates, which its optimizer refuses; it could not have run."""


def accepted() -> list[int]:
    return [
        n
        for n, line in enumerate(LINES)
        if line["accepted"] and line["script"] in ("train_network.py", "sdxl_train_network.py")
    ]


def recorded(world: World, line: dict[str, Any]) -> Context:
    """The flags that a recorded line means, with paths that exist and a model that fits its script."""
    script = line["script"]
    known = flags_of(script)
    values = {name: flag.default for name, flag in known.items()}
    given = {name: value for name, value in line["means"].items() if name in known}
    for name, flag in known.items():
        value = given.get(name)
        if value is not None and flag.many and not isinstance(value, list):
            given[name] = [value]
    given.setdefault("resolution", "512,512")  # in many lines it stood in a data set file
    given.update({name: value if value is None else str(world.root / value) for name, value in PATHS.items() if name in given})
    given.update(
        {
            "pretrained_model_name_or_path": str(world.model),
            "train_data_dir": str(world.data),
            "output_dir": str(world.root / "out"),
        }
    )
    values.update(given)
    origins = dict.fromkeys(given, "command line")
    return Context(values, Machine.fake(env={"WANDB_API_KEY": "of-the-recorder"}), origins, "train_network.py", cwd=world.root)


@pytest.mark.parametrize("number", accepted())
def test_a_recorded_command_line_is_not_stopped(world: World, number: int) -> None:
    context = recorded(world, LINES[number])
    stops = [p for p in run(context, ("words", "files", "machine")) if p.severity == "stop" and p.check not in TRULY_WRONG]
    assert stops == []


def test_the_recipe_is_only_told_of_its_mirror_and_its_steps(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    from library.data.plan import ScanRules
    from library.data.scan import scan
    from library.preflight.registry import context_of

    monkeypatch.chdir(world.root)
    write_folder(world.root / "dataset" / "lineart", "1", 64)
    flags = parse(RECIPE)
    config = resolve(flags, lambda source, flags: Detected("sd1"))
    plan = scan(config.data, ScanRules())
    context = later(context_of(flags, Machine.fake()), config, plan)
    found = run(context, ("words", "files", "data", "machine"))
    assert {(p.severity, p.check) for p in found} == {("note", "model_moved"), ("note", "plan_steps"), ("warn", "images_small")}
    assert "64 pictures x repeats = 64" in next(p.what for p in found if p.check == "plan_steps")


def test_the_quick_start_is_not_stopped_on_a_machine_without_a_gpu(world: World) -> None:
    from library.preflight.machine import GpuReport

    machine = {"graphics": GpuReport(), "driver_names": ()}
    context = world.full(mixed_precision=None, machine=machine)
    assert [p for p in run(context, ("words", "files", "data", "machine")) if p.severity != "note"] == []


def test_every_family_has_a_script_that_its_models_are_sent_to() -> None:
    for name in families.names():
        assert families.get(name).SPEC.scripts[0].endswith(".py")


def test_a_line_that_is_refused_is_refused_by_a_user_error(world: World) -> None:
    with pytest.raises(UserError):
        parse(["--no_such_flag"])
