"""Shortcut branches are Eq. 6 and Eq. 10 of Guo et al. 2024 in training, and nothing in evaluation."""

import copy

import pytest
import torch
from narrow import RESIDUAL, images, make, run, trained
from spikingjelly.activation_based import functional
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from jellyplus.functional import fuse_tdbn
from jellyplus.model import Shortcuts, attach_shortcuts, remove_shortcuts

BRANCHED = pytest.mark.parametrize("name", [*RESIDUAL, "vgg16_diet", "cifarnet", "plain"])


def attached(name, weight=1.0):
    torch.manual_seed(1)
    return attach_shortcuts(trained(name), weight)


def recorded(net, x):
    """The network's output and those of its stages."""
    outputs = []
    handles = [stage.register_forward_hook(lambda _, __, y: outputs.append(y)) for stage in net.stages]
    y = net(x)
    for handle in handles:
        handle.remove()
    return y, outputs


def macs(net, x):
    with FlopCounterMode(display=False) as counter:
        run(net, x)
    return counter.get_total_flops() / 2


@BRANCHED
@pytest.mark.parametrize("weight", [1.0, 0.25])
def test_training_adds_the_weighted_branches_and_evaluation_does_not(name, weight):
    net, x = attached(name, weight), images(name, seed=30)
    plain = trained(name)
    for module in (*net.modules(), *plain.modules()):
        if hasattr(module, "p"):
            module.p = 0.0  # dropout, which is random
    main = plain.train()(x)
    y, outputs = recorded(net.train(), x)
    expected = main.clone()
    for output, branch in zip(outputs[:-1], net.shortcuts.branches, strict=True):
        linear = branch[-1]
        for t in range(3):
            for n in range(3):
                channels = torch.stack([plane.sum() / plane.numel() for plane in output[t, n]])
                expected[t, n] += weight * (linear.weight @ channels + linear.bias)
    torch.testing.assert_close(y, expected, rtol=1e-10, atol=1e-10)
    assert (y - main).abs().max() > 0.01
    assert torch.equal(run(attached(name, weight), x), run(trained(name), x))


@BRANCHED
def test_without_branches_it_is_the_plain_network(name):
    plain, net, x = trained(name), attached(name), images(name, seed=30)
    run(net.train(), x)
    functional.reset_net(net)
    moved = remove_shortcuts(net.eval())
    assert net.shortcuts is not None
    assert moved.state_dict().keys() == plain.state_dict().keys()
    assert [n for n, _ in moved.named_modules()] == [n for n, _ in plain.named_modules()]
    torch.testing.assert_close(run(moved, x), run(net, x), rtol=1e-9, atol=1e-9)
    assert sum(p.numel() for p in moved.parameters()) == sum(p.numel() for p in plain.parameters())
    assert macs(moved, x) == macs(plain, x) == macs(net, x)
    plain.load_state_dict(moved.state_dict())
    assert torch.equal(run(plain, x), run(moved, x))


def test_attaching_changes_no_weight_and_adds_a_linear_layer_for_each_stage_but_the_last():
    """Widths 4, 8, 16 of three stages, five classes: (4 + 1 + 8 + 1 + 16 + 1) * 5 parameters."""
    net = trained("resnet18_cifar")
    before = copy.deepcopy(net.state_dict())
    parameters = sum(p.numel() for p in net.parameters())
    assert attach_shortcuts(net, 0.25) is net
    after = net.state_dict()
    assert all(torch.equal(after[key], value) for key, value in before.items())
    assert sum(p.numel() for p in net.parameters()) == parameters + 31 * 5
    assert after["shortcuts.weight"] == 0.25
    assert "shortcuts.weight" not in dict(net.named_parameters())
    assert all(value.dtype == torch.float64 for key, value in after.items() if key.startswith("shortcuts"))


@pytest.mark.parametrize(
    ("name", "widths"),
    [
        ("resnet19", [8, 16]),
        ("tdbn_resnet50", [16, 32, 64]),
        ("resnet20_he", [4, 8]),
        ("vgg16_diet", [4, 8, 16, 32]),
        ("cifarnet", [8, 16]),
        ("plain", [4, 4]),
    ],
)
def test_branches_have_the_widths_of_their_stages(name, widths):
    """Width 4, ResNet-19 8; a bottleneck gives four times its width, option A has no convolution in its shortcuts."""
    assert [branch[-1].in_features for branch in attach_shortcuts(make(name)).shortcuts.branches] == widths


