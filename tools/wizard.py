"""Asks what a training needs to know, shows the plan and what the start-up checks say, writes a config file, can start it.

    python tools/wizard.py                                  asks; Enter takes the answer in brackets
    python tools/wizard.py --load mine.json                 the same with the answers of an earlier time as defaults
    python tools/wizard.py --answers mine.json              asks nothing: answers from a file, defaults for the rest

In a file of answers, "overwrite", "prune" and "start" (true or false) answer the questions at the end.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from library.config.toml_file import read_command, write_text
from library.config.toml_text import read_settings
from library.data.arithmetic import in_words, of_plan
from library.data.loading import step_plan
from library.families import detect, registry
from library.preflight.machine import Machine
from library.study import wizard, wizard_talk
from library.study.wizard_questions import Wrong
from library.util import command, frame, log
from library.util.language import LANGUAGES, language_of
from library.util.records import Problem, UserError
from library.util.said import in_language, say
from library.util.secrets import mask

ROOT = Path(__file__).resolve().parents[1]
HALF_REPEATS = ("sdxl",)
"""Families that need half the repeats of a picture."""


def setup_parser() -> argparse.ArgumentParser:
    """The flags."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--answers", metavar="FILE", help="answers from a .json file; nothing is asked")
    parser.add_argument("--load", metavar="FILE", help="take the defaults from a saved file or a kohya settings file")
    parser.add_argument("--save", metavar="FILE", help="keep the answers as a .json file")
    parser.add_argument("--output", metavar="FILE", help="the config file to write; OUTPUT_DIR/NAME.toml where it is not given")
    parser.add_argument("--language", choices=LANGUAGES, help="language of the questions; the system's where it is not given")
    return parser


def precision_of(machine: Machine) -> str:
    """``--mixed_precision`` for the first card; torch is asked only where a card may be there."""
    if not machine.driver_names and not (machine.torch_build and machine.torch_build.hip):
        return "no"
    return "no" if not machine.gpus else "bf16" if machine.gpus[0].bf16 else "fp16"


def of_model(name: str, facts: wizard.Facts) -> wizard.Facts:
    """The facts with the base model's family; ``Wrong`` where the name leads to no base model."""
    try:
        found = detect.identify(name)
    except UserError as error:
        raise Wrong(error.problems[0].what) from None
    if found.family is None:
        raise Wrong(say('"{name}" is {what}.', name=name, what=found.what))
    return replace(facts, spec=registry.get(found.family).SPEC, half_repeats=found.family in HALF_REPEATS)


def read_line(prompt: str) -> str:
    """A line from the keyboard or a pipe, typed behind a prompt that any console can print; EOFError at the end."""
    print(mask(frame.printable(prompt, sys.stdout.encoding)), end="", flush=True)
    line = sys.stdin.readline()
    if not line:
        raise EOFError
    return line


def talk_of(args: argparse.Namespace, language: str) -> wizard_talk.Talk:
    if not args.answers:
        return wizard_talk.Keyboard(language, command.tell, read_line)
    file = Path(args.answers)
    if not file.is_file():
        raise UserError(Problem("--answers", say("There is no file {path}.", path=file), "Check the path."))
    return wizard_talk.FromFile(file.name, read_settings(file).data, language, command.tell)


def keep(talk: wizard_talk.Talk, file: Path, text: str) -> bool:
    """Write a file whole, over an existing one only after a yes; False where it was left as it was."""
    if file.exists() and not wizard_talk.confirmed(talk, "overwrite", say("{path} exists already. Write over it?", path=file)):
        talk.show(say("{path} was left as it was.", path=file))
        return False
    try:
        write_text(file, text)
    except OSError as error:
        raise UserError(Problem(str(file), say("It cannot be written: {strerror}.", strerror=error.strerror),
                                "Give another folder.")) from None
    talk.show(say("Written: {path}", path=file))
    return True


