"""The parts of a recipe one by one, on inputs that reach every branch of theirs.

A network's potentials do not: behind a rectangular window nobody sees what a rectifier does to negative ones.
"""

import copy

import torch
from torch import Tensor, nn

from jellyplus import _compat
from jellyplus.layer import ThresholdDependentBatchNorm2d
from jellyplus.neuron import Node
from jellyplus.reproduction.probe.watch import Values, projection
from jellyplus.surrogate import Surrogate
from jellyplus.training.method import methods_of
from jellyplus.training.network import build_network
from jellyplus.training.recipe import Recipe

__all__ = ["of_recipe"]


class _Everywhere(Surrogate):
    """Has a gradient for every potential, so that a node shows the whole of its own."""

    def primitive(self, x: Tensor) -> Tensor:
        return x

    def gradient_(self, x: Tensor) -> Tensor:
        return x.fill_(1)

    def cuda_gradient(self, x: str) -> str:
        return "1.0f"


def of_recipe(recipe: Recipe, inputs: Tensor) -> Values:
    """What the recipe's neuron, surrogate, norm and methods do.

    Args:
        recipe: narrow.
        inputs: of its network, [T or 1, N, C, H, W].
    """
    net = build_network(recipe)
    values = {}
    if node := next((module for module in net.modules() if isinstance(module, Node)), None):
        values |= _surrogate(node) | _node("node", node)
        everywhere = copy.deepcopy(node)
        everywhere.surrogate_function = _Everywhere()
        values |= _node("node with a gradient everywhere", everywhere)
    if norm := next((m for m in net.modules() if isinstance(m, ThresholdDependentBatchNorm2d)), None):
        values |= _norm(norm)
    for method in methods_of(recipe).values():
        found = method.probed(net.train(), inputs)
        values |= {name: [*map(projection, seen)] if isinstance(seen, list) else seen for name, seen in found.items()}
    return values


def _surrogate(node: Node) -> Values:
    """Around V_th, on the edges of windows too and beside them, for three values of a shape parameter."""
    surrogate = copy.deepcopy(node.surrogate_function)
    edges = torch.tensor([-1.0, -0.5, -0.25, 0.25, 0.5, 1.0])
    beside = [edges.nextafter(torch.full_like(edges, side)) for side in (-9.0, 9.0)]
    x = torch.cat([torch.linspace(-3, 3, 121), torch.zeros(1), edges, *beside])
    values: Values = {"surrogate gradient": [], "surrogate primitive": []}
    for shape in (0.5, 1.0, 3.0) if surrogate.parameter is not None else (None,):
        if shape:
            surrogate.parameter.fill_(shape)
        values["surrogate gradient"].append(projection(surrogate.gradient(x)))
        values["surrogate primitive"].append(projection(surrogate.primitive(x)))
    return values


def _node(name: str, node: Node) -> Values:
    """Two sequences one after the other, the second from the state that the first one leaves, in either step mode."""
    node = copy.deepcopy(node)
    node.store_h_seq = True
    values = {}
    x = torch.linspace(-2, 2.5, 4 * 60).reshape(60, 4).t().reshape(4, 1, 60).clone()  # [T, N, neurons]
    x[0, 0, :3] = torch.tensor([0.0, node.v_threshold, 1.0])  # H there, exactly: where something begins or ends
    for mode in "ms":
        _compat.reset_net(node)
        node.step_mode = mode
        seen = []
        for sequence in (x, 0.7 * x.flip(0)):
            sequence = sequence.clone().requires_grad_()
            spikes = node(sequence) if mode == "m" else torch.stack([node(step) for step in sequence])
            weights = torch.linspace(-1, 1, spikes.numel()).view_as(spikes)
            loss = (weights * spikes).sum() + (node.v * weights[0]).sum()
            if mode == "m":
                loss = loss + (weights.flip(-1) * node.h_seq).sum()
            (gradient,) = torch.autograd.grad(loss, sequence)
            seen += [projection(spikes), projection(node.v), projection(gradient)]
            node.v = node.v.detach()
        values[f"{name}, step mode '{mode}', value"] = seen
    return values


def _norm(norm: nn.Module) -> Values:
    """Training on values far from its initial statistics, then evaluation."""
    norm, x = copy.deepcopy(norm), torch.linspace(-1, 4, 3 * 2 * norm.num_features * 4)
    x = x.square().view(3, 2, norm.num_features, 2, 2).requires_grad_()
    y = norm.train()(x)
    (gradient,) = torch.autograd.grad((y * torch.linspace(-1, 1, y.numel()).view_as(y)).sum(), x)
    evaluated = norm.eval()(x)
    return {"norm, value": [projection(value) for value in (y, gradient, norm.running_var, evaluated)]}
