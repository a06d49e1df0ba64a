"""Recomputes the operation counts and energies that Dspike (Table 3) and tdBN (Table 6) print, and counts our own.

    python benchmarks/operations.py [--output benchmarks/operations.md]

Deterministic on one machine; under a minute with one thread. The exit status is 1 where a printed number comes out
neither by rounding nor by truncating. What depends on spikes of networks that the papers trained is not recomputed.
"""

import argparse
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from decimal import ROUND_DOWN, ROUND_HALF_UP, Decimal
from pathlib import Path
from typing import NamedTuple

import pandas as pd
import torch
import torch.nn.functional as F
from spikingjelly.activation_based import functional
from torch import Tensor

from jellyplus import datasets, model
from jellyplus._files import write_atomically
from jellyplus.datasets.transforms import normalisation
from jellyplus.op_counter import CONVENTIONS, OperationCounter, Tallies

SEED = 0
BATCH = 60
TIME_STEPS = 2
CIFAR, IMAGENET = (3, 32, 32), (3, 224, 224)

#: Dspike, Table 3: millions of additions and of multiplications, energy. J stands for mJ there, and mJ for uJ.
TABLE_3 = {
    "ANN ResNet-19": ("2285", "2285", "12.6", "J"),
    "ANN ResNet-18": ("187", "187", "1.03", "J"),
    "Diet-SNN ResNet-20, T = 5": ("142", "8.80", "168", "mJ"),
    "tdBN ResNet-19, T = 2": ("360", "6.8", "355", "mJ"),
    "Dspike ResNet-18, T = 2": ("71.2", "3.52", "80.3", "mJ"),
}
MEANT = {"J": ("mJ", 1e9), "mJ": ("uJ", 1e6)}  # and how many pJ that is

DEFAULT, DSPIKE, TDBN = (CONVENTIONS[name] for name in ("default", "dspike", "tdbn"))
#: Conventions under which our network is counted.
COUNTED_BY = {
    "Dspike's Table 3: the first layer multiplies": DSPIKE,
    "first layer, a MAC at 4.6 pJ as its text says": replace(DSPIKE, additions_of_multiplying=False),
    "first layer, which runs once": replace(DSPIKE, repeat_static=False),
    "tdBN's Table 6: the first and the last layer": TDBN,
    "every layer with non-binary input multiplies": DEFAULT,
    "every such layer, without taps on the padding": replace(DEFAULT, padded_taps=False),
}


class Cell(NamedTuple):
    """A printed number, and where ours comes from; ``value`` is in the unit that the paper means."""

    table: str
    row: str
    quantity: str
    printed: str
    unit: str
    meant: str
    value: float
    origin: str

    @property
    def how(self) -> str:
        """By which rule the printed number comes from ours."""
        printed, ours = Decimal(self.printed), Decimal(f"{self.value:.9g}")
        last_digit = Decimal(1).scaleb(printed.as_tuple().exponent)
        rules = {"rounded": ROUND_HALF_UP, "truncated": ROUND_DOWN}
        fitting = [name for name, rule in rules.items() if ours.quantize(last_digit, rule) == printed]
        return " or ".join(fitting) or "differs"


@torch.no_grad()
def ann_macs(constructor: Callable, shape: tuple[int, ...], **arguments: int) -> float:
    """Of one picture; every layer multiplies, so there are as many additions and multiplications."""
    net = model.ann(constructor, **arguments).eval()
    with OperationCounter(net) as counter:
        net(torch.rand(1, 1, *shape))
    total = counter.count().total
    assert total.macs == total.additions == total.multiplications
    return total.macs


def cells() -> Iterator[Cell]:
    """Every number that can be recomputed."""
    table = "Dspike 3"
    resnet18, resnet19 = ann_macs(model.dspike_resnet18, CIFAR), ann_macs(model.resnet19, CIFAR)
    large = ann_macs(model.tdbn_resnet34, IMAGENET, width=128, num_classes=1000)
    for row, (additions, multiplications, energy, unit) in TABLE_3.items():
        meant, size = MEANT[unit]
        ours = DSPIKE.energy_pj(float(additions) * 1e6, float(multiplications) * 1e6) / size
        charges = f"{DSPIKE.pj_per_addition} pJ x #Add + {DSPIKE.pj_per_multiplication} pJ x #Mult, as printed"
        yield Cell(table, row, "energy", energy, unit, meant, ours, charges)
    for row, macs in (("ANN ResNet-19", resnet19), ("ANN ResNet-18", resnet18)):
        yield Cell(table, row, "#Add, #Mult", TABLE_3[row][0], "M", "M", macs / 1e6, "the network's MACs")
    first = 3 * 64 * 9 * 32 * 32 // 10_000 / 100  # in millions, truncated
    origin = "T x 1.76M; 1.76M is the first layer's 1,769,472 truncated"
    for row, steps in (("Diet-SNN ResNet-20, T = 5", 5), ("Dspike ResNet-18, T = 2", 2)):
        yield Cell(table, row, "#Mult", TABLE_3[row][1], "M", "M", round(steps * first, 2), origin)
    row = "tdBN ResNet-19, T = 2"
    for quantity, printed, of_tdbn in zip(("#Add", "#Mult"), TABLE_3[row][:2], (1800, 34), strict=True):
        yield Cell(table, row, quantity, printed, "M", "M", of_tdbn * 2 / 10, "2/10 of tdBN 6, as printed")
    for row, printed, macs in (("ANN ResNet-19", "2.2e9", resnet19), ("ANN ResNet-34 (large)", "1.4e10", large)):
        yield Cell("tdBN 6", row, "#Add, #Mult", printed, "", "", macs, "the network's MACs")


