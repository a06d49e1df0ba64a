"""Values that take no training, by hand; how values are written."""

import math
from pathlib import Path

import pytest

from jellyplus.reproduction.quantities import QUANTITIES
from jellyplus.training.recipe_files import load_run

RECIPES = Path(__file__).parents[2] / "recipes"


def of_recipe(quantity, name, **overrides):
    return QUANTITIES[quantity].of(load_run(name, "paper", RECIPES, overrides).recipe)


def test_macs_of_the_toy_network_by_hand():
    # 6 kernels of 3x3 at 28x28 places, those beside padding too, then 6 channels of 14x14 to 10 classes
    assert of_recipe("macs", "dspike/mnist_toy_rectangular") == 6 * 9 * 28 * 28 + 6 * 14 * 14 * 10


def test_macs_are_those_of_one_time_step():
    macs = [of_recipe("macs", "dspike/mnist_toy_rectangular", model={"time_steps": t}) for t in (1, 8)]
    assert macs[0] == macs[1]


def test_energy_by_hand():
    # 0.9 pJ x 142e6 + 4.6 pJ x 8.8e6 = 127.8 uJ + 40.48 uJ
    assert QUANTITIES["energy_of_counts"].of(142e6, 8.8e6) == pytest.approx(168.28)


def test_layers_follow_the_network():
    name, small = "tdbn/cifar10_resnet19_t2", {"blocks": [1, 2], "shortcut": "conv", "pool": "global", "input_size": 32}
    layers = of_recipe("layers", name, model={"width": 8, "options": small})
    assert layers == "conv1 3x3, 8, s1 | block1 3x3, 8; 3x3, 8; x1 | block2 3x3, 16; 3x3, 16; x2, s2 | fc 16, 10"


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("tdbn/dvs128_gesture_resnet17_t40", "average pool 2x2"),
        ("tdbn/cifar10_resnet19_t6", "average pool"),
        ("tdbn/imagenet_resnet34_t6", "average pool"),
    ],
)
def test_the_pool_is_read_off_the_network(name, text):
    assert of_recipe("pool", name) == text


@pytest.mark.parametrize(
    ("quantity", "value", "text"),
    [
        ("accuracy", 94.256, "94.26"),
        ("accuracy", -0.001, "0.00"),
        ("macs", 2_285_373_952, "2.285e+09"),
        ("batch_size", 192, "192"),
        ("quantisation_error_after", 0.03456, "0.03456"),
        ("layers", "conv1 3x3", "conv1 3x3"),
        ("accuracy", None, ""),
        ("macs", math.nan, ""),
    ],
)
def test_values_as_views_show_them(quantity, value, text):
    assert QUANTITIES[quantity].text(value) == text
