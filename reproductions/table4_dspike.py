"""Dspike (Li et al., NeurIPS 2021), Table 4: spiking ResNet-34 and VGG-16 on ImageNet.

    python reproductions/table4_dspike.py                # stand-in data, some minutes on two cores
    python reproductions/table4_dspike.py --help

What the paper prints stands in claims/table4_dspike.yaml, how each row is made in recipes/dspike/.
"""

import sys

from jellyplus.reproduction.cli import main

if __name__ == "__main__":
    sys.exit(main(__file__))
