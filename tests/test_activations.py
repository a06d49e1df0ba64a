"""Compressed activations: the same bits in outputs, statistics and gradients, from fewer bytes."""

import contextlib
import gc
import threading

import pytest
import torch
from spikingjelly.activation_based import functional, layer, neuron, surrogate
from torch import nn

from jellyplus import activations, model
from jellyplus._compat import reset_net
from jellyplus.activations import Compression, compressed_activations
from jellyplus.functional import set_backend
from jellyplus.layer import ThresholdDependentBatchNorm2d
from jellyplus.neuron import IterativeLIFNode, SRIFNode, cpp_backend
from jellyplus.surrogate import Dspike, EvAF


def small(node, norm=None, **conv):
    """Two convolutions, each with norm and node, a residual sum and a linear layer."""
    norm = norm or (lambda channels: ThresholdDependentBatchNorm2d(1.0, 0.5, channels))

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.first = nn.Sequential(layer.Conv2d(2, 6, 3, padding=1, bias=False, **conv), norm(6), node())
            self.second = nn.Sequential(layer.Conv2d(6, 6, 3, padding=1, bias=False, **conv), norm(6))
            self.fire = node()
            self.read = nn.Sequential(layer.Flatten(), layer.Linear(6 * 5 * 5, 3))

        def forward(self, x):
            x = self.first(x)
            return self.read(self.fire(self.second(x) + x))

    torch.manual_seed(0)
    net = Net()
    functional.set_step_mode(net, "m")
    return net


def our_node():
    return IterativeLIFNode(surrogate_function=Dspike(2.0))


def spikingjellys_norm(channels):
    return layer.BatchNorm2d(channels)


NETS = {
    "tdBN, ours": lambda: small(our_node),
    "tdBN, SRIF": lambda: small(lambda: SRIFNode(surrogate_function=EvAF(), rectify=True)),
    "batch norm, ours": lambda: small(our_node, spikingjellys_norm),
    "batch norm, SpikingJelly's": lambda: small(
        lambda: neuron.LIFNode(surrogate_function=surrogate.ATan()), spikingjellys_norm
    ),
    "without scale and shift": lambda: small(our_node, lambda channels: layer.BatchNorm2d(channels, affine=False)),
    "without running statistics": lambda: small(
        our_node, lambda channels: layer.BatchNorm2d(channels, track_running_stats=False)
    ),
    "a primitive": lambda: small(lambda: IterativeLIFNode(surrogate_function=Dspike(2.0, spiking=False))),
}


def results(net, context, x=None, calls=2, **cast):
    """Outputs, gradients and statistics of some calls, the potential carried on."""
    x = torch.rand(3, 4, 2, 5, 5, generator=torch.manual_seed(1)) * 3 if x is None else x
    x = x.clone().requires_grad_()
    reset_net(net)
    with context, torch.autocast("cpu", torch.bfloat16) if cast else contextlib.nullcontext():
        outputs = [net(x) for _ in range(calls)]
        loss = sum(y.float().square().sum() for y in outputs)
    loss.backward()
    grads = [x.grad, *(p.grad.clone() for p in net.parameters())]
    net.zero_grad()
    return [*(y.detach() for y in outputs), *grads, *(b.clone() for b in net.buffers())]


def assert_same(make, **options):
    plain = results(make(), contextlib.nullcontext(), **options)
    compressed = results(make(), compressed_activations(), **options)
    assert all(torch.equal(a, b) for a, b in zip(plain, compressed, strict=True))
    assert all(grad.isfinite().all() for grad in plain)
    return plain


@pytest.mark.parametrize("name", NETS)
def test_outputs_statistics_and_gradients_are_the_same_bits(name):
    assert_same(NETS[name])


@pytest.mark.parametrize("name", NETS)
def test_under_autocast_too(name):
    assert_same(NETS[name], bfloat16=True)


@pytest.mark.parametrize("name", NETS)
def test_in_channels_last_too(name):
    x = torch.rand(3, 4, 2, 5, 5, generator=torch.manual_seed(2)) * 3
    assert_same(NETS[name], x=x.movedim(2, -1).contiguous().movedim(-1, 2))


@pytest.mark.skipif(cpp_backend.obstacle() is not None, reason=f"backend='cpp' cannot run: {cpp_backend.obstacle()}")
def test_on_the_compiled_backend_too():
    def make():
        net = small(our_node)
        set_backend(net, "cpp")
        return net

    assert_same(make)


