"""InfLoR (Guo et al., ECCV 2022), Table 4: CIFAR-10, CIFAR-100 and ImageNet, beside other methods.

    python reproductions/table4_inflor.py                # stand-in data, some minutes on two cores
    python reproductions/table4_inflor.py --help

What the paper prints stands in claims/table4_inflor.yaml, how each row is made in recipes/inflor/.
"""

import sys

from jellyplus.reproduction.cli import main

if __name__ == "__main__":
    sys.exit(main(__file__))
