"""Other learning rates for the best and the worst rows of the comparison of methods.

    python reproductions/compare_rates.py  # stand-in data, some minutes on two cores
    python reproductions/compare_rates.py --profile small --data-root FOLDER --seeds 0 1 2  # a CPU's
    python reproductions/compare_rates.py --profile paper --data-root FOLDER --seeds 0 1 2 --device cuda

The rows stand in claims/compare_rates.yaml, how each is made in recipes/compare/.
"""

import sys

from jellyplus.reproduction.cli import main

if __name__ == "__main__":
    sys.exit(main(__file__))
