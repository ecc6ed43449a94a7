"""Checks of graphics card, memory, disk and accelerate's configuration. All facts come from the Machine record."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from library.preflight import estimate
from library.preflight.files import path_of
from library.preflight.options import optimizer_name
from library.preflight.registry import Context, check
from library.preflight.versions import needs_bitsandbytes
from library.util.records import Problem

SLOW_FP16 = re.compile(r"GTX 16\d\d|GTX 10\d\d|TITAN X", re.IGNORECASE)
FAULTY_FP16 = re.compile(r"GTX 16\d\d", re.IGNORECASE)
QUICK = 3600
"""Seconds up to which a run without a GPU that was not asked for half precision needs no warning."""
CUDA_INDEX = "cu128"
"""Tag of the torch builds that the messages point to."""


@check("torch_broken", level="machine", row="F47")
def check_torch_imports(context: Context) -> Iterator[Problem]:
    """PyTorch can be imported and can count its devices."""
    fault = context.machine.graphics.fault
    if not fault:
        return
    if re.search(r"WinError (126|127|193|1114)", fault):
        yield context.stop("torch_broken.dll", "PyTorch", fault=fault)
    else:
        yield context.stop("torch_broken", "PyTorch", fault=fault, python=context.machine.executable)


@check("no_gpu", level="machine", row="F02")
def check_gpu(context: Context) -> Iterator[Problem]:
    """Without a GPU training goes on in fp32, with the reason and the time it will take."""
    machine = context.machine
    if machine.graphics.fault or machine.gpus:
        return
    build, precision = machine.torch_build, context.flag("mixed_precision") or "no"
    visible = machine.env.get("CUDA_VISIBLE_DEVICES")
    seconds = estimate.cpu_seconds(context)
    steps = estimate.total_steps(context)
    values = {
        "seconds": estimate.shown_time(seconds),
        "steps": steps,
        "total": estimate.shown_time(seconds * steps),
        "version": build.version if build else "?",
        "python": machine.executable,
        "tag": CUDA_INDEX,
        "precision": precision,
        "visible": visible,
    }
    if visible is not None and not re.search(r"\d", visible.replace("-1", "")):
        key = "no_gpu.hidden"
    elif build is not None and build.cuda is None and build.hip is None and machine.driver_names:
        key, values["gpu"] = "no_gpu.build", machine.driver_names[0]
    elif build is not None and build.cuda is not None and not machine.driver_names:
        key = "no_gpu.driver"
    elif build is not None and build.cuda is not None:
        values["gpu"] = machine.driver_names[0]
        key = "no_gpu.hidden" if visible is not None else "no_gpu.old_driver"
    else:
        key = "no_gpu"
    if key in ("no_gpu.build", "no_gpu.hidden", "no_gpu.old_driver") or precision != "no" or seconds * steps > QUICK:
        half = ".half" if key == "no_gpu" and precision != "no" else ""
        yield context.warn(key + half, "GPU", **values)


@check("gpu_unsupported", level="machine", row="F27")
def check_architecture(context: Context) -> Iterator[Problem]:
    """The torch build has kernels for the card."""
    report, build = context.machine.graphics, context.machine.torch_build
    if not report.gpus or not report.arch_list or (build is not None and build.hip):
        return
    gpu = report.gpus[0]
    number = gpu.capability[0] * 10 + gpu.capability[1]
    native = [int(m[1]) for a in report.arch_list if (m := re.match(r"sm_(\d+)", a))]
    portable = [int(m[1]) for a in report.arch_list if (m := re.match(r"compute_(\d+)", a))]
    fits = any(n // 10 == number // 10 and n <= number for n in native) or any(p <= number for p in portable)
    if fits:
        return
    version = build.version if build else "?"
    if number > max(native, default=0):
        yield context.stop(
            "gpu_unsupported.new",
            "GPU",
            gpu=gpu.name,
            number=number,
            version=version,
            tag=CUDA_INDEX,
            python=context.machine.executable,
        )
    else:
        yield context.stop("gpu_unsupported.old", "GPU", gpu=gpu.name, number=number, version=version)


@check("bf16_unsupported", level="machine", row="F16")
def check_bf16(context: Context) -> Iterator[Problem]:
    """Cards before Ampere cannot train in bf16."""
    gpus = context.machine.gpus
    if gpus and context.flag("mixed_precision") == "bf16" and not gpus[0].bf16:
        yield context.stop("bf16_unsupported", "--mixed_precision", gpu=gpus[0].name)


@check("fp16_faulty", level="machine", row="F25")
def check_fp16(context: Context) -> Iterator[Problem]:
    """GTX 16xx cards compute wrong results in fp16."""
    gpus = context.machine.gpus
    if gpus and context.flag("mixed_precision") == "fp16" and FAULTY_FP16.search(gpus[0].name):
        yield context.warn("fp16_faulty", "--mixed_precision", gpu=gpus[0].name)


@check("precision_none", level="machine", row="F06")
def check_full_precision(context: Context) -> Iterator[Problem]:
    """A modern card without mixed precision uses twice the memory."""
    gpus = context.machine.gpus
    if (
        gpus
        and (context.flag("mixed_precision") or "no") == "no"
        and gpus[0].capability >= (7, 0)
        and not FAULTY_FP16.search(gpus[0].name)
    ):
        yield context.note("precision_none", "--mixed_precision", gpu=gpus[0].name, best="bf16" if gpus[0].bf16 else "fp16")


@check("gpu_memory", level="machine", row="F06")
def check_gpu_memory(context: Context) -> Iterator[Problem]:
    """The estimate of memory against what is free now."""
    if not context.machine.gpus:
        return
    gpu, need = context.machine.gpus[0], estimate.gpu_memory(context)
    if need <= 0.95 * gpu.free:
        return
    savers = ", ".join(savers_left(context)) or "-"
    yield context.warn(
        "gpu_memory",
        "GPU",
        need=estimate.shown_bytes(need),
        free=estimate.shown_bytes(gpu.free),
        total=estimate.shown_bytes(gpu.total),
        savers=savers,
    )


@check("gpu_busy", level="machine", row="F20")
def check_gpu_busy(context: Context) -> Iterator[Problem]:
    """Another program already holds a good part of the card's memory."""
    for gpu in context.machine.gpus[:1]:
        if gpu.free < 0.6 * gpu.total:
            yield context.warn(
                "gpu_busy",
                "GPU",
                gpu=gpu.name,
                used=estimate.shown_bytes(gpu.total - gpu.free),
                total=estimate.shown_bytes(gpu.total),
            )


