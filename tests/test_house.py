"""The house's own rules, as claims about its own source: who may import whom, how long things may grow, what stands where.

`python tests/test_house.py` writes the snapshot of the flag surface anew, after a flag was added on purpose.
"""

from __future__ import annotations

import ast
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SURFACE = ROOT / "tests" / "data" / "flag_surface.json"

ROOMS: dict[str, set[str]] = {
    "util": set(),
    "flags": {"util"},
    "diffusion": set(),
    "config": {"flags", "util"},
    "optim": {"util"},
    "families": {"diffusion", "util"},
    "networks": {"util"},
    "data": {"config", "util"},
    "sample": {"data", "networks", "families", "diffusion", "config", "util"},
    "save": {"data", "networks", "families", "diffusion", "config", "util"},
    "lorafile": {"networks", "families", "save", "util"},
    "report": {"sample", "save", "data", "config", "util"},
    "study": {"report", "lorafile", "sample", "save", "data", "networks", "families", "diffusion", "config", "flags", "util"},
    "dataset": {"report", "data", "families", "config", "flags", "util"},
    "preflight": {"report", "lorafile", "sample", "save", "data", "networks", "families", "optim", "config", "diffusion",
                  "flags", "util"},
    "train": {"preflight", "study", "report", "lorafile", "sample", "save", "data", "networks", "families", "optim", "config",
              "diffusion", "flags", "util"},
}
"""Room -> rooms it may import besides itself; lowest first. What stands outside the rooms may import all."""

MAY_ALSO_IMPORT = {
    ("library/config/resolve.py", "families"): "it turns what was typed into a family's options",
}

FOREIGN_OF_ROOM = {"flags": set(), "util": {"torch", "safetensors", "numpy"}, "diffusion": {"torch"}}
"""Rooms whose foreign packages are counted, and which these are; other rooms may import what requirements.txt names."""
FOREIGN_OF_FILE = {
    ("library/util/fetch.py", "filelock"): "two runs must not write one download",
    ("library/util/hub_access.py", "huggingface_hub"): "asks the hub; the one place below the rooms that does",
}

REACHED_BEFORE_TORCH = ("flags", "config", "util", "families", "preflight")
HEAVY = {"torch", "diffusers", "transformers", "accelerate", "peft", "bitsandbytes", "xformers", "PIL", "numpy", "cv2",
         "matplotlib", "tensorboard", "wandb", "safetensors", "huggingface_hub"}

MOST_LINES, MOST_PARAMETERS, LONGEST_FILE = 60, 6, 500
PRESCRIBED = {
    "create_network": "kohya's contract of a network module",
    "create_network_from_weights": "kohya's contract of a network module",
    "_rebuild_v3": "PyTorch's pickled tensors call it",
}
"""Functions whose parameters others prescribe."""

LONG_FILES = {
    "tools/make_tiny_model.py": "one program, read from top to bottom: how the shipped model was made",
    "examples/world.py": "the world of the shipped model, as one module to import",
}
LOOSE_ACCESS = {
    "networks/external.py": "adapts network modules of other projects, whose attributes are not ours to know",
    "library/preflight/registry.py": "a fault inside a check becomes a note; it must not cost the run it was to save",
    "library/train/diagnosing.py": "a verdict that fails, for want of memory perhaps, must not cost the report of a run of hours",
    "library/save/hub.py": "the hub and the network are foreign; a failed upload must not end a run of hours",
}
"""Files that may use hasattr, getattr with a default, or swallow any exception: each adapts something foreign."""
FOREIGN_WORDS = {
    "library/config/front_ends.py": "names of other programs' switches, among them an architecture's",
    "library/config/gui_json.py": "keys of another program's JSON files, among them an architecture's",
    "library/flags/kohya_scripts.py": "choices of kohya's flags, among them an architecture's",
}
"""Files in which a family's name is a key that another program writes."""


# ---------------------------------------------------------------------------------------------- reading the house


def path_of(file: Path) -> str:
    return file.relative_to(ROOT).as_posix()


@cache
def files() -> tuple[Path, ...]:
    """Every module of the program: rooms, networks, tools, examples, benchmarks and the scripts at the top."""
    folders = ("library", "networks", "tools", "examples", "benchmarks", "finetune")
    found = [*ROOT.glob("*.py"), *(file for folder in folders for file in (ROOT / folder).rglob("*.py"))]
    return tuple(sorted(file for file in found if file.name != "setup.py"))


