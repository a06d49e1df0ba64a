"""InfLoR (Guo et al., ECCV 2022), Fig. 3: the MPR function.

    python reproductions/figure3_inflor.py                # a formula: nothing is trained
    python reproductions/figure3_inflor.py --help

What the figure shows, and how each of its series is measured, stands in claims/figure3_inflor.yaml.
"""

import sys

from jellyplus.reproduction.figures import main

if __name__ == "__main__":
    sys.exit(main(__file__))
