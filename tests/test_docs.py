"""Examples in the documentation are tried: commands parse and resolve, tables of settings are read."""

import re
import shlex
from pathlib import Path

import pytest

from library.config.prompt_pairs import read_pairs
from library.flags import collect, scripts_with
from tests.config.helpers import resolved

ROOT = Path(__file__).resolve().parents[1]
README, JAPANESE = ROOT / "README.md", ROOT / "README.ja.md"
PAGES = [README, JAPANESE, *sorted((ROOT / "docs").glob("*.md"))]
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```", re.S | re.M)


def blocks(*languages):
    return [(page.name, text) for page in PAGES for language, text in BLOCK.findall(page.read_text(encoding="utf-8"))
            if language in languages]


def commands():
    for page, text in blocks("bash", "powershell", ""):
        for line in text.splitlines():
            found = re.search(r"accelerate launch (?:--\w+ )*(\w*train_network\.py) (.*)", line)
            if found and "--config_file" not in line:
                yield pytest.param(found[1], found[2], id=f"{page}-{len(line)}")


@pytest.mark.parametrize(("script", "line"), list(commands()))
def test_commands_in_the_documentation_are_right(tmp_path, monkeypatch, script, line):
    monkeypatch.chdir(tmp_path)
    for name in re.findall(r"--dataset_config=(\S+)", line):
        (tmp_path / name).write_text("[[datasets]]\nresolution = 512\n[[datasets.subsets]]\nimage_dir = 'a'", encoding="utf-8")
    flags, problems = collect(shlex.split(line), script)
    assert not problems
    config = resolved(shlex.split(line), script, needed=False)
    assert config.save.output_name == flags["output_name"]


@pytest.mark.parametrize(("page", "text"), [pytest.param(*block, id=block[0]) for block in blocks("toml")
                                            if "[[datasets" in block[1]])
def test_data_sets_in_the_documentation_are_right(tmp_path, page, text):
    for folder in re.findall(r'image_dir = "(.*?)"', text):
        (tmp_path / folder).mkdir(parents=True)
    file = tmp_path / "data.toml"
    file.write_text(text, encoding="utf-8")
    config = resolved(["--pretrained_model_name_or_path=m.safetensors", f"--dataset_config={file}", "--output_dir=out"],
                      needed=False)
    assert config.data.parts


@pytest.mark.parametrize(("page", "text"), [pytest.param(*block, id=block[0]) for block in blocks("toml")
                                            if "[[targets]]" in block[1]])
def test_texts_of_sliders_in_the_documentation_are_right(tmp_path, page, text):
    file = tmp_path / "slider.toml"
    file.write_text(text, encoding="utf-8")
    found = read_pairs(file)
    assert found.pairs and not found.problems


@pytest.mark.parametrize(("page", "text"), [pytest.param(*block, id=block[0]) for block in blocks("yaml")
                                            if "unconditional" in block[1]])
def test_prompts_of_leco_in_the_documentation_are_right(tmp_path, page, text):
    file = tmp_path / "prompts.yaml"
    file.write_text(text, encoding="utf-8")
    found = read_pairs(file)
    assert found.pairs and not found.problems


def test_flags_named_in_the_documentation_exist():
    unknown = set()
    for page in (README, JAPANESE, ROOT / "docs" / "training.md", ROOT / "docs" / "sliders.md"):
        for name in re.findall(r"`--(\w+)", page.read_text(encoding="utf-8")):
            if len(name) > 2 and not scripts_with(name):
                unknown.add(name)
    assert unknown <= {"enable_bucke"}


def test_links_between_pages_lead_somewhere():
    missing = [f"{page.name}: {link}" for page in PAGES
               for link in re.findall(r"\]\(([^)#]+)\)", page.read_text(encoding="utf-8"))
               if not link.startswith("http") and not (page.parent / link).exists()]
    assert not missing, missing


def test_the_japanese_readme_shows_the_same_commands_and_links():
    def shown(page, pattern):
        return set(pattern.findall(page.read_text(encoding="utf-8")))

    commands = re.compile(r"^(?:py |python3 |accelerate ).*", re.M)
    assert shown(JAPANESE, commands) and shown(JAPANESE, commands) <= shown(README, commands)
    links = re.compile(r"\]\((docs/[^)]+)\)")
    assert shown(JAPANESE, links) <= shown(README, links)
