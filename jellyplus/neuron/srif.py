"""The soft-reset integrate-and-fire neuron with a membrane potential rectificator: Guo et al. 2022 (ECCV), InfLoR."""

from collections.abc import Callable

from jellyplus.neuron.base import Node
from jellyplus.neuron.dynamics import Dynamics

__all__ = ["SRIFNode"]


class SRIFNode(Node):
    r"""SRIF: :math:`H[t] = V[t-1] + X[t]`, and a spike takes itself off: :math:`V[t] = H[t] - S[t]` (Eqs. 11-14).

    With ``rectify`` the spike is decided on the rectified potential, :math:`S[t] = \Theta(\varphi(H[t]) - V_{th})`,
    where :math:`\varphi` is :func:`jellyplus.functional.membrane_potential_rectify` (Eq. 10). It changes no spike, only
    the gradient: dV/dH = 1 - g(phi(H) - V_th) phi'(H), or 1 when detached. Without it this is Eq. 8's neuron.

    What is subtracted is 1, which is 2 V_th, and not V_th as in SpikingJelly's soft reset: so Eq. 8 is printed, and
    the paper's Fig. 2 has three spikes only then. The other arguments stand in :class:`jellyplus.neuron.Node`.

    Defaults: V_th = 0.5 is the paper's, no decay Eq. 11's. The paper names no surrogate and does not say whether the
    reset is detached; the gradient of Eq. 14 is kept.

    Raises:
        ValueError: ``rectify=True`` and a V_th other than 0.5, where Eq. 10 would change which neurons fire.

    >>> import torch
    >>> node = SRIFNode(step_mode="m")
    >>> node(torch.tensor([[0.75], [0.6], [0.75], [0.45], [0.7]])).flatten().tolist()  # the paper's Fig. 2
    [1.0, 0.0, 1.0, 1.0, 0.0]
    """

    def __init__(
        self,
        v_threshold: float = 0.5,
        rectify: bool = True,
        surrogate_function: Callable | None = None,
        detach_reset: bool = False,
        step_mode: str = "s",
        backend: str = "auto",
        store_v_seq: bool = False,
        store_h_seq: bool = False,
        strict: bool = False,
    ):
        if rectify and v_threshold != 0.5:
            raise ValueError(
                f"rectify=True needs v_threshold 0.5, got {v_threshold}: Eq. 10 is symmetric about 0.5 only"
            )
        arguments = (1.0, v_threshold, None, surrogate_function, detach_reset, step_mode, backend)
        super().__init__(*arguments, store_v_seq=store_v_seq, store_h_seq=store_h_seq, strict=strict)
        self.rectify = rectify

    @property
    def dynamics(self) -> Dynamics:
        """The constants of one time-step."""
        arguments = (self.decay, self.v_threshold, None, self.detach_reset)
        return Dynamics(*arguments, spike_size=1.0, rectify=self.rectify, strict=self.strict)

    def extra_repr(self) -> str:
        """The base's line, and whether the potential is rectified."""
        return f"rectify={self.rectify}, {super().extra_repr()}"
