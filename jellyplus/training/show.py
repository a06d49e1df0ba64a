"""``jellyplus show``: a recipe as it is resolved, each value with the line that it stands in and what is said there."""

import argparse
import dataclasses
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from jellyplus.training.recipe import Run
from jellyplus.training.recipe_files import default_profile, fits, layers, load_file

__all__ = ["main", "shown"]

_Keys = tuple[str, ...]  # of nested mappings, as in ("model", "options", "blocks")


class _Place(NamedTuple):
    """Where a value or the beginning of a section stands, and the comment beside it."""

    file: str
    line: int
    comment: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line}" + (f": {self.comment}" if self.comment else "")


def main(options: argparse.Namespace) -> int:
    """Print what :func:`shown` gives."""
    print(shown(options.recipe, options.profile or default_profile(options.recipe)))
    return 0


def shown(file: Path, profile: str | None) -> str:
    """A recipe under a profile, and behind it the runs it starts from, each as a document of YAML.

    Args:
        file: ``<recipes>/<paper>/<run>.yaml``.
        profile: None for the recipe as its files have it.

    Raises:
        InputError: it cannot be read, see :func:`jellyplus.training.recipe_files.load_run`.
    """
    folder = Path(file).resolve().parents[1]
    run, documents = load_file(file, profile), []
    while run:
        documents.append("\n".join(_document(run, folder)))
        run = run.parent
    return "\n---\n".join(documents)


def _document(run: Run, folder: Path) -> Iterator[str]:
    yield f"# {run.name}, profile {run.profile}, key {run.key[:16]}"
    yield from _lines(dataclasses.asdict(run.recipe), (), _places(run, folder))


def _lines(values: Mapping[str, Any], above: _Keys, places: Mapping[_Keys, _Place]) -> Iterator[str]:
    for key, value in values.items():
        keys = (*above, key)
        place, indent = places.get(keys), "  " * len(above)
        if isinstance(value, Mapping) and value:
            yield f"{indent}{key}:" + (f"  # {place}" if place and place.comment else "")
            yield from _lines(value, keys, places)
        else:
            yield f"{indent}{key}: {_flow(value)}  # {place or 'default'}"


def _flow(value: Any) -> str:
    plain = list(value) if isinstance(value, tuple) else value
    return yaml.safe_dump(plain, default_flow_style=True, width=float("inf")).removesuffix("...\n").strip()


def _places(run: Run, folder: Path) -> dict[_Keys, _Place]:
    """Of all keys in all files that a run is read from; what comes later is laid over what comes before."""
    found: dict[_Keys, _Place] = {}
    for file, _ in layers(run.name, folder):
        found |= _of_file(file)
    profiles = (folder / run.name).with_name("profiles.yaml")
    overlays = _of_file(profiles) if run.profile and profiles.exists() else {}
    for (profile, pattern, *keys), place in ((keys, place) for keys, place in overlays.items() if len(keys) > 2):
        if profile == run.profile and fits(run.name, pattern):
            found[tuple(keys)] = place
    return found


def _of_file(file: Path) -> dict[_Keys, _Place]:
    text = file.read_text(encoding="utf-8")
    written = text.splitlines()

    def walk(node: yaml.Node, above: _Keys) -> Iterator[tuple[_Keys, _Place]]:
        if isinstance(node, yaml.MappingNode):
            for key, value in node.value:
                keys, line = (*above, key.value), key.start_mark.line
                yield keys, _Place(file.name, line + 1, written[line].partition("  # ")[2].strip())
                yield from walk(value, keys)

    return dict(walk(yaml.compose(text, yaml.SafeLoader), ()))
