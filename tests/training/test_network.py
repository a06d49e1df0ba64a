"""A recipe's network has every value of the recipe, and starts from the weights that it names."""

import dataclasses
import functools
from pathlib import Path

import pytest
import torch
from spikingjelly.activation_based import functional, layer
from torch import nn

from jellyplus import surrogate
from jellyplus._errors import InputError
from jellyplus.layer import ThresholdDependentBatchNorm2d
from jellyplus.neuron import IterativeLIFNode, Node, backends
from jellyplus.training import network as network_module
from jellyplus.training.network import InitialState, build_network, choose_backend, initialise
from jellyplus.training.recipe import InitialWeights, Surrogate
from jellyplus.training.recipe_files import load_run

RECIPES = Path(__file__).parents[2] / "recipes"


@functools.cache
def embedded(name):
    return load_run(f"dspike/{name}", "embedded", RECIPES).recipe


def recipe_of(name="cifar10_t6", **sections):
    """An embedded recipe of width 2, with values replaced section by section."""
    sections["model"] = {"width": 2} | sections.get("model", {})
    recipe = embedded(name)
    parts = {key: dataclasses.replace(getattr(recipe, key), **values) for key, values in sections.items()}
    return dataclasses.replace(recipe, **parts)


def network(name="cifar10_t6", seed=0, **sections):
    torch.manual_seed(seed)
    return build_network(recipe_of(name, **sections))


def modules(net, kind):
    found = [module for module in net.modules() if isinstance(module, kind)]
    assert found
    return found


@torch.no_grad()
def randomised(net, seed=0):
    """The net with every parameter and statistic drawn anew, so that none is at its default."""
    generator = torch.Generator().manual_seed(seed)
    for name, value in net.state_dict().items():
        if value.is_floating_point() and ".surrogate_function." not in name:
            scale = name.endswith("running_var") or (name.endswith(".weight") and value.dim() == 1)
            low, high = (0.5, 1.5) if scale else (-0.6, 0.6)
            value.copy_(torch.rand(value.shape, generator=generator) * (high - low) + low)
    return net


# --- The network that a recipe describes -------------------------------------------------------------------------


def test_a_recipe_names_the_initialisation_of_hidden_and_of_decoding_layers():
    plain = network()
    uniform = network(model={"initialisation": "torch"})
    assert uniform.conv1.weight.abs().max() <= 27**-0.5 < plain.conv1.weight.abs().max()  # 3 channels of 3x3
    assert torch.equal(uniform.fc.weight.abs() <= 16**-0.5, torch.ones(10, 16, dtype=torch.bool))  # 8 x width 2
    normal = network(model={"decoding_initialisation": "normal_fan_in"})
    assert normal.fc.weight.std().item() == pytest.approx(1 / 16, rel=0.2)
    assert normal.fc.bias.abs().max() == 0
    assert plain.fc.bias.abs().max() > 0


def test_no_initialisation_draws_anything_where_the_recipe_has_the_default():
    torch.manual_seed(0)
    net, drawn = build_network(recipe_of()), torch.rand(())
    torch.manual_seed(0)
    stated = recipe_of(model={"initialisation": "he_fan_out", "decoding_initialisation": "torch"})
    assert all(torch.equal(p, q) for p, q in zip(net.parameters(), build_network(stated).parameters(), strict=True))
    assert torch.rand(()) == drawn


@pytest.mark.parametrize(
    ("key", "value"),
    [("decay", 0.7), ("v_threshold", 0.9), ("v_reset", -0.2), ("v_reset", None), ("detach_reset", True)],
)
def test_every_neuron_has_the_recipes_constant(key, value):
    nodes = modules(network(neuron={key: value}), IterativeLIFNode)
    assert len(nodes) == 3 + 8 * 2  # the stem's three, and two in each of eight blocks
    assert {getattr(node, key) for node in nodes} == {value}
    assert {node.step_mode for node in nodes} == {"m"}


@pytest.mark.parametrize(
    ("name", "parameters", "kind", "attribute"),
    [
        ("dspike", {"temperature": 2.5}, surrogate.Dspike, "temperature"),
        ("evaf", {"k": 2.5}, surrogate.EvAF, "k"),
        ("rectangular", {"width": 0.75}, surrogate.Rectangular, "width"),
        ("triangular", {"gamma": 0.75, "v_threshold": 0.5}, surrogate.Triangular, "gamma"),
    ],
)
def test_every_neuron_has_the_recipes_surrogate_of_its_own(name, parameters, kind, attribute):
    recipe = dataclasses.replace(recipe_of(), temperature_search=None)
    recipe = dataclasses.replace(
        recipe, surrogate=dataclasses.replace(recipe.surrogate, name=name, parameters=parameters)
    )
    functions = [node.surrogate_function for node in modules(build_network(recipe), IterativeLIFNode)]
    assert {type(function) for function in functions} == {kind}
    assert {float(getattr(function, attribute)) for function in functions} == {parameters[attribute]}
    assert len({id(function) for function in functions}) == len(functions)


