"""Shortcut branches behind the modules of anyone's network: Eq. 6 in training, nothing in evaluation."""

import copy
import io
import string

import pytest
import torch
from spikingjelly.activation_based import functional, layer, neuron
from torch import nn
from torch.utils.checkpoint import checkpoint

from jellyplus.functional import shortcut_weight
from jellyplus.model import attach_shortcuts, remove_shortcuts


class Block(nn.Module):
    def __init__(self, a, b, mode):
        super().__init__()
        self.conv = layer.Conv2d(a, b, 3, padding=1, step_mode=mode)
        self.beside = layer.Conv2d(a, b, 1, step_mode=mode)
        self.lif = neuron.LIFNode(tau=2.0, step_mode=mode)

    def forward(self, x):
        return self.lif(2 * self.conv(x) + self.beside(x))


class ResNet(nn.Module):
    """A user's: three stages; step mode 's' in a loop, around it or inside it, or 'm'."""

    def __init__(self, mode="s", loop=0, mean=False):
        super().__init__()
        self.mode, self.loop, self.mean = mode, loop, mean
        self.layer1, self.layer2, self.layer3 = Block(3, 4, mode), Block(4, 6, mode), Block(6, 8, mode)
        self.hidden = layer.Linear(8, 7, step_mode=mode)
        self.lif = neuron.LIFNode(tau=2.0, step_mode=mode)
        self.classifier = layer.Linear(7, 5, step_mode=mode)

    def step(self, x):
        x = self.layer3(self.layer2(self.layer1(x))).mean((-2, -1))
        return self.classifier(self.lif(3 * self.hidden(x)))

    def forward(self, x):
        y = torch.stack([self.step(x_t) for x_t in x]) if self.loop else self.step(x)
        return y.mean(0) if self.mean else y


def make(seed=0, **arguments):
    torch.manual_seed(seed)
    return ResNet(**arguments).double()


def images(*shape, seed=1):
    return 2 * torch.rand(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


AFTER = ["layer1", "layer2", "lif"]


def by_hand(net, x, weight):
    """[T, N, classes] by a plain loop: every branch's average over pixels, a matrix product, a sum."""
    expected, branches = [], [branch[-1] for branch in net.shortcuts.branches]
    twin = make(mode="s")
    twin.load_state_dict({k: v for k, v in net.state_dict().items() if not k.startswith("shortcuts")})
    for x_t in x:
        a = twin.layer1(x_t)
        b = twin.layer2(a)
        c = twin.lif(3 * twin.hidden(twin.layer3(b).mean((-2, -1))))
        y = twin.classifier(c)
        for linear, z in zip(branches, (a, b, c), strict=True):
            features = z.flatten(2).sum(-1) / z[0, 0].numel() if z.dim() == 4 else z
            y = y + weight * (features @ linear.weight.T + linear.bias)
        expected.append(y)
    return torch.stack(expected)


@pytest.mark.parametrize("how", ["loop around", "loop inside", "mode m", "mean in mode m", "mean of a loop"])
def test_training_adds_the_branches_whatever_the_loop(how):
    mode, loop = "m" if "mode m" in how else "s", "inside" in how or "of a loop" in how
    net, x = attach_shortcuts(make(mode=mode, loop=loop, mean="mean" in how), 0.5, AFTER, 5), images(4, 3, 3, 6, 6)
    y = torch.stack([net(x_t) for x_t in x]) if how == "loop around" else net(x)
    expected = by_hand(net, x, 0.5)
    expected = expected.mean(0) if "mean" in how else expected
    torch.testing.assert_close(y, expected, rtol=1e-10, atol=1e-12)
    got = torch.autograd.grad(y.square().sum(), net.layer1.conv.weight)
    wanted = torch.autograd.grad(expected.square().sum(), list(net.shortcuts.parameters()))
    functional.reset_net(net)
    again = torch.stack([net(x_t) for x_t in x]) if how == "loop around" else net(x)
    for one, other in zip(torch.autograd.grad(again.square().sum(), net.shortcuts.parameters()), wanted, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-11)
    assert got[0].abs().max() > 0


def test_evaluation_is_the_main_branch_and_removal_leaves_nothing():
    plain, net, x = make(mode="m"), attach_shortcuts(make(mode="m"), 1.0, AFTER, 5), images(4, 3, 3, 6, 6)
    net(x)  # its nodes now hold potentials with a graph
    removed = remove_shortcuts(net)
    assert not hasattr(removed, "shortcuts")
    assert removed.state_dict().keys() == plain.state_dict().keys()
    assert [name for name, _ in removed.named_modules()] == [name for name, _ in plain.named_modules()]
    assert vars(removed).keys() == vars(plain).keys()
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in removed.modules())
    assert isinstance(net.shortcuts, nn.Module)
    for module in (net, removed):
        functional.reset_net(module)
    with torch.no_grad():
        assert torch.equal(net.eval()(x), plain.eval()(x))
        assert torch.equal(removed.eval()(x), net(functional.reset_net(net) or x))


