"""IM-Loss (Guo et al., NeurIPS 2022), Table 2: CIFAR-10, CIFAR-100, ImageNet and CIFAR10-DVS, beside other methods.

    python reproductions/table2_imloss.py                # stand-in data, some minutes on two cores
    python reproductions/table2_imloss.py --help

What the paper prints stands in claims/table2_imloss.yaml, how each row is made in recipes/imloss/.
"""

import sys

from jellyplus.reproduction.cli import main

if __name__ == "__main__":
    sys.exit(main(__file__))
