"""Every architecture is the one that its definition and the papers' numbers describe, layer by layer."""

import inspect

import pytest
import torch
import torch.nn.functional as F
import torchvision
from definitions import ARCHITECTURES as DEFINED
from definitions import Row, interpret, parameters, scaled
from narrow import OWN, RESIDUAL, images, make, run, spike_rates, trained
from spikingjelly.activation_based import functional, layer
from torch import fx, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.flop_counter import FlopCounterMode

from jellyplus import _compat, model, surrogate
from jellyplus.functional import fuse_tdbn
from jellyplus.layer import ThresholdDependentBatchNorm2d
from jellyplus.model import ARCHITECTURES, ann, optional, options
from jellyplus.neuron import IterativeLIFNode

EVERY = pytest.mark.parametrize("name", ARCHITECTURES)
DEFINITIONS = pytest.mark.parametrize("case", DEFINED)


def no_norm(alpha, channels):
    return nn.Identity()


def constructed(case):
    """The spiking network and its ReLU twin at full size, without memory."""
    defined = DEFINED[case]
    arguments = dict(defined.arguments) if defined.norm else {**defined.arguments, "norm": no_norm}
    constructor = ARCHITECTURES[defined.name or case]
    with torch.device("meta"):
        return constructor(**arguments), ann(constructor, **arguments)


def layers(net, channels, size, leading=(1, 1)):
    """What :func:`definitions.interpret` says, as a forward pass has it, and the multiply-accumulates torch counts."""
    rows = []

    def see(module, _, y):
        after, before, kernel, _ = (*module.weight.shape, 1, 1)[:4]
        rows.append(Row(kernel, before, after, y.shape[-1] if isinstance(module, nn.Conv2d) else 1))

    modules = [m for m in net.modules() if isinstance(m, (nn.Conv2d, nn.Linear))]
    handles = [m.register_forward_hook(see) for m in modules]
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        net.eval()(torch.zeros(*leading, channels, size, size, device="meta"))
    for handle in handles:
        handle.remove()
    return rows, counter.get_total_flops() / 2  # torch counts two operations for each


def count(net):
    return sum(p.numel() for p in net.parameters())


def input_of(text):
    return map(int, text.split()[0].split("x"))


# --- definitions ---


def test_every_architecture_is_defined():
    covered = {defined.name or case for case, defined in DEFINED.items()}
    assert covered == ARCHITECTURES.keys()
    assert all(options(name) == {} or set(options(name)) <= {
        "blocks", "shortcut", "stem", "pool", "input_size", "dropout", "depth", "strides", "identity_norm", "stem_pool",
        "hidden", "stem_width",
    } for name in ARCHITECTURES)  # fmt: skip


@DEFINITIONS
def test_layer_by_layer_with_the_papers_parameters_and_operations(case):
    defined = DEFINED[case]
    expected = interpret(defined.text)
    net, twin = constructed(case)
    rows, macs = layers(twin, *input_of(defined.text))
    assert rows == expected
    digits = len(defined.macs.partition(".")[2])
    assert macs == sum(row.macs for row in expected)
    assert f"{macs / 1e6:.{digits}f}" == defined.macs
    derived = parameters(defined.text, defined.conv_bias, defined.norm, defined.linear_bias)
    assert count(net) == count(twin) == derived == defined.parameters


#: imloss's ResNet-19 when it was reviewed; pooling 8x8 pixels to 4x4 is 2x2 pooling.
REVIEWED = (
    "3x32 3x3,64 [3x3,128 3x3,128 | 3x3,128] [3x3,128 3x3,128 |]*2 [3x3,256/2 3x3,256 | 3x3,256/2] "
    "[3x3,256 3x3,256 |]*2 [3x3,512/2 3x3,512 | 3x3,512/2] [3x3,512 3x3,512 |] A F256 O10"
)


def test_the_resnet19s_of_public_code_have_their_numbers_of_parameters():
    """Those that the authors' own modules have; 8192 features go into the reviewed one's hidden layer."""
    with torch.device("meta"):
        assert count(model.resnet19(hidden=False)) == 12_569_226
        reviewed = model.resnet19(stem_width=64, shortcut="conv3x3", pool="4x4")
    assert count(reviewed) == parameters(REVIEWED, False, True, True) == 15_973_194
    assert [m.in_features for m in reviewed.modules() if isinstance(m, nn.Linear)] == [8192, 256]


