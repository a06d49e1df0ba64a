"""What the two backends made from ``kernels.h`` share: their arguments, and why one cannot run."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from jellyplus.neuron.dynamics import Dynamics
from jellyplus.neuron.kernel_code import SEGMENT, Form
from jellyplus.neuron.multistep import Maybe, State

__all__ = ["KernelEngine", "Obstacle"]

Arguments = dict[str, Tensor | float | int | None]


@dataclass(frozen=True)
class Obstacle:
    """Why a backend cannot run on this machine.

    Attributes:
        reason: the original error, or what is missing.
        remedy: the first thing to do about it, one sentence.
    """

    reason: str
    remedy: str

    def __str__(self) -> str:
        return f"{self.reason}; {self.remedy}"


class KernelEngine(ABC):
    """Runs a firing function that has CUDA code; see :class:`jellyplus.neuron.multistep.Engine`.

    Args:
        fire: the node's surrogate function.
        dynamics: the node's constants.

    Raises:
        ValueError: ``fire`` has no CUDA code or does not fire; a tensor of a type or on a device that the backend does
            not run on.
    """

    name: str
    device_type: str
    dtypes: tuple[torch.dtype, ...]

    def __init__(self, fire: Callable, dynamics: Dynamics):
        self.fire, self.dynamics, self.form = fire, dynamics, Form.of(fire, dynamics)

    @abstractmethod
    def launch(self, direction: str, dtype: torch.dtype, device: torch.device, arguments: Arguments) -> None:
        """Run the kernel ``forward`` or ``backward`` on tensors of this type and device; None is a null pointer."""

    def room(self, x: Tensor) -> Tensor:
        """See :class:`jellyplus.neuron.multistep.Engine`."""
        return torch.empty_like(x)

    @staticmethod
    def checkpoints(x: Tensor) -> Tensor | None:
        """[(T - 1) // SEGMENT, neurons], float: V at the beginning of every segment but the first."""
        rows = (x.shape[0] - 1) // SEGMENT
        return torch.empty((rows, x.shape[1]), dtype=torch.float32, device=x.device) if rows else None

    def forward(
        self,
        x: Tensor,
        v: State,
        spikes: Tensor,
        last: Tensor,
        h_seq: Maybe,
        v_seq: Maybe,
        checkpoints: Maybe,
        **more: Tensor | float | None,
    ) -> None:
        """See :class:`jellyplus.neuron.multistep.Engine`; ``more`` arguments are a kernel's that does more."""
        arguments = self._common(x, v) | more
        arguments.update(spike_seq=spikes, v_last=last, h_seq=h_seq, v_seq=v_seq, checkpoints=checkpoints)
        self.launch("forward", x.dtype, x.device, arguments)

    def backward(
        self, x: Tensor, v: State, checkpoints: Maybe, grad_x: Tensor, *grads: Maybe, **more: Tensor | float | None
    ) -> None:
        """See :class:`jellyplus.neuron.multistep.Engine`, and for ``more`` the forward pass."""
        grad_spikes, grad_last, grad_h, grad_v = grads
        step = 0 if grad_spikes is None else grad_spikes.stride(0)
        arguments = self._common(x, v) | more
        arguments.update(grad_spike_seq=grad_spikes, grad_spike_step=step, grad_v_last=grad_last, grad_x_seq=grad_x)
        arguments.update(grad_h_seq=_dense(grad_h), grad_v_seq=_dense(grad_v))
        arguments.update(checkpoints=checkpoints, surrogate_parameter=self._parameter(x.device))
        self.launch("backward", x.dtype, x.device, arguments)

    def _common(self, x: Tensor, v: Tensor | float) -> Arguments:
        if x.device.type != self.device_type:
            raise ValueError(f"backend={self.name!r} runs on {self.device_type} tensors and the input is on {x.device}")
        if x.dtype not in self.dtypes:
            known = ", ".join(str(dtype).removeprefix("torch.") for dtype in self.dtypes)
            raise ValueError(f"backend={self.name!r} runs {known}, and the input is {x.dtype}: use backend='torch'")
        decay, v_th, v_reset, _, spike_size, *_ = self.dynamics
        v_start, v_init = (v, None) if isinstance(v, float) else (0.0, v)
        return {
            "decay": decay,
            "v_th": v_th,
            "reset_to": spike_size if v_reset is None else v_reset,
            "v_start": v_start,
            "v_init": v_init,
            "T": x.shape[0],
            "n": x.shape[1],
            "x_seq": x,
            "x_step": x.stride(0),
        }

    def _parameter(self, device: torch.device) -> Tensor | None:
        """The surrogate's evolving parameter, read when the backward pass runs."""
        parameter = getattr(self.fire, "parameter", None)
        if parameter is None:
            return None
        if parameter.device != device:
            name = type(self.fire).__name__
            raise ValueError(f"the parameter of {name} is on {parameter.device}, the input on {device}: move the net")
        return parameter.float()


def _dense(sequence: Tensor | None) -> Tensor | None:
    return None if sequence is None else sequence.contiguous()
