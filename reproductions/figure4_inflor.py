"""InfLoR (Guo et al., ECCV 2022), Fig. 4: the effect of MPR on a normal distribution.

    python reproductions/figure4_inflor.py                # a formula: nothing is trained
    python reproductions/figure4_inflor.py --help

What the figure shows, and how each of its series is measured, stands in claims/figure4_inflor.yaml.
"""

import sys

from jellyplus.reproduction.figures import main

if __name__ == "__main__":
    sys.exit(main(__file__))