def test_pooling_to_four_pixels_does_so_at_any_size():
    net = make("resnet19", width=2, pool="4x4", input_size=48)
    assert run(net, torch.randn(1, 2, 3, 48, 48)).shape == (3, 2, 5)
    assert net.head[2].in_features == 16 * 8


@pytest.mark.parametrize(
    ("name", "with_norm", "without"),
    [
        ("vgg16_diet", 39_925_696, 39_917_248),  # 2 * (2 * 64 + 2 * 128 + 3 * 256 + 6 * 512) = 8448
        ("vgg16_imagenet", 138_352_576, 138_344_128),
        ("resnet20_diet", 11_263_296, 11_253_440),  # 2 * (3 * 64 + 4 * 960 + 896) = 9856
    ],
)
def test_tdbn_adds_two_numbers_for_each_channel(name, with_norm, without):
    with torch.device("meta"):
        assert count(ARCHITECTURES[name]()) == with_norm
        assert count(ARCHITECTURES[name](norm=no_norm)) == without


@DEFINITIONS
def test_a_narrow_one_is_narrow_everywhere(case):
    """Half of the width; CIFARNet's 1024 hidden features become 512, VGG-16's 4096 become 2048."""
    defined = DEFINED[case]
    width = interpret(defined.text)[0].after
    text = scaled(defined.text, width=width // 2, of=width)
    with torch.device("meta"):
        net = ann(ARCHITECTURES[defined.name or case], **{**defined.arguments, "width": width // 2})
    assert layers(net, *input_of(text))[0] == interpret(text)


@pytest.mark.parametrize(
    ("name", "arguments", "text"),
    [
        ("resnet19", {"blocks": (1, 2)}, "3x32 3x3,128 [3x3,128 3x3,128 |] [3x3,256/2 3x3,256 | 1x1,256/2] "
         "[3x3,256 3x3,256 |] G F256 O10"),
        ("resnet19", {"blocks": (1, 1), "pool": "2x2", "input_size": 42}, "3x42 3x3,128 [3x3,128 3x3,128 |] "
         "[3x3,256/2 3x3,256 | 1x1,256/2] A F256 O10"),
        ("resnet19", {"stem_width": 64, "shortcut": "conv3x3", "pool": "4x4"}, REVIEWED),
        ("resnet19", {"blocks": (1, 1), "stem_width": 64, "hidden": False}, "3x32 3x3,64 [3x3,128 3x3,128 | 1x1,128] "
         "[3x3,256/2 3x3,256 | 1x1,256/2] G O10"),
        ("resnet19", {"blocks": (1, 1), "pool": "2x2", "hidden": False, "input_size": 42}, "3x42 3x3,128 "
         "[3x3,128 3x3,128 |] [3x3,256/2 3x3,256 | 1x1,256/2] A O10"),
        ("resnet17", {"blocks": (1,), "pool": "global"}, "2x32 3x3,64 [3x3,64/2 3x3,64 | 1x1,64/2] G F256 O11"),
        ("resnet17", {"blocks": (1,), "input_size": 42}, "2x42 3x3,64 [3x3,64/2 3x3,64 | 1x1,64/2] A F256 O11"),
        ("dspike_resnet18", {"blocks": (1, 1), "stem": "pool_after", "shortcut": "conv"}, "3x32 3x3,64 3x3,64 3x3,64 A "
         "[3x3,64 3x3,64 |] [3x3,128/2 3x3,128 | 1x1,128/2] G O10"),
        ("resnet20_diet", {"blocks": (1, 1), "input_size": 42}, "3x42 3x3,64 3x3,64 3x3,64 A [3x3,64 3x3,64 |] "
         "[3x3,128/2 3x3,128 | 1x1,128/2] O10"),
        ("resnet20_he", {"blocks": (1, 1), "shortcut": "conv"}, "3x32 3x3,16 [3x3,16 3x3,16 |] "
         "[3x3,32/2 3x3,32 | 1x1,32/2] G O10"),
        ("resnet17", {"pool": "global"}, DEFINED["resnet17"].text.replace("A F256", "G F256")),
        ("tdbn_resnet50", {"blocks": (1,)}, "3x64 7x7,64/2 [1x1,64 3x3,64/2 1x1,256 | 1x1,256/2] G O1000"),
        ("vgg16_imagenet", {"input_size": 64}, DEFINED["vgg16_imagenet without norm"].text.replace("3x224", "3x64")),
        ("vgg16_diet", {"input_size": 48}, DEFINED["vgg16_diet"].text.replace("3x32", "3x48")),
        ("cifarnet", {"input_size": 48}, DEFINED["cifarnet"].text.replace("3x32", "3x48")),
        ("toy_cnn", {"input_size": 8, "width": 3}, "1x8 3x3,3 A O10"),
        ("plain", {"depth": 7, "strides": (1, 2)}, "3x32 3x3,64 3x3,64 3x3,64 3x3,64/2 3x3,64 3x3,64 G O10"),
    ],
)  # fmt: skip
def test_depth_and_options(name, arguments, text):
    with torch.device("meta"):
        net = ann(ARCHITECTURES[name], **arguments)
    assert layers(net, *input_of(text))[0] == interpret(text)


# --- torchvision as another source ---


def torchvisions(name):
    with torch.device("meta"):
        return getattr(torchvision.models, name)()


def torchvision_layers(net):
    return layers(net, 3, 224, leading=(1,))[0]


@pytest.mark.parametrize("depth", [18, 34])
def test_resnets_for_imagenet_are_torchvisions(depth):
    reference = torchvisions(f"resnet{depth}")
    net, twin = constructed(f"resnet{depth}_imagenet")
    assert layers(twin, 3, 224)[0] == torchvision_layers(reference)
    assert count(net) == count(reference)


def test_tdbns_resnet34_has_one_layer_more_than_torchvisions():
    """The shortcut of the first block; without the pool, that block halves the resolution in its place."""
    (net, twin), reference = constructed("tdbn_resnet34"), torchvisions("resnet34")
    rows = layers(twin, 3, 224)[0]
    assert rows.pop(3) == Row(1, 64, 64, 56)
    assert rows == torchvision_layers(reference)
    assert count(net) == count(reference) + 64 * 64 + 2 * 64


def test_tdbns_resnet50_is_torchvisions_without_the_pool():
    """Only the first block's 1x1 convolution works at another resolution."""
    (net, twin), reference = constructed("tdbn_resnet50"), torchvisions("resnet50")
    rows, expected = layers(twin, 3, 224)[0], torchvision_layers(reference)
    differ = [i for i, (row, other) in enumerate(zip(rows, expected, strict=True)) if row != other]
    assert [(rows[i], expected[i]) for i in differ] == [(Row(1, 64, 64, 112), Row(1, 64, 64, 56))]
    assert count(net) == count(reference)


def test_vgg16_for_imagenet_is_torchvisions_without_biases():
    (net, twin), reference = constructed("vgg16_imagenet without norm"), torchvisions("vgg16")
    assert layers(twin, 3, 224)[0] == torchvision_layers(reference)
    biases = sum(p.numel() for name, p in reference.named_parameters() if name.endswith("bias"))
    assert count(net) == count(reference) - biases


# --- the contract ---


@EVERY
def test_the_first_arguments_are_the_same(name):
    names = list(inspect.signature(ARCHITECTURES[name]).parameters)
    shared = ["num_classes", "in_channels", "width", "time_steps", "neuron", "norm", "alpha"]
    assert names[:7] == shared
    has_branches = any(isinstance(m, model.ResidualBlock) for m in make(name).modules())
    assert ("branch_alpha" in names) == has_branches == (name in RESIDUAL)
    assert names[7:] == ["branch_alpha"] * has_branches + list(options(name))


@EVERY
def test_the_parts_have_their_names(name):
    net = make(name, num_classes=7)
    assert isinstance(net, model.Network)
    assert isinstance(net.conv1, nn.Conv2d)
    assert next(iter(dict(net.named_parameters()))) == "conv1.weight"
    assert isinstance(net.neuron1, IterativeLIFNode)
    assert isinstance(net.stages, nn.Sequential)
    assert net.fc.out_features == 7
    assert list(net.named_modules())[-1][0] == "fc"  # and nothing, so no neuron, behind it
    assert net.time_steps == 3
    assert net.shortcuts is None


@EVERY
def test_one_training_step(name):
    torch.manual_seed(0)
    net, x, target = make(name).double(), images(name, batch=4), torch.tensor([0, 1, 2, 3])
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    y = net(x)
    assert y.shape == (3, 4, 5)
    nn.functional.cross_entropy(y.mean(0), target).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in net.parameters())
    assert net.conv1.weight.grad.abs().max() > 0
    assert net.fc.weight.grad.abs().max() > 0
    optimizer.step()
    functional.reset_net(net)
    assert not torch.equal(net(x), y)


@EVERY
def test_a_static_image_is_the_image_at_every_time_step(name):
    net, x = trained(name), images(name, seed=30)
    y = run(net, x)
    torch.testing.assert_close(y, run(net, x.repeat(3, 1, 1, 1, 1)), rtol=1e-10, atol=1e-10)
    assert (y[0] - y[2]).abs().max() > 1e-3  # the neurons remember
    assert (y[:, 0] - y[:, 1]).abs().max() > 1e-3
    rates = spike_rates(net, x)
    assert all(0.001 < rate < 0.9 for rate in rates)
    assert len(rates) == sum(isinstance(m, IterativeLIFNode) for m in net.modules())


@EVERY
def test_the_encoder_runs_once_on_a_static_image(name):
    net, seen = trained(name), []
    for module in (net.conv1, net.norm1):
        module.register_forward_hook(lambda _, __, y: seen.append(len(y)))
    run(net, images(name))
    run(net, images(name, frames=3))
    assert seen == [1, 1, 3, 3]


@EVERY
def test_step_mode_s_equals_m_in_evaluation(name):
    net, x = trained(name), images(name, frames=3, seed=30)
    whole = run(net, x)
    functional.set_step_mode(net, "s")
    functional.reset_net(net)
    with torch.no_grad():
        single = torch.stack([net(x_t) for x_t in x])
    torch.testing.assert_close(single, whole, rtol=1e-10, atol=1e-10)


@EVERY
def test_a_pickled_network_is_the_same(name, tmp_path):
    net, x = trained(name), images(name, seed=30)
    y = run(net, x)
    torch.save(net, tmp_path / "net.pt")
    assert torch.equal(run(torch.load(tmp_path / "net.pt", weights_only=False), x), y)


# --- neurons and norms ---

PAPERS_SURROGATES = {"cifarnet": surrogate.EvAF, "dspike_resnet18": surrogate.Dspike, "toy_cnn": surrogate.Dspike}


@EVERY
def test_the_defaults_are_lif_with_the_papers_surrogate_and_tdbn(name):
    net = make(name)
    nodes = [m for m in net.modules() if isinstance(m, IterativeLIFNode)]
    kind = PAPERS_SURROGATES.get(name, surrogate.Rectangular)
    assert {type(node.surrogate_function) for node in nodes} == {kind}
    assert len({id(node.surrogate_function) for node in nodes}) == len(nodes)
    assert {(node.v_threshold, node.step_mode) for node in nodes} == {(0.5, "m")}
    norms = [m for m in net.modules() if isinstance(m, ThresholdDependentBatchNorm2d)]
    assert {norm.v_th for norm in norms} == (set() if name == "toy_cnn" else {0.5})
    convolutions = sum(isinstance(m, nn.Conv2d) for m in net.modules())
    assert len(norms) == (0 if name == "toy_cnn" else convolutions)


class _Leaves(fx.Tracer):
    def is_leaf_module(self, module, name):
        return isinstance(module, _compat.StepModule) or super().is_leaf_module(module, name)


def added(net):
    """Names of the modules whose outputs are added, from the graph of the computation."""
    sums = [node for node in _Leaves().trace(net).nodes if "add" in str(node.target)]
    return {argument.target for node in sums for argument in node.args if argument.op == "call_module"}


# Blocks, and the convolutional shortcuts among them.
BRANCHES = {
    "resnet17": (7, 2), "resnet19": (8, 2), "resnet20": (8, 3), "resnet20_diet": (8, 3), "resnet20_he": (9, 0),
    "dspike_resnet18": (8, 3), "resnet18_cifar": (8, 3), "resnet34_cifar": (16, 3), "resnet18_imagenet": (8, 3),
    "resnet34_imagenet": (16, 3), "tdbn_resnet34": (16, 4), "tdbn_resnet50": (16, 4),
}  # fmt: skip


@pytest.mark.parametrize("name", RESIDUAL)
def test_norms_whose_outputs_are_added_have_alpha_1_over_root_2_and_all_others_1(name):
    net = make(name)
    alphas = {n: m.alpha for n, m in net.named_modules() if isinstance(m, ThresholdDependentBatchNorm2d)}
    branch = {n for n in added(net) if n in alphas}
    assert len(branch) == sum(BRANCHES[name])
    assert sum("shortcut" in n for n in branch) == BRANCHES[name][1]
    assert [alphas[n] ** 2 for n in branch] == [pytest.approx(0.5)] * len(branch)
    assert {alphas[n] for n in alphas.keys() - branch} == {1.0}


@EVERY
def test_neuron_norm_and_alphas_are_arguments(name):
    calls = []

    def norm(alpha, channels):
        calls.append(alpha)
        return ThresholdDependentBatchNorm2d(alpha, 0.7, channels)

    branch = {"branch_alpha": 0.6} if name in RESIDUAL else {}
    net = make(name, neuron=lambda: IterativeLIFNode(0.9, step_mode="m"), norm=norm, alpha=0.8, **branch)
    assert {m.decay for m in net.modules() if isinstance(m, IterativeLIFNode)} == {0.9}
    assert calls.count(0.6) == sum(BRANCHES.get(name, ()))
    assert calls.count(0.8) == len(calls) - calls.count(0.6) > 0
    bare = make(name, neuron=nn.ReLU, norm=no_norm)
    assert not any(isinstance(m, (_BatchNorm, IterativeLIFNode)) for m in bare.modules())


@pytest.mark.parametrize("name", [name for name in ARCHITECTURES if name != "toy_cnn"])
def test_fusing_leaves_no_norm_and_the_same_output(name):
    net, x = trained(name), images(name, seed=30)
    assert any(isinstance(m, _BatchNorm) for m in net.modules())
    fused = fuse_tdbn(net)
    assert not any(isinstance(m, _BatchNorm) for m in fused.modules())
    torch.testing.assert_close(run(fused, x), run(net, x), rtol=1e-9, atol=1e-9)


# --- ANN twins ---


@EVERY
def test_the_twins_state_has_the_same_names_shapes_and_order(name):
    arguments = {"num_classes": 5, "width": 4}
    net, twin = ARCHITECTURES[name](**arguments), ann(ARCHITECTURES[name], **arguments)
    own = [(key, value.shape) for key, value in net.state_dict().items() if "surrogate_function" not in key]
    assert [(key, value.shape) for key, value in twin.state_dict().items()] == own
    assert not any(isinstance(m, (_compat.BaseNode, ThresholdDependentBatchNorm2d)) for m in twin.modules())
    assert sum(isinstance(m, nn.ReLU) for m in twin.modules()) == sum(
        isinstance(m, IterativeLIFNode) for m in net.modules()
    )
    assert {type(m) for m in twin.modules() if isinstance(m, _BatchNorm)} <= {layer.BatchNorm2d}
    assert twin.time_steps == 1


@EVERY
def test_the_twin_trains_on_images(name):
    twin = make(name, neuron=nn.ReLU, norm=lambda _, c: layer.BatchNorm2d(c, step_mode="m"))
    twin = twin.double()
    y = twin(images(name))
    assert y.shape == (3, 3, 5)
    torch.testing.assert_close(y[0], y[2], rtol=0, atol=1e-12)  # no state; rows of a product may round differently
    y.square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in twin.parameters())


def test_the_twins_norm_can_be_another():
    twin = ann(model.resnet19, width=4, norm=no_norm)
    assert not any(isinstance(m, _BatchNorm) for m in twin.modules())


# --- initialisation ---


def test_convolutions_and_hidden_linear_layers_start_as_he_et_al_have_it_and_the_last_as_torch_has():
    """Standard deviations: sqrt(2 / (9 * 512)) by fan-out, sqrt(2 / 2048) by fan-in, and 1 / sqrt(3 * 256)."""
    torch.manual_seed(0)
    net = model.cifarnet(width=64, input_size=16)
    second, hidden = net.stages[2][0], net.head[1]
    assert second.weight.std().item() == pytest.approx((2 / (9 * 512)) ** 0.5, rel=0.01)
    assert hidden.weight.std().item() == pytest.approx((2 / 4096) ** 0.5, rel=0.01)
    assert hidden.bias.abs().max() == 0
    assert net.fc.weight.std().item() == pytest.approx((3 * 256) ** -0.5, rel=0.05)
    assert net.fc.weight.abs().max() <= 256**-0.5
    biased = model.vgg16_global_pool(width=4)
    assert all(m.bias.abs().max() == 0 for m in biased.modules() if isinstance(m, nn.Conv2d))


@pytest.mark.parametrize("name", ["cifarnet", "vgg16_diet", "vgg16_imagenet"])
def test_hidden_linear_layers_fire_from_the_start(name):
    """Under torch's default initialisation the second one does not: 0.0000 of CIFARNet's."""
    torch.manual_seed(0)
    net = make(name, width=8).double()
    assert all(rate > 0.05 for rate in spike_rates(net, images(name, batch=8))[-2:])


@pytest.mark.parametrize(
    ("how", "deviation", "bias"),
    [
        ("he_fan_out", lambda fan_in, fan_out: (2 / fan_out) ** 0.5, 0.0),
        ("torch", lambda fan_in, fan_out: (3 * fan_in) ** -0.5, 1.0),  # uniform within 1 / sqrt(fan_in)
        ("normal_fan_in", lambda fan_in, fan_out: 1 / fan_in, 0.0),
    ],
)
def test_every_layer_can_start_otherwise(how, deviation, bias):
    """The second convolution of VGG-16's second stage: 9 x 64 in, 9 x 128 out; its decoding layer: 512 in."""
    torch.manual_seed(0)
    net = model.attach_shortcuts(model.vgg16_global_pool(width=64, num_classes=100))
    before = {name: value.clone() for name, value in net.state_dict().items()}
    model.initialise(net, how)
    convolution = net.stages[1][0]
    assert convolution.weight.std().item() == pytest.approx(deviation(9 * 64, 9 * 128), rel=0.02)
    assert convolution.bias.abs().max().item() <= bias * (9 * 64) ** -0.5
    assert (convolution.bias.abs().max() > 0) == bool(bias)
    assert torch.equal(net.fc.weight, before["fc.weight"])
    model.initialise(net, "he_fan_out", how)
    of_linear = (2 / 512) ** 0.5 if how == "he_fan_out" else deviation(512, 100)
    assert net.fc.weight.std().item() == pytest.approx(of_linear, rel=0.02)
    branch = net.shortcuts.branches[-1][-1]
    assert branch.weight.std().item() == pytest.approx(of_linear, rel=0.02)
    assert (branch.bias.abs().max() > 0) == (net.fc.bias.abs().max() > 0) == bool(bias)


def test_decoding_layers_can_start_with_a_deviation_that_is_stated():
    torch.manual_seed(0)
    net = model.attach_shortcuts(model.vgg16_global_pool(width=16, num_classes=100))
    model.initialise(net, "torch", 0.01)
    assert net.stages[1][0].bias.abs().max() > 0  # others as named
    for last in (net.fc, net.shortcuts.branches[-1][-1]):
        assert last.weight.std().item() == pytest.approx(0.01, rel=0.05)
        assert last.bias.abs().max() == 0


def test_an_unknown_initialisation_is_refused():
    with pytest.raises(ValueError, match="initialisation='xavier' is unknown: choose from 'he_fan_out', 'torch', "):
        model.initialise(make("toy_cnn"), "xavier")


# --- options ---


def inputs_behind_identities(name, **arguments):
    """Mean and deviation of what the neurons behind identity shortcuts get, in a new network."""
    torch.manual_seed(0)
    net, seen = make(name, width=16, **arguments), []
    blocks = [m for m in net.modules() if isinstance(m, model.ResidualBlock)]
    for block in blocks:
        if not any(isinstance(m, nn.Conv2d) for m in block.shortcut.modules()):
            block.neuron.register_forward_hook(lambda _, x, y: seen.append((x[0].mean().item(), x[0].std().item())))
    run(net.train(), torch.randn(1, 16, net.conv1.in_channels, 32, 32))
    assert 0 < len(seen) < len(blocks)
    return seen


@pytest.mark.parametrize("name", ["resnet19", "resnet18_cifar", "tdbn_resnet34"])
def test_behind_identities_the_input_is_normal_at_first_where_they_have_a_norm(name):
    """tdBN means N(0, V_th^2) with V_th = 0.5: two branches of half the variance each. Bare identities add spikes."""
    for mean, deviation in inputs_behind_identities(name, identity_norm=True):
        assert (mean, deviation) == (pytest.approx(0, abs=1e-6), pytest.approx(0.5, abs=0.02))
    assert all(mean > 0.1 for mean, _ in inputs_behind_identities(name))


@pytest.mark.parametrize("name", RESIDUAL)
def test_norms_of_identities_have_the_branch_alpha(name):
    net = make(name, identity_norm=True)
    bare = [block.shortcut for block in make(name).modules() if isinstance(block, model.ResidualBlock)]
    normed = [block.shortcut for block in net.modules() if isinstance(block, model.ResidualBlock)]
    for was, now in zip(bare, normed, strict=True):
        assert isinstance(was, nn.Identity) == isinstance(now, ThresholdDependentBatchNorm2d)
        assert isinstance(was, nn.Sequential) or getattr(now, "alpha", 0.5**0.5) == pytest.approx(0.5**0.5)
    twin = ann(ARCHITECTURES[name], **({"width": 4, "num_classes": 5, "identity_norm": True} | OWN.get(name, {})))
    names = [key for key in net.state_dict() if "surrogate_function" not in key]
    assert list(twin.state_dict()) == names


def test_a_norm_of_an_identity_has_no_layer_to_fuse_into():
    with pytest.raises(ValueError, match=r"stages\.0\.0\.shortcut"):
        fuse_tdbn(make("resnet18_cifar", identity_norm=True))


def test_the_stem_of_imagenets_resnets_pools_by_the_mean_or_by_the_maximum():
    average, maximum = (make("resnet18_imagenet", stem_pool=kind).stem for kind in ("average", "maximum"))
    spikes = (torch.rand(2, 3, 4, 9, 9) > 0.5).float()
    windows = F.unfold(F.pad(spikes.flatten(0, 1), (1, 1, 1, 1)), 3, stride=2).view(6, 4, 9, 25)
    assert torch.equal(maximum(spikes).flatten(0, 1).flatten(-2), windows.amax(-2))
    torch.testing.assert_close(average(spikes).flatten(0, 1).flatten(-2), windows.mean(-2))


def test_options_are_the_constructors_own():
    later = {"identity_norm": False}
    assert options("tdbn_resnet34") == {"blocks": (3, 4, 6, 3), "shortcut": "conv"} | later
    assert options("dspike_resnet18") == {"blocks": (2, 2, 2, 2), "shortcut": "pool", "stem": "stride"} | later
    assert options("resnet18_imagenet").keys() - optional("resnet18_imagenet") == {"blocks", "shortcut"}
    assert (optional("resnet18_imagenet"), optional("plain")) == ({"identity_norm", "stem_pool"}, set())
    assert options("vgg16_diet") == {"input_size": 32, "dropout": 0.2}
    assert options("plain") == {"depth": 20, "strides": (1, 1, 1)}
    assert options("vgg16_global_pool") == {}
    with pytest.raises(ValueError, match=r"no architecture 'vgg17': choose from cifarnet, "):
        options("vgg17")


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("resnet19", {"pool": "max"}, r"pool='max' is unknown: choose from 'global', '2x2', '4x4'"),
        (
            "resnet19",
            {"shortcut": "max"},
            r"shortcut='max' is unknown: choose from 'conv', 'conv3x3', 'pool', 'zero_",
        ),
        ("resnet20", {"stem": "max"}, r"stem='max' is unknown: choose from 'stride', 'pool_before', 'pool_after'"),
        ("resnet18_imagenet", {"stem_pool": "none"}, r"stem_pool='none' is unknown: choose from 'average', 'maximum'"),
        ("vgg16_diet", {"dropout": 1.0}, r"dropout=1.0 is no probability"),
        ("plain", {"depth": 4}, r"depth=4 leaves 2 convolutions for 3 stages"),
    ],
)
def test_options_that_do_not_fit_raise(name, arguments, message):
    with pytest.raises(ValueError, match=message):
        make(name, **arguments)


