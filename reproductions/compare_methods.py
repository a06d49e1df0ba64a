"""One fair comparison of the five papers' methods: everything else equal, which helps, by how much, at what cost?

    python reproductions/compare_methods.py  # stand-in data, some minutes on two cores
    python reproductions/compare_methods.py --profile small --data-root FOLDER --seeds 0 1 2  # a CPU's
    python reproductions/compare_methods.py --profile paper --data-root FOLDER --seeds 0 1 2 --device cuda

The rows stand in claims/compare_methods.yaml, how each is made in recipes/compare/.
"""

import sys

from jellyplus.reproduction.cli import main

if __name__ == "__main__":
    sys.exit(main(__file__))
