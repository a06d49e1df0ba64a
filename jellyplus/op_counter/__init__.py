r"""Additions, multiplications and energy of any SpikingJelly network, from its measured spikes.

.. math:: E = 0.9\,\text{pJ} \cdot \#\text{Add} + 4.6\,\text{pJ} \cdot \#\text{Mult}

Li et al. 2021, Differentiable Spike, Table 3, and Zheng et al. 2021, tdBN, Table 6. An operation count is worth what
its convention is worth, and no paper states its own in full, so :class:`Convention` has every choice and is part of
the result; :data:`CONVENTIONS` has those of the papers by name. :class:`OperationCounter` measures, independently of
any convention; one :class:`Tallies` serves them all.

Counted are convolutions and linear layers. Not counted, as in both papers: the neurons' own update and the norms,
which fuse into the layers for inference (tdBN, Eqs. 9 and 10); and biases, pooling and the sums of residual branches.
Products that no layer of its own computes (``torch.matmul`` in an attention block) are not seen.

:func:`energy_table` is the short way: the energy of a network, of its ANN twin, and their ratio.
"""

from jellyplus.op_counter.convention import CONVENTIONS, Convention, LayerCount, OperationCount
from jellyplus.op_counter.counter import OperationCounter, energy_table
from jellyplus.op_counter.tallies import Tallies, Tally

__all__ = [
    "CONVENTIONS",
    "Convention",
    "LayerCount",
    "OperationCount",
    "OperationCounter",
    "Tallies",
    "Tally",
    "energy_table",
]
