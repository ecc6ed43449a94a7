"""The house rules of this repository, as claims about its own source."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
ROOMS = ("flags", "config", "preflight", "data", "families", "diffusion", "optim", "train", "sample", "save", "lorafile", "report",
         "util")
BELOW = {
    "train": {"flags", "config", "preflight", "data", "families", "diffusion", "optim", "sample", "save", "lorafile", "report",
              "util", "networks"},
    "report": {"sample", "save", "data", "config", "util"},
    "lorafile": {"networks", "families", "save", "util"},
    "preflight": {"flags", "config", "data", "families", "diffusion", "optim", "sample", "save", "lorafile", "report", "util",
                  "networks"},
    "sample": {"data", "networks", "families", "diffusion", "config", "util"},
    "save": {"data", "networks", "families", "diffusion", "config", "util"},
    "data": {"config", "util"},
    "networks": {"util"},
    "families": {"diffusion", "util"},
    "optim": {"util"},
    "config": {"flags", "util"},
    "diffusion": set(),
    "flags": {"util"},
    "util": set(),
}
"""Room -> rooms it may import besides itself. ``config/resolve.py`` alone may also see the families' registry."""
MAY_SEE_FAMILIES = {"library/config/resolve.py", "library/config/sections.py"}
CONTRACT = {"create_network", "create_network_from_weights", "create", "create_from_weights"}
"""Functions whose parameters kohya's contract prescribes."""
MOST_LINES, MOST_PARAMETERS, LONGEST_FILE = 62, 7, 520


def sources():
    files = [*ROOT.glob("library/**/*.py"), *ROOT.glob("networks/**/*.py")]
    return [path for path in files if path.name != "__init__.py" or path.stat().st_size]


def name_of(path):
    return path.relative_to(ROOT).as_posix()


def room_of(dotted):
    parts = dotted.split(".")
    if parts[0] == "networks":
        return "networks"
    return parts[1] if parts[0] == "library" and len(parts) > 1 else None


def imported(path, tree):
    """Dotted names that a file imports, lazily or not, relative ones resolved."""
    package = list(path.relative_to(ROOT).with_suffix("").parts[:-1])
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = ".".join(package[: len(package) - node.level + 1]) if node.level else ""
            module = ".".join(part for part in (base, node.module or "") if part)
            yield from (f"{module}.{alias.name}" for alias in node.names)


TREES = {path: ast.parse(path.read_text(encoding="utf-8")) for path in sources()}


def test_imports_point_downwards_only():
    upwards = []
    for path, tree in TREES.items():
        own = room_of(".".join(path.relative_to(ROOT).with_suffix("").parts))
        for dotted in imported(path, tree):
            room = room_of(dotted)
            if room not in (*ROOMS, "networks") or own not in BELOW or room == own or room in BELOW[own]:
                continue
            if room == "families" and name_of(path) in MAY_SEE_FAMILIES:
                continue
            upwards.append(f"{name_of(path)} imports {dotted}")
    assert not upwards, "\n".join(upwards)


def functions(tree):
    return [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]


def test_functions_are_short():
    long = [f"{name_of(path)}:{node.lineno} {node.name} has {node.end_lineno - node.lineno + 1} lines"
            for path, tree in TREES.items() for node in functions(tree)
            if node.end_lineno - node.lineno + 1 > MOST_LINES]
    assert not long, "\n".join(long)


def test_functions_take_few_parameters():
    many = [f"{name_of(path)}:{node.lineno} {node.name} takes {len(node.args.args + node.args.kwonlyargs)}"
            for path, tree in TREES.items() for node in functions(tree)
            if len(node.args.args + node.args.kwonlyargs) > MOST_PARAMETERS and node.name not in CONTRACT]
    assert not many, "\n".join(many)


def test_files_are_no_longer_than_a_person_reads():
    long = [f"{name_of(path)}: {count} lines" for path in TREES
            if (count := len(path.read_text(encoding="utf-8").splitlines())) > LONGEST_FILE and "texts_" not in path.name]
    assert not long, "\n".join(long)


def test_no_family_is_named_outside_the_families_room():
    from library.families import registry

    named = []
    spelt_by_others = {"library/config/front_ends.py", "library/config/gui_json.py"}  # front ends' own keys
    for path, tree in TREES.items():
        if "families" in path.parts or name_of(path) in spelt_by_others:
            continue
        named += [f"{name_of(path)}:{node.lineno} {node.value!r}" for node in ast.walk(tree)
                  if isinstance(node, ast.Constant) and node.value in registry.names()]
    assert not named, "\n".join(named)


def test_own_objects_are_known():
    """``hasattr`` and ``getattr`` with a default are for foreign objects, which are adapted in named places."""
    foreign = {"networks/external.py", "library/util/log.py", "library/preflight/machine.py"}
    guesses = [f"{name_of(path)}:{node.lineno}" for path, tree in TREES.items() if name_of(path) not in foreign
               for node in ast.walk(tree) if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
               and (node.func.id == "hasattr" or (node.func.id == "getattr" and len(node.args) == 3))]
    assert len(guesses) <= 12, "\n".join(guesses)


BLOCK = """
import sys
class Block:
    def find_spec(self, name, path=None, target=None):
        if name.split('.')[0] in {'torch', 'diffusers', 'transformers', 'accelerate', 'numpy', 'PIL'}:
            raise ImportError(name + ' is blocked')
sys.meta_path.insert(0, Block())
"""


def python(code, cwd=ROOT, **more):
    return subprocess.run([sys.executable, "-c", code], cwd=cwd, capture_output=True, text=True, encoding="utf-8", **more)


def test_specs_flags_and_checks_load_without_torch():
    done = python(BLOCK + "from library.families import registry; registry.specs()\n"
                  "import library.flags, library.config.resolve, library.preflight.registry as r; r.registered()\n"
                  "import library.data.scan, library.train.run")
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("launcher", [[], ["-m", "accelerate.commands.launch", "--cpu", "--num_processes", "1"]],
                         ids=["python", "accelerate"])
def test_our_library_wins_over_an_installed_one_of_that_name(tmp_path, launcher):
    import os

    other = tmp_path / "site" / "library"
    other.mkdir(parents=True)
    (other / "__init__.py").write_text("raise RuntimeError('the other library was imported')", encoding="utf-8")
    environment = os.environ | {"PYTHONPATH": str(other.parent)}
    done = subprocess.run([sys.executable, *launcher, str(ROOT / "train_network.py"), "--help"], cwd=tmp_path, env=environment,
                          capture_output=True, text=True, encoding="utf-8")
    assert done.returncode == 0, done.stderr
    assert "--network_dim" in done.stdout


def test_the_project_speaks_of_itself_alone():
    pattern = re.compile(r"(^|[^A-Za-z0-9_.])/(work|root|farm)/[a-z]|hf_[A-Za-z0-9]{30,}")
    texts = [path for ending in ("py", "md", "toml", "txt", "json") for path in ROOT.rglob(f"*.{ending}")
             if not {".venv", "output", ".git", "node_modules"} & set(path.parts)]
    found = [f"{name_of(path)}:{number}" for path in texts
             for number, line in enumerate(path.read_text(encoding="utf-8", errors="replace").splitlines(), 1)
             if pattern.search(line) and path.name != "test_house.py" and "remove_me" not in path.name]
    assert not found, "\n".join(found[:20])
