"""tdBN (Zheng et al., AAAI 2021), Table 1: spiking ResNet-19 on CIFAR-10, ResNet-34 and ResNet-50 on ImageNet.

    python reproductions/table1_tdbn.py                # stand-in data, some minutes on two cores
    python reproductions/table1_tdbn.py --help

What the paper prints stands in claims/table1_tdbn.yaml, how each row is made in recipes/tdbn/.
"""

import sys

from jellyplus.reproduction.cli import main

if __name__ == "__main__":
    sys.exit(main(__file__))
