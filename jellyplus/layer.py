r"""Threshold-dependent batch normalisation (Zheng et al. 2021, Eqs. 5-8).

.. math:: y = \lambda\,\frac{\alpha V_{th}\,(x - \mathrm{E}[x])}{\sqrt{\mathrm{Var}[x] + \epsilon}} + \beta

SpikingJelly 0.0.0.0.14 has classes of these names whose forward raises (layer.py:1822: no ``_check_input_dim``) and
which would only start :math:`\lambda` at :math:`\alpha V_{th}` (layer.py:1829). Here the factor is outside the
parameter, as printed, so the gradient of :math:`\lambda` carries it.
"""

import torch.nn.functional as F
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm

from jellyplus import _compat

__all__ = ["ThresholdDependentBatchNorm1d", "ThresholdDependentBatchNorm2d", "ThresholdDependentBatchNorm3d"]


class _ThresholdDependentBatchNorm(_BatchNorm, _compat.MultiStepModule):
    """Eqs. 5-8 for any number of spatial dimensions; documented where it is public."""

    spatial_dims: int

    def __init__(self, alpha: float, v_th: float, num_features: int, eps: float = 1e-5, momentum: float = 0.1):
        super().__init__(num_features, eps=eps, momentum=momentum)
        self.alpha = alpha
        self.v_th = v_th
        self.step_mode = "m"

    def supported_step_mode(self) -> tuple[str, str]:
        """Sequences, and single time-steps in evaluation."""
        return ("s", "m")

    def forward(self, x: Tensor) -> Tensor:
        """[T, N, C, *] in step mode 'm', [N, C, *] in 's'; the shape and the memory format are kept."""
        self._check_input_dim(x)
        return self.normalise(x) if self.step_mode == "s" else self.normalise(x.flatten(0, 1)).view_as(x)

    def normalise(self, x: Tensor) -> Tensor:
        """Eqs. 5-8 over [T * N, C, *]; in training the running statistics move."""
        if self.training:
            self.num_batches_tracked.add_(1)
        scale = self.weight * (self.alpha * self.v_th)
        return F.batch_norm(
            x, self.running_mean, self.running_var, scale, self.bias, self.training, self.momentum, self.eps
        )

    def _check_input_dim(self, x: Tensor) -> None:
        if self.step_mode == "s" and self.training:
            raise ValueError(
                "threshold-dependent batch norm cannot train in step mode 's', where one time-step does not see the "
                "others: use functional.set_step_mode(net, 'm')"
            )
        leading = "[N, C" if self.step_mode == "s" else "[T, N, C"
        expected = leading + ", *" * self.spatial_dims + "]"
        if x.dim() != expected.count(",") + 1:
            raise ValueError(f"{type(self).__name__} needs input {expected}, got shape {tuple(x.shape)}")

    def extra_repr(self) -> str:
        """alpha and V_th, then torch's line."""
        return f"alpha={self.alpha:.4g}, v_th={self.v_th}, {super().extra_repr()}, step_mode={self.step_mode}"


class ThresholdDependentBatchNorm1d(_ThresholdDependentBatchNorm):
    """Threshold-dependent batch norm of [T, N, C]; arguments and errors as in the 2d class."""

    spatial_dims = 0


class ThresholdDependentBatchNorm2d(_ThresholdDependentBatchNorm):
    """Threshold-dependent batch norm of [T, N, C, H, W].

    In step mode 's' it can only evaluate: running statistics are known then, while training would need the other
    time-steps. Statistics are those of one process; across processes they are not synchronised yet, and
    ``torch.nn.SyncBatchNorm.convert_sync_batchnorm`` must not be used: it would drop alpha V_th.

    Args:
        alpha: 1 in a serial network, 1 / sqrt(n) where n branches meet.
        v_th: firing threshold of the next layer, in units of membrane potential.
        num_features: channels C.
        eps: added to the variance.
        momentum: of the running statistics.

    Raises:
        ValueError: input of another shape, or training in step mode 's'.

    >>> import torch
    >>> norm = ThresholdDependentBatchNorm2d(alpha=1.0, v_th=0.5, num_features=3)
    >>> y = norm(torch.rand(4, 8, 3, 5, 5))
    >>> round(y[:, :, 0].std(correction=0).item(), 3)  # alpha V_th at first
    0.5
    """

    spatial_dims = 2


class ThresholdDependentBatchNorm3d(_ThresholdDependentBatchNorm):
    """Threshold-dependent batch norm of [T, N, C, D, H, W]; arguments and errors as in the 2d class."""

    spatial_dims = 3
