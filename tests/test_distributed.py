"""Two gloo processes against one process with the joint batch: the numbers and the gradients are the same."""

import datetime

import pytest
import torch
import torch.nn.functional as F
from spikingjelly.activation_based import functional, layer
from torch import distributed, nn

from jellyplus._distributed import processes, sum_over_processes
from jellyplus.layer import ThresholdDependentBatchNorm1d, ThresholdDependentBatchNorm2d
from jellyplus.loss import IMLoss
from jellyplus.neuron import IterativeLIFNode
from jellyplus.surrogate import Dspike

STEPS, T, N = 20, 3, 8
SPLITS = {"equal": (4, 4), "unequal": (5, 3)}
OFFSET = 1e8  # of the mean over the deviation: its square leaves no digit of the variance in float64


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def network():
    torch.manual_seed(0)
    return nn.Sequential(
        layer.Conv2d(1, 4, 3, step_mode="m"),
        ThresholdDependentBatchNorm2d(1.0, 0.5, 4),
        IterativeLIFNode(surrogate_function=Dspike(2.0), step_mode="m"),
        layer.Conv2d(4, 4, 3, step_mode="m"),
        ThresholdDependentBatchNorm2d(1.0, 0.5, 4),
        IterativeLIFNode(v_threshold=0.75, surrogate_function=Dspike(2.0), step_mode="m"),
        layer.Flatten(step_mode="m"),
        layer.Linear(4, 3, step_mode="m"),
    ).double()


def train(net, model, part=slice(None), share=1.0):
    """SGD steps of ``model``, which wraps ``net``: of each the loss and all gradients, then all buffers.

    The cross-entropy is that of this part of the batch, times ``share``.
    """
    loss_function, optimizer = IMLoss(net), torch.optim.SGD(net.parameters(), lr=0.2)
    losses, gradients = [], []
    for step in range(STEPS):
        functional.reset_net(net)
        x, labels = normal(T, N, 1, 5, 5, seed=step)[:, part], (torch.arange(N) + step)[part] % 3
        loss = share * F.cross_entropy(model(x).mean(0), labels) + loss_function()
        optimizer.zero_grad()
        loss.backward()
        losses.append(loss.detach())
        gradients.append([parameter.grad.clone() for parameter in net.parameters()])
        optimizer.step()
    return {"losses": torch.stack(losses), "gradients": gradients, "buffers": dict(net.named_buffers())}


def work(rank, folder):
    """What one of two processes does; it saves what it gets."""
    torch.set_num_threads(1)
    timeout = datetime.timedelta(minutes=10)
    distributed.init_process_group("gloo", f"file://{folder}/meet", rank=rank, world_size=2, timeout=timeout)
    results = {"processes": processes(), "sum": [], "norm": normalise_part(rank)}
    x = torch.tensor([rank + 1.0], requires_grad=True)
    total = sum_over_processes(x)
    (gradient,) = torch.autograd.grad((rank + 1) * total**2, x, create_graph=True)
    (second,) = torch.autograd.grad(gradient, x)
    results["sum"] = [total.item(), gradient.item(), second.item()]
    for name, sizes in SPLITS.items():
        part = slice(0, sizes[0]) if rank == 0 else slice(sizes[0], N)
        net = network()
        model = nn.parallel.DistributedDataParallel(net)
        results[name] = train(net, model, part, share=sizes[rank] * 2 / N)
    if rank == 0:  # evaluation asks nothing of the other process, which is about to leave
        results["alone"] = network().eval()(normal(T, N, 1, 5, 5)).detach()
    torch.save(results, f"{folder}/{rank}.pt")
    distributed.barrier()
    distributed.destroy_process_group()


