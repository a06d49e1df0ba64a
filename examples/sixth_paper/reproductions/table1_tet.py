"""Temporal efficient training (Deng et al., 2022): four rows on CIFAR-10; see ../README.md."""

import sys

from jellyplus.reproduction.cli import main

if __name__ == "__main__":
    sys.exit(main(__file__))
