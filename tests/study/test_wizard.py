"""The wizard: what it proposes for which pictures, the file it writes, its two languages, and how it takes wrong answers."""

import ast
import io
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from library.data.arithmetic import FolderCount
from library.families import registry
from library.study import wizard, wizard_talk
from library.study.wizard_questions import PURPOSES, QUESTIONS, Wrong, bare, picture_folder, purpose, scheduler
from library.util.records import UserError
from library.util.said import table
from tools import wizard as program

ROOT = Path(__file__).resolve().parents[2]
GIVEN = {"pretrained_model_name_or_path": str(ROOT / "examples/tiny-sd"), "train_data_dir": str(ROOT / "examples/dataset")}


@pytest.fixture
def answer(tmp_path, monkeypatch):
    """Run the whole program on answers; (exit code, the config file that it wrote)."""
    monkeypatch.setattr(program, "precision_of", lambda machine: "no")

    def run(*words, **answers):
        file = tmp_path / "answers.json"
        file.write_text(json.dumps(GIVEN | {"output_dir": str(tmp_path / "出力 1")} | answers), encoding="utf-8")
        return program.main(["--answers", str(file), *words]), tmp_path / "出力 1" / "zobi.toml"

    return run


def talked(pictures=(), *, half=False, **answers):
    """A conversation by answers, about made-up counts of pictures; what it came to."""
    facts = wizard.Facts(wizard.Pictures(tuple(pictures), 512, ("a, b, c",)), half_repeats=half)
    learned = wizard_talk._learned
    wizard_talk._learned = lambda key, value, facts, of_model: facts
    try:
        talk = wizard_talk.FromFile("a.json", GIVEN | answers, "en", lambda line: None)
        return wizard_talk.converse(talk, facts, lambda name, facts: facts, {}).answers
    finally:
        wizard_talk._learned = learned


def test_answers_become_a_config_file_that_the_training_reads(answer, capfd):
    code, file = answer(network_dim=4, training_comment="ゾビ", reg_data_dir=str(ROOT / "examples/regularisation"))
    shown = capfd.readouterr().out
    assert code == 0 and "160 with repeats, 320 with as many regularisation pictures / batch 2" in shown
    assert "x 3 epochs = 480 steps" in shown and "nothing that stops" in shown
    done = subprocess.run([sys.executable, "train_network.py", "--config_file", str(file), "--dry_run"], cwd=ROOT,
                          capture_output=True, text=True, encoding="utf-8", check=False)
    assert done.returncode == 0, done.stderr
    assert "zobi.toml" in done.stdout and "ゾビ" in done.stdout
    assert [line for line in done.stdout.splitlines() if "max_train_epochs" in line and "3" in line]


@pytest.mark.parametrize(("images", "repeats", "steps"), [(13, 36, 2808), (32, 16, 3072), (21, 25, 3150), (57, 10, 3420)])
def test_at_batch_1_the_epochs_land_near_3200_steps(images, repeats, steps):
    found = talked([FolderCount(images, repeats)], train_batch_size=1, reg_data_dir=GIVEN["train_data_dir"])
    assert found["max_train_epochs"] == 3 and 2 * images * repeats * 3 == steps
    assert (found["learning_rate"], found["unet_lr"], found["text_encoder_lr"]) == (1e-4, None, None)
    assert found["lr_warmup_steps"] == 0.01


@pytest.mark.parametrize(("images", "repeats", "batch"), [(10, 10, 2), (20, 5, 4), (100, 1, 4)])
def test_at_larger_batches_the_steps_are_between_250_and_1000(images, repeats, batch):
    for word in PURPOSES:
        found = talked([FolderCount(images, repeats)], train_batch_size=batch, purpose=word)
        assert 250 <= images * repeats / batch * found["max_train_epochs"] <= 1000


def test_a_style_has_no_trigger_a_lower_rate_and_more_epochs():
    style, character = (talked([FolderCount(20, 5)], purpose=one) for one in ("style", "character"))
    assert (style["keep_tokens"], character["keep_tokens"]) == (0, 1)
    assert style["unet_lr"] < character["unet_lr"] and style["max_train_epochs"] > character["max_train_epochs"]


