"""Copies of a batch: that they are found where they lie, whatever neurons do, and not where they meet."""

import pytest
import torch
from spikingjelly.activation_based import functional as sj_functional
from spikingjelly.activation_based import layer
from torch import nn

from jellyplus._copies import Copies, Place, find_copies
from jellyplus.neuron import IterativeLIFNode

T, N = 3, 4


@pytest.mark.parametrize(("shape", "place"), [((T, N, 2), Place(1)), ((N, 2), Place(0)), ((T * N, 2), Place(0, T))])
@pytest.mark.parametrize("n", [1, 2, 5])
def test_a_tensor_is_split_into_what_was_joined(shape, place, n):
    copies = list(torch.arange(n * T * N * 2).reshape(-1)[: n * torch.Size(shape).numel()].view(n, *shape))
    joined = place.join(copies)
    assert joined.numel() == sum(copy.numel() for copy in copies)
    assert all(map(torch.equal, place.split(joined, n), copies))
    if place.blocks > 1:  # time-step by time-step, all copies of it
        assert torch.equal(joined[: n * N], torch.cat([copy[:N] for copy in copies]))
    assert torch.equal(place.apart(lambda x: x - x.min(), n, joined), place.join([x - x.min() for x in copies]))


class Net(nn.Module):
    """Images [N, 2, 6, 6] to [T, N, 3]; layers see [T * N, *], nodes [T, N, *]."""

    def __init__(self, v_threshold):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3)
        self.node = IterativeLIFNode(v_threshold=v_threshold, step_mode="m")
        self.head = layer.SeqToANNContainer(nn.Flatten(), nn.Linear(48, 3))

    def forward(self, x):
        y = self.norm(self.conv(x.repeat(T, 1, 1, 1)))
        return self.head(self.node(y.unflatten(0, (T, -1))))


def found(net, x, batch_dim):
    return find_copies(net, net.conv, x, batch_dim, lambda: sj_functional.reset_net(net))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("v_threshold", [0.5, 1e6], ids=["firing", "silent"])
def test_copies_are_found_where_they_lie(v_threshold, dtype):
    torch.manual_seed(0)
    net, x = Net(v_threshold).to(dtype), torch.rand(N, 2, 6, 6).to(dtype)
    expected = Copies(x=Place(0), y=Place(1), owner=Place(0, T), norms={net.norm: Place(0, T)})
    assert found(net, x, 0) == expected
    assert found(net.eval(), x, 0) == expected._replace(norms={})
    assert [found(net, x, dim) for dim in (1, 2, 3)] == [None] * 3


@pytest.mark.parametrize("size", [1, 2, 7])
def test_the_size_of_the_batch_does_not_matter(size):
    assert found(Net(0.5), torch.rand(size, 2, 6, 6), 0).owner == Place(0, T)


def test_the_hooks_of_the_watch_go():
    net = Net(0.5)
    for dim in (0, 1):
        found(net, torch.rand(N, 2, 6, 6), dim)
    assert not any(module._forward_hooks for module in net.modules())