@pytest.mark.parametrize("name", ["resnet19", "resnet20", "cifarnet"])
def test_architectures(name):
    """An image is shown at every time-step, and so is the first norm's output."""

    def make():
        torch.manual_seed(0)
        return getattr(model, name)(width=4, time_steps=3)

    assert_same(make, x=torch.rand(1, 2, 3, 32, 32, generator=torch.manual_seed(3)), calls=1)


def test_a_norm_in_evaluation_is_kept_as_it_is():
    def make():
        net = small(our_node)
        results(net, contextlib.nullcontext())  # statistics of their own
        net.first[1].eval()
        return net

    assert_same(make)


def test_single_steps():
    def make():
        net = small(our_node, spikingjellys_norm)
        functional.set_step_mode(net, "s")
        net.forward = lambda x, forward=net.forward: torch.stack([forward(step) for step in x])
        return net

    assert_same(make, calls=1)


def test_the_bytes_that_are_held(monkeypatch):
    """Per number behind a convolution: its output, 4 bytes, and a spike, 1; without norm's output, 4, and float, 4."""
    held = []
    pack = Compression.pack

    def packed(self, tensor):
        kept = pack(self, tensor)
        held.append(kept.held)
        return kept

    monkeypatch.setattr(Compression, "pack", packed)
    net = small(our_node)
    numbers, x = 3 * 4 * 6 * 5 * 5, torch.rand(3, 4, 2, 5, 5)
    with compressed_activations():
        net(x)
    given = {tensor.untyped_storage()._cdata for tensor in (x, *net.parameters())}
    storages = {tensor.untyped_storage()._cdata: tensor.untyped_storage() for tensor in held}
    sizes = [storage.nbytes() for cdata, storage in storages.items() if cdata not in given]
    # the outputs of two convolutions, and the sum; spikes for the second convolution, and for the linear layer
    assert sorted(size for size in sizes if size >= numbers) == [numbers] * 2 + [4 * numbers] * 3


def test_what_is_changed_in_place_after_the_forward_pass_is_noticed():
    net = small(our_node)
    noticed = []
    net.first[0].register_forward_hook(lambda module, inputs, output: noticed.append(output))
    with compressed_activations():
        loss = net(torch.rand(3, 4, 2, 5, 5)).sum()
    noticed[0].detach().add_(1)
    with pytest.raises(RuntimeError, match=r"float32 \(12, 6, 5, 5\).*changed in place"):
        loss.backward()


def test_spikes_changed_in_place_before_they_are_kept_are_no_spikes():
    """Nor is what has come to lie where spikes were."""

    class Changed(nn.Module):
        def forward(self, spikes):
            return spikes.mul_(0.3).sigmoid_()

    def make():
        net = small(our_node)
        net.first.append(Changed())
        return net

    assert_same(make)


def test_memory_that_spikes_have_left_is_no_spikes():
    node = our_node()
    node.step_mode = "m"
    weight = torch.rand(64, requires_grad=True)
    with compressed_activations():
        for _ in range(20):
            node(torch.rand(2, 32, requires_grad=True))
            reset_net(node)
            gc.collect()
            x = torch.rand(64).requires_grad_() * 1.5
            (grad,) = torch.autograd.grad((x * weight).sum(), weight)
            assert torch.equal(grad, x)


def test_statistics_of_several_processes_are_left_alone(monkeypatch):
    norm, compression = ThresholdDependentBatchNorm2d(1.0, 0.5, 2), Compression()
    assert compression.again(norm, torch.rand(2, 3, 2, 4, 4)) is not None
    monkeypatch.setattr(activations, "processes", lambda: 2)
    assert compression.again(norm, torch.rand(2, 3, 2, 4, 4)) is None


def test_afterwards_nothing_is_watched():
    hooks = nn.modules.module._global_forward_hooks
    before = dict(hooks)
    with pytest.raises(ValueError, match="needs input"), compressed_activations():
        ThresholdDependentBatchNorm2d(1.0, 0.5, 2).train()(torch.rand(2, 2))
    assert hooks == before


def test_activation_checkpointing_goes_on_within():
    class Block(nn.Module):
        def __init__(self, block):
            super().__init__()
            self.block = block

        def forward(self, x):
            return torch.utils.checkpoint.checkpoint(self.block, x, use_reentrant=False)

    def make():
        net = small(our_node)
        net.second = Block(net.second)
        return net

    assert_same(make, calls=1)


# --- What is not known is kept as it is


class SignedNode(IterativeLIFNode):
    def forward(self, x):
        return 2 * super().forward(x) - 1


class RectifiedNorm(layer.BatchNorm2d):
    def forward(self, x):
        return super().forward(x).relu()


class HalfNorm(ThresholdDependentBatchNorm2d):
    def forward(self, x):
        return super().forward(x) * 0.5


