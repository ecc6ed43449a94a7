"""The flag table against kohya's parsers as recorded."""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

import pytest

from library.flags import SCRIPTS, flags_of, setup_parser
from library.flags.docs import markdown
from library.flags.flag import Number
from library.flags.parser import help_text
from library.flags.table import KOHYA, OURS
from tests.flag_tests import SHOWN_BY, TESTS
from tests.flags.reference import recorded

ROOT = Path(__file__).parents[2]
TYPES = {"str": str, None: str, "int": int, "float": float, "int_or_float": Number, "Path": Path}


@pytest.mark.parametrize("script", SCRIPTS)
def test_every_flag_of_kohya_is_declared_with_its_type_default_choices_and_count(script):
    ours = {name: flag for name, flag in flags_of(script).items() if not flag.ours}
    theirs = recorded(script)
    assert set(ours) == set(theirs)
    for name, entry in theirs.items():
        flag = ours[name]
        expected = bool if entry["action"] == "_StoreTrueAction" else TYPES[entry["type"]]
        assert (flag.type, flag.default, list(flag.choices)) == (expected, entry["default"], entry["choices"] or []), (
            name
        )
        assert flag.many == (entry["nargs"] == "*"), name


def test_train_network_has_kohyas_193_flags_and_help():
    assert len([flag for flag in flags_of("train_network.py").values() if not flag.ours]) == 193


@pytest.mark.parametrize("script", SCRIPTS)
def test_the_importable_parser_has_kohyas_namespace(script):
    space = vars(setup_parser(script).parse_args([]))
    for name, entry in recorded(script).items():
        assert space[name] == entry["default"], name
    assert isinstance(setup_parser(script), argparse.ArgumentParser)


def test_the_importable_parser_converts_values_as_argparse_does():
    space = setup_parser().parse_args(
        ["--network_dim", "8", "--lr_warmup_steps=5%", "--text_encoder_lr", "1e-5", "2e-5", "--enable_bucke"]
    )
    assert (space.network_dim, space.lr_warmup_steps, space.text_encoder_lr, space.enable_bucket) == (
        8,
        0.05,
        [1e-5, 2e-5],
        True,
    )


def test_every_flag_has_a_help_text_in_plain_ascii():
    for flag in (*KOHYA, *OURS):
        assert flag.help.isascii() and flag.help.rstrip().endswith((".", ")")), flag.name
        assert flag.group, flag.name


def test_what_is_not_available_says_so_with_a_sentence():
    for flag in KOHYA:
        if flag.served.kind in ("stops", "otherwise"):
            assert flag.served.text.endswith("."), flag.name


def test_help_shows_every_flag_of_its_script_and_no_other():
    for script in SCRIPTS:
        shown = {line.split()[0][2:] for line in help_text(script).splitlines() if line.startswith("  --")}
        assert shown == set(flags_of(script))


def test_help_answers_in_under_half_a_second():
    code = (
        "import sys, time\nfrom library.flags import parse\ntry:\n    parse(['--help'])\nexcept SystemExit:\n"
        "    sys.stderr.write(str(time.process_time()))"
    )
    results = [
        subprocess.run(
            [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, encoding="utf-8", check=True
        )
        for _ in range(3)
    ]
    assert all("--network_dim N" in result.stdout for result in results)
    assert min(float(result.stderr) for result in results) < 0.5


def test_importing_flags_imports_nothing_heavy():
    code = (
        "import sys, library.flags; from library.config import toml_file, resolve, show\n"
        "print([m for m in ('torch', 'numpy', 'diffusers', 'transformers', 'PIL', 'toml') if m in sys.modules])"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, encoding="utf-8", check=True
    )
    assert result.stdout.strip() == "[]"


def test_the_document_of_flags_is_made_from_the_declarations():
    assert (ROOT / "docs" / "flags.md").read_text(encoding="utf-8") == markdown(SHOWN_BY)


def test_every_flag_that_works_here_has_a_test_that_shows_it():
    wanted = {*recorded("train_network.py"), *recorded("sdxl_train_network.py"),
              *(flag.name for flag in OURS if flag.served.kind == "works")}
    assert sorted(wanted - set(SHOWN_BY)) == []


@pytest.mark.parametrize("node", TESTS)
def test_the_tests_that_show_flags_exist(node):
    file, name = node.split("::")
    assert f"\ndef {name}(" in (ROOT / file).read_text(encoding="utf-8")


def test_the_table_of_tests_names_each_flag_once_and_no_other():
    named = [flag for flags in TESTS.values() for flag in flags.split()]
    assert len(named) == len(set(named))
    assert set(named) <= {flag.name for flag in (*KOHYA, *OURS)}
