"""Keep a run's weights with the repository, as ``jellyplus.load(NAME)`` finds them.

The run's evidence has to be among the committed, and the checkpoint the one that this evidence was written with.
``python tools/publish_weights.py compare/tdbn-seed0 results/evidence/KEY/seed0-CODE.ckpt``
"""

import argparse
import sys
from pathlib import Path

from jellyplus._command import answer
from jellyplus._errors import InputError
from jellyplus.reproduction import published, runs


def main() -> int:
    """Read the checkpoint, and write weights, card and list."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("name", help="such as compare/tdbn-seed0")
    parser.add_argument("checkpoint", type=Path)
    options = parser.parse_args()
    (kept,) = runs.find(options.checkpoint, Path())
    committed = Path("reproductions/measured/evidence", *kept.path.parts[-2:])
    if not committed.is_file() or committed.read_bytes() != kept.path.read_bytes():
        raise InputError(f"{committed} is not the evidence beside {options.checkpoint}: commit that first")
    published.publish(options.name, committed, runs.weights_of(kept.evidence, kept.checkpoint))
    print(f"{published.FOLDER / options.name}.safetensors")
    return 0


if __name__ == "__main__":
    sys.exit(answer("publish_weights.py", main, "call it again"))
