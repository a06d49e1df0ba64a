"""``jellyplus list``: recipes, methods, architectures, parts that recipes name, and runs, as far as they are here."""

import argparse
import inspect
from collections.abc import Iterable, Iterator
from types import ModuleType

from torch import nn

from jellyplus import layer, loss, model, neuron, surrogate
from jellyplus._errors import InputError
from jellyplus._extra import with_extra
from jellyplus._text import one_line
from jellyplus.registry import REGISTRIES

__all__ = ["KINDS", "main"]


def main(options: argparse.Namespace) -> int:
    """Print a line for each of what is asked for."""
    for kind in options.kinds or _HERE:
        print(f"{kind}:")
        for line in KINDS[kind](options):
            print(f"  {one_line(line)}")
    return 0


def _recipes(options: argparse.Namespace) -> Iterator[str]:
    recipe = with_extra("jellyplus.training.recipe_files", "list recipes")
    files = sorted(path for path in options.recipes.glob("*/*.yaml") if path.stem != "profiles")
    if not files:
        raise InputError(f"there is no recipe in {options.recipes}: give a folder like recipes, with --recipes")
    for path in files:
        read = recipe.load_file(path, None)
        settings = read.recipe.model
        yield f"{read.name}: {read.recipe.data.dataset}, {settings.architecture}, T = {settings.time_steps}"


def _methods(_: argparse.Namespace) -> Iterator[str]:
    for kind, module in (("node", neuron), ("surrogate", surrogate), ("norm", layer), ("loss", loss)):
        yield from (f"{kind} {module.__name__}.{name}: {_summary(value)}" for name, value in _modules(module))


def _modules(module: ModuleType) -> Iterable[tuple[str, type]]:
    named = ((name, getattr(module, name)) for name in module.__all__)
    return [(n, v) for n, v in named if inspect.isclass(v) and issubclass(v, nn.Module) and v not in _BASES]


_BASES = (neuron.Node, surrogate.Surrogate)


def _architectures(_: argparse.Namespace) -> Iterator[str]:
    for name, make in model.ARCHITECTURES.items():
        options = ", ".join(f"{option}={default!r}" for option, default in model.options(name).items())
        yield f"{name}({options}): {_summary(make)}"


def _summary(value: object) -> str:
    """The first paragraph of its docstring."""
    return " ".join((inspect.getdoc(value) or "").partition("\n\n")[0].split())


def _runs(options: argparse.Namespace) -> Iterator[str]:
    table = with_extra("jellyplus.reproduction.runs", "list runs").runs(options.root)
    for row in table.itertuples():
        weights = "" if row.weights else ", no checkpoint"
        data = f"{'stand-in ' if row.stand_in else ''}{row.dataset}"
        yield f"{row.recipe}, {row.profile}, seed {row.seed}: {row.accuracy_last:.2f} % on {data}, {row.file}{weights}"


def _parts(_: argparse.Namespace) -> Iterator[str]:
    for module in ("training.recipe", "reproduction.measures", "reproduction.quantities"):  # they register our own
        with_extra(f"jellyplus.{module}", "list parts")
    for parts in REGISTRIES:
        yield f"{parts.kind}: {parts.choices()}"


KINDS = {
    "recipes": _recipes,
    "methods": _methods,
    "architectures": _architectures,
    "parts": _parts,
    "runs": _runs,
}
_HERE = ("recipes", "methods", "architectures")  # without being asked: there need not be runs
