"""IM-Loss (Guo et al., NeurIPS 2022), Fig. 2: spike rate by layer without normalisation.

    python reproductions/figure2_imloss.py                # stand-in data, minutes on two cores
    python reproductions/figure2_imloss.py --help

What the figure shows, and how each of its series is measured, stands in claims/figure2_imloss.yaml.
"""

import sys

from jellyplus.reproduction.figures import main

if __name__ == "__main__":
    sys.exit(main(__file__))
