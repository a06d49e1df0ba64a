"""tdBN (Zheng et al., AAAI 2021), Table 3: spiking ResNet-19 on CIFAR10-DVS.

    python reproductions/table3_tdbn.py                # stand-in data, some minutes on two cores
    python reproductions/table3_tdbn.py --help

What the paper prints stands in claims/table3_tdbn.yaml, how each row is made in recipes/tdbn/.
"""

import sys

from jellyplus.reproduction.cli import main

if __name__ == "__main__":
    sys.exit(main(__file__))
