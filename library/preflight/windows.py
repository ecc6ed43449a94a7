"""Checks of what only happens on Windows."""

from __future__ import annotations

from collections.abc import Iterator

from library.preflight.registry import Context, check
from library.util.records import Problem

DLLS = ("vcruntime140.dll", "vcruntime140_1.dll", "msvcp140.dll")


@check("windows_many_gpus", level="machine", row="F08")
def check_windows_processes(context: Context) -> Iterator[Problem]:
    """Several processes on Windows would need NCCL, which PyTorch does not have there."""
    machine = context.machine
    if machine.system != "Windows":
        return
    world = int(machine.env.get("WORLD_SIZE") or 1)
    stored = str(machine.accelerate_config.get("distributed_type", "NO")).upper()
    if world > 1 or stored in ("MULTI_GPU", "DEEPSPEED", "FSDP"):
        yield context.stop("windows_many_gpus", "accelerate", path=machine.accelerate_config_path, world=max(world, 2))


@check("visual_c_runtime", level="words", row="F47")
def check_runtime(context: Context) -> Iterator[Problem]:
    """PyTorch needs Microsoft's Visual C++ runtime."""
    if context.machine.system == "Windows":
        missing = [name for name in DLLS if not context.machine.system_files(name)]
        if missing:
            yield context.stop("visual_c_runtime", "Windows", missing=", ".join(missing))


@check("store_python", level="words", row="F56")
def check_store_python(context: Context) -> Iterator[Problem]:
    """The Microsoft Store's Python keeps packages in a place that other programs cannot see."""
    if context.machine.system == "Windows" and "WindowsApps" in context.machine.executable:
        yield context.note("store_python", "Python", path=context.machine.executable)