def normalise_part(rank):
    """The norm by itself, on parts of 4 and 2 examples, far off zero and channels-last."""
    norm = ThresholdDependentBatchNorm2d(0.5, 0.8, 2).double()
    part = (OFFSET + normal(18, 2, 4, 5))[:12] if rank == 0 else (OFFSET + normal(18, 2, 4, 5))[12:]
    x = part.contiguous(memory_format=torch.channels_last).unflatten(0, (3, -1)).requires_grad_()
    y = norm(x)
    (y * y * y).sum().backward()
    half = norm.float()(x.detach().float().sub(OFFSET).bfloat16())
    formats = [t.flatten(0, 1).is_contiguous(memory_format=torch.channels_last) for t in (y, x.grad)]
    return {"y": y.detach(), "grad": x.grad, "formats": formats, "half": half.dtype}


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """What the two processes saved."""
    folder = tmp_path_factory.mktemp("processes")
    torch.multiprocessing.spawn(work, (str(folder),), nprocs=2)
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(2)]


@pytest.fixture(scope="module")
def joint():
    """One process with the joint batch, where the norm is torch's."""
    net = network()
    return train(net, net)


@pytest.mark.parametrize("split", SPLITS)
def test_training_in_two_processes_is_training_in_one(results, joint, split):
    first, second = (result[split] for result in results)
    exact = {"rtol": 1e-9, "atol": 1e-9}
    torch.testing.assert_close((first["losses"] + second["losses"]) / 2, joint["losses"], **exact)
    assert joint["losses"].std() > 0.01
    for result in (first, second):
        torch.testing.assert_close(result["gradients"], joint["gradients"], **exact)
        torch.testing.assert_close(result["buffers"], joint["buffers"], **exact)
    assert all(gradient.abs().max() > 1e-3 for gradient in joint["gradients"][-1][::2])


def test_the_statistics_are_those_of_the_joint_batch_far_from_zero(results):
    """By hand: Eqs. 5-8 with torch.var of the numbers less the offset, which float64 holds to 1e-8."""
    x = ((OFFSET + normal(18, 2, 4, 5)) - OFFSET).requires_grad_()
    mean, variance = x.mean((0, 2, 3), keepdim=True), x.var((0, 2, 3), correction=0, keepdim=True)
    y = 0.5 * 0.8 * (x - mean) / torch.sqrt(variance + 1e-5)
    (y * y * y).sum().backward()
    for name, expected in (("y", y.detach()), ("grad", x.grad)):
        got = torch.cat([result["norm"][name].flatten(0, 1) for result in results])
        torch.testing.assert_close(got, expected, rtol=1e-6, atol=1e-6)


def test_the_memory_format_and_the_type_are_kept(results):
    for result in results:
        assert result["norm"]["formats"] == [True, True]
        assert result["norm"]["half"] == torch.bfloat16


def test_evaluation_needs_no_other_process(results):
    torch.testing.assert_close(results[0]["alone"], network().eval()(normal(T, N, 1, 5, 5)).detach())


def test_the_sum_passes_gradients(results):
    """x = 1 and 2, total = 3. Rank r's loss is (r + 1) total^2: d/dx = (1 + 2) 2 total = 18 in both.

    Each process differentiates its own 18 = 3 * 2 total once more: 6 from either, 12.
    """
    assert [result["sum"] for result in results] == [[3, 18, 12], [3, 18, 12]]
    assert [result["processes"] for result in results] == [2, 2]


@pytest.mark.parametrize("group", [False, True])
def test_one_process_runs_torchs_batch_norm_and_no_collective(group, tmp_path, monkeypatch):
    if group:
        distributed.init_process_group("gloo", f"file://{tmp_path}/meet", rank=0, world_size=1)
    try:
        monkeypatch.setattr(distributed, "all_reduce", None)
        assert processes() == 1
        x = normal(6, 3)
        assert sum_over_processes(x) is x
        norm = ThresholdDependentBatchNorm1d(0.5, 0.8, 3).double()
        expected = F.batch_norm(x, None, None, x.new_full((3,), 0.5 * 0.8), norm.bias, training=True)
        assert torch.equal(norm(x.view(2, 3, 3)).view(6, 3), expected)
    finally:
        if group:
            distributed.destroy_process_group()
