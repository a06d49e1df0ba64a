"""tdBN (Zheng et al., AAAI 2021), Fig. 2: gradient norm by depth in a plain network.

    python reproductions/figure2_tdbn.py                # stand-in data, minutes on two cores
    python reproductions/figure2_tdbn.py --help

What the figure shows, and how each of its series is measured, stands in claims/figure2_tdbn.yaml.
"""

import sys

from jellyplus.reproduction.figures import main

if __name__ == "__main__":
    sys.exit(main(__file__))
