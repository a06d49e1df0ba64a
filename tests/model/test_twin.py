"""The ANN twin of any SpikingJelly network: the copy that is expected, and the network as it was."""

import pytest
import torch
from spikingjelly.activation_based import functional, layer, neuron
from spikingjelly.activation_based.model import spiking_resnet
from torch import nn

from jellyplus.layer import ThresholdDependentBatchNorm2d
from jellyplus.model import ann, resnet19
from jellyplus.neuron import IterativeLIFNode
from jellyplus.op_counter import CONVENTIONS, OperationCounter


@pytest.mark.parametrize("make", [neuron.LIFNode, IterativeLIFNode])
def test_a_node_is_a_relu_also_after_a_pass_with_a_graph_and_shared_ones_stay_shared(make):
    """[1, N, *]: weights by hand. H = (1, 2) W^T; ReLU, again, and the sum."""
    node = make(step_mode="m")
    net = nn.Sequential(layer.Linear(2, 2, bias=False, step_mode="m"), node, nn.Identity(), node)
    net[0].weight.data = torch.tensor([[1.0, 1.0], [1.0, -1.0]])
    net(torch.rand(3, 4, 2))
    twin = ann(net)
    assert torch.equal(twin(torch.tensor([[[1.0, 2.0]]])), torch.tensor([[[3.0, 0.0]]]))
    assert isinstance(twin[1], nn.ReLU)
    assert twin[1] is twin[3]
    assert net[1] is net[3] is node
    twin[0].weight.data.zero_()
    assert net[0].weight.abs().sum() == 4


@pytest.mark.parametrize("training", [True, False])
def test_a_tdbn_becomes_a_batch_norm_with_the_same_outputs(training):
    norm = ThresholdDependentBatchNorm2d(0.7, 0.5, 3)
    norm.weight.data.uniform_(), norm.bias.data.uniform_(), norm.running_mean.uniform_(), norm.running_var.uniform_()
    net = nn.Sequential(norm).train(training)
    functional.set_step_mode(net, "m")
    twin, x = ann(net), torch.randn(2, 4, 3, 5, 5)
    assert isinstance(twin[0], layer.BatchNorm2d)
    torch.testing.assert_close(twin(x), net(x))
    torch.testing.assert_close(twin[0].running_var, norm.running_var)


def test_spikingjellys_own_resnet18_and_its_operations():
    """Every MAC of the twin is a multiplication, and the network's own are as many at one time-step."""
    net = spiking_resnet.spiking_resnet18(spiking_neuron=neuron.IFNode).eval()
    twin, x = ann(net), torch.rand(2, 3, 32, 32)
    assert not any(isinstance(module, neuron.BaseNode) for module in twin.modules())
    assert sum(isinstance(module, nn.ReLU) for module in twin.modules()) == 17
    with torch.no_grad(), OperationCounter(net) as of_net, OperationCounter(twin) as of_twin:
        net(x), twin(x)
    total = of_twin.count(convention=CONVENTIONS["dspike"]).total
    assert total.macs == total.additions == total.multiplications == of_net.count(time_steps=1).total.macs


def test_the_twin_of_one_of_ours_runs_one_time_step():
    net = resnet19(width=4, time_steps=3)
    assert ann(net)(torch.rand(1, 2, 3, 16, 16)).shape == (1, 2, 10)
    assert net.time_steps == 3
    with pytest.raises(TypeError, match="a network is taken as it is: leave out width"):
        ann(net, width=4)
