"""IM-Loss (Guo et al., NeurIPS 2022), Fig. 3: the asymptotic function and its gradient.

    python reproductions/figure3_imloss.py                # a formula: nothing is trained
    python reproductions/figure3_imloss.py --help

What the figure shows, and how each of its series is measured, stands in claims/figure3_imloss.yaml.
"""

import sys

from jellyplus.reproduction.figures import main

if __name__ == "__main__":
    sys.exit(main(__file__))
