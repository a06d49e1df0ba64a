"""The learning rate of the comparison of methods, chosen on its baseline and a validation split.

    python reproductions/compare_learning_rate.py  # stand-in data, some minutes on two cores
    python reproductions/compare_learning_rate.py --profile small --data-root FOLDER --seeds 0 1 2  # a CPU's
    python reproductions/compare_learning_rate.py --profile paper --data-root FOLDER --seeds 0 1 2 --device cuda

The rows stand in claims/compare_learning_rate.yaml, how each is made in recipes/compare/.
"""

import sys

from jellyplus.reproduction.cli import main

if __name__ == "__main__":
    sys.exit(main(__file__))
