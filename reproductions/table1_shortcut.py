"""Shortcut back-propagation (Guo et al., 2024), Table 1: ResNet-18 and ResNet-34 on CIFAR-100, by training.

    python reproductions/table1_shortcut.py                # stand-in data, some minutes on two cores
    python reproductions/table1_shortcut.py --help

What the paper prints stands in claims/table1_shortcut.yaml, how each row is made in recipes/shortcut/.
"""

import sys

from jellyplus.reproduction.cli import main

if __name__ == "__main__":
    sys.exit(main(__file__))