def checked(talk: wizard_talk.Talk, toml: str, name: str, script: str, language: str) -> bool:
    """Show the settings, the plan and what the start-up checks find in the settings; whether the run could start."""
    from library.train.run import examine

    talk.show(say("Settings:"))
    for line in toml.splitlines()[1:]:
        talk.show(f"    {line}")
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / name
        write_text(file, toml)
        found = examine(read_command(["--config_file", str(file)], script))
    if found.config is not None and found.plan is not None and found.plan.items:
        for line in in_words(of_plan(found.plan, step_plan(found.plan, found.config.loop))):
            talk.show(say("Plan: {line}", line=line))
    frame.show(found.problems, sys.stdout, language, launched=False)
    stops = any(problem.severity == "stop" for problem in found.problems)
    talk.show(say("The training cannot start like this: mend what is named above.") if stops
              else say("The start-up checks found nothing that stops the training."))
    return not stops


def prune(talk: wizard_talk.Talk, folder: str, tags: str) -> None:
    """Show what taking tags out of the captions would change, and do it after a yes; `dataset.py undo` takes it back."""
    words = [sys.executable, str(ROOT / "tools" / "dataset.py"), "tags", folder, "--prune", tags]
    subprocess.run(words, check=False)
    if wizard_talk.confirmed(talk, "prune", say("Take these tags out of the captions now? It can be undone.")):
        subprocess.run([*words, "--yes"], check=False)
    else:
        talk.show(say("The captions are as they were; later: {command}",
                      command=f'python tools/dataset.py tags "{folder}" --prune "{tags}" --yes'))


def train(script: str, file: Path) -> int:
    """Train in a process of its own, which gets Ctrl+C itself and ends in its own time."""
    process = subprocess.Popen([sys.executable, str(ROOT / script), "--config_file", str(file)])
    while True:
        try:
            return process.wait()
        except KeyboardInterrupt:
            continue


def work(args: argparse.Namespace) -> int:
    """The whole conversation; 1 where the settings could not start a training or its config file was not written."""
    if args.language:
        os.environ["PREFLIGHT_LANGUAGE"] = args.language  # for the training that is started, too
    language = language_of()
    talk = talk_of(args, language)
    loaded = wizard.read_answers(Path(args.load)) if args.load else {}
    ended = wizard_talk.converse(talk, wizard.Facts(precision=precision_of(Machine.read())), of_model, loaded)
    if isinstance(talk, wizard_talk.FromFile) and talk.problems:
        raise UserError(*talk.problems)
    answers, facts = ended.answers, ended.facts
    assert facts.spec is not None, "the base model is a question that must be answered"
    script = facts.spec.scripts[0]
    file = Path(args.output or Path(answers["output_dir"]) / f"{answers['output_name']}.toml")
    file = file if file.suffix.lower() == ".toml" else file.with_name(file.name + ".toml")
    start = f'accelerate launch {script} --config_file "{file}"'
    toml = wizard.toml_of(wizard.settings(answers, facts), start)
    sound = checked(talk, toml, file.name, script, language)
    for path in (Path(one) for one in (args.save, answers["save_json"]) if one):
        keep(talk, path, wizard_talk.as_json(answers))
    if not keep(talk, file, toml):
        return 1
    if answers["excluded_tags"]:
        prune(talk, answers["train_data_dir"], answers["excluded_tags"])
    talk.show(say("Start it with: {command}", command=start))
    if sound and wizard_talk.confirmed(talk, "start", say("Start the training now?")):
        return train(script, file)
    return int(not sound)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the wizard; returns the exit code. Ctrl+C and the end of the input stop it in words."""
    code = 0

    def run(args: argparse.Namespace) -> None:
        nonlocal code
        try:
            code = work(args)
        except (KeyboardInterrupt, EOFError):
            command.tell("\n" + in_language(say("Stopped. What was not yet reported as written has not been written."),
                                            language_of()))
            code = 130

    return command.run(setup_parser(), run, argv) or code


if __name__ == "__main__":
    log.prepare_environment()
    log.safe_streams()
    sys.exit(main())