def test_dropout_is_behind_each_hidden_layer_that_no_pool_follows():
    """VGG-16 on CIFAR: 13 convolutions, four before a pool, and two hidden linear layers."""
    net = make("vgg16_diet", dropout=0.3)
    dropouts = [m for m in net.modules() if isinstance(m, layer.Dropout)]
    assert [m.p for m in dropouts] == [0.3] * (13 - 4 + 2)
    assert all(m.step_mode == "m" for m in dropouts)  # one mask for all time-steps
    assert not any(isinstance(m, layer.Dropout) for m in make("vgg16_diet", dropout=0.0).modules())
    modules = [type(m) for m in (net.stem, *net.stages[1], *net.stages[4])]
    group = [layer.Conv2d, ThresholdDependentBatchNorm2d, IterativeLIFNode]
    expected = [layer.Dropout, *group, layer.Dropout, *group, layer.AvgPool2d, *[*group, layer.Dropout] * 3]
    assert modules == expected


def test_dropout_of_diet_snns_resnet20_is_behind_the_neurons_that_a_convolution_follows_alone():
    """As in its public code: two in the stem, where a pool follows the third neuron, and one in each block."""
    net = make("resnet20_diet", dropout=0.2)
    group = [layer.Conv2d, ThresholdDependentBatchNorm2d, IterativeLIFNode]
    assert [type(m) for m in net.stem] == [layer.Dropout, *group, layer.Dropout, *group, layer.AvgPool2d]
    inside = [*group, layer.Dropout, layer.Conv2d, ThresholdDependentBatchNorm2d]
    assert [[type(m) for m in block.branch] for stage in net.stages for block in stage] == [inside] * 8
    dropouts = [m for m in net.modules() if isinstance(m, layer.Dropout)]
    assert {(m.p, m.step_mode) for m in dropouts} == {(0.2, "m")}
    assert make("resnet20_diet", dropout=0.0).state_dict().keys() == make("resnet20_diet").state_dict().keys()
    assert run(net, images("resnet20_diet").float()).shape == (3, 3, 5)


