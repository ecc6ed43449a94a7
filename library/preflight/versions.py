"""Checks of the installation: Python, packages and their versions, all from metadata, without importing any."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from library.preflight.machine import normal
from library.preflight.registry import Context, check
from library.util.records import Problem

NEEDED = (
    "torch",
    "diffusers",
    "transformers",
    "tokenizers",
    "accelerate",
    "safetensors",
    "huggingface-hub",
    "numpy",
    "pillow",
    "toml",
    "tqdm",
    "packaging",
)
"""Packages without which nothing runs."""
TESTED = {
    "torch": ">=2.6,<=2.13.0",
    "diffusers": ">=0.42,<0.43",
    "transformers": ">=5.6,<5.24",
    "tokenizers": ">=0.22,<0.24",
    "accelerate": ">=1.10,<1.16",
    "safetensors": ">=0.8,<0.9",
    "huggingface-hub": ">=1.33,<3",
    "numpy": ">=2.0,<2.5",
    "pillow": ">=11,<14",
    "peft": ">=0.19,<0.22",
}
"""Ranges that the project is tested with; requirements.txt says the same."""
LATER = {
    "opencv-python": "4.10",
    "opencv-python-headless": "4.10",
    "scipy": "1.13",
    "pandas": "2.2.2",
    "matplotlib": "3.9",
    "xformers": "0.0.27",
    "onnxruntime": "1.19",
}
"""First version of a package with compiled parts that was built for NumPy 2."""
CORE = ("diffusers", "transformers", "tokenizers", "accelerate", "huggingface-hub", "safetensors", "torchvision", "torch")
"""Packages whose unmet requirements break the import of what every run needs (transformers imports torchvision)."""
SIDE = ("peft", "bitsandbytes", "tensorboard", "wandb", "lycoris-lora")
"""Packages whose unmet requirements are worth a warning."""
PROTOBUF_LIMIT = {"tensorboard": ("2.10", "4"), "onnx": ("1.13", "4"), "tensorflow": ("2.12", "4")}
"""Package -> (first version that works with newer protobuf, the protobuf major from which older ones fail)."""


@check("python_version", level="words", row="F56")
def check_python(context: Context) -> Iterator[Problem]:
    """Python must be 3.11 or newer, and 64 bits."""
    version = context.machine.python
    shown = ".".join(str(n) for n in version)
    if version < (3, 11):
        yield context.stop("python_version", "Python", version=shown, executable=context.machine.executable)
    if context.machine.bits != 64:
        yield context.stop("python_version.bits", "Python", bits=context.machine.bits)


@check("packages_missing", level="words", row="F56")
def check_packages(context: Context) -> Iterator[Problem]:
    """All packages that are missing, in one line."""
    missing = [name for name in NEEDED if name not in context.machine.packages]
    if missing:
        yield context.stop("packages_missing", "Python", missing=", ".join(missing), python=context.machine.executable)


@check("versions_tested", level="words", row="F60")
def check_tested(context: Context) -> Iterator[Problem]:
    """Installed versions outside the ranges that are tested; too old stops, too new warns."""
    from packaging.specifiers import SpecifierSet
    from packaging.version import Version

    old, new = [], []
    for name, wanted in TESTED.items():
        text = context.machine.packages.get(name)
        if text is None:
            continue
        version, accepted = Version(text), SpecifierSet(wanted, prereleases=True)
        if Version(version.public) in accepted:
            continue
        lower = min((Version(s.version) for s in accepted if s.operator == ">="), default=version)
        (old if version < lower else new).append(f"{name} {text} ({wanted})")
    if old:
        yield context.stop("versions_tested.old", "Python packages", found="; ".join(old), python=context.machine.executable)
    if new:
        yield context.warn("versions_tested.new", "Python packages", found="; ".join(new), python=context.machine.executable)


@check("versions_disagree", level="words", row="F14")
def check_requirements(context: Context) -> Iterator[Problem]:
    """Each package's own requirements, compared with what is installed."""
    from packaging.requirements import InvalidRequirement, Requirement

    packages = context.machine.packages
    for name in (*CORE, *SIDE):
        if name not in packages:
            continue
        for line in context.machine.requires(name):
            try:
                wanted = Requirement(line)
            except InvalidRequirement:
                continue
            have = packages.get(normal(wanted.name))
            if have is None or (wanted.marker is not None and not wanted.marker.evaluate({"extra": ""})):
                continue
            if not wanted.specifier.contains(_public(have), prereleases=True):
                yield context.problem(
                    "stop" if name in CORE else "warn",
                    "versions_disagree",
                    f"{name} {packages[name]}",
                    name=name,
                    version=packages[name],
                    other=wanted.name,
                    wanted=str(wanted.specifier),
                    have=have,
                    python=context.machine.executable,
                )


def _public(version: str) -> str:
    """Drop the build tag, so that 2.13.0+cpu meets ==2.13.0."""
    return version.split("+")[0]