@pytest.mark.parametrize(
    "parameters", [{"width": 1.0}, {"temperature": 0.0}, {"temperature": -1.0}, {"spiking": 0.0}, {"temprature": 1.0}]
)
def test_a_shape_parameter_that_the_surrogate_does_not_have_is_refused(parameters):
    with pytest.raises(InputError, match=r"surrogate\.parameters do not fit dspike") as caught:
        network(surrogate={"parameters": parameters})
    assert "\n" not in str(caught.value)


def test_every_norm_has_the_recipes_constants():
    constants = {"alpha": 0.9, "branch_alpha": 0.6, "eps": 1e-3, "momentum": 0.3}
    net = network(norm=constants, neuron={"v_threshold": 0.8})
    norms = dict(net.named_modules())
    norms = {name: norm for name, norm in norms.items() if isinstance(norm, ThresholdDependentBatchNorm2d)}
    assert len(norms) == 3 + 8 * 2 + 3  # stem, blocks, convolutional shortcuts
    for name, norm in norms.items():
        at_junction = name.endswith(("branch.4", "shortcut.2"))
        assert norm.alpha == pytest.approx(0.6 if at_junction else 0.9), name
        assert (norm.v_th, norm.eps, norm.momentum) == (0.8, 1e-3, 0.3)


def test_an_alpha_of_one_half_in_series_leaves_a_branch_alpha_of_one_alone():
    net = network(norm={"alpha": 0.5, "branch_alpha": 1.0})
    assert net.stages[0][0].branch[1].alpha == 0.5
    assert net.stages[0][0].branch[4].alpha == 1.0


@pytest.mark.parametrize("name", ["cifar10_t6", "cifar10_ann"])
def test_width_classes_and_channels_are_the_recipes(name):
    net = network(name, model={"width": 3, "num_classes": 7, "in_channels": 2})
    assert net.conv1.weight.shape == (3, 2, 3, 3)
    assert [stage[0].branch[0].weight.shape[0] for stage in net.stages] == [3, 6, 12, 24]
    assert net.fc.weight.shape == (7, 24)


@pytest.mark.parametrize("time_steps", [1, 3])
def test_the_output_has_the_recipes_time_steps(time_steps):
    net = network(model={"time_steps": time_steps, "num_classes": 4}).eval()
    assert net(torch.randn(1, 2, 3, 16, 16)).shape == (time_steps, 2, 4)


@pytest.mark.parametrize(("stem", "pools"), [("stride", 0), ("pool_before", 1)])
def test_the_options_are_the_recipes(stem, pools):
    net = network(model={"options": recipe_of().model.options | {"stem": stem}})
    assert len([m for m in net.stem if isinstance(m, layer.AvgPool2d)]) == pools


@pytest.mark.parametrize(("name", "value"), [("stem", "pool_never"), ("shortcut", "none")])
def test_an_option_that_does_not_fit_is_refused_in_one_sentence(name, value):
    with pytest.raises(InputError, match=r"model\.options do not fit dspike_resnet18: ") as caught:
        network(model={"options": recipe_of().model.options | {name: value}})
    assert "\n" not in str(caught.value)


# --- The network of public code ----------------------------------------------------------------------------------


def official(name):
    torch.manual_seed(0)
    return build_network(load_run(name, "official", RECIPES, {"model": {"width": 8}}).recipe)


def scales(norms):
    return [round(norm.alpha * norm.v_th, 4) for norm in norms]


def test_inflors_norms_are_plain_in_the_stem_and_scaled_by_what_meets_in_blocks():
    """alpha V_th: 1 in the stem, 0.5 in series and beside identities, 0.5 / sqrt(2) where two norms meet."""
    net = official("inflor/cifar10_resnet20_t4")
    assert scales([net.norm1, net.stem[1], net.stem[4]]) == [1.0, 1.0, 1.0]
    for stage in net.stages:
        for block in stage:
            alone = isinstance(block.shortcut, nn.Identity)
            assert scales([block.branch[1], block.branch[4]]) == [0.5, 0.5 if alone else 0.3536]
            assert alone or scales([block.shortcut[-1]]) == [0.3536]
    assert sum(isinstance(block.shortcut, nn.Identity) for stage in net.stages for block in stage) == 5


