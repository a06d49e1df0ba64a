"""tdBN (Zheng et al., AAAI 2021), Fig. 4: firing rates for three variances of the input.

    python reproductions/figure4_tdbn.py                # a formula: nothing is trained
    python reproductions/figure4_tdbn.py --help

What the figure shows, and how each of its series is measured, stands in claims/figure4_tdbn.yaml.
"""

import sys

from jellyplus.reproduction.figures import main

if __name__ == "__main__":
    sys.exit(main(__file__))
