"""The data set of a recipe, as the recipe presents it."""

import dataclasses
from pathlib import Path

import numpy as np
import torch

from jellyplus import datasets
from jellyplus.datasets.imagenet import ImageFiles
from jellyplus.datasets.transforms import Transform, normalisation
from jellyplus.training.recipe import Recipe

__all__ = ["evaluation", "load", "presentation", "taken"]


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


def evaluation(recipe: Recipe) -> Transform:
    """What evaluation does to examples of the recipe's data set, which need not be there.

    Returns:
        a function of uint8 images [*, C, H, W], or of event frames [*, T, C, H, W], to float32 of the same shape; see
        :func:`jellyplus.datasets.transforms.normalisation`.
    """
    settings = recipe.data
    data = datasets.load(settings.dataset) if settings.dataset in datasets.EMBEDDED else _without_examples(recipe)
    if constants := settings.normalisation:
        data = dataclasses.replace(data, mean=constants.mean, std=constants.std)
    return normalisation(data)


def _without_examples(recipe: Recipe) -> datasets.DataSet:
    settings = recipe.data
    if settings.images:
        inputs = ImageFiles(Path(), np.array([], bytes), np.array([], int), settings.images)
    else:
        inputs = torch.empty(0)
    nothing = datasets.Split(inputs, torch.empty(0, dtype=torch.int64))
    mean, std = datasets.CONSTANTS.get(settings.dataset, ((), ()))
    return datasets.DataSet(
        settings.dataset,
        recipe.model.num_classes,
        train=nothing,
        test=nothing,
        kind="events" if settings.events else "images",
        stand_in=False,
        mean=mean,
        std=std,
        source="",
    )
