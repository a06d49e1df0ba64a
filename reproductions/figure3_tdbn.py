"""tdBN (Zheng et al., AAAI 2021), Fig. 3: membrane potentials for three variances of the input.

    python reproductions/figure3_tdbn.py                # a formula: nothing is trained
    python reproductions/figure3_tdbn.py --help

What the figure shows, and how each of its series is measured, stands in claims/figure3_tdbn.yaml.
"""

import sys

from jellyplus.reproduction.figures import main

if __name__ == "__main__":
    sys.exit(main(__file__))
