"""The machine as the checks see it: every fact is read when it is first asked for, and a test can invent all of them."""

from __future__ import annotations

import os
import platform
import re
import shutil
import struct
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from importlib import metadata
from pathlib import Path
from typing import Any

from library.util.secrets import reason

GIB = 1024**3


@dataclass(frozen=True)
class Gpu:
    """One graphics card that PyTorch can use; memory in bytes."""

    name: str
    capability: tuple[int, int]
    total: int
    free: int
    bf16: bool = True


@dataclass(frozen=True)
class TorchBuild:
    """What the installed torch was built for, read from its ``version.py`` without importing it."""

    version: str
    cuda: str | None
    hip: str | None


@dataclass(frozen=True)
class GpuReport:
    """What PyTorch says about graphics cards once it is imported."""

    gpus: tuple[Gpu, ...] = ()
    arch_list: tuple[str, ...] = ()
    """Architectures the build has kernels for (``sm_86``, ``compute_90``)."""
    fault: str = ""
    """Why torch could not be imported or its devices not be counted; "" = all well."""


class Machine:
    """Facts about the computer, the installation and the environment; each is read once, on first use.

    ``Machine.read()`` is the real one, ``Machine.fake(name=value, ...)`` an RTX 3060 12 GB with all packages present,
    in which any fact can be replaced.
    """

    @classmethod
    def read(cls) -> Machine:
        """The machine this program runs on."""
        return cls()

    @classmethod
    def fake(cls, **facts: Any) -> Machine:
        """A machine made up of ``FAKE`` and ``facts``; nothing of the real one shows through."""
        unknown = set(facts) - set(FAKE)
        assert not unknown, f"Machine has no facts {unknown}"
        machine = cls()
        machine.__dict__.update({**FAKE, **facts})
        return machine

    @cached_property
    def system(self) -> str:
        """``Windows``, ``Linux`` or ``Darwin``."""
        return platform.system()

    @cached_property
    def python(self) -> tuple[int, int, int]:
        return sys.version_info[:3]

    @cached_property
    def bits(self) -> int:
        return 8 * struct.calcsize("P")

    @cached_property
    def executable(self) -> str:
        return sys.executable

    @cached_property
    def in_venv(self) -> bool:
        return sys.prefix != sys.base_prefix or "CONDA_PREFIX" in os.environ

    @cached_property
    def cpus(self) -> int:
        return os.cpu_count() or 1

    @cached_property
    def env(self) -> Mapping[str, str]:
        """Environment variables; values may be secrets and are never shown without ``secrets.mask``."""
        return dict(os.environ)

    @cached_property
    def home(self) -> Path:
        return Path.home()

    @cached_property
    def repository(self) -> Path:
        """The folder that holds ``library`` and the entry scripts."""
        return Path(__file__).resolve().parents[2]

    @cached_property
    def library_path(self) -> Path:
        """Where the package ``library`` was really imported from."""
        import library

        return Path(next(iter(library.__path__))).resolve()

    @cached_property
    def packages(self) -> Mapping[str, str]:
        """Installed distributions, normalised name -> version, without importing any of them.

        Read from the names of their metadata folders, which is many times faster than opening each METADATA file.
        """
        found: dict[str, str] = {}
        for entry in reversed([p for p in sys.path if p]):
            try:
                names = os.listdir(entry)
            except OSError:
                continue
            for name in names:
                match = re.fullmatch(r"(.+?)-([^-]+)(?:-py[\d.]+)?\.(?:dist-info|egg-info)", name)
                if match:
                    found[normal(match[1])] = match[2]
        return found

    @cached_property
    def requires(self) -> Callable[[str], tuple[str, ...]]:
        """Function: the ``Requires-Dist`` lines of an installed package."""

        def read(package: str) -> tuple[str, ...]:
            try:
                return tuple(metadata.requires(package) or ())
            except metadata.PackageNotFoundError:
                return ()

        return read

    @cached_property
    def has_module(self) -> Callable[[str], bool]:
        """Function: can a module of this name be found (it is not imported)?"""

        def found(name: str) -> bool:
            from importlib.util import find_spec

            try:
                return find_spec(name) is not None
            except (ImportError, ValueError):
                return False

        return found

    @cached_property
    def torch_build(self) -> TorchBuild | None:
        """Build of the installed torch; None where there is none."""
        from importlib.util import find_spec

        spec = find_spec("torch")
        if spec is None or spec.origin is None:
            return None
        text = (Path(spec.origin).parent / "version.py").read_text(encoding="utf-8")
        values = dict(re.findall(r"^(__version__|cuda|hip)\b[^=]*= *(?:'([^']*)'|None)", text, re.MULTILINE))
        return TorchBuild(values.get("__version__", "?"), values.get("cuda") or None, values.get("hip") or None)

    @cached_property
    def graphics(self) -> GpuReport:
        """The graphics cards as PyTorch sees them; the first use imports torch."""
        try:
            import torch
        except (ImportError, OSError) as fault:
            return GpuReport(fault=f"{type(fault).__name__}: {fault}")
        if not torch.cuda.is_available():
            return GpuReport()
        try:
            gpus = tuple(_gpu(torch, index) for index in range(torch.cuda.device_count()))
            return GpuReport(gpus, tuple(torch.cuda.get_arch_list()))
        except RuntimeError as fault:
            return GpuReport(fault=reason(fault))

    @property
    def gpus(self) -> tuple[Gpu, ...]:
        """The graphics cards that PyTorch can use (imports torch)."""
        return self.graphics.gpus

    @cached_property
    def driver_names(self) -> tuple[str, ...]:
        """Names of NVIDIA cards as the driver's own tool lists them, torch or not; () without driver."""
        import subprocess

        tool = shutil.which("nvidia-smi")
        if tool is None:
            return ()
        try:
            done = subprocess.run(
                [tool, "--query-gpu=name", "--format=csv,noheader"],
                capture_output=True,
                text=True,
                timeout=5,
                encoding="utf-8",
                errors="replace",
            )
        except (OSError, subprocess.TimeoutExpired):
            return ()
        return tuple(line.strip() for line in done.stdout.splitlines() if line.strip()) if done.returncode == 0 else ()

    @cached_property
    def memory_free(self) -> int | None:
        """Free main memory in bytes, page file included on Windows; None where it cannot be told."""
        return _memory()[1]

    @cached_property
    def memory_total(self) -> int | None:
        """Main memory in bytes; None where it cannot be told."""
        return _memory()[0]

    @cached_property
    def disk_free(self) -> Callable[[Path], int]:
        """Function: free bytes on the drive that holds (or will hold) a path."""

        def free(path: Path) -> int:
            path = Path(path).absolute()
            while not path.exists() and path != path.parent:
                path = path.parent
            return shutil.disk_usage(path).free

        return free

    @cached_property
    def is_network_drive(self) -> Callable[[Path], bool]:
        """Function: does a path lie on a network drive (UNC path, or a mapped drive on Windows)?"""

        def remote(path: Path) -> bool:
            text = str(path)
            if text.startswith(("\\\\", "//")):
                return True
            if self.system != "Windows" or not re.match(r"[A-Za-z]:", text):
                return False
            import ctypes

            return ctypes.windll.kernel32.GetDriveTypeW(text[:2] + "\\") == 4  # type: ignore[attr-defined]

        return remote

    @cached_property
    def system_files(self) -> Callable[[str], bool]:
        """Function: is a DLL of this name in Windows' system folder?"""
        root = Path(self.env.get("SystemRoot", "C:\\Windows")) / "System32"
        return lambda name: (root / name).exists()

    @cached_property
    def accelerate_config(self) -> Mapping[str, Any]:
        """accelerate's default configuration file as a table; {} where there is none."""
        path = self.accelerate_config_path
        if not path.is_file():
            return {}
        text = path.read_text(encoding="utf-8-sig", errors="replace")
        pairs = re.findall(r"^\"?(\w+)\"?: *['\"]?([^'\",\n]*)['\"]?,?\s*$", text, re.MULTILINE)
        return {name: value.strip() for name, value in pairs}

    @cached_property
    def accelerate_config_path(self) -> Path:
        """Where accelerate keeps its default configuration."""
        home = Path(self.env.get("HF_HOME") or Path(self.env.get("XDG_CACHE_HOME") or self.home / ".cache") / "huggingface")
        return home / "accelerate" / "default_config.yaml"

    @property
    def launched_by_accelerate(self) -> bool:
        """True where ``accelerate launch`` started this process (it announces itself in the environment)."""
        return any(name in self.env for name in ("ACCELERATE_MIXED_PRECISION", "ACCELERATE_DYNAMO_BACKEND"))


