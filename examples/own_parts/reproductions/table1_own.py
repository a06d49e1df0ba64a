"""Stripes with parts of one's own, by two optimizers; see ../README.md."""

import sys

from jellyplus.reproduction.cli import main

if __name__ == "__main__":
    sys.exit(main(__file__))
