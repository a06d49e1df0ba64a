"""Whatever decides a run's numbers is a value of the recipe or stands in the list of what is the same in every run."""

import ast
import dataclasses
import inspect
import re
import typing

import lightning
import pytest
import torch
import torch.nn.functional as F
from runs import recipe_of, tiny
from torch.optim import SGD
from torch.optim.lr_scheduler import CosineAnnealingLR, StepLR
from torchvision.transforms import v2

from jellyplus import datasets, functional, layer, loss, model, neuron
from jellyplus._errors import InputError
from jellyplus.datasets.settings import EventSettings, ImageSettings
from jellyplus.registry import METHODS
from jellyplus.training import recipe
from jellyplus.training import train as training
from jellyplus.training.checkpoint import KeepLast
from jellyplus.training.classifier import Classifier
from jellyplus.training.methods.warm_start import warm_start
from jellyplus.training.network import build_network
from jellyplus.training.recipe import Recipe, Surrogate

# What decides numbers: what it takes from where in a recipe; and what decides none, or is the run's own.
CALLED = {
    F.cross_entropy: ({}, "input target size_average reduce"),  # the last two are deprecated for reduction
    SGD: (
        {
            "lr": "optimizer.learning_rate",
            "momentum": "optimizer.momentum",
            "nesterov": "optimizer.nesterov",
            "weight_decay": "optimizer.weight_decay",
        },
        "params foreach differentiable fused",
    ),
    CosineAnnealingLR: (
        {"T_max": "schedule.epochs", "eta_min": "schedule.final_learning_rate"},
        "optimizer last_epoch",
    ),
    StepLR: ({"step_size": "schedule.step_epochs", "gamma": "schedule.step_factor"}, "optimizer last_epoch"),
    lightning.Trainer: (
        {
            "max_epochs": "schedule.epochs",
            "precision": "gpu_precision",
            "accumulate_grad_batches": "data.micro_batch",
        },
        # where and how it runs, and what it shows
        "accelerator strategy devices num_nodes logger callbacks deterministic benchmark inference_mode profiler "
        "use_distributed_sampler detect_anomaly barebones plugins sync_batchnorm reload_dataloaders_every_n_epochs "
        "default_root_dir enable_autolog_hparams model_registry num_sanity_val_steps log_every_n_steps "
        "enable_checkpointing enable_progress_bar enable_model_summary "
        # parts of a run, none of which is used
        "fast_dev_run min_epochs max_steps min_steps max_time limit_train_batches limit_val_batches "
        "limit_test_batches limit_predict_batches overfit_batches val_check_interval check_val_every_n_epoch",
    ),
    v2.RandomHorizontalFlip: ({}, ""),
    v2.RandomCrop: ({"padding": "data.crop_padding"}, "size"),
    v2.RandomResizedCrop: ({"size": "data.images.side"}, ""),
    v2.AutoAugment: ({"interpolation": "data.autoaugment_interpolation", "fill": "data.autoaugment_fill"}, "policy"),
    v2.Resize: ({"size": "data.images.resize"}, ""),
    neuron.IterativeLIFNode: (
        {name: f"neuron.{name}" for name in ("decay", "v_threshold", "v_reset", "detach_reset", "backend", "strict")},
        "surrogate_function step_mode store_v_seq store_h_seq",
    ),
    neuron.SRIFNode: (
        {name: f"neuron.{name}" for name in ("rectify", "v_threshold", "detach_reset", "backend", "strict")},
        "surrogate_function step_mode store_v_seq store_h_seq",
    ),
    layer.ThresholdDependentBatchNorm2d: (
        {"alpha": "norm.alpha", "v_th": "neuron.v_threshold", "eps": "norm.eps", "momentum": "norm.momentum"},
        "num_features",
    ),
    model.initialise: (
        {"hidden": "model.initialisation", "decoding": "model.decoding_initialisation"},
        "net",
    ),
    model.attach_shortcuts: ({"weight": "shortcut.weight"}, "net after num_classes"),
    loss.IMLoss: ({name: f"im_loss.{name}" for name in ("weight", "variant", "per_channel")}, "net nodes"),
    functional.search_temperature: (
        {
            "name": "temperature_search.parameter",
            "epsilon": "temperature_search.epsilon",
            "step": "temperature_search.step",
            "lead": "temperature_search.lead",
        },
        "net loss x max_bytes batch_dim seed",
    ),
    functional.finite_difference_gradient: (
        {"name": "finite_differences.parameter", "epsilon": "finite_differences.epsilon"},
        "net loss x max_bytes batch_dim",
    ),
    functional.evaf_k: ({"epochs": "schedule.epochs", "k_min": "evolution.k_min", "k_max": "evolution.k_max"}, "epoch"),
    functional.shortcut_weight: ({"weight": "shortcut.weight"}, "iteration iterations"),
    warm_start: (
        {name: f"warm_start.{name}" for name in ("learning_rate", "momentum", "max_iterations", "weight")},
        "net inputs",
    ),
}
CALLS = pytest.mark.parametrize("called", CALLED, ids=lambda called: called.__name__)


