"""Trains every combination of settings and shows all of it on one page: losses, pictures, files, a table.

    python tools/study.py base.toml --vary network_dim=1,16,128 network_alpha=1,=dim unet_lr=5e-5,1e-4,1e-3
    python tools/study.py base.toml --vary network_dim=4,16 --output study --gpus 0,1 -- --max_train_steps=400

Each run is a process of the entry script, named after its settings. Broken off and started again, the study goes on: runs
that have finished are not repeated; those that failed are tried again. What stands behind -- goes to every run.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from library.flags import SCRIPTS
from library.report import html
from library.study import runs, settings, study_page
from library.util import command, log
from library.util.records import Problem, UserError
from library.util.said import say


def setup_parser() -> argparse.ArgumentParser:
    """The flags."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config", help="settings of the runs, a kohya config file")
    parser.add_argument("--vary", nargs="+", required=True, metavar="FLAG=VALUES", help="what is tried, every combination of it")
    parser.add_argument("--output", help="folder of the study; output_dir of the settings where it is not given")
    parser.add_argument("--script", default="train_network.py", choices=list(SCRIPTS), metavar="SCRIPT",
                        help="entry script of the runs (%(default)s)")
    parser.add_argument("--gpus", default="", help="numbers of GPUs, one run on each at a time: 0,1")
    parser.add_argument("--page_only", action="store_true", help="train nothing; make the page of what is there")
    parser.add_argument("--no_pictures", action="store_true", help="draw no pictures of the finished files")
    parser.add_argument("--device", help="where the pictures are drawn: cpu, cuda, cuda:1, mps")
    return parser


def study_of(args: argparse.Namespace, further: list[str]) -> runs.Study:
    """What is to be run; UserError with all that is wrong in the words."""
    base = settings.read(Path(args.config), args.script)
    folder = args.output or base["output_dir"]
    if not folder:
        raise UserError(Problem("--output", "no folder is named for the study", "Add --output FOLDER."))
    return runs.Study(Path(args.config), base, tuple(runs.combinations(args.vary, args.script)), Path(folder), tuple(further))


def outcomes(study: runs.Study, pictures: bool, device: str | None) -> study_page.Outcomes:
    """Read what the runs left; draw the prompts with every finished file."""
    found = tuple(study_page.outcome(study, run) for run in study.runs)
    done = [one.run for one in found if one.state == study_page.DONE]
    if not pictures or not done or not study.base["sample_prompts"]:
        return study_page.Outcomes(study, found)
    from library.sample.prompts import read_prompts
    from library.study import axes, grid
    from library.study.drawing import Asked, open_model

    lines = [line if line.seed is not None else replace(line, seed=42) for line in read_prompts(study.base["sample_prompts"])]
    cell = axes.Cell(lines[0])
    given = axes.Given(cell, tuple(lines))
    files = {run.name: run.files(study.folder, study.base["output_name"] or "").lora for run in done}
    rows = axes.Axis("file", (axes.file_point(None, "without"), *(axes.file_point(p, n) for n, p in files.items())), 1)
    plan = grid.Plan(cell, axes.NOTHING, rows, axes.axis("prompt=all", given), given)
    base = study.base
    drawing = open_model(Asked(base["pretrained_model_name_or_path"], {"clip_skip": base["clip_skip"]}, base["vae"], device,
                               base["sample_sampler"]))
    drawn = grid.scored(grid.draw(plan, drawing), drawing)
    distances = {name: sum(drawn.cells[0, y + 1, x].score.distance for x in range(len(lines))) / len(lines)
                 for y, name in enumerate(files)}
    found = tuple(replace(one, distance=distances.get(one.run.name)) for one in found)
    return study_page.Outcomes(study, found, drawn)


def main(argv: list[str]) -> int:
    """Run or resume the study, write its page; 1 where a run failed."""
    cut = argv.index("--") if "--" in argv else len(argv)
    code = 0

    def work(args: argparse.Namespace) -> None:
        nonlocal code
        study = study_of(args, argv[cut + 1:])
        if not args.page_only:
            runs.perform(study, [gpu for gpu in args.gpus.split(",") if gpu], command.tell)
        found = outcomes(study, not args.no_pictures, args.device)
        path = html.write(study.folder / "study.html", study_page.page(found))
        command.tell(say("page: {path}", path=path))
        code = int(any(one.failed for one in found.outcomes))

    return command.run(setup_parser(), work, argv[:cut]) or code


if __name__ == "__main__":
    log.safe_streams()
    sys.exit(main(sys.argv[1:]))
