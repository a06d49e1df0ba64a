"""jellyplus: training methods for deep spiking neural networks, as parts for SpikingJelly.

The names follow ``spikingjelly.activation_based``: ``neuron``, ``surrogate``, ``layer``, ``functional``, ``model``,
``monitor``; ``loss`` and ``op_counter`` are our own.
``load`` and ``runs`` are for what was trained with it.
Importing costs torch and SpikingJelly and nothing more; training and reproduction import their own needs.
"""

import os
import warnings
from typing import TYPE_CHECKING

import torch  # noqa: F401 - its own filters stay

with warnings.catch_warnings():  # SpikingJelly 0.0.0.0.14 uses torch.jit, which newer versions of torch deprecate
    warnings.filterwarnings("ignore", "`torch.jit.script", FutureWarning)
    from jellyplus import functional, layer, loss, model, monitor, neuron, op_counter, surrogate

from jellyplus._extra import with_extra

if TYPE_CHECKING:
    import pandas as pd

    from jellyplus.reproduction.runs import TrainedRun

__all__ = ["functional", "layer", "load", "loss", "model", "monitor", "neuron", "op_counter", "runs", "surrogate"]


def load(
    run: str | os.PathLike,
    seed: int | None = None,
    *,
    profile: str | None = None,
    root: str | os.PathLike = "results",
) -> "TrainedRun":
    """Return a finished run as an object: network, transform, classes, recipe, history and evidence.

    Args:
        run: the file of its evidence or of its checkpoint, the folder they are in, its recipe's file, the name of its
            recipe, ``paper/recipe``, or that of weights in ``reproductions/weights``, such as ``compare/tdbn-seed0``.
        seed: which; None where there is one only.
        profile: which; None where there is one only.
        root: the folder of results in which a recipe's runs are looked for.

    Raises:
        InputError: there is no such run, or more than one; its checkpoint or its weights are missing, damaged, or not
            what the run left; the evidence contradicts itself; or the extra ``reproduce`` is not installed.
    """
    return with_extra("jellyplus.reproduction.runs", "load").load(run, seed, profile, root)


def runs(root: str | os.PathLike = "results") -> "pd.DataFrame":
    """Return what was trained into a folder of results, a row for each run and seed; ``file`` is for :func:`load`.

    Raises:
        InputError: there is no evidence in it, a piece of it is damaged, or the extra ``reproduce`` is not installed.
    """
    return with_extra("jellyplus.reproduction.runs", "runs").runs(root)
