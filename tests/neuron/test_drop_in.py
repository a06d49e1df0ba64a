"""IterativeLIFNode drops into SpikingJelly's own model constructors."""

import copy

import pytest
import torch
from spikingjelly.activation_based import functional, layer
from spikingjelly.activation_based.model import spiking_resnet, spiking_vgg
from torch import nn

import jellyplus

T, N = 2, 2


def resnet18():
    return spiking_resnet.spiking_resnet18(spiking_neuron=jellyplus.neuron.IterativeLIFNode, num_classes=10)


def vgg11_bn():
    """Its classifier has 120 million weights at any input size: made without memory, narrowed, then filled."""
    with torch.device("meta"):
        net = spiking_vgg.spiking_vgg11_bn(spiking_neuron=jellyplus.neuron.IterativeLIFNode, num_classes=10)
    net.classifier[0] = layer.Linear(512 * 7 * 7, 32)
    net.classifier[3] = layer.Linear(32, 32)
    net.classifier[6] = layer.Linear(32, 10)
    net.to_empty(device="cpu")
    for module in net.modules():
        if hasattr(module, "reset_parameters"):
            module.reset_parameters()
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out")
    return net


NETS = {"resnet18": resnet18, "vgg11_bn": vgg11_bn}


def images(seed):
    return torch.rand(T, N, 3, 32, 32, generator=torch.Generator().manual_seed(seed))


def run(net, x, mode):
    """[T, N, classes] in either step mode, from reset neurons."""
    functional.set_step_mode(net, mode)
    functional.reset_net(net)
    return net(x) if mode == "m" else torch.stack([net(x_t) for x_t in x])


@pytest.fixture(scope="module", params=NETS)
def made(request):
    """A network whose batch norms have seen data; tests work on copies."""
    torch.manual_seed(3)
    net = NETS[request.param]()
    for seed in range(6):
        with torch.no_grad():
            run(net, images(seed), "m")
    functional.reset_net(net)
    return net


@pytest.mark.parametrize("mode", ["s", "m"])
def test_trains_a_step(made, mode):
    net = copy.deepcopy(made).train()
    torch.manual_seed(0)  # dropout
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    before = {name: p.detach().clone() for name, p in net.named_parameters()}
    target = torch.tensor([1, 7])
    nn.functional.cross_entropy(run(net, images(10), mode).mean(0), target).backward()
    for name, parameter in net.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
    assert any(p.grad.abs().sum() > 0 for name, p in net.named_parameters() if name.endswith("0.weight"))
    optimizer.step()
    assert any(not torch.equal(p, before[name]) for name, p in net.named_parameters())


def test_step_modes_agree_in_eval(made):
    """In float64, where rounding flips no spike."""
    net = copy.deepcopy(made).double().eval()
    rates = []
    nodes = [m for m in net.modules() if isinstance(m, jellyplus.neuron.IterativeLIFNode)]
    with torch.no_grad():
        single = run(net, images(11).double(), "s")
        for node in nodes:
            node.register_forward_hook(lambda _, __, spikes: rates.append(spikes.mean().item()))
        whole = run(net, images(11).double(), "m")
    torch.testing.assert_close(single, whole, rtol=1e-9, atol=1e-9)
    assert len(rates) == len(nodes)
    assert sum(rate > 0.01 for rate in rates) > len(rates) / 2, rates
    assert (whole[:, 0] - whole[:, 1]).abs().max() > 1e-3  # the input reaches the output


@pytest.mark.parametrize("mode", ["s", "m"])
def test_copies_and_saves_before_and_after_a_forward_pass(made, mode):
    net = copy.deepcopy(made).eval()
    keys = list(net.state_dict())
    assert not any(".v" in key for key in keys)
    x = images(12)
    first = run(net, x, mode)  # with a graph
    assert first.requires_grad
    twin = copy.deepcopy(net)
    fresh = copy.deepcopy(made).eval()
    with torch.no_grad():
        for parameter in fresh.parameters():
            parameter.zero_()
    fresh.load_state_dict(net.state_dict())
    assert list(net.state_dict()) == keys
    for copied in (twin, fresh):
        assert torch.equal(run(copied, x, mode), first)