def listed():
    """What the list says of each row: {row: {parameter: value}}."""
    rows = re.split(r"(?m)^(?=\S)", recipe.__doc__[recipe.__doc__.index("=====") :])
    pairs = (
        (re.match(r"`*(\w+(?: \w+)*)`*  ", row), re.findall(r"``(\w+)=([^`]+)``", row))
        for row in rows
        if not row.startswith("===")
    )
    return {name[1]: {key: ast.literal_eval(value) for key, value in found} for name, found in pairs if name}


@CALLS
def test_each_parameter_is_in_the_recipe_or_listed_with_its_value(called):
    of_recipe, other = CALLED[called]
    parameters = inspect.signature(called).parameters
    fixed = parameters.keys() - of_recipe.keys() - set(other.split())
    assert of_recipe.keys() | set(other.split()) <= parameters.keys()
    assert {name: parameters[name].default for name in fixed} == listed().get(called.__name__, {})


def test_the_list_has_nothing_that_is_not_called():
    names = {called.__name__ for called in CALLED}
    assert {row for row, values in listed().items() if values} <= names


@CALLS
def test_what_is_said_to_be_in_the_recipe_is_there(called):
    for path in CALLED[called][0].values():
        kind = Recipe
        for name in path.split("."):
            kind = _dataclass(kind, path)
            kind = typing.get_type_hints(kind)[name]


def _dataclass(kind, path):
    """The dataclass that a field holds, or may hold beside None."""
    (found,) = [k for k in (kind, *typing.get_args(kind)) if dataclasses.is_dataclass(k)] or [None]
    assert found, path
    return found


def test_sgd_and_its_schedule_are_as_listed():
    """What a run uses, and not only what torch's default is."""
    configured = Classifier(build_network(recipe_of()), recipe_of(), 0).configure_optimizers()
    (group,) = configured["optimizer"].param_groups
    assert len(group["params"]) == len(list(build_network(recipe_of()).parameters()))
    assert {name: group[name] for name in ("dampening", "maximize")} == listed()["SGD"]
    assert configured["lr_scheduler"]["interval"] == "epoch"


def test_the_trainer_is_as_listed(tmp_path):
    trainer = training._trainer(recipe_of(search=False), "cpu", [KeepLast(tmp_path / "state", {})])
    assert {name: getattr(trainer, name) for name in listed()["Trainer"]} == listed()["Trainer"]
    assert (trainer.max_steps, trainer.limit_train_batches, trainer.check_val_every_n_epoch) == (-1, 1.0, 1)


def test_products_on_a_gpu_are_as_listed():
    assert "convolutions may compute in TF32, other products not" in recipe.__doc__
    assert (torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32) == (True, False)


@pytest.mark.parametrize("name", ["crop", "flip", "autoaugment"])
def test_augmentations_are_as_listed(name):
    transform = datasets.transforms.augmentation([name], tiny(), 4, 0, 0).transforms[0]
    for parameter, value in listed()[type(transform).__name__].items():
        held = getattr(transform, parameter)
        assert getattr(held, "value", held) in (value, {}), parameter  # AutoAugment keeps its fill by type


SETTINGS = [ImageSettings, EventSettings, *filter(dataclasses.is_dataclass, vars(recipe).values())]
OF_METHODS = {name: method.Settings for name, method in METHODS.items()}


@pytest.mark.parametrize(("name", "settings"), {s.__name__: s for s in SETTINGS}.items() | OF_METHODS.items())
def test_only_what_came_later_has_a_default(name, settings):
    """Others are stated in every recipe; these are left out of the key where they hold the default."""
    later = {
        "Data": {
            *(
                "images",
                "events",
                "examples",
                "examples_seed",
                "validation",
                "micro_batch",
                "normalisation",
                "drop_last",
            ),
            *("cutout_before_normalisation", "autoaugment_fill", "autoaugment_interpolation"),
        },
        "Model": {"initialisation", "decoding_initialisation"},
        "Neuron": {"strict", "parameters"},
        "Optimizer": {"name", "parameters"},
        "Norm": {"identity_alpha", "outside_blocks", "parameters"},
        "Schedule": {"parameters"},
        "im_loss": {"per_channel"},
        "temperature_search": {"batch", "lead"},
        "warm_start": {"weight"},
        "Recipe": {"output_loss", "methods"},
    }
    with_default = {f.name for f in dataclasses.fields(settings) if f.default is not dataclasses.MISSING}
    assert with_default == later.get(name, set())


@pytest.mark.parametrize(
    ("name", "parameters", "missing"),
    [
        ("triangular", {"gamma": 1.0}, "v_threshold"),
        ("rectangular", {}, "width"),
        ("evaf", {}, "k"),
        ("dspike", {}, "temperature"),
    ],
)
def test_a_surrogates_parameters_are_all_stated(name, parameters, missing):
    recipe = dataclasses.replace(recipe_of(search=False), surrogate=Surrogate(name, parameters))
    with pytest.raises(InputError, match=f"surrogate.parameters do not fit {name}: state {missing}"):
        build_network(recipe)
