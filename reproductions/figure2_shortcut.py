"""Shortcut back-propagation (Guo et al. 2024), section 4.1: gradient of the first layer.

    python reproductions/figure2_shortcut.py                # stand-in data, minutes on two cores
    python reproductions/figure2_shortcut.py --help

What the figure shows, and how each of its series is measured, stands in claims/figure2_shortcut.yaml.
"""

import sys

from jellyplus.reproduction.figures import main

if __name__ == "__main__":
    sys.exit(main(__file__))