def pictures() -> Tensor:
    """[N, 3, 32, 32]: all digits of the test split, enlarged to CIFAR's size."""
    digits = datasets.load("digits")
    return F.interpolate(normalisation(digits)(digits.test.inputs), CIFAR[1:], mode="bilinear")


@torch.no_grad()
def measured() -> Tallies:
    """Our ResNet-18 at full width, untrained; tdBN with the batch's statistics, since it has no others yet."""
    torch.manual_seed(SEED)
    net = model.dspike_resnet18(time_steps=TIME_STEPS).train()
    with OperationCounter(net) as counter:
        for x in pictures().split(BATCH):
            net(x[None])
            functional.reset_net(net)
    return counter.measurement()


def table_of(found: list[Cell]) -> str:
    rows = [
        {
            "table": cell.table,
            "row": cell.row,
            "quantity": cell.quantity,
            "printed": f"{cell.printed} {cell.unit}".strip(),
            "recomputed": f"{cell.value:,.6g} {cell.meant}".strip(),
            "printed is": cell.how,
            "unit": "1000 too large" if cell.unit != cell.meant else "",
            "from": cell.origin,
        }
        for cell in found
    ]
    return pd.DataFrame(rows).to_markdown(index=False, disable_numparse=True)


def table_of_ours(measurement: Tallies) -> str:
    rows = []
    for name, convention in COUNTED_BY.items():
        count = measurement.count(convention)
        total = count.total
        operations = {key: f"{getattr(total, key):,.0f}" for key in ("macs", "additions", "multiplications")}
        energy = f"{total.energy_pj / 1e6:.1f} ± {count.energy_error_pj / 1e6:.1f} uJ"
        rows.append({"convention": name, **operations, "energy": energy})
    align = ("left", *("right",) * 4)
    return pd.DataFrame(rows).to_markdown(index=False, disable_numparse=True, colalign=align)


def faults(found: list[Cell]) -> list[str]:
    """What does not come out as printed."""
    return [
        f"* {c.table}, {c.row}, {c.quantity}: {c.printed} printed, {c.value:,.6g}" for c in found if c.how == "differs"
    ]


def page(found: list[Cell], measurement: Tallies) -> str:
    whole = measurement.count(DSPIKE)
    implied = 71.2e6 / whole.total.macs
    notes = [
        "# Operations and energy: the papers' numbers recomputed, and ours",
        "## The papers",
        "Recomputed with `jellyplus.op_counter`, taps on the padding counted. Dspike's Table 3 prints J for mJ and mJ "
        "for uJ; its text gives a MAC 4.6 pJ, its ANN rows are charged 0.9 + 4.6 pJ.",
        table_of(found),
        "\n".join(faults(found)),
        "Not recomputed: the additions of the three spiking rows of Dspike's Table 3 and the spiking rows of tdBN's "
        f"Table 6, which need the spikes of networks that the papers trained. Dspike's 71.2M is {implied:.1%} of its "
        "MACs. tdBN states no T for its Table 6; the 2/10 above takes it for 10.",
        "## Ours",
        f"**An untrained network's spikes, not the paper's**: Dspike's ResNet-18 at full width, T = {TIME_STEPS}, "
        f"weights from seed {SEED}, tdBN with the statistics of batches of {BATCH}, on all {whole.examples} test "
        "examples of the embedded digits, enlarged to 32x32; with the standard error over them. The multiplications "
        "under Dspike's convention, 2 x 1,769,472, hang on no spike; the paper's 3.52M is "
        "2 x 1.76M, the same truncated. The additions are measured; that they come near the paper's 71.2M says "
        "nothing about the paper's network: other weights and other pictures.",
        table_of_ours(measurement),
        "Layer by layer:",
        str(whole),
    ]
    return "\n\n".join(filter(None, notes)) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    found = list(cells())
    text = page(found, measured())
    if options.output:
        write_atomically(options.output, text.encode())
    print(text, end="")
    sys.exit(1 if faults(found) else 0)


if __name__ == "__main__":
    main()
