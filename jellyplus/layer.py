r"""Threshold-dependent batch normalisation (Zheng et al. 2021, Eqs. 5-8).

.. math:: y = \lambda\,\frac{\alpha V_{th}\,(x - \mathrm{E}[x])}{\sqrt{\mathrm{Var}[x] + \epsilon}} + \beta

SpikingJelly 0.0.0.0.14 has classes of these names whose forward raises (layer.py:1822: no ``_check_input_dim``) and
which would only start :math:`\lambda` at :math:`\alpha V_{th}` (layer.py:1829). Here the factor is outside the
parameter, as printed, so the gradient of :math:`\lambda` carries it.

In training with several processes the statistics are those of the joint batch (supplementary C: sync-BN).
"""

import sys
import warnings
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from jellyplus import _compat
from jellyplus._distributed import processes, sum_over_processes

__all__ = ["ThresholdDependentBatchNorm1d", "ThresholdDependentBatchNorm2d", "ThresholdDependentBatchNorm3d"]


class _ThresholdDependentBatchNorm(_BatchNorm, _compat.MultiStepModule):
    """Eqs. 5-8 for any number of spatial dimensions; documented where it is public."""

    spatial_dims: int
    running_mean: Tensor
    running_var: Tensor
    num_batches_tracked: Tensor
    _version = 3  # torch's batch norm has 2, and the same keys
    __jit_unused_properties__ = ("qconfig",)

    def __init__(self, alpha: float, v_th: float, num_features: int, eps: float = 1e-5, momentum: float | None = 0.1):
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
        if self.training and processes() > 1:
            return self._normalise_jointly(x, scale)
        momentum = self._share_of_this_batch() if self.training else 0.0
        return F.batch_norm(x, self.running_mean, self.running_var, scale, self.bias, self.training, momentum, self.eps)

    def _share_of_this_batch(self) -> float:
        """In the running statistics: the momentum, or as in torch an equal share for every batch where it is None."""
        return 1 / self.num_batches_tracked.item() if self.momentum is None else self.momentum

    def _normalise_jointly(self, x: Tensor, scale: Tensor) -> Tensor:
        """Batch norm of all processes' [T * N, C, *] as of one batch; each process gets its own part back."""
        dims = [0, *range(2, x.dim())]
        per_channel = (-1, *[1] * (x.dim() - 2))
        total = x.sum(dims, dtype=torch.promote_types(x.dtype, torch.float32))
        totals = sum_over_processes(torch.cat([total, total.new_full((1,), x.numel() / x.shape[1])]))
        mean, count = totals[:-1] / totals[-1], totals[-1].detach()
        centred = x - mean.view(per_channel)
        variance = sum_over_processes(centred.square().sum(dims)) / count
        with torch.no_grad():
            momentum = self._share_of_this_batch()
            self.running_mean.lerp_(mean.to(self.running_mean), momentum)
            self.running_var.lerp_((variance * count / (count - 1)).to(self.running_var), momentum)
        scale = scale / torch.sqrt(variance + self.eps)
        return (centred * scale.view(per_channel) + self.bias.view(per_channel)).to(x.dtype)

    @property
    def qconfig(self) -> object:
        """What quantisation sets; but read by torch's conversion to its own synchronised class, it raises.

        ``torch.nn.SyncBatchNorm.convert_sync_batchnorm`` (torch/nn/modules/batchnorm.py) asks no class whether it may
        be replaced, and Lightning's ``sync_batchnorm=True`` calls it; this is the one name that it reads of a norm and
        that torch does not need itself.
        """
        convert: Any = nn.SyncBatchNorm.convert_sync_batchnorm
        if sys._getframe(1).f_code is convert.__func__.__code__:
            raise ValueError(
                "torch's synchronised batch norm would replace threshold-dependent batch norm and lose its alpha V_th: "
                "leave out sync_batchnorm=True or convert_sync_batchnorm, since this norm synchronises by itself"
            )
        try:
            return self.__dict__["qconfig"]
        except KeyError:
            raise AttributeError("qconfig") from None

    @qconfig.setter
    def qconfig(self, value: object) -> None:
        self.__dict__["qconfig"] = value

    @qconfig.deleter
    def qconfig(self) -> None:
        self.__dict__.pop("qconfig", None)

    def _load_from_state_dict(self, state_dict: dict, prefix: str, local_metadata: dict, *rest: Any) -> None:
        if local_metadata.get("version") == _BatchNorm._version and f"{prefix}weight" in state_dict:
            warnings.warn(
                "weights of torch's batch norm (or of an earlier jellyplus) were loaded into threshold-dependent batch "
                "norm, which multiplies its output by alpha * v_th besides: where they are torch's, divide each weight "
                "by norm.alpha * norm.v_th to keep the outputs",
                stacklevel=2,
            )
        super()._load_from_state_dict(state_dict, prefix, local_metadata, *rest)

    def _check_input_dim(self, x: Tensor) -> None:
        if self.step_mode == "s" and self.training:
            raise ValueError(
                "threshold-dependent batch norm cannot train in step mode 's', where one time-step does not see the "
                "others: use jellyplus.functional.set_step_mode(net, 'm')"
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
    time-steps.

    Where a process group of several processes is initialised, training takes the statistics over all of them
    together, each weighted by its number of values, and the running statistics are the same everywhere. Under DDP,
    which averages gradients, these are then exactly those of one process with the joint batch. Every process has to
    run the norm equally often. Nothing has to be converted, and nothing may be:
    ``torch.nn.SyncBatchNorm.convert_sync_batchnorm``, which is also what Lightning's ``sync_batchnorm=True`` calls,
    would put its own class in this one's place and lose alpha V_th: it is refused.

    Args:
        alpha: 1 in a serial network, 1 / sqrt(n) where n branches meet.
        v_th: firing threshold of the next layer, in units of membrane potential.
        num_features: channels C.
        eps: added to the variance.
        momentum: of the running statistics; None weights all batches equally, as in torch.

    State dicts have the keys of torch's batch norm. Weights that torch's batch norm saved load with a warning.

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


#: All of them.
TDBN = (ThresholdDependentBatchNorm1d, ThresholdDependentBatchNorm2d, ThresholdDependentBatchNorm3d)
