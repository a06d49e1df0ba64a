"""tdBN (Zheng et al., AAAI 2021), Fig. 6: spikes per neuron by layer.

    python reproductions/figure6_tdbn.py                # stand-in data, minutes on two cores
    python reproductions/figure6_tdbn.py --help

What the figure shows, and how each of its series is measured, stands in claims/figure6_tdbn.yaml.
"""

import sys

from jellyplus.reproduction.figures import main

if __name__ == "__main__":
    sys.exit(main(__file__))
