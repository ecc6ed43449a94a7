"""Checks of folders and small files: can they be written, read, and are they where they should be?"""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path

from library.config.sections import lora_with_strength
from library.preflight.registry import Context, check
from library.preflight.words import is_unfilled
from library.util.records import Problem

TEXT_FLAGS = ("sample_prompts", "in_json", "log_tracker_config")
"""Those of settings and data sets are judged where they are read."""
LONGEST_WINDOWS_PATH = 259


def path_of(context: Context, name: str) -> Path | None:
    """A path flag as a path, None where it is not given."""
    value = str(context.flag(name) or "").strip(" \t\"'")  # the check of quotation marks speaks of them
    return (context.cwd / Path(value).expanduser()) if value else None


@check("output_dir_unwritable", level="files", row="F46")
def check_output_dir(context: Context) -> Iterator[Problem]:
    """The output and log folders can be made and written to, tried with a small file."""
    for name in ("output_dir", "logging_dir"):
        folder = path_of(context, name)
        if folder is None:
            continue
        if folder.is_file():
            yield context.stop("output_dir_unwritable.file", f"--{name}", name=name, path=folder)
            continue
        reason = why_unwritable(folder)
        if reason:
            yield context.stop("output_dir_unwritable", f"--{name}", name=name, path=folder, reason=reason)


def why_unwritable(folder: Path) -> str:
    """Try to write into a folder, or into the nearest one above it that exists; "" where it works, else the reason."""
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    if folder.is_file():
        return f"{folder} is a file"
    try:
        with tempfile.NamedTemporaryFile(dir=folder, prefix=".write-test-"):
            return ""
    except OSError as error:
        return error.strerror or str(error)


@check("output_exists", level="files", row="F21")
def check_output_exists(context: Context) -> Iterator[Problem]:
    """Files of an earlier run under the same name are announced before they are replaced."""
    folder, name = path_of(context, "output_dir"), context.flag("output_name") or "last"
    if folder is None or not folder.is_dir():
        return
    ending = context.flag("save_model_as") or "safetensors"
    pattern = re.compile(rf"{re.escape(name)}(-\d+|-step\d+)?\.{ending}", re.IGNORECASE)
    found = sorted(entry for entry in os.listdir(folder) if pattern.fullmatch(entry))
    if found:
        yield context.note(
            "output_exists", "--output_name", name=name, folder=folder, count=len(found), first=found[0], ending=ending
        )


@check("output_in_data", level="files", row="F33")
def check_output_in_data(context: Context) -> Iterator[Problem]:
    """Output inside the training folder would be taken for training data next time."""
    output, data = path_of(context, "output_dir"), path_of(context, "train_data_dir")
    if output and data and (output.resolve() == data.resolve() or data.resolve() in output.resolve().parents):
        yield context.warn("output_in_data", "--output_dir", output=output, data=data)


@check("text_file_missing", level="files", row="F45")
def check_text_files(context: Context) -> Iterator[Problem]:
    """Files of prompts and captions exist and are text in UTF-8."""
    for name in TEXT_FLAGS:
        path = path_of(context, name)
        if path is None:
            continue
        if not path.is_file():
            near = _near_name(path)
            yield context.stop("text_file_missing.near" if near else "text_file_missing", f"--{name}", path=path, near=near)
            continue
        encoding = encoding_of(path.read_bytes())
        if encoding == "?":
            yield context.stop("text_file_missing.binary", f"--{name}", path=path)
        elif encoding != "utf-8":
            yield context.warn("text_file_missing.encoding", f"--{name}", path=path, encoding=encoding)


def encoding_of(data: bytes) -> str:
    """Tell a text's encoding: utf-8, utf-16 by its mark, cp932, cp1252; ``?`` for what is no text."""
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        return "utf-16"
    for encoding in ("utf-8", "cp932", "cp1252"):
        try:
            text = data.decode(encoding)
        except UnicodeDecodeError:
            continue
        return "?" if "\x00" in text else encoding
    return "?"


@check("sample_prompts_empty", level="files", row="F45")
def check_prompts(context: Context) -> Iterator[Problem]:
    """The prompt file holds prompts, and its options are ones that are known."""
    path = path_of(context, "sample_prompts")
    if path is None or not path.is_file() or path.suffix.lower() not in (".txt", ""):
        return
    data = path.read_bytes()
    encoding = encoding_of(data)
    if encoding == "?":
        return
    lines = data.decode(encoding).lstrip("\ufeff").splitlines()
    prompts = [line for line in lines if line.strip() and not line.lstrip().startswith("#")]
    if not prompts:
        yield context.warn("sample_prompts_empty", "--sample_prompts", path=path)
    for line in prompts:
        for option, value in re.findall(r" --([whds]|sn|l|g)\s+(\S+)", line):
            if not re.fullmatch(r"-?\d+(\.\d+)?", value):
                yield context.warn("sample_prompts_empty.number", str(path), option=option, value=value)


