"""train_network.py, with what every process trains on written to ``BATCHES/<rank>.json``: step, kind, strength, folders."""

import json
import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from library.train import stages
from library.train.run import main

choose = stages.choose_objective


def recorder(seen: list):
    """``choose_objective``, whose objectives note each batch in ``seen`` before they train on it."""

    def choosing(config, plan, guide=None):
        objective = choose(config, plan, guide)

        def noting(session, batch):
            folders = sorted({Path(key).parent.name for key in batch.keys})
            seen.append([session.progress.step, batch.kind, batch.strength, folders, len(batch)])
            return objective(session, batch)

        return noting

    return choosing


if __name__ == "__main__":
    seen: list = []
    stages.choose_objective = recorder(seen)
    code = main()
    (Path(os.environ["BATCHES"]) / f"{os.environ['RANK']}.json").write_text(json.dumps(seen), encoding="utf-8")
    sys.exit(code)
