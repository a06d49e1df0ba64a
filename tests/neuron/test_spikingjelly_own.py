"""What SpikingJelly's own tests ask of any ``BaseNode``, asked of our nodes.

The source distribution of 2.0.0 has no tests of neurons; those meant are in its repository, test/activation_based, as
they stood in August 2026: test_functional_neuron, test_memory, test_functional, test_checkpointing, test_compile_compat
and the operation counters' tests. Checked elsewhere are single steps against sequences, copies, state dicts, backends
and gradients (test_parity, test_iterative_lif), SpikingJelly's models (test_drop_in), torch.compile (test_compile),
``to_functional_forward`` and networks that grew (test_compat), its counters of operations (test_op_counter).

Not applicable: Triton, CuPy and Inductor kernels of SpikingJelly's own nodes, with their caches; nodes of other
dynamics, the decaying input of ``LIFNode(decay_input=True)`` among them; that a state of another shape is silently
started anew, since ours raise and name ``reset_net``; and two measures that look into SpikingJelly's classes: Lemaire's
energy goes by the exact class, and ``NeuronStateCounter`` by single torch operations on the potential, where a sequence
of ours is one operation.
"""

import pytest
import torch
from reference import normal
from spikingjelly.activation_based import base, functional, layer, neuron, surrogate
from torch import nn

from jellyplus.neuron import IterativeLIFNode, SRIFNode
from jellyplus.surrogate import Dspike

NODES = pytest.mark.parametrize("node", [IterativeLIFNode, SRIFNode])
MODES = pytest.mark.parametrize("mode", ["s", "m"])
RESETS = pytest.mark.parametrize("v_reset", [0.1, None])
LINE_2 = pytest.mark.skipif(not hasattr(functional, "lif_step"), reason="SpikingJelly 0.0.0.0.14 has no such function")
T = 4


def layers(node, mode="m", **arguments):
    torch.manual_seed(0)
    arguments |= {"step_mode": mode, "surrogate_function": Dspike(2.0)}
    return nn.Sequential(nn.Linear(3, 5), node(**arguments), nn.Linear(5, 2), node(**arguments)).double()


def currents(seed=0, time_steps=T):
    return 4 * normal(time_steps, 2, 3, seed=seed) + 1


def memories(net):
    return [memory for module in net.modules() if isinstance(module, base.MemoryModule) for memory in module.memories()]


# --- Memories are the state that a step needs, and nothing else ---------------------------------------------------


@NODES
@MODES
@pytest.mark.parametrize("stored", [False, True])
def test_the_potential_is_the_only_memory(node, mode, stored):
    net = layers(node, mode, store_v_seq=stored, store_h_seq=stored)
    for _ in range(2):
        assert [name for made in (net[1], net[3]) for name, _ in made.named_memories()] == ["v", "v"]
        net(currents() if mode == "m" else currents()[0])


@LINE_2
@NODES
def test_potentials_taken_out_and_put_back_carry_the_run_on(node):
    net = layers(node)[:3]
    net(currents())
    net[1].v = net[1].v + 5  # a step later it still fires
    left = base.extract_memories(net)
    expected = net(currents(1))
    functional.reset_net(net)
    assert not torch.equal(net(currents(1)), expected)
    base.load_memories(net, left)
    torch.testing.assert_close(net(currents(1)), expected)


# --- Sequences of potentials --------------------------------------------------------------------------------------


@NODES
def test_single_steps_keep_the_potentials_that_a_sequence_keeps(node):
    whole, single = (node(step_mode=mode, store_v_seq=True) for mode in "ms")
    x = currents(0, 6)
    whole(x)
    for step, x_t in enumerate(x):
        single(x_t)
        assert len(single.v_seq) == step + 1
    torch.testing.assert_close(single.v_seq, whole.v_seq)
    functional.reset_net(single)
    assert single.v_seq is None
    single(x[0])
    torch.testing.assert_close(single.v_seq, whole.v_seq[:1])


@NODES
@MODES
def test_detach_net_cuts_potentials_and_sequences(node, mode):
    made = node(step_mode=mode, store_v_seq=True, store_h_seq=True)
    x = currents().requires_grad_()
    for _ in range(2):
        output = made(x if mode == "m" else x[0])
        assert made.v.requires_grad
        assert made.v_seq.requires_grad
        functional.detach_net(made)
        assert not made.v.requires_grad
        assert not made.v_seq.requires_grad
        assert mode == "s" or not made.h_seq.requires_grad
        output.sum().backward()  # the graph of this call alone


@LINE_2
@NODES
def test_switching_the_sequence_off_drops_it(node):
    made = node(step_mode="m", store_v_seq=True)
    made(currents())
    made.store_v_seq = False
    assert made.v_seq is None


@NODES
def test_single_steps_in_a_recurrent_container_keep_their_potentials(node):
    torch.manual_seed(0)
    made = node(store_v_seq=True)
    recurrent = layer.LinearRecurrentContainer(made, in_features=3, out_features=3, step_mode="m").double()
    spikes = recurrent(currents())
    assert spikes.shape == made.v_seq.shape == (T, 2, 3)
    torch.testing.assert_close(made.v_seq[-1], made.v)


# --- A step without a state of its own ----------------------------------------------------------------------------