def test_the_rates_of_the_parts_follow_a_rate_that_was_typed():
    typed = talked([FolderCount(20, 5)], learning_rate=1e-3)
    assert (typed["unet_lr"], typed["text_encoder_lr"]) == (1e-3, 2e-4)


def test_a_model_that_needs_half_the_repeats_gets_half_the_epochs():
    assert set(program.HALF_REPEATS) <= set(registry.names())
    assert talked([FolderCount(20, 5)], half=True)["max_train_epochs"] * 2 == talked([FolderCount(20, 5)])["max_train_epochs"]


def test_saved_answers_load_again_and_give_the_same_file(answer, tmp_path):
    kept = tmp_path / "保存.json"
    _, file = answer("--save", str(kept), network_dim=128, network_alpha=1, unet_lr="none", excluded_tags="", purpose="style")
    first = file.read_text(encoding="utf-8")
    file.unlink()
    again = tmp_path / "again.json"
    again.write_text(json.dumps({"purpose": "style", "load_json": str(kept)}), encoding="utf-8")
    assert program.main(["--answers", str(again)]) == 0
    assert file.read_text(encoding="utf-8") == first and "network_alpha = 1.0" in first and "unet_lr" not in first


def test_a_file_that_is_there_is_written_over_only_after_a_yes(answer, capsys):
    file = answer()[1]
    file.write_text("mine", encoding="utf-8")
    assert answer()[0] == 1 and file.read_text(encoding="utf-8") == "mine"
    assert "was left as it was" in capsys.readouterr().out
    assert answer(overwrite=True)[0] == 0 and "network_dim = 16" in file.read_text(encoding="utf-8")


def test_everything_wrong_in_a_file_of_answers_is_named_together(answer, capsys):
    code, file = answer(network_dim="many", lr_warmup_steps=100, lr_scheduler="cosin_")
    shown = capsys.readouterr().err
    assert code == 1 and not file.exists()
    assert '"many" is not a whole number' in shown and "0.05 is 5 %" in shown and '"cosin_" is none of' in shown


def test_a_settings_run_that_cannot_start_is_not_started(answer, monkeypatch, capsys):
    monkeypatch.setattr(program, "train", lambda script, file: pytest.fail("it was started"))
    code, file = answer(keep_tokens=0, network_weights=str(ROOT / "examples/tiny-sd/model_index.json"), start=True)
    assert code == 1 and file.exists() and "cannot start like this" in capsys.readouterr().out


def test_the_training_is_started_after_a_yes_by_the_same_interpreter(answer, tmp_path, monkeypatch):
    started = []

    class Process:
        def __init__(self, words):
            started.append(words)

        def wait(self):
            if len(started) == 1:
                started.append("Ctrl+C goes to the training itself")
                raise KeyboardInterrupt
            return 7

    monkeypatch.setattr(program.subprocess, "Popen", Process)
    file = tmp_path / "plan.toml"
    assert answer("--output", str(tmp_path / "plan"), start=True)[0] == 7
    assert started[0] == [sys.executable, str(ROOT / "train_network.py"), "--config_file", str(file)]


def test_excluded_tags_leave_the_captions_after_a_yes(answer, tmp_path):
    data = tmp_path / "写真 data"
    shutil.copytree(GIVEN["train_data_dir"], data)
    assert answer(train_data_dir=str(data), excluded_tags="solo、bright", prune=True)[0] == 0
    caption = (data / "10_zobi" / "003.txt").read_text(encoding="utf-8")
    assert caption.strip() == "zobi, green, medium, bottom, white background"


def test_captions_stay_as_they_were_without_a_yes(answer, monkeypatch, capsys):
    ran = []
    monkeypatch.setattr(program.subprocess, "run", lambda words, check: ran.append(words))
    assert answer(excluded_tags="solo")[0] == 0
    assert len(ran) == 1 and "--yes" not in ran[0] and "captions are as they were" in capsys.readouterr().out


