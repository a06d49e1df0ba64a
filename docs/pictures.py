"""The picture of each method, drawn with the package's own functions when the pages are built."""

from collections.abc import Callable, Iterator
from pathlib import Path

import matplotlib
import torch
from matplotlib import pyplot as plt
from matplotlib.artist import Artist
from matplotlib.axes import Axes

from jellyplus import functional, surrogate
from jellyplus.layer import ThresholdDependentBatchNorm2d
from jellyplus.loss import im_loss
from jellyplus.neuron import IterativeLIFNode, SRIFNode

V_TH = 0.5


def tdbn(left: Axes, right: Axes) -> None:
    """Inputs of a neuron before and after the norm, for the two values of alpha."""
    x = 3 + 2 * torch.randn(4, 64, 8, 8, 8, generator=torch.Generator().manual_seed(0))
    for axes, alpha in ((left, 1.0), (right, 2**-0.5)):
        y = ThresholdDependentBatchNorm2d(alpha=alpha, v_th=V_TH, num_features=8)(x)
        axes.hist(x.flatten().numpy(), 60, density=True, alpha=0.6, label="before")
        axes.hist(y.detach().flatten().numpy(), 60, density=True, alpha=0.6, label="after")
        axes.axvline(V_TH, color="black", linestyle=":", label="$V_{th}$")
        axes.set(title=rf"input, $\alpha$ = {alpha:.2g}", xlabel="input current", ylabel="density")


def _surrogates(left: Axes, right: Axes, shapes: dict[str, surrogate.Surrogate]) -> None:
    x = torch.linspace(-1, 1, 801)
    for name, shape in shapes.items():
        left.plot(x, shape.primitive(x), label=name)
        right.plot(x, shape.gradient(x), label=name)
    left.set(title="function", xlabel="$H - V_{th}$")
    right.set(title="gradient", xlabel="$H - V_{th}$")


def dspike(left: Axes, right: Axes) -> None:
    """The family of functions and gradients, and the rectangular one."""
    shapes = {f"b = {b:g}": surrogate.Dspike(temperature=b) for b in (1.0, 3.0, 10.0)}
    _surrogates(left, right, shapes | {"rectangular": surrogate.Rectangular()})


def esg(left: Axes, right: Axes) -> None:
    """EvAF in the first, some middle, and the last of a hundred epochs."""
    ks = {epoch: functional.evaf_k(epoch, 100) for epoch in (0, 50, 99)}
    shapes = {f"epoch {epoch} of 100, K = {k:.2g}": surrogate.EvAF() for epoch, k in ks.items()}
    for shape, k in zip(shapes.values(), ks.values(), strict=True):
        shape.k.fill_(k)
    _surrogates(left, right, shapes)


def imloss(left: Axes, right: Axes) -> None:
    """Potentials around a mean: the loss is least where a spike says most."""
    means = torch.linspace(-0.5, 1.5, 101)
    noise = 0.3 * torch.randn(4000, generator=torch.Generator().manual_seed(0))
    left.plot(means, [im_loss([noise + mean], [V_TH]) for mean in means], label="IM-Loss")
    rate = torch.stack([(noise + mean >= V_TH).double().mean() for mean in means])
    bits = torch.distributions.Bernoulli(rate).entropy() / torch.log(torch.tensor(2.0))
    right.plot(means, bits, label="entropy of a spike")
    left.set(title="loss of a layer", xlabel="mean membrane potential")
    right.set(title="information (bit)", xlabel="mean membrane potential")
    for axes in (left, right):
        axes.axvline(V_TH, color="black", linestyle=":", label="$V_{th}$")


def inflor(left: Axes, right: Axes) -> None:
    """The rectificator, and the potentials of a neuron with hard and with soft reset."""
    u = torch.linspace(-1, 2, 301)
    left.plot(u, functional.membrane_potential_rectify(u), label="rectified")
    left.plot(u, u, linestyle="--", label="as it was")
    left.set(title="MPR", xlabel="membrane potential")
    current = torch.rand(12, 1, generator=torch.Generator().manual_seed(0))
    nodes = {"hard reset": IterativeLIFNode(decay=1.0, v_threshold=V_TH), "soft reset": SRIFNode(v_threshold=V_TH)}
    for name, node in nodes.items():
        node.step_mode, node.store_h_seq = "m", True
        spikes = node(current)
        right.plot(node.h_seq.flatten().detach(), marker="o", label=f"{name}: {spikes.sum():.0f} spikes")
    right.set(title="potential before reset", xlabel="time-step")


def shortcut(left: Axes, right: Axes) -> None:
    """The weight of the branches while it trains, and what is left for the main branch."""
    steps = range(1, 1001)
    weight = torch.tensor([functional.shortcut_weight(step, len(steps)) for step in steps])
    left.plot(steps, weight, label="evolutionary, Eq. 10")
    left.plot(steps, torch.ones(len(steps)), linestyle="--", label="shortcut, Eq. 6")
    left.set(title="weight of each branch", xlabel="iteration of 1000")
    for branches in (1, 3):
        right.plot(steps, 1 / (1 + branches * weight), label=f"{branches} evolutionary branches")
    right.set(title="share of the main branch", xlabel="iteration of 1000")


PICTURES: dict[str, Callable[[Axes, Axes], None]] = {
    drawn.__name__: drawn for drawn in (tdbn, dspike, esg, imloss, inflor, shortcut)
}


def _named(axes: Axes) -> Iterator[tuple[Artist, str]]:
    return zip(*axes.get_legend_handles_labels(), strict=True)


def draw_all(folder: Path) -> None:
    """One SVG a method, equal bytes for equal code."""
    matplotlib.use("Agg")
    with plt.rc_context({"svg.hashsalt": "jellyplus", "font.size": 9}), torch.no_grad():
        for name, draw in PICTURES.items():
            figure, (left, right) = plt.subplots(1, 2, figsize=(6, 3), layout="constrained")
            draw(left, right)
            named = {label: handle for axes in (left, right) for handle, label in _named(axes)}
            figure.legend(named.values(), named.keys(), loc="outside lower center", ncols=2, frameon=False)
            figure.savefig(folder / f"{name}.svg", metadata={"Date": None})
            plt.close(figure)
