"""Measures what the theorems of Zheng et al. 2021 (tdBN) say: the first as in its Fig. 2, the second as in its Fig. 3.

    python benchmarks/theorems.py [--output benchmarks/theorems.md]

Deterministic on one machine; about two minutes with one thread. The exit status is 1 where a limit below is broken.

**Theorem 1**: with tdBN gradients neither vanish nor explode. A plain network of 20 layers (encoding convolution, 18
convolutions of equal width, decoding layer) is trained over the first 1/6 epoch of the embedded digits. Measured is
the mean over the steps of ||dL/dW||_2 of each of the 18. The *slope* is that of a straight line through its logarithm
over the layers, positive where it grows towards the output; the *drift* is the largest over the smallest of the 18.

**Theorem 2**: the variance of the membrane potential is proportional to that of the pre-activations.
"""

import argparse
import math
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import NormalDist

import pandas as pd
import torch
import torch.nn.functional as F
from spikingjelly.activation_based import functional, layer
from torch import Tensor, nn

from jellyplus import datasets
from jellyplus._files import write_atomically
from jellyplus.datasets.order import EpochOrder
from jellyplus.datasets.transforms import normalisation
from jellyplus.layer import ThresholdDependentBatchNorm2d
from jellyplus.neuron import IterativeLIFNode
from jellyplus.surrogate import Rectangular

MOST_DRIFT = 10.0  # "gradient vanishing or explosion" is what lies above
MOST_SPREAD = 0.05  # of var(u) / var(x) over the three variances

LAYERS = 18  # between the encoding and the decoding layer
DECAYS = (0.0, 0.25, 0.5)
SEEDS = (0, 1, 2)

# What the paper leaves open: V_th is Dspike's, a is twice that (see RATIOS), width, T and the data suit a CPU.
V_THRESHOLD = 0.5
WINDOW = 1.0  # a, width of the rectangular surrogate
WIDTH = 32
TIME_STEPS = 4
BATCH = 32
LEARNING_RATE, MOMENTUM = 0.1, 0.9  # SGD as the paper trains its ResNets

#: a / V_th for the second table; at initialisation nothing but this ratio matters, as both are in units of potential.
RATIOS = (1.0, 1.25, 1.5, 1.75, 2.0, 2.5, 3.0, 4.0)

VARIANCES = (1 / 4, 1 / 2, 1.0)  # the paper's, at V_th = 1
NEURONS = 1_000_000
LAST = 10  # time-step whose potential is looked at; what came four before weighs decay^4


def he(weight: Tensor) -> Tensor:
    """He et al. 2015, fan in."""
    return nn.init.kaiming_normal_(weight, nonlinearity="relu")


def torchs(weight: Tensor) -> Tensor:
    """What torch gives a convolution by itself, a sixth of that variance."""
    return nn.init.kaiming_uniform_(weight, a=math.sqrt(5))


def plain_network(
    decay: float,
    v_threshold: float = V_THRESHOLD,
    window: float = WINDOW,
    width: int = WIDTH,
    norm: bool = True,
    initialise: Callable[[Tensor], Tensor] = he,
) -> nn.Sequential:
    """20 layers in step mode 'm', [T, N, 3, H, W] to [T, N, 10]; tdBN with alpha 1, or no norm."""

    def block(channels: int) -> Iterator[nn.Module]:
        convolution = layer.Conv2d(channels, width, kernel_size=3, padding=1, bias=False)
        initialise(convolution.weight.data)
        yield convolution
        if norm:
            yield ThresholdDependentBatchNorm2d(alpha=1.0, v_th=v_threshold, num_features=width)
        yield IterativeLIFNode(decay, v_threshold, surrogate_function=Rectangular(window), backend="torch")

    blocks = [module for channels in (3, *[width] * LAYERS) for module in block(channels)]
    net = nn.Sequential(*blocks, layer.AdaptiveAvgPool2d(1), layer.Flatten(), layer.Linear(width, 10))
    functional.set_step_mode(net, "m")
    return net