def test_a_person_is_asked_again_and_ends_in_words(tmp_path, monkeypatch, capsys):
    typed = ["charakter", "1", "", "no-such-model.safetensors", f'"{GIVEN["pretrained_model_name_or_path"]}"',
             str(ROOT / "examples/dataset/10_zobi"), f"'{GIVEN['train_data_dir']}'", ""]
    monkeypatch.setenv("PREFLIGHT_LANGUAGE", "en")
    monkeypatch.setattr(sys, "stdin", io.StringIO("\n".join(typed)))
    monkeypatch.chdir(tmp_path)
    assert program.main(["--language", "ja"]) == 130
    shown = capsys.readouterr().out
    assert "「charakter」は次のどれでもありません" in shown and "使えません: 存在しないパス" in shown
    assert "出力フォルダ" in shown and "中止しました" in shown
    assert str(ROOT / "examples" / "dataset") in shown and not list(tmp_path.iterdir())


def test_paths_are_taken_as_windows_gives_them(tmp_path):
    assert bare('"C:\\絵 一\\train"') == bare("& 'C:\\絵 一\\train'") == "C:\\絵 一\\train"
    shutil.copytree(ROOT / "examples/dataset/10_zobi", tmp_path / "学習 画像" / "10_ゾビ")
    folder = picture_folder(f'"{tmp_path / "学習 画像"}" ')
    assert wizard.look_at(Path(folder)).name == "ゾビ"
    with pytest.raises(Wrong, match="one level too deep"):
        picture_folder(str(tmp_path / "学習 画像" / "10_ゾビ"))


def test_an_unambiguous_beginning_is_enough():
    assert [purpose(word) for word in ("画風", "衣装", "st", "3")] == ["style", "outfit", "style", "pose"]
    assert scheduler("lin") == "linear" and scheduler("cosine") == "cosine" and scheduler("3") == "constant"


def test_the_pictures_decide_size_and_captions_decide_shuffling():
    pictures = wizard.look_at(Path(GIVEN["train_data_dir"]))
    assert pictures.shared_first and pictures.folders == (FolderCount(16, 10),) and pictures.name == "zobi"
    facts = wizard.Facts(pictures)
    assert wizard.DEFAULTS["resolution"]({}, facts) == "64,64"
    assert wizard.DEFAULTS["shuffle_caption"]({}, facts) is True
    assert wizard.DEFAULTS["shuffle_caption"]({}, wizard.Facts(wizard.Pictures(captions=("a photo of a red fox",)))) is False


def test_a_question_without_default_must_be_answered():
    talk = wizard_talk.FromFile("a.json", {}, "en", lambda line: None)
    with pytest.raises(UserError, match="There is no answer to: 3/24 Base model"):
        wizard_talk.converse(talk, wizard.Facts(), program.of_model, {})


def test_every_sentence_of_the_wizard_stands_in_japanese():
    said = {text for question in QUESTIONS for text in (question.ask, question.why)}
    said |= {one.advice for one in PURPOSES.values()} | {wizard.AT_ONE.why, wizard.ABOVE.why, "none", "yes", "no"}
    for file in (ROOT / "tools/wizard.py", *(ROOT / "library/study").glob("wizard*.py")):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "say" and isinstance(node.args[0], ast.Constant):
                said.add(node.args[0].value)
    assert sorted(said - set(table("ja"))) == []


def test_the_answers_in_the_documentation_are_right(answer):
    page = (ROOT / "docs" / "from-pictures-to-file.md").read_text(encoding="utf-8")
    answers = json.loads(re.search(r"```json\n(.*?)```", page, re.S)[1])
    known = {question.key for question in QUESTIONS} | {"overwrite", "prune", "start"}
    assert set(answers) <= known
    code, file = answer(**{key: value for key, value in answers.items() if key not in (*GIVEN, "output_dir", "start")})
    assert code == 0 and "learning_rate = 0.001" in file.read_text(encoding="utf-8")
