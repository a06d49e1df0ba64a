"""InfLoR (Guo et al., ECCV 2022), Fig. 5: membrane potentials of a layer before and after MPR.

    python reproductions/figure5_inflor.py                # stand-in data, minutes on two cores
    python reproductions/figure5_inflor.py --help

What the figure shows, and how each of its series is measured, stands in claims/figure5_inflor.yaml.
"""

import sys

from jellyplus.reproduction.figures import main

if __name__ == "__main__":
    sys.exit(main(__file__))
