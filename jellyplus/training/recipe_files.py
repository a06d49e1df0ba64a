"""Recipes as files: ``<recipes>/<paper>/<run>.yaml``, what they are based on, and the profiles that are laid over them.

A recipe may be based on another one of its paper, ``base: <run>``: then it states what is different. A base has no base
of its own, so that two files have all there is. The overlays of a paper stand in ``<recipes>/<paper>/profiles.yaml``:
profile, then pattern of run names, then what is replaced. All patterns that fit apply, in the order of the file. Where
there is no such file, the profile ``paper`` is the recipes as they are.

Methods that a recipe does not use may be left out: they are null then. Among options and parameters, where null is no
value, it takes one away: that of another architecture or surrogate.
"""

import fnmatch
import functools
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jellyplus._errors import InputError
from jellyplus._strict import from_mapping, load_yaml
from jellyplus.training.recipe import Recipe, Run

__all__ = ["OPTIONAL", "default_profile", "fits", "has_profile", "layers", "load_file", "load_run", "written"]


@dataclass(frozen=True)
class Profiles:
    """A paper's ``profiles.yaml``: what each profile replaces, by pattern of run names."""

    profiles: dict[str, dict[str, dict]]


def load_file(path: Path, profile: str | None) -> Run:
    """:func:`load_run` of a recipe given as a file, ``<recipes>/<paper>/<run>.yaml``."""
    path = Path(os.path.realpath(path))  # resolve() has a traceback for links that lead in a circle
    return load_run(f"{path.parent.name}/{path.stem}", profile, path.parent.parent)


def default_profile(path: Path) -> str:
    """What a recipe given as a file is trained under: ``embedded``, or ``paper`` where there are no overlays.

    Raises:
        InputError: the paper's profiles cannot be read.
    """
    path = Path(os.path.realpath(path))
    return "embedded" if "embedded" in _profiles(path, path.parent.parent) else "paper"


def load_run(
    name: str,
    profile: str | None,
    folder: Path,
    overrides: Mapping[str, Any] | None = None,
    descendants: tuple[str, ...] = (),
) -> Run:
    """Read ``<folder>/<name>.yaml``, lay the profile over it, and do the same for the runs it starts from.

    Args:
        name: ``<paper>/<run>``.
        profile: one of the paper's profiles; None for the recipes as their files have them.
        folder: of all recipes.
        overrides: what is changed last, in every profile; the runs it starts from are left as they are.
        descendants: runs that start from this one, directly or not.

    Raises:
        InputError: a missing file, an unknown or missing key, a value that does not fit; it names key and file.
    """
    path = folder / f"{name}.yaml"
    if name in descendants:
        raise InputError(f"{path}: initial_weights lead back to {name}; a run cannot start from itself")
    values = written(name, folder)
    recipe = from_mapping(Recipe, values, str(path))
    if profile is not None and (overlays := _overlays(path, profile, folder)):
        values = functools.reduce(_overlaid, overlays, values)
        recipe = from_mapping(Recipe, values, f"{path} under profile {profile} of {path.parent / 'profiles.yaml'}")
    if overrides:
        recipe = from_mapping(Recipe, _overlaid(values, overrides), f"{path} under profile {profile} with {overrides}")
    if not recipe.initial_weights:
        return Run(name, profile, recipe, None)
    parent = load_run(recipe.initial_weights.run, profile, folder, None, (*descendants, name))
    return Run(name, profile, recipe, parent)


def written(name: str, folder: Path) -> Any:
    """The values of ``<folder>/<name>.yaml``, those of its base with them, as they are read.

    Raises:
        InputError: a file is missing or no YAML; the base is no name of a run, or has a base itself.
    """
    *base, (_, values) = layers(name, folder)
    if base:
        values = _refined(base[0][1], {key: value for key, value in values.items() if key != "base"})
    return dict.fromkeys(OPTIONAL) | values if isinstance(values, Mapping) else values


OPTIONAL = (  #: parts of a recipe that it may leave out, which is to say null
    "temperature_search",
    "finite_differences",
    "evolution",
    "im_loss",
    "warm_start",
    "shortcut",
    "initial_weights",
)


def layers(name: str, folder: Path) -> list[tuple[Path, Any]]:
    """The files that :func:`written` reads, the base first, each with what it holds.

    Raises:
        InputError: as there.
    """
    path = folder / f"{name}.yaml"
    values = load_yaml(path, folder)
    if (base := _base(values)) is None:
        return [(path, values)]
    if not (isinstance(base, str) and re.fullmatch(r"\w[\w.-]*", base)):
        raise InputError(f"{path}: base is {base!r}; it must be the name of a run of the same paper, as in cifar10_t6")
    below = path.with_name(f"{base}.yaml")
    if not below.is_file():
        raise InputError(f"{path}: base is {base}, and there is no {below}: check the name")
    stated = load_yaml(below, folder)
    if (another := _base(stated)) is not None:
        raise InputError(f"{path}: base is {base}, which is based on {another!r}: give one that states everything")
    return [(below, stated), (path, values)]


def _base(values: Any) -> Any:
    return values.get("base") if isinstance(values, Mapping) else None


def has_profile(name: str, profile: str, folder: Path) -> bool:
    """Whether there is such a profile of the run ``<paper>/<run>``: ``official`` is of papers with public code.

    Raises:
        InputError: the paper's profiles cannot be read.
    """
    return profile in _profiles(folder / f"{name}.yaml", folder)


def _profiles(path: Path, folder: Path) -> dict[str, dict[str, dict]]:
    source = path.parent / "profiles.yaml"
    if not os.path.lexists(source):
        return {"paper": {}}  # a recipe of its own, as it is
    return from_mapping(Profiles, {"profiles": load_yaml(source, folder)}, str(source)).profiles


def _overlays(path: Path, profile: str, folder: Path) -> list[Mapping]:
    source, profiles = path.parent / "profiles.yaml", _profiles(path, folder)
    if profile not in profiles:
        where = f"{source} has" if os.path.lexists(source) else f"there is no {source}, and so"
        raise InputError(f"{where} no profile {profile}; choose from {', '.join(profiles)}")
    return [overlay for pattern, overlay in profiles[profile].items() if fits(path.stem, pattern)]


def fits(name: str, pattern: str) -> bool:
    """Whether what stands under a pattern in ``profiles.yaml`` is for the run ``<run>`` or ``<paper>/<run>``."""
    return fnmatch.fnmatchcase(name.rpartition("/")[2], pattern)


def _overlaid(values: Any, overlay: Any) -> Any:
    """``values`` with the leaves of ``overlay`` put in; a null stays null, since there is nothing to refine."""
    return None if values is None and isinstance(overlay, Mapping) else _laid(values, overlay, _overlaid)


def _refined(base: Any, own: Any) -> Any:
    """``base`` with the leaves of ``own`` put in, which may be where the base has null."""
    return _laid(base, own, _refined)


def _laid(values: Any, overlay: Any, lay: Callable[[Any, Any], Any]) -> Any:
    if not (isinstance(values, Mapping) and isinstance(overlay, Mapping)):
        return overlay
    laid = {**values, **{key: lay(values.get(key, value), value) for key, value in overlay.items()}}
    for name in {"options", "parameters"} & overlay.keys():
        if isinstance(laid[name], Mapping):
            laid[name] = {key: value for key, value in laid[name].items() if value is not None}
    return laid
