"""Dspike (Li et al., NeurIPS 2021), Fig. 3: the Dspike function and its gradient.

    python reproductions/figure3_dspike.py                # a formula: nothing is trained
    python reproductions/figure3_dspike.py --help

What the figure shows, and how each of its series is measured, stands in claims/figure3_dspike.yaml.
"""

import sys

from jellyplus.reproduction.figures import main

if __name__ == "__main__":
    sys.exit(main(__file__))
