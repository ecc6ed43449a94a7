"""Optimizers by name: kohya's names in any case, any class of ``torch.optim``, or a dotted path.

An optimizer is a record in a table. Looking one up imports nothing heavy, so start-up checks can use ``find``;
``create`` imports its package, checks the arguments and builds it.
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from library.util.near import near
from library.util.packages import installed
from library.util.records import Problem, UserError
from library.util.said import say

if TYPE_CHECKING:
    import torch

FLAG = "--optimizer_type"
ARGS_FLAG = "--optimizer_args"


@dataclass(frozen=True)
class OptimizerSettings:
    """What the user asked for; ``args`` are Python values already."""

    name: str = "AdamW"
    lr: float = 1e-4
    args: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Draft:
    """An optimizer about to be made: settings that a record's ``adjust`` may still change."""

    lr: float | None
    args: dict[str, Any]
    groups: list[dict[str, Any]]
    schedule: str | None = None
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class OptimizerSpec:
    """One optimizer: where its class is, what it needs and how it wants to be used."""

    name: str
    """kohya's spelling, or the dotted path."""
    path: str
    """Dotted path of the class."""
    package: str = ""
    """PyPI name of the package to install; empty where torch or transformers have it."""
    defaults: Mapping[str, Any] = field(default_factory=dict)
    """Arguments that are added unless the user gives them; they appear in the metadata."""
    fixed: Mapping[str, Any] = field(default_factory=dict)
    """Arguments that are always passed and are no argument of the user's."""
    unit_lr: bool = False
    """It finds the step size itself: the learning rate is a factor near 1, the same for all groups."""
    schedule_free: bool = False
    """It replaces the schedule, and must be told when training pauses for saving and samples."""
    may_need_gpu: bool = False
    """Its package runs on a CPU in newer versions only: one trial step tells."""
    adjust: Callable[[Draft], Draft] | None = None

    @property
    def module(self) -> str:
        """Top-level module that has to be importable."""
        return self.path.split(".", maxsplit=1)[0]


@dataclass(frozen=True)
class Created:
    """A ready optimizer and what the rest of the run must know of it."""

    spec: OptimizerSpec
    name: str
    """Path of its class, as kohya's ``ss_optimizer`` begins: ``torch.optim.adamw.AdamW``."""
    args: str
    """``weight_decay=0.01,betas=(0.9, 0.99)``; empty without arguments."""
    optimizer: torch.optim.Optimizer
    schedule: str | None = None
    """A schedule it insists on (``adafactor:0.0001``), in place of ``--lr_scheduler``."""
    notes: tuple[str, ...] = ()
    """Sentences for the user: what was understood or changed."""
    train: Callable[[], None] = lambda: None
    """To be called when training goes on after ``eval``."""
    eval: Callable[[], None] = lambda: None
    """To be called before saving, sampling or validating: schedule-free ones then show their averaged weights."""

    @property
    def metadata(self) -> str:
        """kohya's ``ss_optimizer``: ``torch.optim.adamw.AdamW(weight_decay=0.1)``."""
        return self.name + (f"({self.args})" if self.args else "")


def _adafactor(draft: Draft) -> Draft:
    """Relative steps (the default, and forced by warmup_init) take the rate over: no lr anywhere, own schedule."""
    args, notes = dict(draft.args), []
    args.setdefault("relative_step", True)
    if not args["relative_step"] and args.get("warmup_init", False):
        args["relative_step"] = True
        notes.append(f"{ARGS_FLAG}: relative_step was set to True, because warmup_init=True needs it.")
    if not args["relative_step"]:
        return replace(draft, args=args, notes=draft.notes + tuple(notes))
    notes.append("Adafactor with relative_step=True chooses its own rate: --learning_rate is shown as the rate before "
                 "the first step, and --unet_lr, --text_encoder_lr and --lr_scheduler have no effect. "
                 f"Give {ARGS_FLAG} relative_step=False scale_parameter=False warmup_init=False to use your own rates.")
    groups = [{key: value for key, value in group.items() if key != "lr"} for group in draft.groups]
    return Draft(None, args, groups, f"adafactor:{draft.lr}", draft.notes + tuple(notes))


