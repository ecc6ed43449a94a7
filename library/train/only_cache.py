"""A run that fills a cache beside the pictures and trains nothing."""

from __future__ import annotations

from pathlib import Path

from library.config.toml_file import read_command
from library.flags import flags_of, setup_parser
from library.util import frame, log as logs
from library.util.records import UserError
from library.util.said import say, spoken

from . import run

SCRIPTS = {"--sdxl": "sdxl_train_network.py", "--flux": "flux_train_network.py"}
"""Switches of the commands -> the training script whose flags they take."""
AGAIN = "--skip_existing"


def main(argv: list[str], cache: str, description: str) -> int:
    """Fill the cache that the flag ``cache`` names; returns the exit code."""
    logs.prepare_environment()
    logs.safe_streams()
    script = next((SCRIPTS[word] for word in argv if word in SCRIPTS), "train_network.py")
    if {"-h", "--help"} & set(argv):
        print(description)
        setup_parser(script).print_help()
        return 0
    try:
        fill(argv, cache, script)
    except UserError as error:
        frame.show(error.problems)
        return 1
    return 0


def fill(argv: list[str], cache: str, script: str) -> None:
    """The stages of a run up to its caches. Raises UserError with every problem of the command."""
    words = [word for word in argv if word not in (*SCRIPTS, AGAIN)]
    if cache not in flags_of(script):
        # SDXL's script and later ones alone know text encoder outputs; the base model decides what is cached.
        script = SCRIPTS["--sdxl"]
    own = [f"--{cache}", *(["--skip_cache_check"] if AGAIN in argv else [])]
    if not any(word.split("=")[0] == "--output_dir" for word in words):
        own.append(f"--output_dir={Path.cwd()}")
    if cache.startswith("cache_text") and "--network_train_unet_only" not in words:
        own.append("--network_train_unet_only")
    flags = read_command([*words, *own], script)
    run.hand_over_tokens(flags)
    checked = run.check(flags)
    logs.set_up(checked.config.log.console_level, checked.config.log.console_file, checked.config.log.console_simple)

    from . import stages

    made = stages.material(checked.config, checked.family, checked.plan)
    count = len(checked.plan.items) + len(checked.plan.validation)
    if made.accelerator.is_main_process:
        print(spoken(say("{count} pictures: {cache} is filled, beside the pictures.", count=count, cache=cache)), flush=True)
