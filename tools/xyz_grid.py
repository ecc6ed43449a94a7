"""Draws a grid of pictures over up to three axes: epochs, strengths, prompts, seeds, samplers, ... of LoRA files.

    python tools/xyz_grid.py --config_file train.toml --x epoch=all --y "strength=0.5-1 (+0.1)"
    python tools/xyz_grid.py --pretrained_model_name_or_path MODEL --lora out/name.safetensors --prompt "name, smile"
        --x "epoch=every 2" --y strength=0.6,0.8,1 --z "prompt=all" --sample_prompts prompts.txt --seed 42 --output grid.png

An axis is NAME=VALUES. Names: {kinds}.
The files of a run are found by the name of any of them. Beside the PNG lies a page in which pictures can be seen large.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from library.sample.prompts import PromptLine, parse_line, read_prompts
from library.sample.samplers import SAMPLERS
from library.study import axes
from library.util import command, log
from library.util.records import Problem, UserError
from library.util.said import say

HELP = {
    "lora": "LoRA file that the axes file, epoch, step and strength act on; any file of a run stands for the run",
    "strength": "its strength where no axis sets it",
    "prompt": "prompt, with the options of a prompt file behind it (--n, --w, --h, --s, --l, --d, --ss); "
              "<lora:name:0.7> in it adds a file of --lora_dir",
    "batch": "pictures in every cell, with seeds that follow one another",
    "score": "measure every cell (distance to the base model's picture) and frame the one to look at first",
    "likeness": "folder or hub id of a CLIP model: likeness to the prompt and to the pictures of --train_data_dir",
    "config_file": "settings of a training run: base model, LoRA, prompts and picture size are taken from it",
}


def setup_parser() -> argparse.ArgumentParser:
    """The flags."""
    parser = argparse.ArgumentParser(description=__doc__.format(kinds=", ".join(axes.KINDS)),
                                     formatter_class=argparse.RawDescriptionHelpFormatter,
                                     epilog="examples of axes:\n" + "\n".join(f"  {k.example}" for k in axes.KINDS.values()))
    parser.add_argument("--config_file", help=HELP["config_file"])
    parser.add_argument("--pretrained_model_name_or_path", help="base model: checkpoint, diffusers folder or hub id")
    parser.add_argument("--vae", help="another VAE")
    parser.add_argument("--clip_skip", type=command.within(int, 1), help="layers of the text encoder to leave out, as trained")
    parser.add_argument("--lora", help=HELP["lora"])
    parser.add_argument("--strength", type=float, default=1.0, help=HELP["strength"])
    parser.add_argument("--lora_dir", help="folder of LoRAs that are named without a path; the folder of --lora")
    parser.add_argument("--prompt", help=HELP["prompt"])
    parser.add_argument("--sample_prompts", help="file of prompts, one a line, for the axis prompt=all")
    side, seed, steps = (command.within(int, least) for least in (16, 0, 1))
    for name, kind, about in (("n", str, "negative prompt"), ("width", side, "width in pixels"),
                              ("height", side, "height in pixels"), ("seed", seed, "seed (42)"),
                              ("steps", steps, "sampling steps"), ("scale", float, "guidance")):
        parser.add_argument(f"--{name}", type=kind, help=about)
    parser.add_argument("--sampler", choices=list(SAMPLERS), metavar="NAME", help="sampler, by kohya's names")
    for name in "xyz":
        parser.add_argument(f"--{name}", metavar="NAME=VALUES", help=f"what changes along {name}")
    parser.add_argument("--batch", type=command.within(int, 1), default=1, help=HELP["batch"])
    parser.add_argument("--score", action="store_true", help=HELP["score"])
    parser.add_argument("--likeness", metavar="MODEL", help=HELP["likeness"])
    parser.add_argument("--train_data_dir", help="training pictures, for --likeness")
    parser.add_argument("--title", default="", help="words above the grid")
    parser.add_argument("--magnify", type=command.within(int, 1), help="whole number that pictures are magnified by in the PNG")
    parser.add_argument("--output", default="grid.png", help="PNG to write; a page of the same name lies beside it")
    parser.add_argument("--device", help="where to compute: cpu, cuda, cuda:1, mps")
    return parser


def with_config(args: argparse.Namespace) -> argparse.Namespace:
    """What is not typed is taken from the training run's settings; UserError where no model is known then."""
    if args.config_file:
        from library.study.settings import run_of

        for name, value in run_of(Path(args.config_file)).items():
            if vars(args)[name] is None:
                setattr(args, name, value)
    if not args.pretrained_model_name_or_path:
        raise UserError(Problem("--pretrained_model_name_or_path", "no base model is named",
                                "Name the model that the LoRA was trained on, or give --config_file of the run."))
    return args


