"""tdBN (Zheng et al., AAAI 2021), Table 2: spiking ResNet-17 on DVS128 Gesture.

    python reproductions/table2_tdbn.py                # stand-in data, some minutes on two cores
    python reproductions/table2_tdbn.py --help

What the paper prints stands in claims/table2_tdbn.yaml, how each row is made in recipes/tdbn/.
"""

import sys

from jellyplus.reproduction.cli import main

if __name__ == "__main__":
    sys.exit(main(__file__))