LARGE = 1.5e9
"""Weights of a denoiser from which on keeping them small, or letting blocks wait, is worth its price."""


def _savers_of_weights(context: Context) -> list[str]:
    """Ways to keep a large denoiser's weights small, or away from the card, as far as they are not in use."""
    if estimate.model_size(context).denoiser < LARGE:
        return []
    kept = estimate.kept_small(context)
    savers = ["--fp8_base"] if kept is None else ["--base_quantization nf4"] if kept != "nf4" else []
    if not context.flag("blocks_to_swap") and not context.flag("torch_compile"):
        gpus, size = context.machine.gpus, estimate.model_size(context)
        count = estimate.blocks_to_swap(context, gpus[0].total) if gpus else None
        savers.append(f"--blocks_to_swap {count or size.blocks // 2}")
    return savers


def savers_left(context: Context) -> list[str]:
    """Options that save GPU memory and are not in use yet, the cheapest in quality and time first."""
    savers = []
    if not context.flag("gradient_checkpointing"):
        savers.append("--gradient_checkpointing")
    if not context.flag("cache_latents"):
        savers.append("--cache_latents")
    if (context.flag("train_batch_size") or 1) > 1:
        savers.append("--train_batch_size 1")
    if (context.flag("mixed_precision") or "no") == "no":
        savers.append("--mixed_precision fp16")
    savers += _savers_of_weights(context)
    if context.flag("cache_text_encoder_outputs") is False and not context.flag("shuffle_caption"):
        only = "" if context.flag("network_train_unet_only") else " --network_train_unet_only"
        savers.append(f"--cache_text_encoder_outputs{only}")
    elif not context.flag("network_train_unet_only"):
        savers.append("--network_train_unet_only")
    if not needs_bitsandbytes(optimizer_name(context)) and (context.flag("network_dim") or 4) >= 32:
        savers.append("--optimizer_type AdamW8bit")
    if (context.flag("network_dim") or 4) > 16:
        savers.append("--network_dim 16")
    if estimate.units(context) > 1.01:
        savers.append("--resolution 512")
    return savers


@check("memory_small", level="machine", row="F28")
def check_memory(context: Context) -> Iterator[Problem]:
    """Main memory and page file hold the model while it is loaded."""
    free = context.machine.memory_free
    if free is None:
        return
    size = estimate.model_size(context)
    item = 4 if not context.machine.gpus else estimate.BYTES[context.flag("mixed_precision") or "no"]
    need = (size.denoiser + size.others) * item * (1.3 if context.machine.gpus else 1.8) + 1.5 * estimate.GIB
    if free < need:
        key = "memory_small.windows" if context.machine.system == "Windows" else "memory_small"
        yield context.warn(key, "RAM", free=estimate.shown_bytes(free), need=estimate.shown_bytes(need))


@check("disk_small", level="machine", row="F58")
def check_disk(context: Context) -> Iterator[Problem]:
    """The drive holds all files and states that are planned."""
    folder = path_of(context, "output_dir")
    if folder is None:
        return
    plan, free = estimate.written(context), context.machine.disk_free(folder)
    values = {
        "folder": folder,
        "free": estimate.shown_bytes(free),
        "total": estimate.shown_bytes(plan.total),
        "files": plan.files,
        "file": estimate.shown_bytes(plan.file_bytes),
        "states": plan.states,
        "state": estimate.shown_bytes(plan.state_bytes),
    }
    if free < plan.total:
        yield context.stop("disk_small", "--output_dir", **values)
    elif free < 1.2 * plan.total or free < 0.5 * estimate.GIB:
        yield context.warn("disk_small.close", "--output_dir", **values)


