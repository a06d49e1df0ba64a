"""InfLoR (Guo et al., ECCV 2022), Table 3: quantisation error before and after the membrane potential rectificator.

    python reproductions/table3_inflor.py                # stand-in data, some minutes on two cores
    python reproductions/table3_inflor.py --help

What the paper prints stands in claims/table3_inflor.yaml, how each row is made in recipes/inflor/.
"""

import sys

from jellyplus.reproduction.cli import main

if __name__ == "__main__":
    sys.exit(main(__file__))