def normal(name: str) -> str:
    """A package's name as indexes compare it (``Huggingface.Hub`` -> ``huggingface-hub``)."""
    return re.sub(r"[-_.]+", "-", name).lower()


def _gpu(torch: Any, index: int) -> Gpu:
    free, total = torch.cuda.mem_get_info(index)
    capability = torch.cuda.get_device_capability(index)
    bf16 = torch.version.hip is not None or capability >= (8, 0)
    return Gpu(torch.cuda.get_device_name(index), tuple(capability), total, free, bf16)


def _memory() -> tuple[int | None, int | None]:
    """(total, free) bytes of main memory; free counts swap, because loading may use it."""
    try:
        import psutil
    except ImportError:
        return None, None
    memory, swap = psutil.virtual_memory(), psutil.swap_memory()
    return memory.total, memory.available + swap.free


TESTED_PACKAGES = {
    "torch": "2.13.0+cu128",
    "diffusers": "0.42.1",
    "transformers": "5.23.0",
    "tokenizers": "0.23.3",
    "accelerate": "1.15.0",
    "safetensors": "0.8.0",
    "huggingface-hub": "2.4.0",
    "peft": "0.21.2",
    "numpy": "2.4.6",
    "pillow": "13.0.0",
    "toml": "0.10.2",
    "tqdm": "4.70.1",
    "packaging": "26.3",
    "protobuf": "7.36.2",
    "tensorboard": "2.21.0",
    "bitsandbytes": "0.50.2",
    "xformers": "0.0.35",
    "torchvision": "0.28.0",
    "psutil": "7.2.2",
    "matplotlib": "3.11.2",
    "lion-pytorch": "0.2.5",
    "prodigyopt": "1.1.2",
    "dadaptation": "3.2",
    "schedulefree": "1.4.1",
    "lycoris-lora": "4.1.3",
    "wandb": "0.31.0",
    "triton": "3.6.0",
    "pytorch-optimizer": "4.1.0",
    "prodigy-plus-schedule-free": "2.0.1",
}

FAKE: dict[str, Any] = {
    "system": "Linux",
    "python": (3, 11, 9),
    "bits": 64,
    "executable": "python",
    "in_venv": True,
    "cpus": 8,
    "env": {},
    "home": Path("/home/user"),
    "repository": Path(__file__).resolve().parents[2],
    "library_path": Path(__file__).resolve().parents[1],
    "packages": TESTED_PACKAGES,
    "requires": lambda package: (),
    "has_module": lambda name: True,
    "torch_build": TorchBuild("2.13.0+cu128", "12.8", None),
    "graphics": GpuReport(
        (Gpu("NVIDIA GeForce RTX 3060", (8, 6), 12 * GIB, int(11.4 * GIB)),),
        ("sm_75", "sm_80", "sm_86", "sm_90", "sm_100", "sm_120", "compute_120"),
    ),
    "driver_names": ("NVIDIA GeForce RTX 3060",),
    "memory_free": 24 * GIB,
    "memory_total": 32 * GIB,
    "disk_free": lambda path: 200 * GIB,
    "is_network_drive": lambda path: False,
    "system_files": lambda name: True,
    "accelerate_config": {},
    "accelerate_config_path": Path("/home/user/.cache/huggingface/accelerate/default_config.yaml"),
}
