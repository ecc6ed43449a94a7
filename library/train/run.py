"""A training run from argv to the saved file: the ten stages, in order."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from library.config.resolve import Detected, resolve
from library.config.show import text as show_config
from library.config.toml_file import read_command
from library.data.files import allow_truncated
from library.data.plan import DatasetPlan, ScanRules
from library.data.scan import scan
from library.families import detect as detection, registry as families
from library.families.interface import Family
from library.flags import Flags
from library.flags.scripts import LATER_SCRIPTS
from library.preflight import guards, registry as preflight
from library.util import frame, log as logs
from library.util.hub_access import go_offline
from library.util.records import Problem, RunEnded, UserError
from library.util.said import say, spoken

if TYPE_CHECKING:
    from library.config.run_config import RunConfig


log = logging.getLogger(__name__)
TOKENS = {"huggingface_token": "HF_TOKEN", "wandb_api_key": "WANDB_API_KEY"}
"""Flag -> environment variable."""
IS_MAIN = logs.process_rank() == 0
"""Whether this process is the one that speaks; others check silently."""


def main(argv: Sequence[str] | None = None, script: str = "train_network.py") -> int:
    """Run an entry script; returns its exit code. A user's mistake is shown in one frame, without a traceback."""
    logs.prepare_environment()
    logs.safe_streams()
    try:
        return run(list(sys.argv[1:] if argv is None else argv), script)
    except UserError as error:
        if IS_MAIN:
            frame.show(error.problems, begun=isinstance(error, RunEnded))
        return 1
    except KeyboardInterrupt:
        if IS_MAIN:
            print(spoken(say("Stopped.")), file=sys.stderr)
        return 130


def run(argv: list[str], script: str) -> int:
    """The ten stages of DESIGN: parse, resolve, preflight, scan, load, cache, attach, prepare, step, save."""
    return run_flags(read_command(argv, script), argv)


def run_flags(flags: Flags, argv: list[str]) -> int:
    """The same from flags that are read already; ``argv`` is what the report shows as the command."""
    refuse_other_architectures(flags.script)
    hand_over_tokens(flags)
    checked = check(flags)
    config, family, plan = checked.config, checked.family, checked.plan
    if config.dry_run:
        if IS_MAIN:
            print(show_config(config))
        return 0
    logs.set_up(config.log.console_level, config.log.console_file, config.log.console_simple)
    if config.debug_dataset:
        from . import debug_dataset

        return debug_dataset.show(config, plan) if IS_MAIN else 0
    check_machine(checked)
    config = with_working_attention(config, checked.told)

    from . import stages

    config.save.output_dir.mkdir(parents=True, exist_ok=True)
    try:
        material = stages.material(config, family, plan)
        return stages.train(material, family, argv, checked.told)
    except UserError as error:
        tell_alone(error)
        raise
    except (RuntimeError, MemoryError) as error:
        if not guards.is_out_of_memory(error):
            raise
        raise RunEnded(guards.out_of_main_memory() if guards.is_main_memory(error)
                       else guards.out_of_memory(checked.context.flags, stages.memory_in_use())) from error


def refuse_other_architectures(script: str) -> None:
    """UserError for an entry script whose architecture has no family here yet: nothing else would train it rightly."""
    if script in LATER_SCRIPTS and families.by_script(script) is None:
        known = ", ".join(spec.title for spec in families.specs())
        raise UserError(
            Problem(
                script,
                "This architecture is not supported yet.",
                say("LoRAs can be trained for {known}; the base model decides, whichever script is started.", known=known),
            )
        )


def hand_over_tokens(flags: Flags) -> None:
    """Put typed tokens where the clients of the hub and of Weights & Biases look; they are kept nowhere else."""
    for name, variable in TOKENS.items():
        if flags[name]:
            os.environ[variable] = flags[name].strip()


@dataclass(frozen=True)
class Checked:
    """What stands after the checks that need no torch."""

    config: RunConfig
    family: Family
    plan: DatasetPlan
    context: preflight.Context
    told: list[Problem]
    """Warnings and notes that were shown."""


@dataclass(frozen=True)
class Examined:
    """What is known of a command before anything heavy is imported, with all that is wrong with it."""

    config: RunConfig | None
    plan: DatasetPlan | None
    context: preflight.Context
    problems: list[Problem]


def examine(flags: Flags) -> Examined:
    """Stages 2 to 4: decide everything, scan the pictures, run the cheap checks. Raises nothing."""
    config, plan, theirs = None, None, []
    context = preflight.context_of(flags)
    hub = preflight.run(context, ("network",))  # asks only where the run needs the hub; detection would wait for it
    if any(problem.check == "hub_unreachable.cached" for problem in hub):
        go_offline()
    if not any(problem.severity == "stop" for problem in hub):
        try:
            config = resolve(flags, detect)
            theirs = list(config.notes)
        except UserError as error:
            theirs = error.problems
    if config is not None:
        allow_truncated(config.data.allow_truncated)
        spec = families.get(config.model.family).SPEC
        plan = scan(config.data, ScanRules(spec.bucket_step, spec.cache_suffix, spec.text_cache_suffix,
                                           config.cache.latents, config.loop.seed))
    context = preflight.later(context, config, plan)
    return Examined(config, plan, context, preflight.merge(preflight.run(context, preflight.CHEAP) + hub, theirs))


def check(flags: Flags) -> Checked:
    """The same for a run that is to start: all problems are shown together; UserError where one of them is a stop."""
    found = examine(flags)
    tell(found.problems)
    assert found.config is not None and found.plan is not None, "a stop has been raised"
    return Checked(found.config, families.get(found.config.model.family), found.plan, found.context, found.problems)


def check_machine(checked: Checked) -> None:
    """The checks that need torch, or a trial in a process of its own."""
    for levels in (("machine",), ("probes",)):
        problems = preflight.run(checked.context, levels)
        tell(problems)
        checked.told.extend(problems)


def with_working_attention(config: RunConfig, told: list[Problem]) -> RunConfig:
    """The same run with torch's own attention where a check has said that xformers does not work here."""
    if not any(problem.check.startswith("xformers_") for problem in told):
        return config
    return replace(config, machine=replace(config.machine, attention="sdpa"))


def tell(problems: list[Problem]) -> None:
    """Show warnings and notes and go on, or raise all of them where one is a stop."""
    if any(problem.severity == "stop" for problem in problems):
        raise UserError(*problems)
    if IS_MAIN and problems:
        frame.show(problems)


def tell_alone(error: UserError) -> None:
    """Say what stopped a process that is not the first: checks find the same everywhere, but a step may fail in one."""
    if not IS_MAIN:
        problem = error.problems[0]
        text = spoken(say("process {rank} stops: {where}: {what}", rank=logs.process_rank(), where=problem.where,
                          what=problem.what))  # fmt: skip
        print(frame.printable(text, sys.stderr.encoding), file=sys.stderr, flush=True)


def detect(source: str, flags: Flags) -> Detected:
    """What the base model's files tell, for ``resolve``; UserError where they are no base model that is known here."""
    found = detection.identify(source)
    where = "--pretrained_model_name_or_path"
    if found.family is None:
        raise UserError(
            Problem(
                where,
                say('"{source}" is {what}.', source=source, what=found.what),
                "Give a base model: a .safetensors or .ckpt checkpoint, a diffusers folder, or a hub id such as user/name.",
            )
        )
    return Detected(found.family, dict(found.hints))
