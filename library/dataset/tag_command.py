"""``dataset.py tag``: write what a WD14 tagger sees in each picture into its caption."""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from library.data import files
from library.util.command import within
from library.util.records import UserError
from library.util.said import say

from . import tagger, tags
from .journal import Change
from .places import text_caches
from .shared import add_place, add_yes, few, place, settle, tell

REPO = "SmilingWolf/wd-v1-4-convnext-tagger-v2"
KINDS = ("general", "character", "copyright", "artist", "meta")


def add_flags(parser: argparse.ArgumentParser) -> None:
    add_place(parser)
    add_tagging(parser)
    add_yes(parser)


def add_tagging(parser: argparse.ArgumentParser) -> None:
    """Flags that this command and kohya's script share."""
    add = parser.add_argument
    add("--repo_id", default=REPO, help=f"the tagger: a hub id or a folder with {tagger.MODEL} and {tagger.LABELS} (%(default)s)")
    add("--model_dir", default="wd14_tagger_model", help="where loaded taggers are kept")
    add("--force_download", action="store_true", help="load the tagger again")
    add("--batch_size", type=within(int, 1), default=1)
    add("--max_data_loader_n_workers", type=within(int, 0), default=2, help="threads that read pictures")
    add("--thresh", type=within(float, 0, 1), default=0.35, help="least probability of a tag (%(default)s; 0.35 to 0.5 are usual)")
    for kind in KINDS:
        add(f"--{kind}_threshold", type=within(float, 0, 1), help=f"the same for {kind} tags, where it differs")
    add("--remove_underscore", action="store_true", help="spaces instead of underscores, except in faces")
    add("--undesired_tags", default="", help='tags that are never written: "1girl, solo"')
    add("--append_tags", action="store_true", help="add to captions that are there instead of replacing them")
    add("--always_first_tags", help="of the tags found, these come first")
    add("--caption_separator", default=", ", help="between tags")
    add("--tag_replacement", help='"old,new;old2,new2"')
    add("--character_tags_first", action="store_true")
    add("--character_tag_expand", action="store_true", help="name_(series) becomes two tags")
    add("--use_rating_tags", action="store_true", help="the most likely rating first")
    add("--use_rating_tags_as_last_tag", action="store_true", help="the most likely rating last")
    add("--frequency_tags", action="store_true", help="list how often each tag was found")


def choice(args: argparse.Namespace) -> tagger.Choice:
    """What the flags ask for. Raises UserError."""
    sign = args.caption_separator.strip() or ","
    given = {kind: value for kind in KINDS if (value := getattr(args, f"{kind}_threshold")) is not None}
    return tagger.Choice(
        thresholds={"general": args.thresh, "character": args.thresh} | given,
        undesired=frozenset(tags.parse(args.undesired_tags, sign)), remove_underscore=args.remove_underscore,
        character_tags_first=args.character_tags_first, character_tag_expand=args.character_tag_expand,
        rating="first" if args.use_rating_tags else "last" if args.use_rating_tags_as_last_tag else "",
        always_first=tuple(tags.parse(args.always_first_tags or "", sign)),
        replacement=tagger.read_replacement(args.tag_replacement), separator=args.caption_separator)


def tag_all(args: argparse.Namespace, pictures: Sequence[Path]) -> dict[Path, list[str]]:
    """The tags of all pictures that can be read; the others are named."""
    wanted = choice(args)
    model = tagger.Tagger(tagger.find_model(args.repo_id, Path(args.model_dir), args.force_download))
    found: dict[Path, list[str]] = {}
    for path, one in model.tag(pictures, wanted, args.batch_size, args.max_data_loader_n_workers or 2):
        if isinstance(one, UserError):
            tell(say("left out: {name}: {what}", name=path, what=one.problems[0].what))
        else:
            found[path] = one
    if args.frequency_tags:
        for tag, count in Counter(tag for one in found.values() for tag in one).most_common():
            tell(f"{tag}: {count}")
    return found


def caption_text(found: Sequence[str], file: Path, args: argparse.Namespace) -> str:
    """The new caption: the tags, after those that are there where they are to be added."""
    before: list[str] = []
    if args.append_tags and file.is_file():
        text = args.caption_separator.join(line for line in files.read_caption(file).lines if line)
        before = tags.parse(text, args.caption_separator.strip() or ",")
    return args.caption_separator.join([*before, *(tag for tag in found if tag not in before)])


def changes(texts: dict[Path, tuple[Path, str]]) -> list[Change]:
    """Captions to write, by picture: (file, text); cached text outputs of the old captions go aside."""
    found = {file: Change(file, partial(str.encode, text + "\n", "utf-8")) for file, text in texts.values()}
    for picture in texts:
        found |= {stale: Change(stale) for stale in text_caches(picture)}
    return list(found.values())


def work(args: argparse.Namespace) -> None:
    data = place(args)
    folders = {path: folder for folder, path in data.pictures()}
    found = tag_all(args, list(folders))
    texts = {}
    for picture, one in found.items():
        file = folders[picture].new_caption_of(picture)
        texts[picture] = file, caption_text(one, file, args)
    few([f"{data.label(file)}\n  + {text}" for file, text in texts.values()])
    settle(data, "tag", changes(texts), args.yes)
