"""Which number is not finite first, in a network that has become so."""

import torch
from torch import Tensor, nn

from jellyplus import _compat
from jellyplus._distributed import alone

__all__ = ["first_not_finite", "origin"]


@torch.no_grad()
def first_not_finite(net: nn.Module) -> str | None:
    """The name of the first buffer, or else parameter, with a number that is not finite, None where there is none.

    Statistics are made going forwards, so the first of them is where it began; gradients carry it to weights before it.
    """
    values = {name: v for name, v in (*net.named_buffers(), *net.named_parameters()) if v.is_floating_point()}
    total = sum(value.sum() for value in values.values())
    if torch.isfinite(torch.as_tensor(total)):  # one wait on a GPU
        return None
    return next((name for name, value in values.items() if not _is_finite(value)), None)


@torch.no_grad()
def origin(net: nn.Module, x: Tensor) -> str:
    """Say in words what is not finite first: a weight, the input, a layer's output, or none of them.

    Args:
        net: as it was when the loss was not finite; it runs once more, without the other processes, and its
            statistics change.
        x: its input in that step.
    """
    if name := first_not_finite(net):
        return f"{name} is not finite"
    if not _is_finite(x):
        return "the input is not finite"
    found: list[str] = []

    def note(output: Tensor, name: str) -> None:
        if not _is_finite(output):
            found.append(name)

    handles = [
        module.register_forward_hook(lambda _, __, output, name=name: note(output, name))
        for name, module in net.named_modules()
        if not list(module.children())
    ]
    _compat.reset_net(net)
    with alone():
        net(x)
    for handle in handles:
        handle.remove()
    return f"the first layer with an output that is not finite is {found[0]}" if found else "all layers are finite"


def _is_finite(value: Tensor) -> bool:
    return bool(torch.isfinite(value).all())
