"""What a check does not speak of: its bad run, but for the one thing that makes it right."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from library.preflight.data import is_cut_off
from library.preflight.guards import ZeroGuard
from library.preflight.machine import GIB, GpuReport, TorchBuild
from library.preflight.registry import Context

from .cases import NO_GPU, big_picture, captions, card
from .world import World, fire, write_folder, write_picture


def many(w: World, count: int, **changed: object) -> Context:
    """The good run with so many pictures, for 9000 steps."""
    context = w.full(max_train_steps=9000)
    one = replace(context.plan.items[0], **changed)
    items = tuple(replace(one, path=one.path.with_name(f"{n:03d}.png")) for n in range(count))
    return replace(context, plan=replace(context.plan, items=items))


def with_archs(w: World, *archs: str, **build: object) -> Context:
    """A card of capability 12.0 under a build with kernels for these."""
    machine = card("NVIDIA GeForce RTX 5090", (12, 0))
    return w.context(machine={**machine, "graphics": GpuReport(machine["graphics"].gpus, archs), **build})


def with_regularisation(w: World, count: int) -> Context:
    write_folder(w.root / "reg", "1_class", count, captions=False)
    return w.full(reg_data_dir=str(w.root / "reg"))


def enlarged(w: World) -> Context:
    write_picture(w.data / "10_zob" / "dot.png", (40, 40))
    return w.full()


QUIET: dict[str, tuple[str, Callable[[World], Context]]] = {
    "few pictures of a slider": ("data_few", lambda w: many(w, 4, strength=1.0)),
    "many steps for many pictures": ("steps_many", lambda w: many(w, 60)),
    "first tags before a separator": (
        "trigger_missing", lambda w: captions(w, lambda n: f"tag {n}, zob ||| red", keep_tokens_separator="|||")),
    "long captions that are read": ("captions_long", lambda w: captions(w, lambda n: "word, " * 60, max_token_length=225)),
    "a picture somewhat enlarged": ("images_small", enlarged),
    "as many regularisation pictures as are used": ("reg_unused", lambda w: with_regularisation(w, 30)),
    "kernels that are compiled for the card": ("gpu_unsupported", lambda w: with_archs(w, "sm_80", "compute_90")),
    "a build for AMD": (
        "gpu_unsupported", lambda w: with_archs(w, "gfx1100", "sm_10", torch_build=TorchBuild("2.13.0", None, "6.4"))),
    "use_cpu in a configuration that accelerate was told to leave": (
        "accelerate_cpu", lambda w: w.context(
            machine={"accelerate_config": {"use_cpu": True}, "env": {"ACCELERATE_MIXED_PRECISION": "no"}})),
    "a repaired VAE": ("half_vae", lambda w: w.full("sdxl_train_network.py", family="sdxl", plan=False, vae="fixed.safetensors")),
    "a small drive for downloads that are not needed": ("cache_drive", lambda w: w.context(machine={"disk_free": lambda p: GIB})),
    "random cuts from a large picture": ("image_sizes", lambda w: big_picture(w, random_crop=True)),
    "steps that are enough in batches": ("steps_many", lambda w: w.full(max_train_steps=120, train_batch_size=4)),
}


@pytest.mark.parametrize("case", QUIET)
def test_a_check_is_silent_where_its_reason_is_gone(world: World, case: str) -> None:
    check, context = QUIET[case]
    assert not fire(check, context(world))


def test_regularisation_pictures_are_counted_beside_the_others(world: World) -> None:
    context = with_regularisation(world, 5)
    assert f"+ {context.plan.images(reg=True)} reg" in fire("plan_steps", context)[0].what


def test_the_advice_keeps_to_the_kind_of_optimizer(world: World) -> None:
    (found,) = fire("optimizer_needs_gpu", world.context(optimizer_type="Lion8bit", machine=NO_GPU))
    assert "Lion" in found.remedy and "AdamW" not in found.remedy


@pytest.mark.parametrize("ending", ["png", "jpg", "webp"])
def test_a_picture_without_its_last_bytes_is_told_from_a_whole_one(world: World, ending: str) -> None:
    path = world.root / f"a.{ending}"
    write_picture(path, (64, 64))
    whole = path.read_bytes()
    assert not is_cut_off(path)
    path.write_bytes(whole[:-20])
    assert is_cut_off(path)
    path.write_bytes(whole + b"an editor's notes")
    assert not is_cut_off(path)


def test_weights_that_stay_zero_at_no_learning_rate_are_what_was_asked_for() -> None:
    assert ZeroGuard(rate=0.0).check(20, lambda: 0.0) is None
