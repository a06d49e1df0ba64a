"""from_mapping takes what the dataclass declares and refuses everything else by its dotted key and file."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import pytest

from jellyplus._errors import InputError
from jellyplus._strict import from_mapping, load_yaml


@dataclass(frozen=True)
class Optimizer:
    lr: float
    name: Literal["sgd", "adam"]
    nesterov: bool

    def __post_init__(self):
        if self.lr <= 0:
            raise ValueError(f"lr must be positive, not {self.lr}")


@dataclass(frozen=True)
class Recipe:
    title: str
    timesteps: int
    optimizer: Optimizer
    widths: tuple[int, ...]
    parent: str | None
    extra: dict
    rates: dict[str, float]
    augment: tuple[Optimizer, ...] = ()
    crop: int | str | None = None


def mapping(**changes):
    base = {
        "title": "a",
        "timesteps": 2,
        "optimizer": {"lr": 0.1, "name": "sgd", "nesterov": False},
        "widths": [16, 32],
        "parent": None,
        "extra": {"x": [1]},
        "rates": {"a": 1},
    }
    return {**base, **changes}


def optimizer(**changes):
    return {"lr": 0.1, "name": "sgd", "nesterov": False, **changes}


def test_a_whole_mapping():
    recipe = from_mapping(Recipe, mapping(augment=[optimizer(lr=1)], crop="half"), "r.yaml")
    assert recipe == Recipe(
        "a",
        2,
        Optimizer(0.1, "sgd", False),
        (16, 32),
        None,
        {"x": [1]},
        {"a": 1.0},
        (Optimizer(1.0, "sgd", False),),
        "half",
    )
    assert type(recipe.rates["a"]) is float
    assert type(recipe.augment[0].lr) is float
    assert from_mapping(Recipe, mapping(parent="t6", crop=4), "r.yaml").crop == 4


@pytest.mark.parametrize(("text", "number"), [("1e-4", 1e-4), ("1E5", 1e5), ("2.5e+3", 2500.0), ("1.e2", 100.0)])
def test_exponents_that_yaml_leaves_as_strings(text, number):
    assert from_mapping(Recipe, mapping(optimizer=optimizer(lr=text)), "r.yaml").optimizer.lr == number


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"timestep": 4}, "r.yaml: unknown key 'timestep'; remove it or use one of title, timesteps, "),
        (
            {"optimizer": optimizer(momentun=1)},
            "r.yaml: unknown key 'optimizer.momentun'; remove it or use one of lr, name, nesterov",
        ),
        (
            {"optimizer": {"lr": 1, "name": "sgd"}},
            "r.yaml: key 'optimizer.nesterov' is missing; add it (true or false)",
        ),
        ({"optimizer": 3}, "r.yaml: key 'optimizer' is 3; it must be a mapping"),
        ({"optimizer": optimizer(lr=-1)}, "r.yaml: optimizer: lr must be positive, not -1.0"),
        ({"optimizer": optimizer(lr="fast")}, "r.yaml: key 'optimizer.lr' is 'fast'; it must be a finite number"),
        ({"optimizer": optimizer(lr="0.1")}, "key 'optimizer.lr' is '0.1'"),
        ({"optimizer": optimizer(lr=True)}, "key 'optimizer.lr' is True"),
        ({"optimizer": optimizer(lr=float("nan"))}, "key 'optimizer.lr' is nan"),
        ({"optimizer": optimizer(lr="1e999")}, "key 'optimizer.lr' is inf"),
        ({"optimizer": optimizer(lr=10**400)}, "key 'optimizer.lr' is 1000"),
        ({"optimizer": optimizer(name="lion")}, "key 'optimizer.name' is 'lion'; it must be one of 'sgd', 'adam'"),
        ({"optimizer": optimizer(nesterov=1)}, "key 'optimizer.nesterov' is 1; it must be true or false"),
        ({"timesteps": True}, "key 'timesteps' is True; it must be an integer"),
        ({"timesteps": 2.0}, "key 'timesteps' is 2.0; it must be an integer"),
        ({"timesteps": "2"}, "key 'timesteps' is '2'; it must be an integer"),
        ({"title": 3}, "key 'title' is 3; it must be a string"),
        ({"title": None}, "key 'title' is None; it must be a string"),
        ({"parent": 3}, "key 'parent' is 3; it must be a string"),
        ({"crop": 1.5}, "key 'crop' is 1.5; it must be an integer or a string or null"),
        ({"widths": [16, "x"]}, "key 'widths[1]' is 'x'; it must be an integer"),
        ({"widths": "16"}, "key 'widths' is '16'; it must be a list"),
        ({"rates": {"a": "b"}}, "key 'rates.a' is 'b'; it must be a finite number"),
        ({"extra": {1: 2}}, "key 'extra' is {1: 2}; it must be a mapping of names to values"),
        ({"augment": [optimizer(lr="x")]}, "key 'augment[0].lr' is 'x'"),
    ],
)
def test_refused_in_one_sentence(changes, message):
    with pytest.raises(InputError) as caught:
        from_mapping(Recipe, mapping(**changes), "r.yaml")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_key_and_an_empty_file_are_named():
    with pytest.raises(InputError, match=r"^r\.yaml: key 'title' is missing; add it \(a string\)$"):
        from_mapping(Recipe, {}, "r.yaml")
    with pytest.raises(InputError, match=r"^r\.yaml: the content is None; it must be a mapping of names to values$"):
        from_mapping(Recipe, None, "r.yaml")


def test_a_key_that_is_no_string():
    with pytest.raises(InputError, match="unknown key 'True'; remove it"):  # YAML reads `on:` as True
        from_mapping(Recipe, {**mapping(), True: 4}, "r.yaml")


def test_load_yaml(tmp_path):
    good, bad, binary = tmp_path / "good.yaml", tmp_path / "bad.yaml", tmp_path / "binary.yaml"
    good.write_text("a: [1, 2]\n")
    bad.write_text("a: 1\nb: [1, 2\n")
    binary.write_bytes(b"\xff\xfe\x00a")
    assert load_yaml(good) == {"a": [1, 2]}
    with pytest.raises(InputError, match=r"bad\.yaml, line 3 is not YAML: .*; correct it there"):
        load_yaml(bad)
    with pytest.raises(InputError, match=r"binary\.yaml is not YAML"):
        load_yaml(binary)
    with pytest.raises(InputError, match=r"cannot read .*none\.yaml: No such file or directory; check the name"):
        load_yaml(tmp_path / "none.yaml")


def test_yaml_never_builds_objects(tmp_path):
    path = tmp_path / "evil.yaml"
    path.write_text("!!python/object/apply:os.system ['true']\n")
    with pytest.raises(InputError, match="is not YAML"):
        load_yaml(path)