@pytest.mark.parametrize(
    "make",
    [
        lambda: small(lambda: SignedNode(surrogate_function=Dspike(2.0))),
        lambda: small(our_node, RectifiedNorm),
        lambda: small(our_node, lambda channels: HalfNorm(1.0, 0.5, channels)),
    ],
)
def test_subclasses_that_do_something_else(make):
    assert_same(make)


@pytest.mark.skipif(not hasattr(neuron, "TernaryLIFNode"), reason="SpikingJelly 0.0.0.0.14 has no ternary spikes")
def test_ternary_spikes():
    assert_same(lambda: small(lambda: neuron.TernaryLIFNode(), spikingjellys_norm))


def test_spikes_seen_as_complex_numbers_or_multiplied_by_a_sparse_matrix():
    class Read(nn.Module):
        def __init__(self):
            super().__init__()
            self.node = IterativeLIFNode(surrogate_function=Dspike(2.0), step_mode="m")
            self.weight = nn.Parameter(torch.linspace(-1, 1, 4, dtype=torch.complex64))

        def forward(self, x):
            spikes = self.node(x.flatten(0, 1).flatten(1)[:, :8].unflatten(0, (3, 4)))
            mixed = torch.view_as_complex(spikes.unflatten(2, (4, 2))) * self.weight
            rows = torch.sparse.mm(torch.eye(12).to_sparse(), spikes.flatten(0, 1))
            return mixed.abs().sum() + rows.square().sum()

    assert_same(Read)


def test_a_norm_that_copies_its_input_does_not_guard_it():
    norm, node = ThresholdDependentBatchNorm2d(1.0, 0.5, 4), our_node()
    node.step_mode = "m"
    grads = []
    for context in (contextlib.nullcontext(), compressed_activations()):
        reset_net(node)
        x = torch.rand(2, 4, 3, 5, 5, generator=torch.manual_seed(4)).requires_grad_()
        with context:
            swapped = (x * 2).permute(2, 0, 1, 3, 4)  # time and batch do not lie together
            spikes = node(norm(swapped))
            swapped.mul_(2)
        (spikes * torch.linspace(0, 1, 5)).sum().backward()
        grads.append(x.grad)
    assert torch.equal(*grads)
    assert grads[0].count_nonzero() > 0


def test_names_of_arguments():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.norm, self.node = ThresholdDependentBatchNorm2d(1.0, 0.5, 2), our_node()
            self.node.step_mode = "m"

        def forward(self, x):
            return self.node(x=self.norm(x=x))

    assert_same(Net)


def test_passes_without_a_graph_go_on_and_leave_nothing():
    net, x = small(our_node), torch.rand(3, 4, 2, 5, 5)
    without_norms = small(our_node, lambda channels: nn.Identity())
    compression = Compression()
    with compression.running():
        with torch.inference_mode():
            net(x)
        reset_net(net)
        with torch.no_grad():
            net(x)
            reset_net(net)
            torch.vmap(without_norms)(x[None])
        assert not compression._outputs


def test_functions_that_torch_transforms_refuse_hooks_and_leave_none():
    def loss(x):
        with compressed_activations():
            return x.square().sum()

    before = dict(nn.modules.module._global_forward_hooks)
    with pytest.raises(RuntimeError, match="saved tensor hooks"):
        torch.func.grad(loss)(torch.rand(3))
    assert nn.modules.module._global_forward_hooks == before


def test_what_is_gone_is_forgotten():
    net, compression = small(our_node), Compression()
    known = []
    with compression.running():
        for _ in range(4):
            reset_net(net)
            net(torch.rand(3, 4, 2, 5, 5)).sum().backward()
            known.append(len(compression._outputs))
    assert max(known) <= 4  # two norms, two nodes


def test_another_thread_is_left_alone():
    net, compression = small(our_node), Compression()
    with compression.running():
        thread = threading.Thread(target=lambda: net(torch.rand(3, 4, 2, 5, 5)))
        thread.start()
        thread.join()
        assert not compression._outputs


def test_spikes_that_several_layers_keep_are_packed_once():
    node, layers = our_node(), [nn.Linear(6, 2) for _ in range(5)]
    node.step_mode = "m"
    held = []
    pack = Compression.pack

    class Watched(Compression):
        def pack(self, tensor):
            kept = pack(self, tensor)
            held.append(kept.held)
            return kept

    with Watched().running():
        spikes = node(torch.rand(3, 4, 6, requires_grad=True))
        sum(one(spikes).sum() for one in layers).backward()
    assert len({tensor.data_ptr() for tensor in held if tensor.dtype == torch.uint8}) == 1
