"""Parts that recipes name, registered by the package and by plugins with the same decorator.

A recipe names parts and never code. Code from outside comes from files that the user names (``--plugin FILE``) and from
installed packages, by their entry points ``jellyplus.methods``, each a module.
"""

import contextlib
import functools
import hashlib
import importlib.machinery
import importlib.util
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from jellyplus._errors import InputError

__all__ = [
    "ARCHITECTURES",
    "DATASETS",
    "LOSSES",
    "MEASURES",
    "METHODS",
    "NODES",
    "NORMS",
    "OPTIMIZERS",
    "QUANTITIES",
    "REGISTRIES",
    "SCHEDULES",
    "SURROGATES",
    "Registry",
    "load",
    "plugins",
]

Part = TypeVar("Part")


class Origin(NamedTuple):
    """Where parts come from: in words, and the sha256 of that source; empty for the package, which has its own."""

    where: str
    digest: str


_PACKAGE = Origin("jellyplus", "")
_origins = [_PACKAGE]  # the last one is being loaded
_files: dict[Path, str] = {}  # plugins loaded, with the digests of their sources


class Registry(Mapping):
    """Parts of one kind by name, in the order in which they were registered.

    Args:
        kind: in words, singular.

    >>> shapes = Registry("shape")
    >>> @shapes.register("round")
    ... class Round: ...
    >>> shapes["round"] is Round
    True
    """

    def __init__(self, kind: str):
        self.kind = kind
        self._parts: dict[str, tuple[Any, Origin]] = {}

    def register(self, name: str, module: str | None = None) -> Callable[[Part], Part]:
        """Return a decorator that registers what it is given and returns it as it is.

        The package's own modules register theirs even when a plugin that is being loaded imports them.

        Args:
            name: that recipes and claims give it.
            module: that it comes from; None for the one that calls.

        Raises:
            InputError: there is such a name already.
        """
        module = module or sys._getframe(1).f_globals.get("__name__", "")
        origin = _PACKAGE if module.partition(".")[0] == _PACKAGE.where else _origins[-1]

        def registered(part: Part) -> Part:
            if name in self._parts:
                raise InputError(f"there is a {self.kind} {name!r} from {self.origin(name).where}; choose another name")
            self._parts[name] = part, origin
            return part

        return registered

    def __getitem__(self, name: str) -> Any:
        """The part of this name.

        Raises:
            InputError: there is none; it says what there is, and from where.
        """
        self.check(name)
        return self._parts[name][0]

    def __contains__(self, name: object) -> bool:
        return name in self._parts

    def __iter__(self) -> Iterator[str]:
        return iter(self._parts)

    def __len__(self) -> int:
        return len(self._parts)

    def check(self, name: str) -> None:
        """Refuse a name that is not registered, as ``__getitem__`` does."""
        if name not in self._parts:
            raise InputError(f"there is no {self.kind} {name!r}; choose from {self.choices()}")

    def origin(self, name: str) -> Origin:
        """Where the part of this name comes from."""
        return self._parts[name][1]

    def choices(self) -> str:
        """All names, with where they come from."""
        by_origin: dict[str, list[str]] = {}
        for name, (_, origin) in self._parts.items():
            by_origin.setdefault(origin.where, []).append(name)
        return "; ".join(f"{', '.join(sorted(names))} (from {where})" for where, names in by_origin.items())


#: Functions that make a network of a recipe's ``model``, see :mod:`jellyplus.model.network`: they take num_classes,
#: in_channels, width, time_steps, neuron, norm, alpha, where branches meet branch_alpha, and options of their own. The
#: network maps [T, N, C, H, W], or [1, N, C, H, W] of a static image, to [T, N, classes].
ARCHITECTURES = Registry("architecture")

#: Functions that make a node of a recipe's ``neuron``, as in :mod:`jellyplus.training.parts`: they take decay,
#: v_threshold, v_reset, detach_reset, rectify, strict, surrogate_function, step_mode, backend, and what
#: ``neuron.parameters`` has.
NODES = Registry("node")