@pytest.mark.parametrize("name", ["imloss/cifar10_resnet19_t4", "imloss/cifar10_vgg16_t5", "inflor/cifar10_vgg16_t5"])
def test_all_norms_of_imlosss_code_and_of_vggs_are_plain(name):
    assert set(scales(modules(official(name), ThresholdDependentBatchNorm2d))) == {1.0}


@pytest.mark.parametrize(
    ("name", "deviation"),
    [
        ("imloss/cifar10_resnet19_t4", 1 / 32),  # 1 / fan_in: of 512, here of 4 x width 8
        ("inflor/cifar100_resnet19_t4", 1 / 32),
        ("imloss/cifar100_vgg16_t5", 1e-4 / 512),
        ("inflor/cifar100_vgg16_t5", 0.01),
    ],
)
def test_the_decoding_layer_is_drawn_with_the_deviation_of_the_public_code(name, deviation):
    fc = official(name).fc
    assert not fc.bias.any()
    assert fc.weight.mean().abs() < deviation / 5
    assert fc.weight.std().item() == pytest.approx(deviation, rel=0.2)


def test_every_neuron_of_public_code_is_strict():
    for name in ("imloss/cifar10_resnet19_t4", "inflor/cifar10_resnet20_t4", "inflor/cifar10_resnet20_t4_hard_lif"):
        assert all(node.strict for node in modules(official(name), Node))
    assert not any(node.strict for node in modules(network(), Node))


def test_the_ann_has_batch_norm_and_relu_in_the_same_places():
    net = network("cifar10_ann", norm={"eps": 1e-3, "momentum": 0.3})
    norms = modules(net, ThresholdDependentBatchNorm2d)
    assert {norm.alpha * norm.v_th for norm in norms} == {1}
    assert {(norm.eps, norm.momentum) for norm in norms} == {(1e-3, 0.3)}
    assert len(norms) == 3 + 8 * 2 + 3
    assert len(modules(net, nn.ReLU)) == 3 + 8 * 2
    assert net.time_steps == 1


def test_batch_norm_is_torchs_bit_for_bit():
    x = torch.randn(1, 8, 2, 5, 5, generator=torch.Generator().manual_seed(0))
    results = []
    for norm in (network("cifar10_ann").norm1, layer.BatchNorm2d(2, step_mode="m")):
        nn.init.constant_(norm.weight, 0.7)
        inputs = x.clone().requires_grad_()
        y = norm(inputs)
        y.pow(3).sum().backward()
        results.append([y, inputs.grad, norm.weight.grad, norm.bias.grad, *norm.buffers(), norm.eval()(x)])
    assert all(torch.equal(ours, torchs) for ours, torchs in zip(*results, strict=True))


def test_weights_follow_torchs_random_state():
    weights = [network(seed=seed).conv1.weight for seed in (0, 0, 1)]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


# --- Initial weights ---------------------------------------------------------------------------------------------

FROM_ANN = InitialWeights("dspike/cifar10_ann", "copy")
FROM_T6 = InitialWeights("dspike/cifar10_t6", "copy")


def ann_state(net):
    return InitialState(net.state_dict(), spiking=False)


def spiking_state(net):
    return InitialState(net.state_dict(), spiking=True)


def test_from_the_ann_every_weight_and_statistic_is_taken_over():
    ann, net = randomised(network("cifar10_ann")), network()
    initialise(net, ann_state(ann), FROM_ANN)
    taken = 0
    for name, module in ann.named_modules():
        twin = net.get_submodule(name) if not isinstance(module, nn.ReLU) else None
        if name + ".running_mean" in dict(ann.named_buffers()):
            assert isinstance(twin, ThresholdDependentBatchNorm2d)
            for key in ("weight", "bias", "running_mean", "running_var"):  # weight is lambda, bias beta
                assert torch.equal(getattr(twin, key), getattr(module, key)), f"{name}.{key}"
            taken += 4
        elif isinstance(module, (layer.Conv2d, layer.Linear)):
            assert torch.equal(twin.weight, module.weight), name
            taken += 1
    assert taken == 22 * 4 + 22 + 1  # norms, convolutions, the last layer


