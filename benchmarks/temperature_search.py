"""How much of the first layer Dspike's search compares with a lead, and how often it then chooses otherwise.

    python benchmarks/temperature_search.py --data-root DATA [--output benchmarks/temperature_search.md]

ResNet-20 of width 16 at T = 2 on 128 training images of CIFAR-10, as first made and with the weights of
``compare/dspike-search-seed0``. The differences of all 432 weights are taken once; the search then draws them in the
orders of many seeds, as it would.
"""

import argparse
import statistics
import sys
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import torch
from torch import nn

import jellyplus
from jellyplus import functional, temperature
from jellyplus._files import write_atomically
from jellyplus.loss import cross_entropy
from jellyplus.reproduction.loading import load
from jellyplus.training.data import DataModule
from jellyplus.training.layout import time_first
from jellyplus.training.network import build_network
from jellyplus.training.recipe_files import load_run

RECIPE, TRAINED = "compare/cifar10_resnet20_t2_search", "compare/dspike-search-seed0"
ROOT = Path(__file__).parents[1]
TEMPERATURES, LEADS, SEEDS = (1.0, 2.0, 3.0), (1.0, 2.0, 3.0), range(200)


class _Known:
    """Differences that were taken before."""

    at_once = False

    def __init__(self, reference: torch.Tensor):
        self.reference = reference

    def __call__(self, elements: torch.Tensor) -> torch.Tensor:
        return self.reference[elements]


def networks() -> Iterator[tuple[str, nn.Module]]:
    """With names."""
    torch.manual_seed(0)
    yield "as first made", build_network(load_run(RECIPE, "small", ROOT / "recipes").recipe)
    yield "trained", jellyplus.load(TRAINED).network


def rows(data_root: str) -> Iterator[dict[str, str]]:
    """Of the table."""
    recipe = load_run(RECIPE, "small", ROOT / "recipes").recipe
    settings = recipe.temperature_search
    images, labels = DataModule(load(recipe, data_root), recipe, 0).search_batch(settings.batch_size)
    x, loss = time_first(images), lambda y: cross_entropy(y, labels)
    for name, net in networks():
        net.train()
        reference = functional.finite_difference_gradient(net, settings.parameter, loss, x, settings.epsilon).flatten()
        for b in TEMPERATURES:
            functional.set_temperature(net, b)
            candidates = functional.temperature_candidates(b, settings.step)
            gradients = torch.stack(list(temperature._gradients(net, settings.parameter, loss, x, candidates))).flatten(
                1
            )
            functional.set_temperature(net, b)
            whole = temperature._compared(gradients, _Known(reference), candidates, None, 0)
            row = {"network": name, "b": f"{b:g}", "similarities": ", ".join(f"{s:.3f}" for s in whole.similarities)}
            for lead in LEADS:
                found = [temperature._compared(gradients, _Known(reference), candidates, lead, s) for s in SEEDS]
                compared = statistics.fmean(search.elements for search in found) / len(reference)
                equal = statistics.fmean(search.temperature == whole.temperature for search in found)
                row[f"lead {lead:g}"] = f"{100 * compared:.0f} %, {100 * equal:.1f} %"
            yield row


def report(data_root: str) -> str:
    """The table, and how to read it."""
    head = "# Dspike's search for a lead\n\n"
    head += (
        "From `python benchmarks/temperature_search.py`: ResNet-20 of width 16, T = 2, 128 images of CIFAR-10, "
        f"{len(SEEDS)} orders. For each lead, how many of the 432 weights were compared on average, and how often the "
        "choice was that of all of them. Similarities are those of b, b - 0.2 and b + 0.2; where they are "
        "nearly equal, most weights are needed.\n\n"
    )
    return head + pd.DataFrame(list(rows(data_root))).to_markdown(index=False, disable_numparse=True) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data-root", required=True)
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    text = report(options.data_root)
    print(text, end="")
    if options.output:
        write_atomically(options.output, text.encode())


if __name__ == "__main__":
    sys.exit(main())