@cache
def tree(file: Path) -> ast.Module:
    return ast.parse(file.read_text(encoding="utf-8"), path_of(file))


def is_command(file: Path) -> bool:
    """Whether the file is a program that a person runs (it has its `__main__` guard)."""
    return any(isinstance(node, ast.If) and "__main__" in ast.unparse(node.test) for node in tree(file).body)


def room_of(file: Path) -> str | None:
    """The room a file stands in; None at the very top, where everything may be imported."""
    parts = file.relative_to(ROOT).parts
    if parts[0] == "library" and len(parts) > 2:
        return parts[1]
    return "networks" if parts[0] == "networks" and not is_command(file) else None


def imports(file: Path, node: ast.AST) -> Iterator[tuple[int, str]]:
    """Line and dotted name of everything imported below a node, inside functions too, relative ones resolved."""
    package = file.relative_to(ROOT).parts[:-1]
    for item in ast.walk(node):
        if isinstance(item, ast.Import):
            yield from ((item.lineno, name.name) for name in item.names)
        elif isinstance(item, ast.ImportFrom):
            base = package[: len(package) - item.level + 1] if item.level else ()
            module = ".".join((*base, *filter(None, [item.module])))
            yield from ((item.lineno, f"{module}.{name.name}") for name in item.names)


def where_to(module: str) -> str | None:
    """The room that a dotted name leads to; "top" for ours outside every room; None for what is not ours."""
    head, *rest = module.split(".")
    if head == "networks":
        file = ROOT / "networks" / f"{rest[0] if rest else '__init__'}.py"
        return "top" if file.exists() and is_command(file) else "networks"
    if head == "library":
        return rest[0] if rest and rest[0] in ROOMS else "top" if rest else None
    return "top" if head in ("tools", "finetune", "tests") or (ROOT / f"{head}.py").exists() else None


def at_import(file: Path) -> Iterator[tuple[int, str]]:
    """Imports that run when the module is imported: not those in functions nor for type checkers alone."""

    def walk(nodes: list[ast.stmt]) -> Iterator[tuple[int, str]]:
        for node in nodes:
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                continue
            if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
                yield from walk(node.orelse)
            elif isinstance(node, ast.Import | ast.ImportFrom):
                yield from imports(file, node)
            else:
                for part in ("body", "orelse", "finalbody"):
                    yield from walk([n for n in vars(node).get(part, []) if isinstance(n, ast.stmt)])

    yield from walk(tree(file).body)


def functions(file: Path) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    yield from (node for node in ast.walk(tree(file)) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))


def lines_of(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    return (function.end_lineno or function.lineno) - function.lineno + 1


def parameters(function: ast.FunctionDef | ast.AsyncFunctionDef) -> list[str]:
    """Named parameters, without self and cls."""
    args = function.args
    return [a.arg for a in (*args.posonlyargs, *args.args, *args.kwonlyargs) if a.arg not in ("self", "cls")]


def line_count(file: Path) -> int:
    return len(file.read_text(encoding="utf-8").splitlines())


# ---------------------------------------------------------------------------------------------------- import arrows


def test_every_room_has_its_place_in_the_import_rules():
    rooms = {folder.name for folder in (ROOT / "library").iterdir() if folder.is_dir() and any(folder.glob("*.py"))}
    assert rooms | {"networks"} == set(ROOMS)


def test_the_import_rules_have_no_circle():
    for number, room in enumerate(ROOMS):
        assert ROOMS[room] <= set(list(ROOMS)[:number]), f"{room} may import what stands beside or above it"


def test_imports_point_downwards_only():
    wrong = []
    for file in files():
        room = room_of(file)
        if room is None:
            continue
        for line, name in imports(file, tree(file)):
            other = where_to(name)
            if other in (None, room) or other in ROOMS[room] or (path_of(file), other) in MAY_ALSO_IMPORT:
                continue
            wrong.append(f"{path_of(file)}:{line} ({room}) imports {name} ({other})")
    assert not wrong, "\n".join(wrong)


def test_the_lowest_rooms_import_little_that_is_foreign():
    wrong = []
    for file in files():
        room = room_of(file)
        if room not in FOREIGN_OF_ROOM:
            continue
        for line, name in imports(file, tree(file)):
            head = name.split(".")[0]
            if head in sys.stdlib_module_names or head in ("library", "networks") or head in FOREIGN_OF_ROOM[room]:
                continue
            if (path_of(file), head) not in FOREIGN_OF_FILE:
                wrong.append(f"{path_of(file)}:{line} imports {name}")
    assert not wrong, "\n".join(wrong)


def test_what_help_and_checks_reach_imports_nothing_heavy_at_its_top():
    wrong = [f"{path_of(file)}:{line} imports {name} when it is imported"
             for file in files() if room_of(file) in REACHED_BEFORE_TORCH
             for line, name in at_import(file) if name.split(".")[0] in HEAVY]
    assert not wrong, "\n".join(wrong)


BLOCK = f"""
import sys
class Block:
    def find_spec(self, name, path=None, target=None):
        if name.split('.')[0] in {sorted(HEAVY)!r}:
            raise ImportError(name + ' is blocked')
sys.meta_path.insert(0, Block())
"""


def run_python(*arguments: str, cwd: Path = ROOT, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *arguments], cwd=cwd, env=os.environ | environment, capture_output=True, text=True,
                          encoding="utf-8", timeout=120, check=False)