def gradient_norms(
    make: Callable[[], nn.Sequential], seed: int, steps: int | None = None, T: int = TIME_STEPS, batch: int = BATCH
) -> Tensor:
    """Mean of ||dL/dW||_2 over training steps, [18]; over the first 1/6 epoch where ``steps`` is None."""
    data = datasets.load("digits")
    order = EpochOrder(len(data.train), seed).indices(epoch=0)
    batches = order.split(batch)[: len(data.train) // batch // 6 if steps is None else steps]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        net = make()
    weights = [module.weight for module in net if isinstance(module, layer.Conv2d)][1:]
    optimiser = torch.optim.SGD(net.parameters(), LEARNING_RATE, MOMENTUM)
    norms = []
    for indices in batches:
        x = normalisation(data)(data.train.inputs[indices])
        loss = F.cross_entropy(net(x.expand(T, *x.shape)).mean(0), data.train.labels[indices])
        optimiser.zero_grad()
        loss.backward()
        norms.append(torch.stack([weight.grad.norm() for weight in weights]))
        optimiser.step()
        functional.reset_net(net)
    return torch.stack(norms).double().mean(0)


def log_slope(norms: Tensor) -> float:
    """Least squares of ln(norm) over the layers, per layer; nan where a norm is 0."""
    layers = torch.arange(len(norms), dtype=norms.dtype)
    layers -= layers.mean()
    return ((layers * norms.log()).sum() / layers.square().sum()).item() if norms.all() else math.nan


def drift(norms: Tensor) -> float:
    """Largest norm over the smallest; infinite where one is 0."""
    return (norms.max() / norms.min()).item() if norms.all() else math.inf


def expected_slope(ratio: float) -> float:
    r"""The slope at decay 0 for a / V_th = ``ratio``: an estimate of ours, in which all layers are alike.

    H is N(0, V_th^2), so a neuron fires with p = P(z >= 1) and is in the surrogate's window with
    q = P(|z - 1| < a / (2 V_th)). One block back, tdBN multiplies the squared gradient by V_th^2 over the variance of
    its input, fan-in var(W) p (1 - p); the convolution's transpose by fan-in var(W); the surrogate by q / a^2. In all
    that is V_th^2 q / (a^2 p (1 - p)), which is 1 for a / V_th = 1.8.
    """
    z = NormalDist()
    p = 1 - z.cdf(1)
    q = z.cdf(1 + ratio / 2) - z.cdf(1 - ratio / 2)
    return -math.log(q / (ratio**2 * p * (1 - p))) / 2


def potential(
    variance: float, v_threshold: float, decay: float, T: int = LAST, n: int = NEURONS
) -> tuple[Tensor, Tensor]:
    """Pre-activations and membrane potentials (before reset) of the last of T time-steps, both [n], float64."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(T, n, generator=generator, dtype=torch.float64) * math.sqrt(variance)
    node = IterativeLIFNode(decay, v_threshold, step_mode="m", store_h_seq=True)
    with torch.no_grad():
        node(x)
    return x[-1], node.h_seq[-1]


def figure_2() -> pd.DataFrame:
    """Slopes and drifts for every decay, with tdBN and without."""
    networks = {
        "tdBN": {"norm": True},
        "none": {"norm": False},
        "none, torch's initial weights": {"norm": False, "initialise": torchs},
    }
    return pd.DataFrame([_figure_2_row(name, decay, options) for name, options in networks.items() for decay in DECAYS])


def _figure_2_row(name: str, decay: float, options: dict) -> dict[str, object]:
    found = [gradient_norms(lambda: plain_network(decay, **options), seed) for seed in SEEDS]
    slopes = torch.tensor([log_slope(norms) for norms in found])
    first, last = torch.stack(found).mean(0)[[0, -1]].tolist()
    return {
        "norm": name,
        "decay": decay,
        "slope": slopes.mean().item(),
        "least": slopes.min().item(),
        "most": slopes.max().item(),
        "drift": max(drift(norms) for norms in found),
        "first of 18": first,
        "last of 18": last,
    }


def by_ratio() -> pd.DataFrame:
    """Slopes and drifts at initialisation for every a / V_th."""
    rows = []
    for ratio in RATIOS:
        row = {"a / V_th": ratio, "expected slope at decay 0": expected_slope(ratio)}
        for decay in DECAYS:
            norms = gradient_norms(lambda: plain_network(decay, window=ratio * V_THRESHOLD), seed=0, steps=1)  # noqa: B023
            row |= {f"slope at {decay}": log_slope(norms), f"drift at {decay}": drift(norms)}
        rows.append(row)
    return pd.DataFrame(rows)


def figure_3() -> pd.DataFrame:
    """The moments of u for the paper's three variances, at V_th = 1 and at V_th twice the deviation."""
    return pd.DataFrame(
        [
            _figure_3_row(name, variance, threshold(variance), decay)
            for decay in DECAYS[1:]
            for name, threshold in {"1": lambda _: 1.0, "2 sigma": lambda variance: 2 * math.sqrt(variance)}.items()
            for variance in VARIANCES
        ]
    )


def _figure_3_row(name: str, variance: float, v_threshold: float, decay: float) -> dict[str, object]:
    x, u = potential(variance, v_threshold, decay)
    return {
        "decay": decay,
        "V_th": name,
        "var(x)": variance,
        "var(u)": u.var().item(),
        "var(u) / var(x)": (u.var() / x.var()).item(),
        "mean(u) / sigma": (u.mean() / math.sqrt(variance)).item(),
        "fires": (u >= v_threshold).double().mean().item(),
    }


def spreads(frame: pd.DataFrame) -> pd.Series:
    """How far the largest var(u) / var(x) is above the smallest, for each decay and V_th."""
    ratios = frame.groupby(["decay", "V_th"], sort=False)["var(u) / var(x)"]
    return ratios.max() / ratios.min() - 1


def faults(gradients: pd.DataFrame, potentials: pd.DataFrame) -> list[str]:
    """Where tdBN lets the gradient drift, and where the paper's own decay gives no proportionality."""
    drifting = gradients[(gradients["norm"] == "tdBN") & ~(gradients["drift"] < MOST_DRIFT)]
    spread = spreads(potentials)[0.25]
    return [
        f"* drift above {MOST_DRIFT:g}: {row['drift']:.2f} at decay {row['decay']}" for _, row in drifting.iterrows()
    ] + [
        f"* var(u) / var(x) spreads by {value:.1%}, V_th = {name}"
        for name, value in spread.items()
        if value > MOST_SPREAD
    ]


def page(gradients: pd.DataFrame, ratios: pd.DataFrame, potentials: pd.DataFrame) -> str:
    """The three tables, what they were measured on, and the limits that are broken."""
    drifts = [f"drift at {decay}" for decay in DECAYS]
    steady = ratios.loc[(ratios[drifts] < MOST_DRIFT).all(axis=1), "a / V_th"]
    spread = [f"decay {decay:g}, V_th = {name}: {value:.2%}" for (decay, name), value in spreads(potentials).items()]
    notes = [
        "# The theorems of Zheng et al. 2021 (tdBN), measured",
        "From `python benchmarks/theorems.py`, whose head defines slope and drift.",
        "## Theorem 1 and Fig. 2: gradient norms in a plain network of 20 layers",
        f"T = {TIME_STEPS}, width {WIDTH}, 3x3 convolutions without bias, He's initial weights, tdBN with alpha 1, "
        f"V_th = {V_THRESHOLD}, rectangular surrogate of width a = {WINDOW}, hard reset to 0, not detached; "
        "`IterativeLIFNode`, `backend='torch'`. Embedded digits, 3x16x16, the same image at every time-step, global "
        "average pool and linear layer to ten classes, cross-entropy of the mean over time; "
        f"batch {BATCH}, SGD {LEARNING_RATE} with momentum {MOMENTUM}, the first 1/6 epoch. "
        "The paper states neither V_th nor a, T, width, batch or initial weights of this network, and has CIFAR-10.",
        f"Slope: mean, least and most of {len(SEEDS)} seeds; drift: the largest of them; the norms: their mean. No "
        "verdict on the slope's sign: it changes with decay. For the squared norm double the slope and square the "
        "drift.",
        _table(gradients, {"decay": "{:g}", "drift": "{:.3g}", "first of 18": "{:.2g}", "last of 18": "{:.2g}"}),
        "The rows without a norm are for contrast; they claim nothing. With torch's own initial weights all but the "
        "first few layers are silent: H = 0 lies on the edge of the window, which is open, so there is no gradient.",
        "### What it depends on",
        "At initialisation, one batch, one seed. V_th and a set the unit of the membrane potential; their ratio "
        "decides, which the paper's proof does not mention. The expected slope, at decay 0, is an estimate of ours "
        f"(`expected_slope`). Under {MOST_DRIFT:g} at all three decays is the drift for a / V_th = "
        f"{', '.join(f'{ratio:g}' for ratio in steady)}.",
        _table(ratios, {"a / V_th": "{:g}"} | dict.fromkeys(drifts, "{:.3g}")),
        "## Theorem 2 and Fig. 3: variance of the membrane potential",
        f"x ~ N(0, sigma^2), {NEURONS:,} neurons, u = H before reset at time-step {LAST}; the same draws, scaled, in "
        "every row. Eq. 26 gives var(u) / var(x) = 1 + decay^2: 1.0625 and 1.25.",
        _table(potentials, {"decay": "{:g}", "var(x)": "{:g}", "fires": "{:.3f}"}, "{:.4f}"),
        f"How far the largest ratio is above the smallest: {'; '.join(spread)}. The ratio is one number while "
        "sigma / V_th is, since both only set the unit. Where sigma varies against V_th it is nearly one for a small "
        "decay: what fires is reset and does not carry over, and more of a wide distribution fires. That also moves "
        "the mean below 0, so u is not N(0, .) exactly.",
        "\n".join(faults(gradients, potentials)),
    ]
    return "\n\n".join(filter(None, notes)) + "\n"


def _table(frame: pd.DataFrame, formats: dict[str, str], otherwise: str = "{:+.3f}") -> str:
    shown = frame.astype(object)
    for name in frame.select_dtypes("float"):
        form = formats.get(name, otherwise)
        shown[name] = ["none" if math.isnan(value) else form.format(value) for value in frame[name]]
    return shown.to_markdown(index=False, disable_numparse=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    gradients, potentials = figure_2(), figure_3()
    text = page(gradients, by_ratio(), potentials)
    if options.output:
        write_atomically(options.output, text.encode())
    print(text, end="")
    sys.exit(1 if faults(gradients, potentials) else 0)


if __name__ == "__main__":
    main()