@check("reg_inside_train", level="files", row="F83")
def check_reg_folder(context: Context) -> Iterator[Problem]:
    """The regularisation folder is neither the training folder nor inside it."""
    train, reg = path_of(context, "train_data_dir"), path_of(context, "reg_data_dir")
    if train is None or reg is None:
        return
    if train.resolve() == reg.resolve():
        yield context.stop("reg_inside_train.same", "--reg_data_dir", path=reg)
    elif train.resolve() in reg.resolve().parents:
        yield context.warn("reg_inside_train", "--reg_data_dir", path=reg, train=train)


@check("folder_missing", level="files", row="F01")
def check_data_folders(context: Context) -> Iterator[Problem]:
    """The folders of pictures exist; where not, the message says how far the path is right."""
    for name in ("train_data_dir", "reg_data_dir", "conditioning_data_dir"):
        path = path_of(context, name)
        if path is None or context.flag("dataset_config"):
            continue
        if path.is_file():
            yield context.stop("folder_missing.file", f"--{name}", path=path, parent=path.parent)
        elif not path.exists():
            typed = str(context.flag(name))
            if is_unfilled(context, typed):
                continue
            beside = beside_config(context, typed)
            if beside is not None:
                yield context.stop("folder_missing.beside", f"--{name}", typed=typed, cwd=context.cwd, found=beside)
                continue
            parent, near = nearest(path)
            key = "folder_missing.near" if near else "folder_missing"
            yield context.stop(key, f"--{name}", path=path, parent=parent, near=near, cwd=context.cwd)


@check("slow_drive", level="files", row="F85")
def check_drive(context: Context) -> Iterator[Problem]:
    """Pictures on a network or cloud drive are slow to read, and may vanish while they are read."""
    for name in ("train_data_dir", "output_dir"):
        path = path_of(context, name)
        if path is None:
            continue
        cloud = next(
            (part for part in path.parts if re.match(r"(?i)(onedrive|dropbox|google ?drive|icloud ?drive)", part)), None
        )
        if cloud:
            yield context.warn("slow_drive.cloud", f"--{name}", path=path, cloud=cloud)
        elif context.machine.is_network_drive(path):
            yield context.warn("slow_drive", f"--{name}", path=path)


@check("letters_in_path", level="files", row="F43")
def check_letters(context: Context) -> Iterator[Problem]:
    """bitsandbytes and compilers stumble over letters beyond ASCII in the program's own folder on Windows."""
    from library.preflight.options import optimizer_name
    from library.preflight.versions import needs_bitsandbytes

    wants = needs_bitsandbytes(optimizer_name(context)) or context.flag("torch_compile")
    if context.machine.system == "Windows" and wants and not context.machine.executable.isascii():
        thing = "--torch_compile" if context.flag("torch_compile") else "bitsandbytes"
        yield context.warn("letters_in_path", "Python", path=context.machine.executable, thing=thing)


@check("path_too_long", level="files", row="F46")
def check_path_length(context: Context) -> Iterator[Problem]:
    """Windows refuses paths of 260 characters and more, and states make them long."""
    folder = path_of(context, "output_dir")
    if context.machine.system != "Windows" or folder is None:
        return
    name = context.flag("output_name") or "last"
    longest = len(str(folder)) + len(name) + len("\\-step00000000-state\\random_states_0.pkl")
    if longest > LONGEST_WINDOWS_PATH:
        yield context.warn("path_too_long", "--output_dir", length=longest, path=folder)


@check("adapter_file_missing", level="files", row="F75")
def check_adapter_files(context: Context) -> Iterator[Problem]:
    """LoRA files to start from, or to merge first, exist."""
    names = [("network_weights", context.flag("network_weights"))]
    names += [("base_weights", value) for value in context.flag("base_weights") or ()]
    if assistant := context.flag("assistant_lora"):
        names.append(("assistant_lora", lora_with_strength(assistant)[0]))
    for name, value in names:
        if not value:
            continue
        path = context.cwd / Path(str(value)).expanduser()
        if not path.is_file():
            parent, near = nearest(path)
            key = "adapter_file_missing.near" if near else "adapter_file_missing"
            yield context.stop(key, f"--{name}", path=path, parent=parent, near=near)


def beside_config(context: Context, typed: str) -> Path | None:
    """What was typed as a relative path, where it leads somewhere from the folder of the config file alone."""
    config = context.flag("config_file")
    if not config or Path(typed).expanduser().is_absolute() or (context.cwd / typed).exists():
        return None
    found = (context.cwd / Path(str(config)).expanduser()).parent / typed
    return found if found.exists() else None


def nearest(path: Path, count: int = 3) -> tuple[Path, str]:
    """The deepest folder of a path that exists, and the names in it that are nearest to what was typed ("" = none)."""
    import difflib

    parent, wrong = path, path.name
    while not parent.is_dir() and parent != parent.parent:
        parent, wrong = parent.parent, parent.name
    try:
        names = [n for n in os.listdir(parent) if not n.startswith(".")]
    except OSError:
        return parent, ""
    lower = {n.lower(): n for n in names}
    close = [lower[m] for m in difflib.get_close_matches(wrong.lower(), lower, count, 0.6)]
    starts = [n for n in names if n.lower().startswith((wrong.lower() + " ", wrong.lower() + "."))][:count]
    return parent, ", ".join(dict.fromkeys(starts + close))


def _near_name(path: Path) -> str:
    return nearest(path)[1]
