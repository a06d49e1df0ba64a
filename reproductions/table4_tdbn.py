"""tdBN (Zheng et al., AAAI 2021), Table 4: the networks' layers, as ours have them. Nothing is trained.

    python reproductions/table4_tdbn.py
    python reproductions/table4_tdbn.py --help

What the paper prints stands in claims/table4_tdbn.yaml, how each row is made in recipes/tdbn/.
"""

import sys

from jellyplus.reproduction.cli import main

if __name__ == "__main__":
    sys.exit(main(__file__))
