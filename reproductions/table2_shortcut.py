"""Shortcut back-propagation (Guo et al., 2024), Table 2: CIFAR-10 and CIFAR-100, beside other methods.

    python reproductions/table2_shortcut.py                # stand-in data, some minutes on two cores
    python reproductions/table2_shortcut.py --help

What the paper prints stands in claims/table2_shortcut.yaml, how each row is made in recipes/shortcut/.
"""

import sys

from jellyplus.reproduction.cli import main

if __name__ == "__main__":
    sys.exit(main(__file__))