def test_specs_flags_and_checks_load_without_torch():
    done = run_python("-c", BLOCK + "from library.families import registry; registry.specs()\n"
                      "from library.families.interface import Header\n"
                      "for name in registry.names():\n"
                      "    assert registry.get(name).matches(Header({})) is False\n"
                      "import library.flags, library.config.resolve, library.preflight.registry as r; r.registered()\n"
                      "import library.data.scan, library.train.run")
    assert done.returncode == 0, done.stderr


# ------------------------------------------------------------------------------------------------------------ sizes


def test_functions_are_short():
    long = [f"{path_of(file)}:{f.lineno} {f.name} has {lines_of(f)} lines"
            for file in files() for f in functions(file) if lines_of(f) > MOST_LINES]
    assert not long, "\n".join(long)


def test_functions_take_few_parameters():
    many = [f"{path_of(file)}:{f.lineno} {f.name}({', '.join(parameters(f))})" for file in files() for f in functions(file)
            if len(parameters(f)) > MOST_PARAMETERS and f.name not in PRESCRIBED]
    assert not many, "\n".join(many)


def test_files_are_no_longer_than_a_person_reads():
    long = [f"{path_of(file)}: {line_count(file)} lines" for file in files()
            if line_count(file) > LONGEST_FILE and path_of(file) not in LONG_FILES and "texts_" not in file.name]
    assert not long, "\n".join(long)


# --------------------------------------------------------------------------------------------------------- knowledge


def family_names(file: Path) -> Iterator[tuple[int, str]]:
    """Strings in a file's code (not its docstrings) that are a family's name or title."""
    from library.families import registry

    known = {name.lower() for name in registry.names()} | {spec.title.lower() for spec in registry.specs()}
    words = {node.value for node in ast.walk(tree(file)) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree(file)):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and node not in words and node.value.lower() in known:
            yield node.lineno, node.value


def test_no_family_is_named_outside_the_families_room():
    named = [f"{path_of(file)}:{line} {name!r}" for file in files()
             if room_of(file) not in ("families", None) and path_of(file) not in FOREIGN_WORDS
             for line, name in family_names(file)]
    assert not named, "\n".join(named)


def loose(file: Path) -> Iterator[tuple[int, str]]:
    """Places that guess at an object instead of knowing it, or swallow every fault (re-raising is none)."""
    for node in ast.walk(tree(file)):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) \
                and (node.func.id == "hasattr" or (node.func.id == "getattr" and len(node.args) == 3)):
            yield node.lineno, ast.unparse(node)
        if isinstance(node, ast.ExceptHandler) and not isinstance(node.body[-1], ast.Raise) \
                and (node.type is None or ast.unparse(node.type) in ("Exception", "BaseException")):
            yield node.lineno, f"except {'' if node.type is None else ast.unparse(node.type)}"


def test_own_objects_are_known():
    guesses = [f"{path_of(file)}:{line} {what}" for file in files() if path_of(file) not in LOOSE_ACCESS
               for line, what in loose(file)]
    assert not guesses, "\n".join(guesses)


