"""Dspike (Li et al., NeurIPS 2021), Fig. 5: temperature over training.

    python reproductions/figure5_dspike.py                # stand-in data, minutes on two cores
    python reproductions/figure5_dspike.py --help

What the figure shows, and how each of its series is measured, stands in claims/figure5_dspike.yaml.
"""

import sys

from jellyplus.reproduction.figures import main

if __name__ == "__main__":
    sys.exit(main(__file__))
