"""The verdict at the end of a run: what it rests on, what it costs, that it changes nothing."""

import json

import pytest

from library.study import trial
from library.train import diagnosing


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
    from pathlib import Path

    examples = Path(__file__).resolve().parents[2] / "examples"
    _, own = judged("own")
    _, theirs = judged("theirs", reg_data_dir=examples / "regularisation", cache_latents=True)
    assert own["figures"]["loss on others"] != theirs["figures"]["loss on others"]
    page = (Path("out") / "theirs-report" / "report.html").read_text(encoding="utf-8")
    assert "<h2>Diagnosis</h2>" in page


def test_a_verdict_costs_a_few_hundredths_of_the_run():
    assert diagnosing.affordable(diagnosing.WORTH - 1) == 0
    each = (len(trial.BANDS) + 1) * len(trial.STRENGTHS) + trial.STEPS
    for seen, most in ((diagnosing.WORTH, 0.12), (1700, 0.03), (4000, 0.03), (30000, 0.03)):
        assert diagnosing.affordable(seen) * each <= most * 3 * seen
    assert diagnosing.affordable(10**6) == diagnosing.MOST
