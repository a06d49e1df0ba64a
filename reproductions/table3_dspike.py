"""Dspike (Li et al., NeurIPS 2021), Table 3: operations and energy of SNNs and ANNs.

    python reproductions/table3_dspike.py                # stand-in data, some minutes on two cores
    python reproductions/table3_dspike.py --help

What the paper prints stands in claims/table3_dspike.yaml, how each row is made in recipes/dspike/.
"""

import sys

from jellyplus.reproduction.cli import main

if __name__ == "__main__":
    sys.exit(main(__file__))