def plan_of(args: argparse.Namespace) -> tuple[axes.Cell, axes.Given, tuple[axes.Axis, axes.Axis, axes.Axis]]:
    """What is to be drawn; UserError with everything that is wrong in the axes."""
    prompts = read_prompts(args.sample_prompts) if args.sample_prompts else ()
    line = parse_line(args.prompt, "--prompt") if args.prompt else prompts[0] if prompts else PromptLine("")
    typed = {"negative_prompt": args.n, "width": args.width, "height": args.height, "seed": args.seed, "steps": args.steps,
             "scale": args.scale, "sampler": args.sampler}
    line = replace(line, **{name: value for name, value in typed.items() if value is not None}, index=0)
    line = line if line.seed is not None else replace(line, seed=42)
    folder = Path(args.lora_dir) if args.lora_dir else Path(args.lora).parent if args.lora else Path()
    cell = axes.Cell(line, Path(args.lora) if args.lora else None, args.strength)
    given = axes.Given(cell, prompts, folder)
    found, problems = [], []
    for name in "xyz":
        try:
            found.append(axes.axis(vars(args)[name], given) if vars(args)[name] else axes.NOTHING)
        except UserError as error:
            problems += [replace(one, where=f"--{name} {one.where}") for one in error.problems]
    if problems:
        raise UserError(*problems)
    if cell.main is not None and all(one.order != 1 for one in found):
        cell = replace(cell, main=axes.find(args.lora, given))
    return cell, given, (found[0], found[1], found[2])


def work(args: argparse.Namespace) -> None:
    """Draw, measure where asked, write."""
    args = with_config(args)
    cell, given, (x, y, z) = plan_of(args)
    from library.study import grid, grid_files
    from library.study.drawing import Asked, open_model
    from library.study.likeness import embedder
    from library.study.material import opened, paths_of

    plan = grid.Plan(cell, z, y, x, given, args.batch)
    count = len(plan.cells()) * args.batch
    command.tell(say("{x} x {y} x {z} cells, {count:picture|pictures}; loading the model ...", x=len(x.points), y=len(y.points),
                     z=len(z.points), count=count))
    drawing = open_model(Asked(args.pretrained_model_name_or_path, {"clip_skip": args.clip_skip}, args.vae, args.device,
                               args.sampler))
    drawn = grid.draw(plan, drawing, lambda done, total: command.tell(
        say("  {done} of {total:picture|pictures}", done=done, total=total)))
    if args.score or args.likeness:
        judge = grid.Judge(embedder(args.likeness) if args.likeness else None,
                           tuple(opened(paths_of(Path(args.train_data_dir), 64))) if args.train_data_dir else ())
        drawn = grid.scored(drawn, drawing, judge)
    written = grid_files.write(drawn, Path(args.output), args.pretrained_model_name_or_path, args.title, args.magnify)
    if drawn.suggested is not None:
        command.tell(grid_files.suggestion(drawn))
    command.tell(say("grid: {path}", path=written.png))
    command.tell(say("page: {path}", path=written.page))


if __name__ == "__main__":
    log.safe_streams()
    sys.exit(command.run(setup_parser(), work))
