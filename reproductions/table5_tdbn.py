"""tdBN (Zheng et al., AAAI 2021), Table 5: batch sizes, as our recipes have them. Nothing is trained.

    python reproductions/table5_tdbn.py
    python reproductions/table5_tdbn.py --help

What the paper prints stands in claims/table5_tdbn.yaml, how each row is made in recipes/tdbn/.
"""

import sys

from jellyplus.reproduction.cli import main

if __name__ == "__main__":
    sys.exit(main(__file__))