def test_a_copy_and_a_pickled_network_have_branches_of_their_own():
    net, x, file = attach_shortcuts(make(mode="m"), 1.0, AFTER, 5), images(4, 3, 3, 6, 6), io.BytesIO()
    expected = net(x)
    functional.reset_net(net)
    torch.save(net, file)
    file.seek(0)
    for other in (copy.deepcopy(net), torch.load(file, weights_only=False)):
        assert torch.equal(other(x), expected)
        other.shortcuts.weight.zero_()
        functional.reset_net(other)
        assert not torch.equal(other(x), expected)
    assert torch.equal(net(x), expected)


def test_the_branches_train_from_the_first_step_and_their_weight_follows_the_schedule():
    net, x = attach_shortcuts(make(mode="m"), after=["layer1.conv", "layer1"], num_classes=5), images(4, 3, 3, 6, 6)
    optimizer, before = torch.optim.SGD(net.parameters(), 0.1), copy.deepcopy(net.shortcuts.state_dict())
    for iteration in (1, 2):
        net.shortcuts.weight.fill_(shortcut_weight(iteration, 4))
        nn.functional.cross_entropy(net(x).mean(0), torch.tensor([0, 1, 2])).backward()
        optimizer.step()
        functional.reset_net(net)
    assert net.shortcuts.weight == 0.125
    changed = {key: not torch.equal(value, before[key]) for key, value in net.shortcuts.state_dict().items()}
    assert all(changed.values())


def test_channels_that_the_last_layer_does_not_tell_are_stated():
    class Dense(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 2, 3, padding=1)

        def forward(self, x):
            return torch.cat([x, self.conv(x)], 1)

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.dense, self.fc = Dense(), nn.Linear(5, 4)

        def forward(self, x):
            return self.fc(self.dense(x).mean((-2, -1)))

    net, x = Net(), torch.rand(2, 3, 6, 6)
    with pytest.raises(ValueError, match=r"'dense' gives \(2, 5, 6, 6\), .* C = 2 channels: .*after="):
        attach_shortcuts(copy.deepcopy(net), after=["dense"])(x)
    assert attach_shortcuts(net, after={net.dense: 5})(x).shape == (2, 4)
    with pytest.raises(ValueError, match="a Sequential would run its branches as a layer"):
        attach_shortcuts(nn.Sequential(net), after=[net], num_classes=4)


@pytest.mark.parametrize("mode", ["s", "m"])
@pytest.mark.parametrize(
    ("name", "after", "options"),
    [
        ("spiking_resnet18", ["layer1", "layer2", "layer3"], {}),
        ("sew_resnet18", ["layer1", "layer2", "layer3"], {"cnf": "ADD"}),
        ("spiking_vgg11", ["features.0", "features.3"], {}),
    ],
)
def test_models_of_spikingjelly_train_with_branches_and_are_themselves_without(name, after, options, mode):
    zoo = pytest.importorskip(f"spikingjelly.activation_based.model.{name.rstrip(string.digits)}")
    torch.manual_seed(0)
    plain = getattr(zoo, name)(spiking_neuron=neuron.IFNode, num_classes=5, **options)
    functional.set_step_mode(plain, mode)
    net = attach_shortcuts(copy.deepcopy(plain), 0.5, after, 5)
    x = 4 * torch.rand(2, 3, 3, 32, 32)[slice(None) if mode == "m" else 0]
    net(x).sum().backward()
    assert all(branch[-1].weight.grad.abs().max() > 0 for branch in net.shortcuts.branches)
    functional.reset_net(net)
    removed = remove_shortcuts(net)
    assert removed.state_dict().keys() == plain.state_dict().keys()
    with torch.no_grad():
        found = removed.eval()(x)
        assert torch.equal(net.eval()(x), found)


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({}, "no stages of jellyplus.model: name the modules"),
        ({"after": ["layer1"]}, "no linear layer named 'fc', .* state num_classes"),
        ({"after": ["layer9"], "num_classes": 5}, "no module 'layer9'"),
        ({"after": [nn.ReLU()], "num_classes": 5}, "no module ReLU given in after"),
        ({"after": "layer1", "num_classes": 5}, "a list of modules or names"),
        ({"after": [], "num_classes": 5}, "no module inside the network"),
    ],
)
def test_what_cannot_be_attached_raises_and_leaves_the_network_alone(arguments, match):
    net = make()
    with pytest.raises(ValueError, match=match):
        attach_shortcuts(net, **arguments)
    assert not hasattr(net, "shortcuts")
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in net.modules())


def test_what_does_not_fit_in_a_pass_raises():
    net, x = attach_shortcuts(make(mode="m"), 1.0, ["layer1"], 6), images(2, 3, 3, 6, 6)
    with pytest.raises(ValueError, match=r"give \(2, 3, 6\) and the network \(2, 3, 5\)"):
        net(x)
    with pytest.raises(ValueError, match="has shortcut branches already"):
        attach_shortcuts(net, 1.0, ["layer1"], 5)
    net = attach_shortcuts(make(mode="m"), 1.0, ["layer1.conv"], 5)
    first = net.layer1.forward
    net.layer1.forward = lambda x: checkpoint(first, x, use_reentrant=True)
    with pytest.raises(ValueError, match=r"'layer1.conv' runs without gradients .* use_reentrant=False"):
        net(x.requires_grad_())
