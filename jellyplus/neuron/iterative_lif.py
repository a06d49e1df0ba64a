"""The iterative leaky integrate-and-fire neuron: Zheng et al. 2021, Eqs. 1-3; Li et al. 2021, Eqs. 1-2."""

from collections.abc import Callable

from jellyplus.neuron.base import Node

__all__ = ["IterativeLIFNode"]


class IterativeLIFNode(Node):
    r"""Iterative LIF: :math:`H[t] = \tau V[t-1] + X[t]`, fires at :math:`H \ge V_{th}`, then resets.

    The equations stand in :class:`jellyplus.neuron.dynamics.Dynamics`, the arguments and errors in
    :class:`jellyplus.neuron.Node`. Equal to SpikingJelly's ``LIFNode(tau=1 / (1 - decay), decay_input=False)``.

    Defaults: decay 0.25 is tdBN's example value (Dspike does not state its own), V_th 0.5 is Dspike's, the reset to
    0 is both papers'. Neither paper says whether the reset is detached; the gradient of Eq. 2 is kept.

    >>> import torch
    >>> node = IterativeLIFNode(step_mode="m")
    >>> node(torch.tensor([[0.4], [0.4], [0.3]])).flatten().tolist()  # H = 0.4, 0.5, 0.3
    [0.0, 1.0, 0.0]
    """

    def __init__(
        self,
        decay: float = 0.25,
        v_threshold: float = 0.5,
        v_reset: float | None = 0.0,
        surrogate_function: Callable | None = None,
        detach_reset: bool = False,
        step_mode: str = "s",
        backend: str = "auto",
        store_v_seq: bool = False,
        store_h_seq: bool = False,
        strict: bool = False,
    ):
        arguments = (decay, v_threshold, v_reset, surrogate_function, detach_reset, step_mode, backend)
        super().__init__(*arguments, store_v_seq=store_v_seq, store_h_seq=store_h_seq, strict=strict)
