"""Write ``tests/training/resolved.yaml``: every recipe under the profile paper, and the keys under all profiles.

The tests compare recipes with it, so that a change to a base or a profile shows in which runs it changes.
"""

import json
import sys
from pathlib import Path

import yaml

from jellyplus._files import write_atomically
from jellyplus._options import PROFILES
from jellyplus.training.recipe import as_plain_data
from jellyplus.training.recipe_files import has_profile, load_run

ROOT = Path(__file__).parents[1]
FILE = ROOT / "tests" / "training" / "resolved.yaml"


def resolved() -> dict:
    """What the file holds, by the name of a recipe."""
    recipes = ROOT / "recipes"
    names = sorted(f"{path.parent.name}/{path.stem}" for path in recipes.glob("*/*.yaml") if path.stem != "profiles")
    found = {}
    for name in names:
        keys = {
            profile: load_run(name, profile, recipes).key for profile in PROFILES if has_profile(name, profile, recipes)
        }
        values = as_plain_data(load_run(name, "paper", recipes).recipe)
        found[name] = json.loads(json.dumps(values)) | {"keys": keys}  # lists for tuples
    return found


def main() -> int:
    """Write it."""
    text = yaml.safe_dump(resolved(), default_flow_style=None, width=120)
    write_atomically(FILE, f"# Written by tools/snapshot_recipes.py: do not edit.\n{text}".encode())
    return 0


if __name__ == "__main__":
    sys.exit(main())
