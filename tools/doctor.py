"""Examines the installation, or a training command, without training.

    python tools/doctor.py                              what is installed, which devices there are, what fits and what not
    python tools/doctor.py --json                       the same for programs
    python tools/doctor.py train_network.py --train_data_dir=... (any training command line)
                                                        every start-up check of that command, nothing is trained
    python tools/doctor.py --no_network ...             without asking the hub

The exit code is 1 where something would stop a run, else 0. No token is ever shown.
"""

from __future__ import annotations

import json
import os
import sys
import warnings
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from library.preflight import estimate, hub_client, registry, tokens
from library.preflight.machine import Machine
from library.preflight.registry import Context
from library.preflight.versions import NEEDED, TESTED
from library.util import frame, log
from library.util.records import Problem, UserError
from library.util.said import say, spoken
from library.util.secrets import mask

INSTALLATION = (
    "python_version",
    "packages_missing",
    "versions_tested",
    "versions_disagree",
    "numpy_two",
    "protobuf_new",
    "wrong_library",
    "venv_asleep",
    "visual_c_runtime",
    "store_python",
    "torch_broken",
    "gpu_unsupported",
    "gpu_busy",
    "accelerate_cpu",
    "accelerate_kind",
    "windows_many_gpus",
    "tokenizer_probe", "layers_probe",
    "gpu_probe",
)
"""Checks that say something without a training command."""
OPTIONAL = (
    "peft",
    "xformers",
    "bitsandbytes",
    "tensorboard",
    "wandb",
    "torchvision",
    "lycoris-lora",
    "prodigyopt",
    "lion-pytorch",
    "dadaptation",
    "schedulefree",
    "triton",
)


def command_words(argv: Sequence[str]) -> tuple[str, list[str]]:
    """Split a training command line as it would be typed into the entry script and its flags.

    ``accelerate launch`` with its own options, ``python`` and the path of the script are understood and dropped.
    """
    words = list(argv)
    for number, word in enumerate(words):
        if word.lower().endswith("train_network.py"):
            return word.replace("\\", "/").rsplit("/", 1)[-1], words[number + 1 :]
    return "train_network.py", [w for w in words if w not in ("accelerate", "launch", "python")]


def installation(machine: Machine, network: bool) -> dict[str, Any]:
    """What is installed and what the machine has, as plain values."""
    found = {name: machine.packages.get(name) for name in (*NEEDED, *OPTIONAL)}
    build = machine.torch_build
    return {
        "system": machine.system,
        "python": ".".join(map(str, machine.python)),
        "executable": machine.executable,
        "virtual_environment": machine.in_venv,
        "packages": found,
        "tested": TESTED,
        "torch": {"version": build.version, "cuda": build.cuda, "rocm": build.hip} if build else None,
        "gpus": [{**asdict(gpu), "capability": f"{gpu.capability[0]}.{gpu.capability[1]}"} for gpu in machine.gpus],
        "driver_lists": list(machine.driver_names),
        "cpus": machine.cpus,
        "memory_free": machine.memory_free,
        "memory_total": machine.memory_total,
        "disk_free": machine.disk_free(Path.cwd()),
        "hub": hub_login(machine, network),
    }


def hub_login(machine: Machine, network: bool) -> dict[str, Any]:
    """Where a token comes from and whose it is; never the token."""
    found = tokens.find_tokens(machine, {})
    first = found[0] if found else None
    user = (
        hub_client.who(machine, first) if first and network and not first.fault and not hub_client.is_offline(machine) else None
    )
    return {
        "endpoint": mask(hub_client.endpoint(machine)),
        "offline": hub_client.is_offline(machine) or None,
        "token_from": first.source if first else None,
        "looks_whole": not first.fault if first else None,
        "also_set": [t.source for t in found[1:]],
        "stored_logins": tokens.stored_names(machine),
        "user": user.name if user else None,
        "role": user.role if user else None,
    }


def examine_installation(machine: Machine, network: bool) -> list[Problem]:
    """Run the checks that need no training command."""
    context = Context(flags={}, machine=machine)
    found: list[Problem] = []
    for one in registry.registered():
        if one.name in INSTALLATION:
            found += registry.run_check(one, context)
    if network:
        for token in tokens.find_tokens(machine, {})[:1]:
            if token.fault:
                found.append(
                    context.warn(f"token_shape.{token.fault}", token.source, source=token.source, length=len(token.value))
                )
    return found


