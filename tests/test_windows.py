"""What Windows asks of a program, as far as it shows elsewhere: consoles, names, spawn, and nothing that is POSIX alone."""

import ast
import multiprocessing
import ntpath
import os
import pickle
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path, PureWindowsPath

import pytest

from library.config.resolve import Detected, resolve
from library.data.files import caption_file, names_in
from library.data.loading import Pictures, Setting
from library.data.order import epoch_order
from library.flags import parse
from library.save.names import FileNames
from tests.data_room.made import TEMPLATE, folder_plan, picture

ROOT = Path(__file__).resolve().parents[1]
SCRIPT = str(ROOT / "train_network.py")
TINY = ROOT / "examples" / "tiny-sd"
CODE_PAGES = ["cp932", "cp1252"]
"""Of Japanese and of western consoles and pipes."""


def run(*arguments, encoding="utf-8", cwd=ROOT, language="ja_JP.UTF-8"):
    """Run the script as behind a pipe of this code page; output as text of that code page, which it must be."""
    environment = {name: value for name, value in os.environ.items() if name not in ("LC_ALL", "LC_MESSAGES")}
    environment |= {"PYTHONIOENCODING": f"{encoding}:strict", "PYTHONUTF8": "0", "LANG": language, "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, SCRIPT, *map(str, arguments)], env=environment, cwd=cwd, capture_output=True,
                          timeout=300)
    return done.returncode, done.stdout.decode(encoding), done.stderr.decode(encoding)


# ---------------------------------------------------------------------------------------------------------- consoles


@pytest.mark.parametrize("encoding", CODE_PAGES)
def test_help_can_be_read_on_any_console(encoding):
    code, text, faults = run("--help", encoding=encoding)
    assert (code, faults) == (0, "") and "--network_dim" in text


def test_a_failing_run_names_a_japanese_folder_on_a_japanese_console(tmp_path):
    code, _, text = run(f"--pretrained_model_name_or_path={TINY}", "--train_data_dir=学習 画像/線画", encoding="cp932",
                        cwd=tmp_path)
    assert code == 1 and "学習 画像" in text and "中止" in text and "Traceback" not in text


def test_a_failing_run_speaks_english_on_a_console_without_japanese_letters(tmp_path):
    code, _, text = run(f"--pretrained_model_name_or_path={TINY}", "--train_data_dir=学習 画像/線画", encoding="cp1252",
                        cwd=tmp_path)
    assert code == 1 and "STOP" in text and "What to do" in text and "Traceback" not in text


@pytest.fixture(scope="module")
def japanese(tmp_path_factory):
    """A run of two steps with Japanese names and spaces everywhere, on a western console."""
    place = tmp_path_factory.mktemp("ある 場所")
    folder = place / "学習 画像" / "2_線 画"
    for number in range(1, 4):
        picture(folder / f"{number:03d}.png", caption="線画, solo", seed=number)
    shutil.copy(folder / "001.png", folder / "写真 004.PNG")
    (folder / "写真 004.txt").write_text("線画, 写真", encoding="utf-8")
    (place / "例文.txt").write_text("線画, 赤い --w 64 --h 64 --s 2 --d 1\n", encoding="utf-8")
    done = run(f"--pretrained_model_name_or_path={TINY}", "--train_data_dir=学習 画像", "--output_dir=出力 先",
               "--output_name=線 画",
               "--network_module=networks.lora", "--network_dim=4", "--resolution=64,64", "--learning_rate=1e-3",
               "--max_train_steps=2",
               "--caption_extension=.txt", "--sample_prompts=例文.txt", "--sample_at_first", "--save_state",
               "--logging_dir=記録",
               "--cache_latents_to_disk", "--seed=1", encoding="cp1252", cwd=place)
    return place, done


def test_japanese_names_train_on_a_console_that_cannot_show_them(japanese):
    place, (code, _, console) = japanese
    assert code == 0, console
    assert {"線 画.safetensors", "線 画-state", "線 画-report",
            "sample"} <= {path.name for path in (place / "出力 先").iterdir()}
    assert len(list((place / "出力 先" / "sample").glob("線 画_*.png"))) == 2


def test_endings_in_capitals_are_found_and_each_picture_once(japanese):
    place, (_, _, console) = japanese
    assert "num train images * repeats: 8" in console
    assert len(list((place / "学習 画像" / "2_線 画").glob("*.npz"))) == 4


def test_a_caption_with_its_ending_in_capitals_is_found_as_windows_finds_files(tmp_path, monkeypatch):
    monkeypatch.setattr(os.path, "normcase", ntpath.normcase)
    image = picture(tmp_path / "A01.png", caption=None)
    (tmp_path / "a01.TXT").write_text("cat", encoding="utf-8")
    assert caption_file(image, ".txt", names_in(tmp_path)) is not None
    assert caption_file(image, ".caption", names_in(tmp_path)) is None


def test_a_program_goes_on_when_its_console_is_closed(tmp_path):
    code = (f"import sys, pathlib; sys.path.insert(0, {str(ROOT)!r})\n"
            "from library.util import log; log.safe_streams(); log.set_up()\n"
            "import logging\n"
            "for number in range(3000):\n    print('x' * 100); logging.getLogger('x').warning('y' * 100)\n"
            "pathlib.Path(sys.argv[1]).write_text('done', encoding='utf-8')")
    process = subprocess.Popen([sys.executable, "-c", code, str(tmp_path / "end")], stdout=subprocess.PIPE,
                               stderr=subprocess.STDOUT)
    process.stdout.close()
    assert process.wait(60) == 0
    assert (tmp_path / "end").read_text(encoding="utf-8") == "done"