def _torch(name: str, **extra: Any) -> OptimizerSpec:
    return OptimizerSpec(name, f"torch.optim.{extra.pop('cls', name)}", **extra)


def _bnb(name: str, cls: str = "", **extra: Any) -> OptimizerSpec:
    return OptimizerSpec(name, f"bitsandbytes.optim.{cls or name}", "bitsandbytes", may_need_gpu=True, **extra)


def _dadapt(name: str, path: str) -> OptimizerSpec:
    return OptimizerSpec(name, f"dadaptation.{path}", "dadaptation", unit_lr=True)


def _free(name: str) -> OptimizerSpec:
    return OptimizerSpec(name, f"schedulefree.{name}", "schedulefree", schedule_free=True)


MOMENTUM = MappingProxyType({"momentum": 0.9})
NESTEROV = MappingProxyType({"nesterov": True})

SPECS: dict[str, OptimizerSpec] = {spec.name.lower(): spec for spec in (
    _torch("AdamW"),
    _torch("SGDNesterov", cls="SGD", defaults=MOMENTUM, fixed=NESTEROV),
    OptimizerSpec("Adafactor", "transformers.optimization.Adafactor", adjust=_adafactor),
    _bnb("AdamW8bit"),
    _bnb("PagedAdamW"),
    _bnb("PagedAdamW8bit"),
    _bnb("PagedAdamW32bit"),
    _bnb("Lion8bit"),
    _bnb("PagedLion8bit"),
    _bnb("AdEMAMix8bit"),
    _bnb("PagedAdEMAMix8bit"),
    _bnb("SGDNesterov8bit", "SGD8bit", defaults=MOMENTUM, fixed=NESTEROV),
    OptimizerSpec("Lion", "lion_pytorch.Lion", "lion-pytorch"),
    OptimizerSpec("Prodigy", "prodigyopt.Prodigy", "prodigyopt", unit_lr=True),
    _dadapt("DAdaptation", "experimental.DAdaptAdamPreprint"),
    _dadapt("DAdaptAdamPreprint", "experimental.DAdaptAdamPreprint"),
    _dadapt("DAdaptAdaGrad", "DAdaptAdaGrad"),
    _dadapt("DAdaptAdam", "DAdaptAdam"),
    _dadapt("DAdaptAdan", "DAdaptAdan"),
    _dadapt("DAdaptAdanIP", "experimental.DAdaptAdanIP"),
    _dadapt("DAdaptLion", "DAdaptLion"),
    _dadapt("DAdaptSGD", "DAdaptSGD"),
    _free("RAdamScheduleFree"),
    _free("AdamWScheduleFree"),
    _free("SGDScheduleFree"),
    *(_torch(name) for name in ("Adadelta", "Adagrad", "Adam", "Adamax", "ASGD", "Muon", "NAdam", "RAdam", "RMSprop",
                                "Rprop", "SGD", "SparseAdam")),
)}
"""Lower-case name -> record. SGD8bit without Nesterov and the like are reached by their dotted path."""

FRONT_END_PATHS = {"LoraEasyCustomOptimizer.came.CAME": "pytorch_optimizer.CAME"}
"""Classes that ship inside a front end -> the same algorithm in a package that can be installed."""

PACKAGES = {"prodigyplus": "prodigy-plus-schedule-free"}
"""Module -> PyPI name for dotted paths, where they differ by more than the underscore."""


def refuse(where: str, what: str, remedy: str) -> UserError:
    return UserError(Problem(where, what, remedy, check="optimizer"))


def names() -> list[str]:
    """Names of the table, kohya's first."""
    return [spec.name for spec in SPECS.values()]