def test_norms_are_found_by_place():
    net = make("resnet20", blocks=(2, 1))
    assert [id(norm) for norm in model.norms_outside_blocks(net)] == [id(net.norm1), id(net.stem[1]), id(net.stem[4])]
    assert [id(norm) for norm in model.norms_beside_identities(net)] == [id(b.branch[-1]) for b in net.stages[0]]
    assert len(model.norms_outside_blocks(make("vgg16_global_pool"))) == 13


@pytest.mark.parametrize("name", RESIDUAL)
@pytest.mark.parametrize("shortcut", ["conv", "conv3x3", "pool", "zero_pad"])
def test_every_shortcut_fits_odd_sizes(name, shortcut):
    """42 pixels come to 21, 11, 6, 3 and 2, rounded up as convolutions do."""
    arguments = {"pool": "global"} if "pool" in options(name) else {}
    arguments |= {"input_size": 42} if name == "resnet20_diet" else {}
    net = make(name, width=2, time_steps=1, shortcut=shortcut, **arguments)
    channels = net.conv1.in_channels
    assert run(net, torch.randn(1, 2, channels, 42, 42)).shape == (1, 2, 5)


def test_zero_padding_keeps_every_second_pixel_and_adds_channels_of_zeros():
    shortcut = model.resnet20_he(width=2).stages[1][0].shortcut
    x = torch.arange(2 * 2 * 1 * 3 * 3.0).view(1, 2, 2, 3, 3)
    y = shortcut(x)
    assert y.shape == (1, 2, 4, 2, 2)
    assert y[0, 1, 1].tolist() == [[27, 29], [33, 35]]  # of 27..35
    assert y[:, :, 2:].abs().max() == 0
    assert torch.equal(shortcut(x[0]), y[0])  # one time-step
    assert list(shortcut.parameters()) == []