@check("numpy_two", level="words", row="F37")
def check_numpy(context: Context) -> Iterator[Problem]:
    """Packages built for NumPy 1 break under NumPy 2."""
    from packaging.version import Version

    packages = context.machine.packages
    if Version(packages.get("numpy", "0")) < Version("2"):
        return
    old = [
        f"{name} {packages[name]}"
        for name, first in LATER.items()
        if name in packages and Version(_public(packages[name])) < Version(first)
    ]
    if old:
        yield context.stop(
            "numpy_two",
            "numpy",
            old=", ".join(old),
            numpy=packages["numpy"],
            python=context.machine.executable,
            names=" ".join(o.split()[0] for o in old),
        )


@check("protobuf_new", level="words", row="F71")
def check_protobuf(context: Context) -> Iterator[Problem]:
    """Old TensorBoard, onnx or TensorFlow fail under a newer protobuf."""
    from packaging.version import Version

    packages = context.machine.packages
    protobuf = packages.get("protobuf")
    if protobuf is None:
        return
    for name, (first, major) in PROTOBUF_LIMIT.items():
        if name in packages and Version(packages[name]) < Version(first) and Version(protobuf) >= Version(major):
            yield context.warn(
                "protobuf_new",
                "protobuf",
                protobuf=protobuf,
                name=name,
                version=packages[name],
                python=context.machine.executable,
            )


@check("wrong_library", level="words", row="F10")
def check_library_folder(context: Context) -> Iterator[Problem]:
    """The package "library" must be this project's, not another trainer's."""
    here = context.machine.repository.resolve()
    if not Path(context.machine.library_path).resolve().is_relative_to(here):
        yield context.stop("wrong_library", "library", path=context.machine.library_path, here=here)


@check("venv_asleep", level="words", row="F30")
def check_venv(context: Context) -> Iterator[Problem]:
    """A virtual environment lies beside the script but is not in use."""
    if context.machine.in_venv:
        return
    for name in ("venv", ".venv"):
        folder = context.machine.repository / name
        if (folder / "pyvenv.cfg").is_file():
            windows = context.machine.system == "Windows"
            line = f".\\{name}\\Scripts\\Activate.ps1" if windows else f"source {name}/bin/activate"
            yield context.warn("venv_asleep", "Python", executable=context.machine.executable, folder=folder, line=line)
            return


@check("bitsandbytes_old", level="words", row="F13")
def check_bitsandbytes(context: Context) -> Iterator[Problem]:
    """bitsandbytes before 0.43 has no Windows build."""
    from packaging.version import Version

    from library.preflight.options import optimizer_name

    version = context.machine.packages.get("bitsandbytes")
    name = optimizer_name(context)
    if version and needs_bitsandbytes(name) and context.machine.system == "Windows" and Version(version) < Version("0.43"):
        yield context.stop(
            "bitsandbytes_old", "--optimizer_type", name=name, version=version, python=context.machine.executable
        )


def needs_bitsandbytes(name: str) -> bool:
    """Tell whether an optimizer's name leads to bitsandbytes."""
    lower = name.lower()
    return "8bit" in lower or lower.startswith(("paged", "bitsandbytes."))


@check("xformers_pair", level="words", row="F03")
def check_xformers_pair(context: Context) -> Iterator[Problem]:
    """Where xformers is missing or made for another torch, torch's own attention serves the flag."""
    from packaging.requirements import Requirement

    if not context.flag("xformers"):
        return
    packages = context.machine.packages
    if "xformers" not in packages:
        yield context.note("xformers_pair.missing", "--xformers")
        return
    for line in context.machine.requires("xformers"):
        wanted = Requirement(line)
        if wanted.name == "torch" and not wanted.specifier.contains(_public(packages.get("torch", "0")), prereleases=True):
            yield context.warn(
                "xformers_pair",
                "--xformers",
                version=packages["xformers"],
                wanted=str(wanted.specifier),
                torch=packages.get("torch", "?"),
            )


@check("triton_missing", level="words", row="F39")
def check_triton(context: Context) -> Iterator[Problem]:
    """Compiling the model with the usual backend needs Triton; nothing else does."""
    inductor = (context.flag("dynamo_backend") or "inductor") == "inductor"
    installed = {"triton", "triton-windows", "pytorch-triton"} & set(context.machine.packages)
    if context.flag("torch_compile") and inductor and not installed:
        windows = context.machine.system == "Windows"
        yield context.stop(
            "triton_missing",
            "--torch_compile",
            package="triton-windows" if windows else "triton",
            python=context.machine.executable,
        )


@check("deepspeed_missing", level="words", row="F82")
def check_deepspeed(context: Context) -> Iterator[Problem]:
    """DeepSpeed is a package of its own, and not one for Windows."""
    if context.flag("deepspeed") and "deepspeed" not in context.machine.packages:
        yield context.stop("deepspeed_missing", "--deepspeed", python=context.machine.executable)
