"""The package's own training methods, one a file, in the order in which their hooks are called."""

from jellyplus.training.methods import warm_start, temperature_search  # noqa: I001 - the order of the hooks
from jellyplus.training.methods import evolution, finite_differences, im_loss, shortcut

__all__ = ["evolution", "finite_differences", "im_loss", "shortcut", "temperature_search", "warm_start"]
