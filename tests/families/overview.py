"""`python -m tests.families.overview`: the tables at the end of docs/adding-a-family.md, families and their tests."""

from __future__ import annotations

import ast
from pathlib import Path

from library.families import registry

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "adding-a-family.md"
START = "<!-- families and tests -->"


def tests() -> list[str]:
    """Names of the contract tests, as sentences."""
    tree = ast.parse((Path(__file__).parent / "test_contract.py").read_text(encoding="utf-8"))
    return [node.name.removeprefix("test_").replace("_", " ") for node in tree.body
            if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")]  # fmt: skip


def lengths() -> list[tuple[str, str, int]]:
    """(title, file, lines) of every family."""
    files = {name: ROOT / f"{module.replace('.', '/')}.py" for name, module in registry.MODULES.items()}
    return [(registry.get(name).SPEC.title, file.name, len(file.read_text(encoding="utf-8").splitlines()))
            for name, file in files.items()]  # fmt: skip


def page(before: str) -> str:
    """The page with its tables made anew."""
    rows = [f"| {title} | `{file}` | {lines} |" for title, file, lines in lengths()]
    claims = [f"- {claim}" for claim in tests()]
    table = ["| Architecture | File | Lines |", "|---|---|---|", *rows]
    return "\n".join([before.split(START)[0].rstrip(), "", START, "", *claims, "", *table, ""])


if __name__ == "__main__":
    PAGE.write_text(page(PAGE.read_text(encoding="utf-8")), encoding="utf-8", newline="\n")