def examine_command(argv: Sequence[str], network: bool) -> list[Problem]:
    """Run every check of a training command line, as the training itself would."""
    from library.config.toml_file import read_command
    from library.train.run import examine

    script, words = command_words(argv)
    if not network:
        os.environ["HF_HUB_OFFLINE"] = "1"
    try:
        found = examine(read_command(words, script))
    except UserError as error:
        return error.problems
    problems = list(found.problems)
    for level in ("machine", "probes"):
        problems += registry.run(found.context, (level,))
    return registry.unique(problems)


def print_installation(facts: dict[str, Any]) -> None:
    """Print the table of the installation."""

    def line(name: str, value: Any) -> None:
        name = spoken(name)
        print(f"  {name}{' ' * max(1, 19 - frame.columns(name))}{spoken(value)}")

    print(f"{facts['system']}, Python {facts['python']} ({facts['executable']})")
    print("\n" + spoken(say("packages")))
    for name, version in facts["packages"].items():
        needed = name in NEEDED
        tested = say("   tested with {version}", version=facts["tested"][name]) if name in facts["tested"] else ""
        if version or needed:
            line(name, say("{version}{tested}", version=f"{version:<14}" if version else say("MISSING       "), tested=tested))
    rest = [name for name, version in facts["packages"].items() if not version and name not in NEEDED]
    if rest:
        line(say("not installed"), say("{names}  (optional)", names=rest))
    print("\n" + spoken(say("devices")))
    for gpu in facts["gpus"]:
        free, total = estimate.shown_bytes(gpu["free"]), estimate.shown_bytes(gpu["total"])
        line(say("GPU"), say("{name}, {free} of {total} free, bf16 {bf16}", name=gpu["name"], free=free, total=total,
                             bf16=say("yes") if gpu["bf16"] else say("no")))  # fmt: skip
    if not facts["gpus"]:
        listed = facts["driver_lists"] or [say("no card")]
        line(say("GPU"), say("none that PyTorch can use; the driver lists: {names}", names=listed))
    line(say("processor"), say("{cpus:core|cores}", cpus=facts["cpus"]))
    if facts["memory_total"]:
        line(say("memory"), say("{free} of {total} free", free=estimate.shown_bytes(facts["memory_free"]),
                                total=estimate.shown_bytes(facts["memory_total"])))  # fmt: skip
    line(say("disk here"), say("{free} free", free=estimate.shown_bytes(facts["disk_free"])))
    print_hub(facts["hub"], line)


def print_hub(hub: dict[str, Any], line: Callable[[str, Any], None]) -> None:
    """Print what is known of the hub's address and the login; never the token."""
    print("\nHugging Face hub")
    off = say(" (switched off by {variable})", variable=hub["offline"]) if hub["offline"] else ""
    line(say("address"), say("{address}{off}", address=hub["endpoint"], off=off))
    who = say("{user} ({role})", user=hub["user"], role=hub["role"]) if hub["user"] else say("not asked or not accepted")
    line(say("token"), say("from {source}, user: {who}", source=hub["token_from"], who=who) if hub["token_from"]
         else say("none (only gated and private models need one)"))  # fmt: skip


def main(argv: Sequence[str] | None = None) -> int:
    """Examine and report; 1 where something would stop a run."""
    log.prepare_environment()
    log.safe_streams()
    warnings.simplefilter("ignore")  # what libraries say of the tiny models that are tried out concerns nobody
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    words = list(sys.argv[1:] if argv is None else argv)
    options = {w for w in words if w in ("--json", "--no_network", "-h", "--help")}
    words = [w for w in words if w not in ("--json", "--no_network")]
    if words in (["-h"], ["--help"]):
        print(__doc__)
        return 0
    machine, network = Machine.read(), "--no_network" not in options
    facts = None if words else installation(machine, network)
    problems = examine_command(words, network) if words else examine_installation(machine, network)
    stops = any(p.severity == "stop" for p in problems)
    if "--json" in options:
        print(
            json.dumps(
                {"installation": facts, "problems": [asdict(p) for p in problems], "ok": not stops}, indent=1, ensure_ascii=True
            )
        )
        return int(stops)
    if facts is not None:
        print_installation(facts)
    frame.show(problems, sys.stdout, launched=False)
    if not problems:
        print("\n" + spoken(say("Everything that can be checked beforehand is in order." if words
                                else "The installation is in order.")))  # fmt: skip
    return int(stops)


if __name__ == "__main__":
    sys.exit(main())
