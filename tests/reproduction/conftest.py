import pytest

from jellyplus.reproduction.evidence import Evidence
from jellyplus.reproduction.source import libraries
from jellyplus.training.recipe import recipe_key


@pytest.fixture
def make_evidence():
    """Return evidence of a whole run of the paper's on the paper's data, some fields changed.

    Of the three epochs, the second is the best, a point above the last.
    """

    def make(**changes) -> Evidence:
        recipe = changes.pop("recipe", {"data": {"dataset": "cifar10", "batch_size": 10}, "schedule": {"epochs": 3}})
        last = changes.get("accuracy_last", 90.0)
        course = (last / 2, last + 1, last)
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
            "dataset": {"name": "cifar10", "train_examples": 100, "test_examples": 20},
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
            "accuracy_best": last + 1,
            "best_epoch": 1,
            "epochs_completed": 3,
            "epochs_planned": 3,
            "wall_time_s": 1.5,
            "search_time_s": 0.25,
            "left_over": (),
            "history": tuple({"epoch": epoch, "accuracy": value} for epoch, value in enumerate(course)),
        }
        return Evidence(**{**fields, **changes})

    return make
