"""Studies: combinations and their names, what a broken-off study does when it is started again, its page."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from library.study import runs
from library.util.records import UserError

ROOT = Path(__file__).resolve().parents[2]


def names(*vary):
    return [run.name for run in runs.combinations(vary, "train_network.py")]


def test_every_combination_has_a_name_that_carries_its_settings():
    assert names("network_dim=1,128", "network_alpha=1,=dim", "unet_lr=5e-5,1e-3") == [
        "dim1_alpha1_lr5e-5", "dim1_alpha1_lr1e-3",  # alpha 1 and alpha = dim are one run at dim 1
        "dim128_alpha1_lr5e-5", "dim128_alpha1_lr1e-3", "dim128_alpha128_lr5e-5", "dim128_alpha128_lr1e-3"]
    assert names("optimizer_args=weight_decay=0.1") == ["optimizer_argsweight_decay-0.1"]


@pytest.mark.parametrize("word", ["netwrok_dim=1", "network_dim=", "output_name=a", "network_alpha==dim"])
def test_what_cannot_be_varied_is_refused_with_the_way_out(word):
    with pytest.raises(UserError) as caught:
        runs.combinations([word], "train_network.py")
    assert caught.value.problems[0].remedy


STUB = '''
import json, os, signal, sys, pathlib, numpy
from safetensors.numpy import save_file
flags = dict(word[2:].split("=", 1) for word in sys.argv[1:] if "=" in word)
folder, name, log = pathlib.Path(flags["output_dir"]), flags["output_name"], pathlib.Path(__file__).with_name("calls.txt")
with log.open("a") as calls: calls.write(name + "\\n")
if len(log.read_text().splitlines()) == 3 and "kill" in flags: os.kill(os.getppid(), signal.SIGKILL)
if flags["network_dim"] == "7": sys.exit("dim 7 fails")
journal = folder / f"{name}-report" / "log.jsonl"
journal.parent.mkdir(exist_ok=True)
journal.write_text("".join(json.dumps({"step": n, "loss": float(flags["network_dim"]) / n}) + "\\n" for n in range(1, 9)))
save_file({"lora_unet_a.lora_down.weight": numpy.ones((1, 2), "f4"), "lora_unet_a.lora_up.weight": numpy.ones((2, 1), "f4")},
          folder / f"{name}.safetensors")
'''
DRIVER = '''
import sys, pathlib
sys.path.insert(0, {root!r})
from library.study import runs, study_page, settings
folder = pathlib.Path(sys.argv[1])
made = runs.combinations(["network_dim=1,2,7", "network_alpha=1,4"], "train_network.py")
study = runs.Study(pathlib.Path("base.toml"), settings.read(folder / "base.toml"), tuple(made), folder / "study")
whole = runs.Study.command
runs.Study.command = lambda self, run: [sys.executable, str(folder / "stub.py"), *whole(self, run)[2:], *sys.argv[2:]]
runs.perform(study, tell=lambda text: None)
found = study_page.Outcomes(study, tuple(study_page.outcome(study, run) for run in made))
(folder / "page.html").write_text(study_page.page(found), encoding="utf-8")
'''


def study_in(folder, *more):
    folder.mkdir(exist_ok=True)
    (folder / "stub.py").write_text(STUB, encoding="utf-8")
    (folder / "base.toml").write_text('output_dir = "out"\noutput_name = "a"\nnetwork_module = "networks.lora"\n', encoding="utf-8")
    return subprocess.run([sys.executable, "-c", DRIVER.format(root=str(ROOT)), str(folder), *more], check=False,
                          capture_output=True, text=True).returncode


BESIDE = '''
import json, os, pathlib, sys, time
flags = dict(word[2:].split("=", 1) for word in sys.argv[1:] if "=" in word)
folder, card = pathlib.Path(flags["output_dir"]), os.environ["CUDA_VISIBLE_DEVICES"]
(folder / "seen.json").write_text(json.dumps([card, flags["output_dir"], flags["output_name"], flags["log_prefix"]]))
here = pathlib.Path(__file__).parent
(here / f"on_{card}").touch()
deadline = time.time() + 20
while not all((here / f"on_{other}").exists() for other in "02") and time.time() < deadline:
    time.sleep(0.02)
if time.time() > deadline: sys.exit("no other run came")
(folder / (flags["output_name"] + ".safetensors")).touch()
'''


def test_with_gpus_one_run_trains_on_each_at_a_time_and_they_share_no_file(tmp_path, monkeypatch):
    from library.study import settings

    stub, base = tmp_path / "stub.py", tmp_path / "base.toml"
    stub.write_text(BESIDE, encoding="utf-8")
    lines = ('output_dir = "out"', 'output_name = "a"', 'logging_dir = "logs"', 'network_module = "networks.lora"')
    base.write_text("\n".join(lines), encoding="utf-8")
    whole = runs.Study.command
    monkeypatch.setattr(runs.Study, "command", lambda self, run: [sys.executable, str(stub), *whole(self, run)[2:]])
    made = runs.combinations(["network_dim=1,2,4"], "train_network.py")
    study = runs.Study(base, settings.read(base), tuple(made), tmp_path / "study")
    runs.perform(study, ["0", "2"], lambda line: None)
    seen = [json.loads((tmp_path / "study" / run.name / "seen.json").read_text(encoding="utf-8")) for run in made]
    assert {card for card, *_ in seen} == {"0", "2"}
    assert all(len({one[place] for one in seen}) == 3 for place in (1, 2, 3)), "folder, name, prefix of the log"
    assert all(study.state(run)["code"] == 0 for run in made)


@pytest.mark.skipif(sys.platform == "win32", reason="kills as POSIX does")
def test_a_study_killed_in_its_third_run_repeats_no_finished_run_and_gives_the_page_of_an_unbroken_one(tmp_path):
    broken, unbroken = tmp_path / "broken", tmp_path / "unbroken"
    assert study_in(broken, "--kill=1") != 0
    assert not (broken / "page.html").exists()
    assert study_in(broken) == 0
    calls = (broken / "calls.txt").read_text().splitlines()
    assert calls[:3] == ["a_dim1_alpha1", "a_dim1_alpha4", "a_dim2_alpha1"]
    assert calls[3:] == ["a_dim2_alpha1", "a_dim2_alpha4", "a_dim7_alpha1", "a_dim7_alpha4"]  # the failed ones end nothing
    assert study_in(unbroken) == 0
    page = (broken / "page.html").read_text(encoding="utf-8")
    assert page == (unbroken / "page.html").read_text(encoding="utf-8")
    assert page.count("<tr>") >= 7 and "failed: dim 7 fails" in page and page.count("<svg") == 1