def test_from_the_ann_only_temperatures_are_left_over():
    net = network()
    left_over = initialise(net, ann_state(network("cifar10_ann")), FROM_ANN)
    nodes = [name for name, module in net.named_modules() if isinstance(module, IterativeLIFNode)]
    assert len(nodes) == 19
    assert sorted(left_over) == sorted(f"{name}.surrogate_function.temperature (not initialised)" for name in nodes)


def test_names_without_counterpart_are_listed_with_their_side():
    net, ann = network(), network("cifar10_ann").state_dict()
    weights = {name: value for name, value in ann.items() if not name.startswith("fc.")} | {
        "head.weight": torch.ones(1)
    }
    left_over = initialise(net, InitialState(weights, spiking=False), FROM_ANN)
    left_over = [name for name in left_over if "temperature" not in name]
    assert sorted(left_over) == ["fc.bias (not initialised)", "fc.weight (not initialised)", "head.weight (not used)"]


@pytest.mark.parametrize(("ann_bias", "serial", "junction"), [("copy", 3.0, 3.0), ("scale", 1.5, 0.75)])
def test_the_bias_is_copied_or_scaled(ann_bias, serial, junction):
    """By hand: V_th = 0.5, alpha = 1 in series and 0.5 at a junction, so 3 becomes 1.5 and 0.75."""
    ann, net = network("cifar10_ann"), network(norm={"branch_alpha": 0.5})
    for module in modules(ann, ThresholdDependentBatchNorm2d):
        nn.init.constant_(module.bias, 3.0)
    nn.init.constant_(ann.fc.bias, 3.0)
    initialise(net, ann_state(ann), InitialWeights("dspike/cifar10_ann", ann_bias))
    block = net.stages[1][0]
    assert set(net.norm1.bias.tolist()) == set(block.branch[1].bias.tolist()) == {serial}
    assert set(block.branch[4].bias.tolist()) == set(block.shortcut[2].bias.tolist()) == {junction}
    assert set(net.fc.bias.tolist()) == {3.0}
    assert set(ann.norm1.bias.tolist()) == {3.0}  # the ANN's weights are not written to


def test_scaled_biases_make_pre_activations_alpha_v_th_times_the_anns():
    ann, net = randomised(network("cifar10_ann")).double().eval(), network().double().eval()
    initialise(net, ann_state(ann), InitialWeights("dspike/cifar10_ann", "scale"))
    x = torch.randn(1, 2, 3, 8, 8, dtype=torch.float64)
    torch.testing.assert_close(net.norm1(net.conv1(x)), 0.5 * ann.norm1(ann.conv1(x)), rtol=1e-12, atol=1e-12)


def test_scaling_has_no_effect_between_spiking_networks():
    six, four = randomised(network()), network("cifar10_t4")
    initialise(four, spiking_state(six), InitialWeights("dspike/cifar10_t6", "scale"))
    assert torch.equal(four.norm1.bias, six.norm1.bias)


@torch.no_grad()
def test_t4_starts_with_what_t6_gives_after_four_time_steps():
    six, four = randomised(network()).eval(), network("cifar10_t4", seed=1).eval()
    x = torch.randn(1, 3, 3, 16, 16)
    assert (six.time_steps, four.time_steps) == (6, 4)
    initialise(four, spiking_state(six), FROM_T6)
    expected = six(x)
    assert torch.equal(four(x), expected[:4])
    assert len({tuple(step.flatten().tolist()) for step in expected}) > 1  # it does depend on time
    functional.reset_net(six)
    stepwise = torch.stack([_one_step(six, x[0]) for _ in range(4)])
    torch.testing.assert_close(stepwise, expected[:4])


def _one_step(net, x):
    functional.set_step_mode(net, "s")
    return net(x)


def test_between_spiking_networks_nothing_but_temperatures_is_left_over():
    six, four = network(), network("cifar10_t4")
    left_over = initialise(four, spiking_state(six), FROM_T6)
    assert len(left_over) == 2 * 19
    assert all(".temperature (not " in name for name in left_over)


def test_temperatures_are_the_recipes_own():
    six, four = network(surrogate={"parameters": {"temperature": 7.0}}), network("cifar10_t4")
    initialise(four, spiking_state(six), FROM_T6)
    assert {d.temperature.item() for d in modules(four, surrogate.Dspike)} == {1.0}


def evaf_network(k):
    recipe = dataclasses.replace(recipe_of(), temperature_search=None)
    return build_network(dataclasses.replace(recipe, surrogate=Surrogate("evaf", {"k": k})))