@LINE_2
@NODES
@MODES
@pytest.mark.parametrize("stored", [False, True])
def test_the_functional_forward_pass_is_the_pass_and_changes_nothing(node, mode, stored):
    made = node(step_mode=mode, store_v_seq=stored, store_h_seq=stored)
    x = currents() if mode == "m" else currents()[0]
    made.v = v = normal(2, 3, seed=5).requires_grad_()
    (spikes,), states = made.functional_forward((x,), (v,))
    assert made.v is v
    assert made.v_seq is None
    assert made.h_seq is None
    torch.testing.assert_close(made(x), spikes)
    torch.testing.assert_close((made.v,), states)
    (spikes.sum() + states[0].sum()).backward()
    assert v.grad.abs().sum() > 0


@LINE_2
@NODES
@MODES
def test_materialized_states_are_tensors_and_the_node_keeps_its_number(node, mode):
    made = node(step_mode=mode)
    x = currents() if mode == "m" else currents()[0]
    (v,) = made.materialize_states((x,), (made.v,), mode)
    assert torch.equal(v, torch.zeros(2, 3, dtype=torch.float64))
    assert made.v == 0.0


# --- SpikingJelly's own equations ---------------------------------------------------------------------------------


@LINE_2
@RESETS
@pytest.mark.parametrize("detach_reset", [False, True])
def test_a_step_is_spikingjellys_if_step(v_reset, detach_reset):
    """IFNode's dynamics, by 2.x's functional step; LIFNode's leak would be towards V_reset."""
    fire = surrogate.Sigmoid(4.0)
    made = IterativeLIFNode(1.0, 0.7, v_reset, fire, detach_reset)
    results = []
    for step in (lambda x, v: functional.if_step(x, v, 0.7, v_reset, fire, detach_reset), None):
        x, v = (normal(2, 30, seed=seed).requires_grad_() for seed in (1, 2))
        made.v = v
        spike, after = step(x, v) if step else (made(x), made.v)
        (spike * normal(2, 30, seed=3) + after * normal(2, 30, seed=4)).sum().backward()
        results.append((spike, after, x.grad, v.grad))
    torch.testing.assert_close(*results)
    assert 0 < results[0][0].mean() < 1


@LINE_2
@MODES
@pytest.mark.parametrize(("leak", "v_reset"), [(0.4, 0.0), (0.0, 0.0), (0.0, None)])
def test_a_node_is_spikingjellys_simple_node(mode, leak, v_reset):
    """Not with a leak and a soft reset, which SimpleLIFNode of 2.0.0 does not run."""
    arguments = {"v_threshold": 0.8, "v_reset": v_reset, "step_mode": mode, "surrogate_function": surrogate.ATan()}
    leaky = {"tau": 1 / leak, "decay_input": False} if leak else {}
    simple = (neuron.SimpleLIFNode if leak else neuron.SimpleIFNode)(**leaky, **arguments)
    made = IterativeLIFNode(1 - leak, **arguments)
    x = currents() if mode == "m" else currents()[0]
    simple.v = normal(2, 3, seed=5)
    made.v = simple.v.clone()
    torch.testing.assert_close(made(x), simple(x))
    torch.testing.assert_close(made.v, simple.v)


# --- Resets, and sequences in parts -------------------------------------------------------------------------------


@NODES
@MODES
def test_every_pass_after_a_reset_is_the_same_however_deep_the_nodes_lie(node, mode):
    net = nn.Sequential(layers(node, mode), nn.ModuleDict({"a": nn.ModuleList([node()])})["a"][0])
    functional.set_step_mode(net, mode)
    x = currents() if mode == "m" else currents()[0]
    parameters = {name: parameter.clone() for name, parameter in net.named_parameters()}
    outputs = []
    for _ in range(3):
        functional.reset_net(net)
        assert memories(net) == [0.0] * 3
        outputs.append(net(x))
    assert torch.equal(outputs[0], outputs[1])
    assert torch.equal(outputs[0], outputs[2])
    assert all(torch.equal(parameters[name], parameter) for name, parameter in net.named_parameters())


@NODES
def test_a_sequence_in_parts_is_the_sequence(node):
    net, x = layers(node), currents(0, 6)
    whole = net(x)
    functional.reset_net(net)
    torch.testing.assert_close(functional.chunk_multi_step_forward(2, x, net), whole)


# --- 2.x's optimization of memory ---------------------------------------------------------------------------------


@LINE_2
@NODES
@pytest.mark.parametrize("chunks", [1, 2])
@pytest.mark.parametrize("carried", [False, True])
def test_memopt_recomputes_from_the_potential_that_was(node, chunks, carried):
    """Dspike has a buffer, so the module itself runs again, from memories that memopt puts in its place."""
    memopt = pytest.importorskip("spikingjelly.activation_based.memopt")
    plain, optimized = layers(node), layers(node)
    optimized[1] = memopt.checkpoint_module(optimized[1], chunks=chunks)
    results = []
    for net in (plain, optimized):
        x = currents().requires_grad_()
        if carried:
            net(currents(1))
        spikes = net(x)
        (spikes * normal(*spikes.shape, seed=2)).sum().backward()
        results.append((spikes, x.grad, net[0].weight.grad, net[3].v))
    torch.testing.assert_close(*results)
    assert results[0][1].abs().sum() > 0
