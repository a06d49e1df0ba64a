import pytest

from jellyplus.reproduction.evidence import Evidence
from jellyplus.reproduction.source import libraries
from jellyplus.training.recipe import recipe_key


@pytest.fixture
def make_evidence():
    """Return evidence of a whole run of a recipe, by default of the paper's on its data, some fields changed.

    The epoch before the last is the best, a point above it.
    """

    def make(**changes) -> Evidence:
        recipe = changes.pop("recipe", {"data": {"dataset": "cifar10", "batch_size": 10}, "schedule": {"epochs": 3}})
        last = changes.get("accuracy_last", 90.0)
        epochs = recipe.get("schedule", {}).get("epochs", 3)
        course = ([last / 2] * epochs + [last + 1, last])[-epochs:]
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
            "dataset": {
                "name": recipe.get("data", {}).get("dataset", "cifar10"),
                "train_examples": 100,
                "test_examples": 20,
            },
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
            "accuracy_best": max(course),
            "best_epoch": course.index(max(course)),
            "epochs_completed": epochs,
            "epochs_planned": epochs,
            "wall_time_s": 1.5,
            "search_time_s": 0.25,
            "left_over": (),
            "history": tuple({"epoch": epoch, "accuracy": value} for epoch, value in enumerate(course)),
        }
        return Evidence(**{**fields, **changes})

    return make