STILL_NEEDED = [
    *((path, lambda file: any(loose(file))) for path in LOOSE_ACCESS),
    *((path, lambda file: any(family_names(file))) for path in FOREIGN_WORDS),
    *((path, lambda file: line_count(file) > LONGEST_FILE) for path in LONG_FILES),
    *((path, lambda file, room=room: any(where_to(name) == room for _, name in imports(file, tree(file))))
      for path, room in MAY_ALSO_IMPORT),
    *((path, lambda file, package=package: any(name.split(".")[0] == package for _, name in imports(file, tree(file))))
      for path, package in FOREIGN_OF_FILE),
]


@pytest.mark.parametrize(("path", "needed"), STILL_NEEDED, ids=[path for path, _ in STILL_NEEDED])
def test_every_exception_to_the_rules_is_still_needed(path, needed):
    assert (ROOT / path).exists() and needed(ROOT / path), f"{path} obeys the rule by now: take it off the list"


def test_every_program_does_nothing_when_it_is_imported():
    """Under spawn, as on Windows, worker processes import the program that started them."""
    programs = [*ROOT.glob("*.py"), *(ROOT / "tools").glob("*.py"), *(ROOT / "finetune").glob("*.py")]
    unguarded = [path_of(file) for file in programs if file.name not in ("setup.py", "__init__.py") and not is_command(file)]
    assert not unguarded, "\n".join(unguarded)


# ------------------------------------------------------------------------------------------------------ flag surface


def surface() -> dict[str, list[str]]:
    """Every flag of every entry script, as it must be typed."""
    from library.flags import SCRIPTS, flags_of

    return {script: sorted(flags_of(script)) for script in sorted(SCRIPTS)}


def test_the_flag_surface_changes_only_on_purpose():
    kept, now = json.loads(SURFACE.read_text(encoding="utf-8")), surface()
    gone = {script: names for script in kept if (names := sorted(set(kept[script]) - set(now.get(script, []))))}
    new = {script: names for script in now if (names := sorted(set(now[script]) - set(kept.get(script, []))))}
    assert not gone and not new, f"gone: {gone}; new: {new}. On purpose? Then run python tests/test_house.py"


# ------------------------------------------------------------------------------------------------- what surrounds us


@pytest.fixture
def site(tmp_path: Path) -> Path:
    """A folder such as site-packages, with another project's `library` and `networks` in it."""
    for package in ("library", "networks"):
        other = tmp_path / "site" / package
        other.mkdir(parents=True)
        (other / "__init__.py").write_text(f"raise RuntimeError('the other {package} was imported')", encoding="utf-8")
    return tmp_path / "site"


@pytest.mark.parametrize("launcher", [[], ["-m", "accelerate.commands.launch", "--cpu", "--num_processes", "1"]],
                         ids=["python", "accelerate"])
def test_our_folder_wins_over_installed_packages_of_its_names(site, launcher):
    done = run_python(*launcher, str(ROOT / "train_network.py"), "--help", cwd=site.parent, PYTHONPATH=str(site))
    assert done.returncode == 0, done.stderr
    assert "--network_dim" in done.stdout


def test_our_folder_wins_where_a_notebook_imports_the_entry_script(site):
    code = f"import sys; sys.path.append({str(ROOT)!r}); import train_network, library; print(library.__file__)"
    done = run_python("-c", code, cwd=site.parent, PYTHONPATH=str(site))
    assert done.returncode == 0, done.stderr
    assert Path(done.stdout.strip()).parent == ROOT / "library"


def test_the_project_speaks_of_itself_alone():
    pattern = re.compile(r"(^|[^A-Za-z0-9_.])/(work|root|farm)/[a-z]|hf_[A-Za-z0-9]{30,}")
    texts = [path for ending in ("py", "md", "toml", "txt", "json") for path in ROOT.rglob(f"*.{ending}")
             if not {".venv", "output", ".git", "node_modules"} & set(path.parts)]
    found = [f"{path_of(path)}:{number}" for path in texts
             for number, line in enumerate(path.read_text(encoding="utf-8", errors="replace").splitlines(), 1)
             if pattern.search(line) and path.name != "test_house.py" and "remove_me" not in path.name]
    assert not found, "\n".join(found[:20])


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    SURFACE.write_text(json.dumps(surface(), indent=0) + "\n", encoding="utf-8")
    print(f"wrote {path_of(SURFACE)}")