@check("saves_many", level="machine", row="F58")
def check_many_saves(context: Context) -> Iterator[Problem]:
    """Very many states are announced with their size."""
    plan = estimate.written(context)
    if plan.states > 50 or plan.files > 200:
        yield context.note(
            "saves_many", "--save_every_n_steps", files=plan.files, states=plan.states, total=estimate.shown_bytes(plan.total)
        )


@check("optimizer_needs_gpu", level="machine", row="F13")
def check_bitsandbytes_gpu(context: Context) -> Iterator[Problem]:
    """8-bit and paged optimizers need a graphics card."""
    name = optimizer_name(context)
    if needs_bitsandbytes(name) and not context.machine.gpus and not context.machine.graphics.fault:
        plain = "Lion" if "lion" in name.lower() else "AdamW"
        yield context.stop("optimizer_needs_gpu", "--optimizer_type", name=name, plain=plain)


@check("accelerate_cpu", level="machine", row="F19")
def check_accelerate_cpu(context: Context) -> Iterator[Problem]:
    """accelerate is told to use the CPU although there is a GPU."""
    machine = context.machine
    told = machine.env.get("ACCELERATE_USE_CPU", "").lower() in ("1", "true", "yes")
    stored = str(machine.accelerate_config.get("use_cpu", "")).lower() == "true" and not machine.launched_by_accelerate
    if machine.gpus and (told or stored):
        yield context.stop("accelerate_cpu", "accelerate", path=machine.accelerate_config_path, gpu=machine.gpus[0].name)


@check("accelerate_precision", level="machine", row="F19")
def check_accelerate_precision(context: Context) -> Iterator[Problem]:
    """accelerate and the command name different precisions; the command's holds."""
    theirs, ours = context.machine.env.get("ACCELERATE_MIXED_PRECISION"), context.flag("mixed_precision") or "no"
    if theirs and theirs.lower() == "no" != ours and not context.machine.accelerate_config:
        yield context.note("accelerate_precision.none", "--mixed_precision", ours=ours)
    if theirs and theirs.lower() != ours and theirs.lower() in ("fp16", "bf16", "fp8"):
        yield context.note("accelerate_precision", "--mixed_precision", theirs=theirs, ours=ours)


@check("accelerate_kind", level="machine", row="F19")
def check_accelerate_kind(context: Context) -> Iterator[Problem]:
    """accelerate's stored configuration is for another kind of machine."""
    kind = str(context.machine.accelerate_config.get("distributed_type", "NO")).upper()
    if kind in ("TPU", "XLA", "MEGATRON_LM"):
        yield context.stop("accelerate_kind", "accelerate", kind=kind, path=context.machine.accelerate_config_path)
    elif kind == "DEEPSPEED" and "deepspeed" not in context.machine.packages:
        yield context.stop(
            "accelerate_kind.package",
            "accelerate",
            kind=kind,
            path=context.machine.accelerate_config_path,
            python=context.machine.executable,
        )


@check("processes_many", level="machine", row="F08")
def check_processes(context: Context) -> Iterator[Problem]:
    """More processes than graphics cards, or fewer than the launcher was asked for."""
    env = context.machine.env
    world, gpus = int(env.get("WORLD_SIZE") or 1), len(context.machine.gpus)
    if env.get("MASTER_ADDR") and "WORLD_SIZE" not in env and context.machine.launched_by_accelerate:
        # accelerate's simple launcher sets an address where --num_processes is above 1, and starts one process all the same.
        yield context.warn("processes_many.cpu", "accelerate")
    if context.machine.system == "Windows" and world > 1:
        return  # the check of Windows speaks of it
    if gpus and world > gpus and context.machine.env.get("ACCELERATE_USE_CPU", "").lower() != "true":
        yield context.stop("processes_many", "accelerate", world=world, gpus=gpus)
    elif gpus > 1 and world == 1 and not context.machine.launched_by_accelerate:
        yield context.note("processes_many.one", "GPU", gpus=gpus, name=context.machine.gpus[0].name)


@check("cache_drive", level="machine", row="F58")
def check_cache_drive(context: Context) -> Iterator[Problem]:
    """The drive of the hub's cache holds what would have to be downloaded."""
    from library.preflight.model_files import local_path, typed_model

    typed = typed_model(context)
    if not typed or local_path(context, typed) is not None:
        return
    home = Path(context.machine.env.get("HF_HOME") or context.machine.home / ".cache" / "huggingface")
    free = context.machine.disk_free(home)
    if free < 6 * estimate.GIB:
        yield context.warn("cache_drive", "HF_HOME", folder=home, free=estimate.shown_bytes(free))
