"""IM-Loss (Guo et al., NeurIPS 2022), Table 1: CIFARNet and ResNet-19 on CIFAR-10, by method.

    python reproductions/table1_imloss.py                # stand-in data, some minutes on two cores
    python reproductions/table1_imloss.py --help

What the paper prints stands in claims/table1_imloss.yaml, how each row is made in recipes/imloss/.
"""

import sys

from jellyplus.reproduction.cli import main

if __name__ == "__main__":
    sys.exit(main(__file__))
