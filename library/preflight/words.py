"""Checks of what was typed, from the flags' values alone: what is missing, and what a shell did to it."""

from __future__ import annotations

import re
from collections.abc import Iterator

from library.preflight.registry import Context, check
from library.util.records import Problem
from library.util.secrets import has_secret

PATH_FLAGS = (
    "pretrained_model_name_or_path",
    "vae",
    "train_data_dir",
    "reg_data_dir",
    "in_json",
    "dataset_config",
    "output_dir",
    "logging_dir",
    "resume",
    "network_weights",
    "sample_prompts",
    "conditioning_data_dir",
    "config_file",
    "console_log_file",
    "tokenizer_cache_dir",
    "log_tracker_config",
)
SECRET_FLAGS = ("huggingface_token", "wandb_api_key")
TRAINED_ENDINGS = (".safetensors", ".ckpt", ".pt")


@check("network_module_unknown", level="words", row="F10")
def check_module_exists(context: Context) -> Iterator[Problem]:
    """The adapter's module must be there."""
    name = context.flag("network_module")
    from networks import registry

    if not name or registry.is_ours(str(name)) or context.machine.has_module(str(name)):
        return
    if str(name).startswith("lycoris"):
        yield context.stop("network_module_unknown.lycoris", "--network_module", name=name, python=context.machine.executable)
        return
    near = _near(str(name), registry.names()) or "networks.lora"
    yield context.stop("network_module_unknown", "--network_module", name=name, near=near)


def size_of(value: object) -> tuple[int, int] | None:
    """Read a resolution as (width, height); None where it cannot be read."""
    numbers = re.split(r"\s*[,x×* ]\s*", str(value).strip(" \"'()[]"))
    if not all(n.isdigit() for n in numbers) or len(numbers) not in (1, 2):
        return None
    return int(numbers[0]), int(numbers[-1])


@check("path_quotes", level="words", row="F49")
def check_quotes(context: Context) -> Iterator[Problem]:
    """Quotation marks and blanks at the ends of a path are left over from the shell."""
    for name in PATH_FLAGS:
        value = context.flag(name)
        if isinstance(value, str) and value != value.strip(" \t\"'“”‘’") and " --" not in value:
            yield context.stop("path_quotes", f"--{name}", flag=name, value=value, clean=value.strip(" \t\"'“”‘’"))


@check("path_swallows", level="words", row="F49")
def check_swallowed(context: Context) -> Iterator[Problem]:
    r"""A path that ends with \" swallows the options behind it (Windows)."""
    for name in PATH_FLAGS:
        value = context.flag(name)
        if isinstance(value, str) and re.search(r"[\"']? --\w", value):
            clean = re.split(r"[\"']? --\w", value)[0].rstrip("\\")
            yield context.stop("path_swallows", f"--{name}", clean=clean, swallowed=len(re.findall(r" --\w", value)))


@check("path_control_characters", level="words", row="F76")
def check_control_characters(context: Context) -> Iterator[Problem]:
    r"""In a TOML file "C:\new" holds a line break, not a backslash and an n."""
    for name in (*PATH_FLAGS, "output_name"):
        value = context.flag(name)
        if isinstance(value, str) and re.search(r"[\x00-\x1f]", value):
            shown = value.encode("unicode_escape").decode("ascii")
            origin = context.origins.get(name, f"--{name}")
            yield context.stop("path_control_characters", origin if ":" in origin else f"--{name}", name=name, value=shown)


@check("output_name_bad", level="words", row="F46")
def check_output_name(context: Context) -> Iterator[Problem]:
    """The output name is a name, not a path, without an ending and without characters that Windows refuses."""
    name = context.flag("output_name")
    if not name:
        return
    if re.search(r"[/\\]", name):
        yield context.stop("output_name_bad.path", "--output_name", name=name)
    elif re.search(r'[<>:"|?*]', name) or name != name.rstrip(" .") or re.fullmatch(r"(?i)(con|prn|aux|nul|com\d|lpt\d)", name):
        yield context.problem(
            "stop" if context.machine.system == "Windows" else "warn", "output_name_bad", "--output_name", name=name
        )
    elif name.lower().endswith(TRAINED_ENDINGS):
        yield context.warn("output_name_bad.ending", "--output_name", name=name, plain=name.rsplit(".", 1)[0])


@check("caption_extension_dot", level="words", row="F26")
def check_caption_extension(context: Context) -> Iterator[Problem]:
    """The ending of caption files begins with a dot."""
    value = context.flag("caption_extension")
    if value and not str(value).startswith("."):
        yield context.warn("caption_extension_dot", "--caption_extension", value=value)


@check("secret_typed", level="words", row="F72")
def check_secret_typed(context: Context) -> Iterator[Problem]:
    """A token on the command line stays in the shell's history; the environment is the place for it."""
    for name in SECRET_FLAGS:
        if context.flag(name):
            variable = "HF_TOKEN" if name == "huggingface_token" else "WANDB_API_KEY"
            yield context.warn("secret_typed", f"--{name}", variable=variable)


@check("secret_in_text", level="words", row="F72")
def check_secret_in_text(context: Context) -> Iterator[Problem]:
    """A token in a text that would be saved with the file is masked, and said so."""
    for name, value in context.flags.items():
        if name not in SECRET_FLAGS and isinstance(value, str) and has_secret(value):
            yield context.warn("secret_in_text", f"--{name}")


@check("unset_placeholder", level="words", row="F75")
def check_placeholder(context: Context) -> Iterator[Problem]:
    """A path copied from a guide without being filled in."""
    for name in ("pretrained_model_name_or_path", "train_data_dir", "output_dir", "reg_data_dir"):
        value = str(context.flag(name) or "")
        if _PLACEHOLDER.search(value):
            yield context.stop("unset_placeholder", f"--{name}", value=value)
        elif is_unfilled(context, value):
            yield context.stop("unset_placeholder.variable", f"--{name}", value=value)


_PLACEHOLDER = re.compile(r"(?i)^<.+>$|path[/\\_]to[/\\_]|^your[_ ]|ここに")
_VARIABLE = re.compile(r"%\w+%|\$env:\w+|^\$\w+|\$\{\w+\}")


def is_unfilled(context: Context, value: str) -> bool:
    """Whether a path is a guide's example, or holds a variable that the shell did not fill in; no such file exists."""
    return bool(_PLACEHOLDER.search(value) or _VARIABLE.search(value)) and not (context.cwd / value).exists()


def _near(word: str, words: list[str]) -> str:
    import difflib

    found = difflib.get_close_matches(word, words, 1, 0.5)
    return found[0] if found else ""
