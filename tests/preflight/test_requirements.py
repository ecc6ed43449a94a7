from pathlib import Path

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

from library.preflight.versions import TESTED

ROOT = Path(__file__).resolve().parents[2]
FROM_ELSEWHERE = {"tokenizers", "peft"}
"""Checked where they are installed; transformers brings the one, only the tests need the other."""


def test_the_check_of_versions_and_the_requirements_name_the_same_ranges():
    lines = (ROOT / "requirements.txt").read_text(encoding="utf-8").splitlines()
    named = [Requirement(line) for line in lines if line.strip() and not line.startswith("#")]
    required = {canonicalize_name(one.name): one.specifier for one in named}
    assert set(TESTED) - set(required) == FROM_ELSEWHERE
    assert {name: SpecifierSet(text) for name, text in TESTED.items() if name in required} == {
        name: required[name] for name in TESTED if name in required}
