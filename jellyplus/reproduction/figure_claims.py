"""Claim: what a figure of a paper shows and how we measure it, in ``reproductions/claims/figure<N>_<paper>.yaml``."""

import os
from collections import Counter
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from jellyplus._strict import from_mapping, load_yaml
from jellyplus.registry import MEASURES
from jellyplus.reproduction.measures import Measure
from jellyplus.training.recipe import check_run_name

__all__ = ["FigureClaim", "Panel", "Series", "load_figure"]


@dataclass(frozen=True)
class Series:
    """One curve or histogram.

    Args:
        label: in the legend; unique in the panel.
        measure: of :data:`jellyplus.registry.MEASURES`.
        recipe: of the network or run that is measured; None where the measure needs none.
        style: how it is drawn.
        overrides: what is changed in the recipe, in every profile.
        settings: of the measure, all of them.
    """

    label: str
    measure: str
    recipe: str | None = None
    style: Literal["line", "points", "bars", "histogram"] = "line"
    overrides: dict = field(default_factory=dict)
    settings: dict = field(default_factory=dict)

    def __post_init__(self):
        if self.recipe is not None:
            check_run_name(self.recipe, f"recipe of series '{self.label}'")
        if self.measure not in MEASURES:
            raise ValueError(f"series '{self.label}' has the measure {self.measure}; choose from {', '.join(MEASURES)}")
        if (self.recipe is None) != (self.how.kind == "function"):
            need = "needs no recipe: leave it out" if self.recipe else "measures a network: name its recipe"
            raise ValueError(f"series '{self.label}': {self.measure} {need}")

    @property
    def how(self) -> Measure:
        """The measure itself."""
        return MEASURES[self.measure]

    @property
    def needs_training(self) -> bool:
        """Whether it shows a finished run."""
        return self.how.kind in ("history", "trained")

    @property
    def measures_network(self) -> bool:
        """Whether what it shows is a measurement, which is evidence of its own."""
        return self.how.kind in ("untrained", "trained")


@dataclass(frozen=True)
class Panel:
    """One pair of axes.

    Args:
        title: above it.
        x, y: what the axes show, with units.
        series: in the order of the legend.
        y_scale: of the y axis.
    """

    title: str
    x: str
    y: str
    series: tuple[Series, ...]
    y_scale: Literal["linear", "log"] = "linear"

    def __post_init__(self):
        for label, count in Counter(series.label for series in self.series).items():
            if count > 1:
                raise ValueError(f"{count} series of panel '{self.title}' have the label '{label}'; give each its own")


@dataclass(frozen=True)
class FigureClaim:
    """One printed figure.

    Args:
        title: above it.
        paper: short name, as of the recipes' folder.
        printed_in: where it is printed.
        says: what the paper concludes from it, in our words.
        panels: from left to right.
        note: deviations of ours, contradictions of the paper's.
    """

    title: str
    paper: str
    printed_in: str
    says: str
    panels: tuple[Panel, ...]
    note: str = ""


def load_figure(path: str | os.PathLike) -> FigureClaim:
    """Read the claim of a figure.

    Raises:
        InputError: the file is not there or not YAML, a key is unknown or missing, a value is of another type, a label
            is given twice, a measure is unknown, or its settings or recipe do not fit.
    """
    figure = from_mapping(FigureClaim, load_yaml(path, Path(path).absolute().parents[1]), str(path))
    return replace(figure, panels=tuple(_checked(panel, str(path)) for panel in figure.panels))


def _checked(panel: Panel, path: str) -> Panel:
    """Settings as the measures want them: 0 for a float becomes 0.0, and so the same evidence."""
    where = f"{path}, panel '{panel.title}', settings of series"
    checked = [replace(s, settings=s.how.check(s.settings, f"{where} '{s.label}'")) for s in panel.series]
    return replace(panel, series=tuple(checked))