def find(name: str) -> OptimizerSpec:
    """Look an optimizer up without importing it; UserError with the near names where there is none."""
    spec = SPECS.get(name.lower())
    if spec is not None:
        return spec
    if "." not in name:
        raise refuse(FLAG, say('There is no optimizer "{name}".', name=name),
                     say("{near} A class of another package is given by its dotted path, for example pytorch_optimizer.CAME.",
                         near=near(name, names())))
    path = name
    if name in FRONT_END_PATHS and not installed(name.split(".", maxsplit=1)[0]):
        path = FRONT_END_PATHS[name]
    module = path.split(".", maxsplit=1)[0]
    return OptimizerSpec(name, path, PACKAGES.get(module, module.replace("_", "-")),
                         unit_lr=name.lower().endswith("prodigy"), schedule_free=name.lower().endswith("schedulefree"),
                         may_need_gpu=module == "bitsandbytes")


def problems(settings: OptimizerSettings, group_lrs: tuple[float, ...] = ()) -> list[Problem]:
    """What can be said of an optimizer before anything is imported: name, package, rates that cannot work together.

    ``group_lrs`` are the learning rates of the parameter groups that will be trained.
    """
    try:
        spec = find(settings.name)
    except UserError as error:
        return error.problems
    found = []
    if not installed(spec.module):
        found.append(Problem(FLAG, say("{name} needs the package {package}, which is not installed.",
                                       name=spec.name, package=spec.package),
                             say("Run: python -m pip install {package}", package=spec.package), check="optimizer"))
    return found + _lr_problems(spec, group_lrs or (settings.lr,))


def _lr_problems(spec: OptimizerSpec, lrs: tuple[float, ...]) -> list[Problem]:
    trained = {lr for lr in lrs if lr}
    if not spec.unit_lr or not trained:
        return []
    if len(trained) > 1:
        shown = ", ".join(f"{lr:g}" for lr in sorted(trained))
        return [Problem(FLAG, say("{name} needs one learning rate for everything, and was given {shown}",
                                  name=spec.name, shown=shown),
                        "Set --learning_rate 1 --unet_lr 1 --text_encoder_lr 1, without LoRA+ ratios and block rates.",
                        check="optimizer")]
    if max(trained) <= 0.1:
        return [Problem("--learning_rate",
                        say("{rate:g} is very low for {name}, which finds the step size itself.",
                            rate=max(trained), name=spec.name),
                        "Set --learning_rate 1 (and --unet_lr 1 --text_encoder_lr 1 where they are given).", "warn",
                        "optimizer")]
    return []


def create(settings: OptimizerSettings, param_groups: list[dict[str, Any]]) -> Created:
    """Make the optimizer over ``param_groups`` (dicts with ``params`` and, where it differs, ``lr``).

    UserError for a missing package, unknown arguments, rates that it refuses, no parameters, or no GPU where it
    needs one. The groups are not changed.
    """
    spec = find(settings.name)
    groups = [dict(group, params=list(group["params"])) for group in param_groups]
    if not any(group["params"] for group in groups):
        raise refuse("--network_module", "There is nothing to train: no parameter is trained at a rate above 0.",
                     "Set --unet_lr or --learning_rate (1e-4 is usual), or train the text encoder.")
    lrs = tuple(group.get("lr", settings.lr) for group in groups)
    stops = [problem for problem in _lr_problems(spec, lrs) if problem.severity == "stop"]
    if stops:
        raise UserError(*stops)
    cls = load_class(spec)
    draft = Draft(settings.lr, dict(spec.defaults) | _numbers(settings.args), groups, notes=_notes(spec, lrs))
    if spec.adjust is not None:
        draft = spec.adjust(draft)
    _check_args(spec, cls, draft.args)
    optimizer = _build(spec, cls, draft)
    train, pause = _modes(optimizer)
    train()
    shown = ",".join(f"{key}={value}" for key, value in draft.args.items())
    path = f"{cls.__module__}.{cls.__name__}"
    return Created(spec, path, shown, optimizer, draft.schedule, draft.notes, train, pause)


def _notes(spec: OptimizerSpec, lrs: tuple[float, ...]) -> tuple[str, ...]:
    notes = [f"{problem.where}: {problem.what}. {problem.remedy}" for problem in _lr_problems(spec, lrs)]
    if spec.path != spec.name and "." in spec.name:
        notes.append(f"{FLAG}: {spec.name} is not installed; {spec.path} is used in its place.")
    return tuple(notes)


