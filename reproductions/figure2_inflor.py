"""InfLoR (Guo et al., ECCV 2022), Fig. 2: hard and soft reset.

    python reproductions/figure2_inflor.py                # a formula: nothing is trained
    python reproductions/figure2_inflor.py --help

What the figure shows, and how each of its series is measured, stands in claims/figure2_inflor.yaml.
"""

import sys

from jellyplus.reproduction.figures import main

if __name__ == "__main__":
    sys.exit(main(__file__))
