"""InfLoR (Guo et al., ECCV 2022), Table 1: ResNet-20 of three neuron models, without rectification.

    python reproductions/table1_inflor.py                # stand-in data, some minutes on two cores
    python reproductions/table1_inflor.py --help

What the paper prints stands in claims/table1_inflor.yaml, how each row is made in recipes/inflor/.
"""

import sys

from jellyplus.reproduction.cli import main

if __name__ == "__main__":
    sys.exit(main(__file__))
