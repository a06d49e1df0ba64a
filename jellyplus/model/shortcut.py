r"""Shortcut branches from the stages to the output (Guo et al. 2024, Eqs. 6 and 10).

.. math:: o = b_n(x) + \lambda \sum_{l < n} b_l(x)

:math:`b_n` is the network's own output, :math:`b_l` a branch behind stage l: global average pooling and a linear
layer. Training sees the sum, so the loss reaches every stage directly; inference the main branch alone (Algorithm 1).
Eq. 6 has :math:`\lambda = 1`; Eq. 10 lets it decrease, see :func:`jellyplus.functional.shortcut_weight`.

The paper leaves open where the branches start: in a network of :mod:`jellyplus.model` behind every stage but the last,
whose output the main branch reads itself; in any other behind the modules named. Each branch gives one output for each
time-step, as the main one does. Forward hooks take the modules' outputs and add the branches to the network's.
"""

import copy
from collections.abc import Iterable, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from jellyplus._compat import MemoryModule, StepModule, layer

__all__ = ["Shortcuts", "attach_shortcuts", "remove_shortcuts"]


class Shortcuts(nn.Module):
    """The weighted sum of all branches, in Eqs. 6 and 10 the part beside the main output.

    The linear layers are initialised as the network's decoding layer is: torch's default.

    Args:
        channels: of the output of each stage that a branch starts from.
        num_classes: outputs.
        weight: lambda, a buffer, which a schedule may fill anew in every iteration.
        spatial: dimensions behind the channels of each of these outputs, over which a branch averages; 2 if left out.
    """

    weight: Tensor

    def __init__(
        self,
        channels: Iterable[int],
        num_classes: int,
        weight: float = 1.0,
        spatial: Iterable[int] | None = None,
    ):
        super().__init__()
        channels = list(channels)
        spatial = [2] * len(channels) if spatial is None else spatial
        self.register_buffer("weight", torch.tensor(float(weight)))
        self.branches = nn.ModuleList(_branch(c, n, num_classes) for c, n in zip(channels, spatial, strict=True))
        self._names: list[str] = []
        self._handles: list = []
        self._outputs: list[list[Tensor]] | None = None  # while the network runs, of each stage's calls
        self._with_gradients = self.declared = False

    def forward(self, outputs: Iterable[Tensor]) -> Tensor:
        """[T, N, C, H, W] from each stage to [T, N, classes]."""
        return self.weight * sum(branch(x) for branch, x in zip(self.branches, outputs, strict=True))

    def connect(self, net: nn.Module, stages: Mapping[str, nn.Module]) -> None:
        """Add to ``net``'s output in training, from now on, what the branches make of its stages'.

        Args:
            net: the network.
            stages: its modules that the branches start from, by name.
        """
        self.declared = hasattr(net, "shortcuts")  # as None, which it becomes again
        self._names = list(stages)
        self._handles = [net.register_forward_pre_hook(self._begin), net.register_forward_hook(self._add)]
        for number, stage in enumerate(stages.values()):
            self._handles.append(stage.register_forward_hook(partial(self._keep, number)))

    def disconnect(self) -> None:
        """Take the hooks off the network."""
        while self._handles:
            self._handles.pop().remove()

    def _begin(self, net: nn.Module, _: tuple) -> None:
        self._outputs = [[] for _ in self._names] if self.training else None
        self._with_gradients = torch.is_grad_enabled()

    def _keep(self, number: int, stage: nn.Module, _: tuple, y: Tensor) -> None:
        if self._outputs is None:
            return
        if self._with_gradients and not torch.is_grad_enabled():
            raise ValueError(
                f"the module {self._names[number]!r} runs without gradients inside the network, and its shortcut "
                "branch would not train it: torch.utils.checkpoint needs use_reentrant=False"
            )
        self._outputs[number].append(self._checked(number, y))

    def _checked(self, number: int, y: Tensor) -> Tensor:
        branch: Any = self.branches[number]
        (pool, _, linear), name = branch, self._names[number]
        if not isinstance(y, Tensor):
            raise ValueError(f"the module {name!r} gives a {type(y).__name__}, and a shortcut branch needs a tensor")
        if y.dim() <= pool.spatial or y.shape[-pool.spatial - 1] != linear.in_features:
            dims = ", ".join(["..., C", "H", "W", "D"][: pool.spatial + 1])
            raise ValueError(
                f"the module {name!r} gives {tuple(y.shape)}, and its shortcut branch was made for [{dims}] with C = "
                f"{linear.in_features} channels: state them by name, after={{{name!r}: channels}}, or choose another "
                "module"
            )
        return y

    def _add(self, net: nn.Module, _: tuple, y: Tensor) -> Tensor | None:
        outputs, self._outputs = self._outputs, None
        if outputs is None:
            return None
        if silent := [name for name, calls in zip(self._names, outputs, strict=True) if not calls]:
            raise ValueError(f"the module {silent[0]!r}, which a shortcut branch starts from, did not run")
        branches = self([calls[0] if len(calls) == 1 else torch.stack(calls) for calls in outputs])
        return y + _of_shape(branches, y)

    def __getstate__(self) -> dict:
        return super().__getstate__() | {"_outputs": None}


