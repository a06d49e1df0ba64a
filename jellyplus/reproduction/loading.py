"""The data set of a recipe, as the recipe presents it."""

from jellyplus import datasets
from jellyplus.training.recipe import Recipe

__all__ = ["load", "presentation"]


def presentation(recipe: Recipe) -> dict:
    """The arguments of :func:`jellyplus.datasets.load` but for the name and the folder."""
    data = recipe.data
    time_steps = recipe.model.time_steps if data.events else None
    return {"images": data.images, "events": data.events, "time_steps": time_steps}


def load(recipe: Recipe, root: str | None) -> datasets.DataSet:
    """The whole data set; what the recipe takes of it is taken by :func:`taken`.

    Raises:
        InputError: the data are missing or damaged.
    """
    return datasets.load(recipe.data.dataset, root, **presentation(recipe))


def taken(data: datasets.DataSet, recipe: Recipe) -> datasets.DataSet:
    """What the recipe takes of its data set: all of it, or ``data.examples`` of each split; then ``data.validation``.

    Raises:
        InputError: there are too few, or inputs are read from files one by one.
    """
    settings = recipe.data
    if settings.examples:
        data = data.first(settings.examples, settings.examples_seed)
    return data.held_out(settings.validation) if settings.validation else data
