"""The verdict at the end of a run: what it rests on, what it costs, that it changes nothing."""

import json
import shutil
from pathlib import Path

import pytest

from library.study import trial
from library.train import diagnosing

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def judged(train, monkeypatch):
    """Runs of a few steps that are judged all the same."""
    monkeypatch.setattr(diagnosing, "WORTH", 1)

    def run(name, **flags):
        made = train(name, max_train_steps=2, **flags)
        file = made.folder / f"{name}-report" / "diagnosis.json"
        return made, json.loads(file.read_text(encoding="utf-8")) if file.is_file() else None

    return run


def test_the_verdict_can_be_left_out(judged, capsys):
    with_it, told = judged("with")
    assert "diagnosis: " in capsys.readouterr().out
    without, nothing = judged("without", no_diagnosis=True)
    assert told["verdict"] in ("undertrained", "good", "overtrained") and nothing is None
    assert "diagnosis: " not in capsys.readouterr().out
    assert with_it.losses == without.losses
    assert {k: v.tolist() for k, v in with_it.tensors().items()} == {k: v.tolist() for k, v in without.tensors().items()}


def test_other_pictures_are_those_of_regularisation_or_the_base_models_own(judged):
    _, own = judged("own")
    _, theirs = judged("theirs", reg_data_dir=ROOT / "examples" / "regularisation", cache_latents=True)
    assert own["figures"]["loss on others"] != theirs["figures"]["loss on others"]
    page = (Path("out") / "theirs-report" / "report.html").read_text(encoding="utf-8")
    assert "<h2>Diagnosis</h2>" in page


def test_a_verdict_costs_a_few_hundredths_of_the_run():
    assert diagnosing.affordable(diagnosing.WORTH - 1) == 0
    strengths, others = len(trial.STRENGTHS), 1 / diagnosing.TO_OTHERS
    for drawn in (0, trial.STEPS):  # steps of each picture that the base model draws where there is no regularisation
        for seen, most in ((diagnosing.WORTH, 0.2), (2500, 0.03), (4000, 0.03), (30000, 0.03)):
            assert diagnosing.affordable(seen) * (strengths + others * (strengths + drawn)) <= most * 3 * seen
    assert diagnosing.affordable(10**6) == diagnosing.MOST


def test_few_pictures_are_tried_in_every_band_and_many_in_one_or_two(judged, monkeypatch):
    tried, measure = [], trial.measure

    def recorded(subject, batches, bands=3):
        tried.append((sum(map(len, batches)), bands))
        return measure(subject, batches, bands)

    monkeypatch.setattr(trial, "measure", recorded)
    judged("sixteen")
    six = Path("train") / "10_zobi"
    six.mkdir(parents=True)
    for path in sorted((ROOT / "examples" / "dataset" / "10_zobi").iterdir())[:12]:
        shutil.copy(path, six)
    judged("six", train_data_dir=six.parent)
    assert tried == [(8, 1), (16, 2), (8, 1), (6, 3)]
