"""What the two lines of SpikingJelly do not share. CI runs the plugin's tests on each of them."""

import copy
import re
import warnings

import pytest
import torch
from spikingjelly.activation_based import base, functional
from torch import nn

from jellyplus import _compat
from jellyplus._kernel_text import KernelText
from jellyplus.neuron import IterativeLIFNode, SRIFNode
from jellyplus.neuron.cupy_backend import NodeKernel, all_kernels
from jellyplus.surrogate import Dspike

NODES = {"lif": lambda **a: IterativeLIFNode(0.3, 0.6, **a), "srif": lambda **a: SRIFNode(**a)}
OLD = hasattr(functional, "set_backend")


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("node", NODES)
def test_a_step_without_state_is_the_step_with_it(node):
    node = NODES[node](surrogate_function=Dspike(2.0))
    other = copy.deepcopy(node)
    states = tuple(node._memories.values())
    for seed in range(4):
        x = normal(3, 5, seed=seed) + 0.4
        (spike,), states = other.single_step_functional_forward((x,), states)
        assert torch.equal(spike, node(x))
        assert torch.equal(states[0], node.v)
    assert other.v == other._memories_rv["v"]  # never touched


@pytest.mark.skipif(
    not hasattr(base.MemoryModule, "functional_forward"), reason="SpikingJelly 0.0.0.0.14 wants no step"
)
@pytest.mark.parametrize("mode", ["s", "m"])
def test_spikingjellys_functional_forward_runs_a_network_of_our_nodes(mode):
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Linear(5, 4), IterativeLIFNode(0.3, step_mode=mode), nn.Linear(4, 3), SRIFNode(step_mode=mode)
    )
    net.double()
    x = normal(*((2, 3, 5) if mode == "m" else (3, 5))) * 3
    forward, states = base.to_functional_forward(net), base.extract_memories(net)
    for _ in range(2):
        (y,), states = forward((x,), states)
        assert torch.equal(y, net(x))


def test_a_node_that_came_after_a_reset_is_reset():
    net = nn.Sequential(IterativeLIFNode(0.3))
    _compat.reset_net(net)
    net.append(IterativeLIFNode(0.3))
    net(torch.full((2, 3), 0.4))
    assert isinstance(net[1].v, torch.Tensor)
    _compat.reset_net(net)
    assert net[1].v == 0.0


@pytest.mark.parametrize("node", NODES)
def test_a_node_with_its_sequences_is_copied_after_a_pass(node):
    node = NODES[node](step_mode="m", store_v_seq=True, store_h_seq=True)
    node(torch.rand(4, 2, 3, requires_grad=True))
    twin = copy.deepcopy(node)
    for name in ("v", "v_seq", "h_seq"):
        assert torch.equal(getattr(twin, name), getattr(node, name))
        assert getattr(node, name).requires_grad
        assert not getattr(twin, name).requires_grad


def test_a_backend_is_set_where_there_is_one():
    net = nn.Sequential(nn.Linear(2, 2), IterativeLIFNode(0.3), SRIFNode())
    _compat.set_backend(net, "cpp", SRIFNode)
    assert [net[1].backend, net[2].backend] == ["auto", "cpp"]
    with pytest.warns(UserWarning, match="has no backend 'tpu' and keeps 'cpp'"):
        _compat.set_backend(net, "tpu", SRIFNode)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        _compat.set_backend(net, "torch")
    assert [net[1].backend, net[2].backend] == ["torch", "torch"]


def words(text):
    return re.sub(r"\s", "", re.sub(r"//[^\n]*", "", text))


@pytest.mark.skipif(not OLD, reason="SpikingJelly 2.x has no CKernel2D")
def test_a_kernels_text_is_that_of_spikingjellys_class():
    for kernel in all_kernels():
        ours = type("Ours", (KernelText,), {"head": kernel.head, "core": kernel.core, "tail": kernel.tail})
        ours = ours(kernel.kernel_name)
        for name, ctype in kernel.cparams.items():
            ours.add_param(ctype, name)
        own = words(kernel.full_codes)  # with the functions that NodeKernel puts before the signature
        assert own.endswith(words(ours.full_codes)), own


def test_arguments_that_are_not_the_parameters_raise():
    kernel = KernelText("k")
    kernel.add_param("const int", "n")
    kernel.check_keys({"n": 1})
    with pytest.raises(ValueError, match=r"arguments and parameters of k differ: \['n', 'x'\]"):
        kernel.check_keys({"x": 1})
    assert issubclass(NodeKernel, _compat.CKernel2D)
