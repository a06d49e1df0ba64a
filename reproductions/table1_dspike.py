"""Dspike (Li et al., NeurIPS 2021), Table 1: finite-difference gradients on MNIST, by epsilon.

    python reproductions/table1_dspike.py                # stand-in data, some minutes on two cores
    python reproductions/table1_dspike.py --help

What the paper prints stands in claims/table1_dspike.yaml, how each row is made in recipes/dspike/.
"""

import sys

from jellyplus.reproduction.cli import main

if __name__ == "__main__":
    sys.exit(main(__file__))
