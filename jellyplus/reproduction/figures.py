"""The command line that every figure script has: claim to evidence to figure."""

import argparse
from pathlib import Path

from jellyplus._distributed import rank
from jellyplus._errors import InputError
from jellyplus._files import below
from jellyplus._options import NOT_OF_FIGURES
from jellyplus.reproduction.cli import about_stand_ins, check_out, make, make_runner, run

__all__ = ["main"]


def main(script: str) -> int:
    """Reproduce the figure that ``script``, a file in ``reproductions/``, is named after; return the exit code."""
    return run(script, "train and measure on stand-in data, then write the figure", _reproduce)


def _reproduce(path: Path, options: argparse.Namespace) -> None:
    # Lightning and matplotlib come after the options are parsed, so that a mistyped option answers at once
    from jellyplus.reproduction import figure_evidence, figure_view
    from jellyplus.reproduction.figure_claims import load_figure
    from jellyplus.reproduction.measurements import Measurements
    from jellyplus.training.job import once

    claim = load_figure(path.parent / "claims" / f"{path.stem}.yaml")
    check_out(options.out)
    if why := NOT_OF_FIGURES.get(options.profile):
        raise InputError(f"--profile {options.profile} is for tables: {why}; use --profile paper")
    planned = figure_evidence.plan(claim, options.profile, path.parent.parent / "recipes")
    runner = make_runner(options)
    measurements = Measurements(runner)
    if not options.render:
        own = make(runner, figure_evidence.runs(planned), options, path.parent, counted=False)
        once(figure_evidence.measure, planned, measurements, options.seeds, options.shard, own)
    if rank() > 0:
        return
    view = figure_evidence.view(planned, measurements)
    folder = below(options.out / options.profile / path.stem, options.out)
    figure_view.write(claim, view, folder, options.profile)
    print(figure_view.summary(view))
    print(f"\nWritten: {folder}/figure.csv, figure.png, figure.pdf")
    if any(shown.scale.stand_in for *_, shown in view):
        print(about_stand_ins(path))