def _of_shape(branches: Tensor, y: Tensor) -> Tensor:
    """The branches' [T, N, classes] for an output of this shape, or their mean over T for one of [N, classes]."""
    if not isinstance(y, Tensor):
        raise ValueError(f"shortcut branches add to a network's output, a tensor, and it gives a {type(y).__name__}")
    mean = branches.mean(0) if branches.dim() == y.dim() + 1 else branches
    try:
        return mean.expand_as(y)
    except RuntimeError:
        raise ValueError(
            f"shortcut branches give {tuple(branches.shape)} and the network {tuple(y.shape)}: they add to an output "
            "of [T, N, classes], or of [N, classes], the mean over time-steps, with num_classes classes"
        ) from None


class _GlobalAverage(nn.Module):
    """The mean over the last dimensions, which stay, of size 1."""

    def __init__(self, spatial: int):
        super().__init__()
        self.spatial = spatial

    def forward(self, x: Tensor) -> Tensor:
        return x.mean(tuple(range(-self.spatial, 0)), keepdim=True) if self.spatial else x

    def extra_repr(self) -> str:
        return f"spatial={self.spatial}"


def _branch(channels: int, spatial: int, num_classes: int) -> nn.Sequential:
    return nn.Sequential(_GlobalAverage(spatial), nn.Flatten(-spatial - 1), layer.Linear(channels, num_classes))


def attach_shortcuts(
    net: nn.Module,
    weight: float = 1.0,
    after: Iterable[str | nn.Module] | Mapping[str | nn.Module, int] | None = None,
    num_classes: int | None = None,
) -> nn.Module:
    """Add branches from inside the network to its output, in place; other weights stay as they are.

    The branches are ``net.shortcuts``, whose parameters are the network's and which is there for its optimizer at once.
    The network may run in step mode 'm', or time-step by time-step in a loop around it or inside it; its output is
    [T, N, classes], or [N, classes], for one time-step or the mean over time-steps, and the branches add to it what
    they have for the same.

    Args:
        net: any network; call it, not its ``forward``, which knows no hooks.
        weight: lambda.
        after: the modules that branches start from, themselves or by name as in ``net.named_modules()``. Their outputs
            are [..., C, H, W] or [..., C]: a branch has the channels of the last convolution or linear layer in its
            module, or, where there is none, before it. A mapping from modules to numbers of channels states others.
            By default every stage but the last of a network of :mod:`jellyplus.model`.
        num_classes: of the network; by default those of its layer ``fc``.

    Returns:
        The same network.

    Raises:
        ValueError: it has branches already, or an attribute of this name, or is a Sequential; no such module, or none
            to start from; when it runs: a module's channels are others, or its output's shape is none of these.

    >>> from jellyplus.model import resnet19
    >>> [branch[-1].in_features for branch in attach_shortcuts(resnet19(width=4)).shortcuts.branches]
    [4, 8]
    >>> net = resnet19(width=4, num_classes=5)
    >>> attach_shortcuts(net, after=["neuron1"]).shortcuts.branches[0][-1]
    Linear(in_features=4, out_features=5, bias=True)
    """
    if isinstance(getattr(net, "shortcuts", None), Shortcuts):
        raise ValueError("the network has shortcut branches already: remove_shortcuts(net) gives one without")
    if getattr(net, "shortcuts", None) is not None:
        raise ValueError("the network has an attribute 'shortcuts' of its own, which is the branches' name: rename it")
    if isinstance(net, nn.Sequential):
        raise ValueError("a Sequential would run its branches as a layer: make it part of a module, net.layers = ...")
    starts = _stages(net) if after is None else _starts(net, after)
    channels, spatial = zip(*(_shape(net, name, stated) for name, stated in starts.items()), strict=True)
    shortcuts = Shortcuts(channels, _classes(net) if num_classes is None else num_classes, weight, spatial)
    for module in shortcuts.modules():
        if isinstance(module, StepModule):
            module.step_mode = getattr(net, "step_mode", "s")
    shortcuts.connect(net, {name: net.get_submodule(name) for name in starts})
    net.shortcuts = shortcuts.to(next(net.parameters())).train(net.training)
    return net


