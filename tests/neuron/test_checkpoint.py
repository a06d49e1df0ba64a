"""torch.utils.checkpoint over nodes: the gradients of the run without it, or a sentence."""

import functools

import pytest
import torch
from reference import normal
from spikingjelly.activation_based import functional
from torch import nn
from torch.utils.checkpoint import checkpoint

from jellyplus.loss import IMLoss
from jellyplus.neuron import IterativeLIFNode, SRIFNode
from jellyplus.surrogate import EvAF

REENTRANT = pytest.mark.parametrize("reentrant", [True, False], ids=["reentrant", "hooks"])
NODES = pytest.mark.parametrize("make", [IterativeLIFNode, SRIFNode])


def network(make, mode="m", **arguments):
    torch.manual_seed(0)
    nodes = [make(step_mode=mode, surrogate_function=EvAF(1.0), **arguments) for _ in range(2)]
    return nn.Sequential(nn.Linear(4, 6), nodes[0], nn.Linear(6, 5), nodes[1]).double()


def sequence(seed=1):
    return (2 * normal(4, 3, 4, seed=seed)).requires_grad_()


def gradients(net, x, spikes):
    return torch.autograd.grad((normal(*spikes.shape, seed=9) * spikes).sum(), [x, *net.parameters()])


def single_steps(net, x):
    return torch.stack([net(x_t) for x_t in x])


def from_reset(net, x):
    functional.reset_net(net)
    return net(x) if net[1].step_mode == "m" else single_steps(net, x)


def memories(net):
    return [kept for node in (net[1], net[3]) for kept in (*node.memories(), node.v_seq, node.h_seq)]


@NODES
@REENTRANT
@pytest.mark.parametrize("stored", [True, False])
def test_a_sequence_from_reset_nodes_has_the_gradient_of_the_plain_run(make, reentrant, stored):
    net, x = network(make, store_v_seq=stored, store_h_seq=stored), sequence()
    plain = net(x)
    expected, left = gradients(net, x, plain), net[3].v
    functional.reset_net(net)
    spikes = checkpoint(net, x, use_reentrant=reentrant)
    before = memories(net)
    grads = gradients_of(net, x, spikes)
    torch.testing.assert_close(grads, expected, rtol=1e-12, atol=1e-12)
    assert all(now is then for now, then in zip(memories(net), before, strict=True))
    torch.testing.assert_close(net[3].v, left)


def gradients_of(net, x, spikes):
    """As ``gradients``; checkpoint with reentrance knows backward() alone."""
    for tensor in (x, *net.parameters()):
        tensor.grad = None
    (normal(*spikes.shape, seed=9) * spikes).sum().backward()
    return tuple(tensor.grad for tensor in (x, *net.parameters()))


@NODES
@REENTRANT
@pytest.mark.parametrize("mode", ["s", "m"])
def test_a_function_that_resets_may_be_run_again_in_either_step_mode(make, reentrant, mode):
    net, x = network(make, mode), sequence()
    expected = gradients(net, x, from_reset(net, x))
    spikes = checkpoint(from_reset, net, x, use_reentrant=reentrant)
    torch.testing.assert_close(gradients_of(net, x, spikes), expected, rtol=1e-12, atol=1e-12)


@NODES
@REENTRANT
def test_each_block_checkpointed_by_itself(make, reentrant):
    net, x = network(make), sequence()
    expected = gradients(net, x, net(x))
    functional.reset_net(net)
    spikes = x
    for block in (net[:2], net[2:]):
        spikes = checkpoint(block, spikes, use_reentrant=reentrant)
    torch.testing.assert_close(gradients_of(net, x, spikes), expected, rtol=1e-12, atol=1e-12)


@REENTRANT
def test_a_reset_before_the_backward_pass_leaves_reset_nodes(reentrant):
    net, x = network(IterativeLIFNode), sequence()
    expected = gradients(net, x, from_reset(net, x))
    functional.reset_net(net)
    spikes = checkpoint(net, x, use_reentrant=reentrant)
    functional.reset_net(net)
    torch.testing.assert_close(gradients_of(net, x, spikes), expected, rtol=1e-12, atol=1e-12)
    assert net[1].v == net[3].v == 0


def test_im_loss_has_the_gradient_of_the_plain_run_or_says_what_it_needs():
    net, x = network(IterativeLIFNode), sequence()
    im_loss = IMLoss(net)
    expected = torch.autograd.grad(net(x).sum() + im_loss(), x)
    functional.reset_net(net)
    got = torch.autograd.grad(checkpoint(net, x, use_reentrant=False).sum() + im_loss(), x)
    torch.testing.assert_close(got, expected, rtol=1e-12, atol=1e-12)
    functional.reset_net(net)
    checkpoint(net, x, use_reentrant=True)
    with pytest.raises(ValueError, match="use_reentrant=False"):
        im_loss()


def carried(net, x, run):
    return torch.cat([run(net, x[:2]), run(net, x[2:])])


def twice_and_once_more(net, x, run):
    first = run(lambda x: torch.cat([net(x[:2]), net(x[2:])]), x)
    functional.reset_net(net)
    return first + run(net, x)


def carried_before_a_reset(net, x, run):
    spikes = carried(net, x, run)
    functional.reset_net(net)
    return spikes + run(net, x)


def first_alone(net, x, run):
    return torch.cat([run(net, x[:2]), net(x[2:])])


@NODES
@REENTRANT
@pytest.mark.parametrize("calls", [carried, carried_before_a_reset, first_alone, twice_and_once_more])
def test_a_carried_potential_is_refused(make, reentrant, calls):
    net, x = network(make), sequence()
    spikes = calls(net, x, functools.partial(checkpoint, use_reentrant=reentrant))
    with pytest.raises(RuntimeError, match=r"called more than once since it was reset.*reset_net\(net\)"):
        spikes.sum().backward()


@NODES
@REENTRANT
def test_what_was_carried_before_does_not_concern_the_calls_after_a_reset(make, reentrant):
    net, x = network(make), sequence()
    run = functools.partial(checkpoint, net, use_reentrant=reentrant)
    expected = gradients(net, x, from_reset(net, x))
    net(x)
    run(x)
    functional.reset_net(net)
    torch.testing.assert_close(gradients_of(net, x, run(x)), expected, rtol=1e-12, atol=1e-12)


@NODES
@REENTRANT
def test_single_steps_without_a_reset_of_their_own_are_refused(make, reentrant):
    net, x = network(make, "s"), sequence()
    with pytest.raises(RuntimeError, match=r"reset_net\(net\)"):
        checkpoint(single_steps, net, x, use_reentrant=reentrant).sum().backward()