@pytest.mark.parametrize("arguments", [["--help"], ["--train_data_dir=nowhere"]])
def test_a_program_without_any_console_ends_as_with_one(arguments):
    code = (f"import sys; sys.path.insert(0, {str(ROOT)!r}); sys.stdout = sys.stderr = sys.__stdout__ = sys.__stderr__ = None\n"
            f"from library.train.run import main; sys.exit(main({arguments!r}))")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, timeout=120)
    assert (done.returncode, done.stderr) == (0 if arguments == ["--help"] else 1, b"")


# ------------------------------------------------------------------------------------------------------------- spawn


def drawn(pictures, ref, queue):
    queue.put(pickle.dumps(pictures[ref]))


def test_a_spawned_process_makes_the_same_batch_of_a_pickled_data_set(tmp_path):
    for number in range(2):
        picture(tmp_path / "train" / "1_x" / f"{number}.png", (90, 64), "a, b, c, d", number)
    template = replace(TEMPLATE, shuffle_caption=True, flip_aug=True, random_crop=True, color_aug=True)
    pictures = Pictures(folder_plan(tmp_path, template=template), Setting(1))
    ref = epoch_order(pictures.plan, 1, 0)[0]
    context = multiprocessing.get_context("spawn")
    queue = context.SimpleQueue()
    process = context.Process(target=drawn, args=(pictures, ref, queue))
    process.start()
    there, here = pickle.loads(queue.get()), pictures[ref]
    process.join(60)
    assert (there.captions, there.crops, there.keys) == (here.captions, here.crops, here.keys)
    assert bool((there.pixels_BCHW == here.pixels_BCHW).all())


# ------------------------------------------------------------------------------------------------------------- paths


@pytest.fixture
def windows_paths(monkeypatch):
    """Flags become Windows' paths."""
    for module in ("library.config.sections", "library.config.resolve", "library.config.dataset_toml"):
        monkeypatch.setattr(f"{module}.Path", PureWindowsPath)


def resolved(*argv):
    return resolve(parse([*argv, "--pretrained_model_name_or_path=m", "--network_module=networks.lora", "--resolution=64,64"],
                         "train_network.py"),
                   lambda source, flags: Detected("sd1"))


@pytest.mark.parametrize(("typed", "parts"), [
    ("dataset\\lineart", ("dataset", "lineart")), ("dataset/lineart", ("dataset", "lineart")), ("C:\\dir\\", ("C:\\", "dir")),
    ("C:/Users/山田 太郎/train", ("C:\\", "Users", "山田 太郎", "train")), ("\\\\server\\share\\x", ("\\\\server\\share\\",
                                                                                             "x")),
])
def test_folders_as_windows_users_type_them_are_taken_apart_rightly(windows_paths, typed, parts):
    config = resolved(f"--train_data_dir={typed}", f"--output_dir={typed}")
    assert config.data.train_data_dir.parts == config.save.output_dir.parts == parts


def test_files_go_into_a_windows_folder_under_kohyas_names(windows_paths):
    save = resolved("--train_data_dir=x", "--output_dir=D:\\出力 先\\", "--output_name=lineart_lora").save
    assert str(save.output_dir / FileNames.of(save).step_state(100)) == "D:\\出力 先\\lineart_lora-step00000100-state"


# ------------------------------------------------------------------------------------------------------------ source

POSIX_ALONE = {"fork", "forkpty", "symlink", "symlink_to", "hardlink_to", "mkfifo", "setsid", "getuid", "uname", "preexec_fn",
               "SIGKILL", "SIGHUP", "fcntl", "pwd", "grp", "termios", "forkserver"}
TREES = {path: ast.parse(path.read_text(encoding="utf-8"))
         for pattern in ("*.py", "library/**/*.py", "networks/*.py", "tools/*.py", "finetune/*.py", "examples/*.py")
         for path in ROOT.glob(pattern)}


def words(node):
    """Names that a piece of code uses, of attributes, modules and start methods."""
    if isinstance(node, ast.Attribute):
        yield node.attr
    elif isinstance(node, ast.Import | ast.ImportFrom):
        yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.keyword):
        yield node.arg
    elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in ("get_context",
                                                                                                    "set_start_method"):
        yield from (argument.value for argument in node.args if isinstance(argument, ast.Constant))


def test_nothing_is_used_that_windows_lacks():
    used = [f"{path.relative_to(ROOT).as_posix()}:{node.lineno} {word}" for path,
            tree in TREES.items() for node in ast.walk(tree)
            for word in words(node) if word in POSIX_ALONE]
    assert not used, "\n".join(used)


def opens_text_blindly(call):
    """Whether a call reads or writes text in whatever encoding the machine has."""
    name = call.func.attr if isinstance(call.func, ast.Attribute) else call.func.id if isinstance(call.func, ast.Name) else ""
    given = {keyword.arg for keyword in call.keywords}
    if name == "read_text":
        return "encoding" not in given and not call.args
    if name in ("run", "Popen", "check_output"):
        return "text" in given and "encoding" not in given
    modes = [one.value for one in call.args if isinstance(one, ast.Constant) and isinstance(one.value, str)]
    is_file = name == "open" and not (isinstance(call.func, ast.Attribute) and ast.unparse(call.func.value) in ("os", "Image",
                                                                                                                "gzip"))
    return is_file and "encoding" not in given and not any("b" in mode for mode in modes) and "'rb'" not in ast.unparse(call) \
        and "wb" not in ast.unparse(call)


def test_every_text_is_read_and_written_in_a_named_encoding():
    blind = [f"{path.relative_to(ROOT).as_posix()}:{node.lineno} {ast.unparse(node)[:80]}" for path, tree in TREES.items()
             for node in ast.walk(tree) if isinstance(node, ast.Call) and opens_text_blindly(node)]
    assert not blind, "\n".join(blind)
