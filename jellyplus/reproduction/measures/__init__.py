"""Measures: everything that a figure shows is what one of these functions returns.

A measure is of one kind, which says what it is given:

============= ========================================================================================================
``function``  nothing: a formula, or a simulation without a network
``history``   what a finished run recorded in every epoch
``untrained`` a recipe's network with fresh weights, which the measure itself may train a little
``trained``   the network with a finished run's last weights, as it is meant for inference
============= ========================================================================================================

One is registered by :func:`measure`, ours and a plugin's alike. Settings are its keyword-only arguments; a claim states
all of them. Histograms have equal bins, x is their centres. A ValueError says that settings and network do not fit.
"""

from jellyplus.reproduction.measures import formulas, history, networks, simulations, steps  # noqa: F401 - they register
from jellyplus.reproduction.measures.base import Curve, Measure, measure, measured

__all__ = ["Curve", "Measure", "measure", "measured"]
