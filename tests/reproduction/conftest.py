import pytest

from jellyplus.reproduction.evidence import Evidence
from jellyplus.reproduction.source import libraries
from jellyplus.training.recipe import recipe_key


@pytest.fixture
def make_evidence():
    """Return evidence of a whole run of the paper's on the paper's data, some fields changed."""

    def make(**changes) -> Evidence:
        recipe = changes.pop("recipe", {"epochs": 3, "lr": 0.1})
        fields = {
            "schema": 3,
            "key": recipe_key(recipe),
            "recipe_name": "dspike/a",
            "profile": "paper",
            "seed": 0,
            "code": "c" * 64,
            "recipe": recipe,
            "parent": None,
            "commit": "0123456789abcdef",
            "dirty": False,
            "versions": libraries(),
            "device": "cpu",
            "backend": "cpp",
            "dataset": {"name": "digits", "train_examples": 100, "test_examples": 20},
            "parameters": 10,
            "operations": {
                "macs_per_time_step": 20,
                "spike_rate": 0.25,
                "additions": 30.0,
                "multiplications": 10.0,
                "energy_uj": 7.3e-5,
                "examples": 100,
                "convention": "stated",
            },
            "accuracy_last": 90.0,
            "accuracy_best": 91.0,
            "best_epoch": 2,
            "epochs_completed": 3,
            "epochs_planned": 3,
            "wall_time_s": 1.5,
            "search_time_s": 0.25,
            "left_over": (),
            "history": ({"epoch": 1, "loss": 0.5},),
        }
        return Evidence(**{**fields, **changes})

    return make