def _numbers(args: Mapping[str, Any]) -> dict[str, Any]:
    """Read ``weight_decay="0.1"`` as a number: quotes are often left in."""
    def number(value: Any) -> Any:
        try:
            return float(value)
        except ValueError:
            return value
    return {key: number(value) if isinstance(value, str) else value for key, value in args.items()}


def load_class(spec: OptimizerSpec) -> type:
    """Import the class; UserError that names the package or the near class names."""
    module_path, _, class_name = spec.path.rpartition(".")
    try:
        module = importlib.import_module(module_path)
    except ModuleNotFoundError as error:
        missing = spec.package if (error.name or "").split(".")[0] == spec.module else error.name
        raise refuse(FLAG, say("{name} needs the package {missing}, which is not installed.", name=spec.name, missing=missing),
                     say("Run: python -m pip install {missing}", missing=missing)) from error
    except (ImportError, OSError, RuntimeError) as error:
        raise refuse(FLAG, say("{name}: {module_path} cannot be imported ({error}).",
                               name=spec.name, module_path=module_path, error=error),
                     say("Run: python -m pip install -U {package}", package=spec.package)) from error
    members = {name: value for name, value in vars(module).items() if isinstance(value, type)}
    if class_name not in members:
        raise refuse(FLAG, say('{module_path} has no class "{class_name}".', module_path=module_path, class_name=class_name),
                     near(class_name, members))
    return members[class_name]


def _check_args(spec: OptimizerSpec, cls: type, args: Mapping[str, Any]) -> None:
    parameters = inspect.signature(cls.__init__).parameters
    if any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in parameters.values()):
        return
    known = [name for name in parameters if name not in ("self", "params", "lr")]
    unknown = [name for name in args if name not in known]
    if unknown:
        raise UserError(*(Problem(ARGS_FLAG, say("{name} has no argument {argument!r}.", name=spec.name, argument=name),
                                  near(name, known), check="optimizer") for name in unknown))


def _build(spec: OptimizerSpec, cls: type, draft: Draft) -> torch.optim.Optimizer:
    try:
        if spec.may_need_gpu:
            _trial_step(cls, draft, dict(spec.fixed))
        return cls(draft.groups, lr=draft.lr, **draft.args, **spec.fixed)
    except (RuntimeError, NotImplementedError, AttributeError, OSError) as error:
        if not spec.may_need_gpu:
            raise
        first_line = str(error).strip().split("\n")[0]
        raise refuse(FLAG, say("{name} does not run on this machine ({first_line}).", name=spec.name, first_line=first_line),
                     say("It needs an NVIDIA GPU, or a newer bitsandbytes (python -m pip install -U bitsandbytes); or use "
                         "{flag} AdamW.", flag=FLAG)) from error
    except (TypeError, ValueError) as error:
        shown = ", ".join(f"{key}={value!r}" for key, value in draft.args.items()) or "none"
        raise refuse(ARGS_FLAG, say("{name} refuses its arguments ({shown}): {error}",
                                    name=spec.name, shown=shown, error=error),
                     "Write name=value without spaces, for example weight_decay=0.1 betas=0.9,0.99.") from error


def _trial_step(cls: type, draft: Draft, fixed: dict[str, Any]) -> None:
    """Step a parameter large enough for 8-bit states once, where the real ones are: some builds fail only then."""
    import torch

    real = draft.groups[0]["params"][0]
    dummy = torch.nn.Parameter(torch.zeros(64, 128, device=real.device))
    dummy.grad = torch.ones_like(dummy)
    cls([dummy], lr=1e-3, **draft.args, **fixed).step()


def _modes(optimizer: Any) -> tuple[Callable[[], None], Callable[[], None]]:
    """train() and eval() of schedule-free optimizers; functions that do nothing for all others.

    Foreign packages differ in whether they have them: this is the one place that looks.
    """
    members = dict(inspect.getmembers(type(optimizer), callable))
    if "train" in members and "eval" in members:
        return optimizer.train, optimizer.eval
    return _nothing, _nothing


def _nothing() -> None:
    return None
