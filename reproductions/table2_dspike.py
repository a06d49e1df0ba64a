"""Dspike (Li et al., NeurIPS 2021), Table 2: spiking ResNet-18 on CIFAR-10, CIFAR-100 and CIFAR10-DVS.

    python reproductions/table2_dspike.py                # stand-in data, some minutes on two cores
    python reproductions/table2_dspike.py --help

What the paper prints stands in claims/table2_dspike.yaml, how each row is made in recipes/dspike/.
"""

import sys

from jellyplus.reproduction.cli import main

if __name__ == "__main__":
    sys.exit(main(__file__))
