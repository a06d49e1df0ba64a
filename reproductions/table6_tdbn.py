"""tdBN (Zheng et al., AAAI 2021), Table 6: additions and multiplications of SNNs and ANNs.

    python reproductions/table6_tdbn.py                # stand-in data, some minutes on two cores
    python reproductions/table6_tdbn.py --help

What the paper prints stands in claims/table6_tdbn.yaml, how each row is made in recipes/tdbn/.
"""

import sys

from jellyplus.reproduction.cli import main

if __name__ == "__main__":
    sys.exit(main(__file__))