def _stages(net: nn.Module) -> dict[str, None]:
    stages = getattr(net, "stages", None)
    if not isinstance(stages, nn.Sequential):
        raise ValueError("the network has no stages of jellyplus.model: name the modules, after=['layer1', 'layer2']")
    if len(stages) < 2:
        raise ValueError(f"shortcut branches need two stages or more, and the network has {len(stages)}")
    return dict.fromkeys(f"stages.{number}" for number in range(len(stages) - 1))


def _starts(net: nn.Module, after: Iterable | Mapping) -> dict[str, int | None]:
    """What a caller stated, by name: the channels, or None."""
    if isinstance(after, (str, nn.Module)):
        raise ValueError("after is a list of modules or names, also of one: after=['layer1']")
    names = {module: name for name, module in net.named_modules()}
    starts, stated = {}, after if isinstance(after, Mapping) else dict.fromkeys(after)
    for start, channels in stated.items():
        if start not in names and start not in names.values():
            what = repr(start) if isinstance(start, str) else f"{type(start).__name__} given in after"
            raise ValueError(f"the network has no module {what}: choose from net.named_modules()")
        starts[names.get(start, start)] = channels
    if not starts or "" in starts:
        raise ValueError("after states no module inside the network, and shortcut branches need one or more")
    return starts


def _shape(net: nn.Module, name: str, stated: int | None) -> tuple[int, int]:
    """Channels of a module's output, and the number of dimensions behind them."""
    modules = dict(net.named_modules())
    names = list(modules)
    inside = [other for other in names if other == name or other.startswith(f"{name}.")]
    before = names[: names.index(name)]
    for candidates in (inside, before):
        inner = (modules[other] for other in candidates)
        if layers := [module for module in inner if isinstance(module, (_ConvNd, nn.Linear))]:
            return stated or _width(layers[-1]), len(getattr(layers[-1], "kernel_size", ()))
    raise ValueError(f"the module {name!r} has no convolution or linear layer in it or before it: choose a later one")


def _width(module: _ConvNd | nn.Linear) -> int:
    return module.out_channels if isinstance(module, _ConvNd) else module.out_features


def _classes(net: nn.Module) -> int:
    if isinstance(decoding := getattr(net, "fc", None), nn.Linear):
        return decoding.out_features
    raise ValueError("the network has no linear layer named 'fc', which would tell its classes: state num_classes")


def output_channels(stage: nn.Module) -> int:
    """Channels of a stage's output: those of its last convolution, which in a residual block all agree on."""
    return [module.out_channels for module in stage.modules() if isinstance(module, nn.Conv2d)][-1]


def remove_shortcuts(net: nn.Module) -> nn.Module:
    """A copy of ``net`` without branches, as it is meant for inference; what it computes in evaluation is the same.

    Nothing of them stays behind: no module, parameter, buffer or hook.
    """
    plain: Any = copy.deepcopy(net, _states_without_graph(net))
    if isinstance(shortcuts := getattr(plain, "shortcuts", None), Shortcuts):
        shortcuts.disconnect()
        plain.shortcuts = None
        if not shortcuts.declared:
            del plain.shortcuts
    return plain


def _states_without_graph(net: nn.Module) -> dict[int, Tensor]:
    """For copying: torch refuses a tensor with a graph, such as SpikingJelly's nodes keep after a forward pass."""
    memories = [m for module in net.modules() if isinstance(module, MemoryModule) for m in module._memories.values()]
    return {id(memory): memory.detach().clone() for memory in memories if isinstance(memory, Tensor)}