#: Functions that make an optimizer of a recipe's ``optimizer``: they take the network's parameters, learning_rate,
#: momentum, nesterov, weight_decay, and what ``optimizer.parameters`` has.
OPTIMIZERS = Registry("optimizer")

#: Functions that make a learning rate schedule of a recipe's ``schedule``, which moves once an epoch: they take the
#: optimizer, epochs, final_learning_rate, step_epochs, step_factor, and what ``schedule.parameters`` has.
SCHEDULES = Registry("schedule")

#: Functions that make a norm of a recipe's ``norm``: they take alpha, channels, v_threshold (None in an ANN), eps,
#: momentum, and what ``norm.parameters`` has; the norm maps [T, N, C, H, W] to the same.
NORMS = Registry("norm")

#: Functions that give a :class:`jellyplus.datasets.DataSet`. Of root (``--data-root``), images, events and time_steps
#: they are given what they name; a recipe states ``data.images`` and ``data.events`` for those that name them.
DATASETS = Registry("data set")

#: Subclasses of :class:`jellyplus.surrogate.Surrogate`, called with a recipe's ``surrogate.parameters``.
SURROGATES = Registry("surrogate")

#: Functions of outputs [T, N, classes], labels [N] and a recipe's ``output_loss.parameters``; they return a scalar.
LOSSES = Registry("loss on the outputs")

#: Subclasses of :class:`jellyplus.training.method.Method`: what a section of a recipe does in training.
METHODS = Registry("method")

#: What figures show, and tables beside accuracies, of a network: see :mod:`jellyplus.reproduction.measures`.
MEASURES = Registry("measure")

#: What the numbers of a table are, each a :class:`jellyplus.reproduction.quantities.Quantity`.
QUANTITIES = Registry("quantity")


#: All of them.
REGISTRIES = (
    *(ARCHITECTURES, DATASETS, LOSSES, MEASURES, METHODS, NODES, NORMS, OPTIMIZERS, QUANTITIES, SCHEDULES, SURROGATES),
)


def load(files: Iterable[Path]) -> None:
    """Import what is installed under ``jellyplus.methods`` and execute ``files``, each once in a process.

    Raises:
        InputError: one cannot be read or fails, or has changed since it was loaded.
    """
    _load_installed()
    for path in files:
        _load_file(path)


def _load_file(path: Path) -> None:
    path = path.absolute()
    try:
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError as error:
        raise InputError(f"cannot read the plugin {path}: {error.strerror}; check the name") from error
    if _files.get(path, digest) != digest:
        raise InputError(f"the plugin {path} has changed since it was loaded; start again")
    if path not in _files:
        with _from(Origin(str(path), digest)):
            _execute(path, f"jellyplus_plugin_{digest[:16]}")
        _files[path] = digest


def _execute(path: Path, name: str) -> None:
    loader = importlib.machinery.SourceFileLoader(name, str(path))
    spec = importlib.util.spec_from_loader(name, loader)
    assert spec is not None, "every loader has one"
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        loader.exec_module(module)
    except Exception as error:
        raise InputError(f"the plugin {path} cannot be loaded: {type(error).__name__}: {error}") from error


@functools.cache
def _load_installed() -> None:
    for point in metadata.entry_points(group="jellyplus.methods"):
        _import(point)


def _import(point: metadata.EntryPoint) -> None:
    try:
        spec = importlib.util.find_spec(point.module)
        if spec is None or spec.origin is None:
            raise ModuleNotFoundError(f"there is no file of the module {point.module}")
        source = Path(spec.origin).read_bytes()
        with _from(Origin(f"{point.module}, installed", hashlib.sha256(source).hexdigest())):
            point.load()
    except Exception as error:
        raise InputError(f"the entry point {point.value} fails: {type(error).__name__}: {error}") from error


def plugins() -> tuple[Path, ...]:
    """The files loaded so far; a process that makes runs for this one loads them too."""
    return tuple(_files)


@contextlib.contextmanager
def _from(origin: Origin) -> Iterator[None]:
    _origins.append(origin)
    try:
        yield
    finally:
        _origins.pop()