def gradients(net, x):
    functional.reset_net(net)
    target = torch.tensor([0, 1, 2])
    nn.functional.cross_entropy(net(x).mean(0), target).backward()
    return net.conv1.weight.grad


@pytest.mark.parametrize("name", ["resnet19", "tdbn_resnet50", "resnet20_he"])
def test_branches_reach_the_first_layers_gradient_by_their_weight(name):
    x = images(name, seed=30)
    plain = gradients(trained(name).train(), x)
    none, full = (gradients(attached(name, weight).train(), x) for weight in (0.0, 1.0))
    torch.testing.assert_close(none, plain, rtol=1e-10, atol=1e-14)
    assert (full - plain).norm() > 0.1 * plain.norm()


def test_the_weight_is_read_when_the_network_runs():
    net, x = attached("resnet19").train(), images("resnet19", seed=30)
    outputs = {}
    for weight in (0.0, 0.5, 1.0):
        net.shortcuts.weight.fill_(weight)
        outputs[weight] = run(net, x)
    torch.testing.assert_close(outputs[0.5], (outputs[0.0] + outputs[1.0]) / 2, rtol=1e-10, atol=1e-10)
    assert not torch.equal(outputs[0.0], outputs[1.0])


def test_branches_train():
    net = attached("resnet19").train()
    gradients(net, images("resnet19", seed=30))
    assert all(p.grad.abs().max() > 0 for p in net.shortcuts.parameters())


def test_a_network_with_branches_is_saved_copied_and_fused(tmp_path):
    net, x = attached("resnet19", 0.5), images("resnet19", seed=30)
    y = run(net, x)
    trained_y = run(net.train(), x)
    torch.save(net, tmp_path / "net.pt")
    for other in (torch.load(tmp_path / "net.pt", weights_only=False), copy.deepcopy(net)):
        torch.testing.assert_close(run(other, x), trained_y, rtol=1e-12, atol=1e-12)
    net = attached("resnet19", 0.5)
    torch.testing.assert_close(run(fuse_tdbn(net), x), y, rtol=1e-9, atol=1e-9)
    other = attach_shortcuts(make("resnet19").double())
    other.load_state_dict(net.state_dict())
    assert other.shortcuts.weight == 0.5


def test_branches_take_over_the_step_mode_and_training_mode():
    net = trained("resnet19")
    functional.set_step_mode(net, "s")
    attach_shortcuts(net)
    assert {m.step_mode for m in net.shortcuts.modules() if hasattr(m, "step_mode")} == {"s"}
    assert not net.shortcuts.training
    assert attach_shortcuts(make("resnet19")).shortcuts.training


def test_a_fixed_sum_by_hand():
    """Planes of mean 2 and 3; 2 w1 + 3 w2 + b = 2 * 1 + 3 * 10 + 0.5 = 32.5, and 1 * 5 - 4 = 1 for the other stage."""
    shortcuts = Shortcuts([2, 1], num_classes=1, weight=0.5)
    with torch.no_grad():
        for branch, weight, bias in zip(shortcuts.branches, ([[1.0, 10.0]], [[1.0]]), (0.5, -4.0), strict=True):
            branch[-1].weight.copy_(torch.tensor(weight))
            branch[-1].bias.fill_(bias)
    first = torch.tensor([[1.0, 3.0], [3.0, 3.0]]).view(1, 1, 2, 1, 2)
    second = torch.full((1, 1, 1, 1, 1), 5.0)
    assert shortcuts([first, second]).tolist() == [[[0.5 * (32.5 + 1)]]]


def test_what_cannot_have_branches_raises():
    with pytest.raises(ValueError, match="has shortcut branches already"):
        attach_shortcuts(attach_shortcuts(make("resnet19")))
    with pytest.raises(ValueError, match="two stages or more, and the network has 1"):
        attach_shortcuts(make("resnet19", blocks=(2,)))
    with pytest.raises(ValueError, match="two stages or more, and the network has 0"):
        attach_shortcuts(make("toy_cnn"))