def test_evafs_k_is_the_recipes_own_and_tells_a_spiking_network_from_an_ann():
    parent, net = randomised(evaf_network(7.0)), evaf_network(3.0)
    left_over = initialise(net, spiking_state(parent), InitialWeights("dspike/cifar10_t6", "scale"))
    assert {function.k.item() for function in modules(net, surrogate.EvAF)} == {3.0}
    assert len(left_over) == 2 * 19
    assert torch.equal(net.norm1.bias, parent.norm1.bias)  # scaled from an ANN only


def test_initial_weights_are_copies():
    six, four = network(), network("cifar10_t4")
    initialise(four, spiking_state(six), FROM_T6)
    before = six.conv1.weight.clone()
    nn.init.zeros_(four.conv1.weight)
    assert torch.equal(six.conv1.weight, before)


def test_another_width_is_refused_in_one_sentence():
    with pytest.raises(
        InputError, match=r"initial weights from dspike/cifar10_ann do not fit: .* same width"
    ) as caught:
        initialise(network(), ann_state(network("cifar10_ann", model={"width": 1})), FROM_ANN)
    assert "\n" not in str(caught.value)
    assert "conv1.weight is (1, 3, 3, 3) and (2, 3, 3, 3)" in str(caught.value)


# --- What runs the neurons ----------------------------------------------------------------------------------------


@pytest.fixture
def without_compiler(monkeypatch):
    network_module._say.cache_clear()
    found = backends.Obstacle("no C++ compiler found", "install g++")
    monkeypatch.setattr(backends.cpp_backend, "obstacle", lambda: found)


def test_auto_is_the_compiled_path_and_is_said_once(capsys):
    network_module._say.cache_clear()
    if backends.obstacle("cpp"):
        pytest.skip(f"backend='cpp' cannot run: {backends.obstacle('cpp')}")
    recipe = recipe_of("cifar10_t2")
    assert [choose_backend(recipe, "cpu") for _ in range(3)] == ["cpp"] * 3
    assert capsys.readouterr().out == "neurons run on backend 'cpp': the fastest on cpu\n"
    assert {node.backend for node in modules(build_network(recipe, "cpp"), IterativeLIFNode)} == {"cpp"}


def test_without_a_compiler_auto_is_torch_and_says_why(without_compiler, capsys):
    assert choose_backend(recipe_of("cifar10_t2"), "cpu") == "torch"
    said = "neurons run on backend 'torch': cpp cannot run here: no C++ compiler found; install g++\n"
    assert capsys.readouterr().out == said


@pytest.mark.parametrize(
    ("backend", "device", "reason"),
    [
        ("cpp", "cpu", "no C.. compiler found; install g.."),
        ("cupy", "cpu", "cupy does not run on cpu"),
        ("cpp", "cuda", "cpp does not run on cuda"),
    ],
)
def test_a_backend_that_is_named_and_cannot_run_is_bad_input(without_compiler, backend, device, reason):
    with pytest.raises(InputError, match=rf"neuron.backend: .*{reason}"):
        choose_backend(recipe_of("cifar10_t2", neuron={"backend": backend}), device)


def test_a_compilers_error_of_many_lines_is_said_in_one(monkeypatch, capsys):
    network_module._say.cache_clear()
    found = backends.Obstacle("g++ cannot build the kernels: a.cpp: error\n  line two", "install g++")
    monkeypatch.setattr(backends.cpp_backend, "obstacle", lambda: found)
    with pytest.raises(InputError, match="error line two; install") as caught:
        choose_backend(recipe_of(neuron={"backend": "cpp"}), "cpu")
    assert "\n" not in str(caught.value)
    choose_backend(recipe_of(), "cpu")
    assert capsys.readouterr().out.count("\n") == 1


def test_what_is_only_checked_is_not_said(without_compiler, capsys):
    assert choose_backend(recipe_of(), "cpu", say=False) == "torch"
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("backend", ["auto", "cupy"])
def test_bfloat16_runs_on_kernels(monkeypatch, backend):
    monkeypatch.setattr(backends, "choose", lambda device: ("cupy", "the fastest on cuda"))
    monkeypatch.setattr(backends, "obstacle", lambda name: None)
    recipe = dataclasses.replace(recipe_of("cifar10_t2", neuron={"backend": backend}), gpu_precision="bf16-mixed")
    assert choose_backend(recipe, "cuda") == "cupy"


def test_an_ann_needs_none():
    assert choose_backend(recipe_of("cifar10_ann"), "cpu") is None
