"""Dspike (Li et al., NeurIPS 2021), Table 5: spiking ResNet-18 on CIFAR, by epsilon of the temperature search.

    python reproductions/table5_dspike.py                # stand-in data, some minutes on two cores
    python reproductions/table5_dspike.py --help

What the paper prints stands in claims/table5_dspike.yaml, how each row is made in recipes/dspike/.
"""

import sys

from jellyplus.reproduction.cli import main

if __name__ == "__main__":
    sys.exit(main(__file__))
