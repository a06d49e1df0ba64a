"""How a batch of a data set becomes the input of a network."""

from torch import Tensor

__all__ = ["time_first"]


def time_first(x: Tensor) -> Tensor:
    """Images [N, C, H, W] to [1, N, C, H, W]; event frames [N, T, C, H, W] to [T, N, C, H, W]."""
    return x.unsqueeze(0) if x.dim() == 4 else x.transpose(0, 1)
