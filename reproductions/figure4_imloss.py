"""IM-Loss (Guo et al., NeurIPS 2022), Fig. 4: accuracy with fixed and evolving surrogate gradients.

    python reproductions/figure4_imloss.py                # stand-in data, minutes on two cores
    python reproductions/figure4_imloss.py --help

What the figure shows, and how each of its series is measured, stands in claims/figure4_imloss.yaml.
"""

import sys

from jellyplus.reproduction.figures import main

if __name__ == "__main__":
    sys.exit(main(__file__))
