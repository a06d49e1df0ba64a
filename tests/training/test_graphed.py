"""Steps as CUDA graphs make the numbers of steps as they are; on the CPU by a stand-in that repeats operations.

On a GPU benchmarks/gpu_sections/right_training.py does the same with the graphs themselves, for every row.
"""

import dataclasses
from pathlib import Path

import cuda_graphs_on_cpu
import pytest
import torch
from runs import RECIPES, ahead, numbers, recipe_of, scale_losses, tiny
from torch import nn

from jellyplus import functional
from jellyplus.layer import ThresholdDependentBatchNorm1d
from jellyplus.neuron import IterativeLIFNode
from jellyplus.reproduction import tables
from jellyplus.reproduction.claims import load_claims
from jellyplus.surrogate import Dspike
from jellyplus.training import graphed
from jellyplus.training.recipe_files import load_run
from jellyplus.training.train import train

CLAIMS = Path(__file__).parents[2] / "reproductions" / "claims" / "compare_methods.yaml"
ROWS = tables.runs(load_claims(CLAIMS), "smoke", RECIPES)
BATCHES = 6


@pytest.fixture
def gpu(monkeypatch):
    """Training runs as on one, and graphs are noted; gives the number of those that were recorded."""
    recorded = []

    def record(function, device, after=None):
        recorded.append(function)
        return cuda_graphs_on_cpu.record(function, device, after)

    monkeypatch.setattr(graphed, "record", record)
    ahead(monkeypatch, look_every=4)
    return recorded


def trained(folder, recipe, graphs, data=None):
    data = data or tiny(train_examples=16 * BATCHES)
    return numbers(train(recipe, data, 0, "cpu", folder / str(graphs), None, "test", graphed=graphs))


def on_torch(recipe, **schedule):
    """On the backend whose operations the stand-in sees."""
    schedule = dataclasses.replace(recipe.schedule, **schedule)
    neuron = recipe.neuron and dataclasses.replace(recipe.neuron, backend="torch")
    return dataclasses.replace(recipe, neuron=neuron, schedule=schedule)


# --- The numbers of training


@pytest.mark.parametrize("row", ROWS)
def test_every_method_makes_the_same_numbers(row, gpu, tmp_path):
    """In a second epoch, too, which has another K, temperature, learning rate and weight of branches."""
    recipe = on_torch(ROWS[row].recipe, epochs=2)
    assert trained(tmp_path, recipe, graphs=True) == trained(tmp_path, recipe, graphs=False)
    assert len(gpu) == 2  # forward and backward, once


def test_a_scaled_loss_makes_the_same_numbers(gpu, tmp_path, monkeypatch):
    scale_losses(monkeypatch)
    recipe = on_torch(recipe_of())
    assert trained(tmp_path, recipe, graphs=True) == trained(tmp_path, recipe, graphs=False)


def test_a_smaller_last_batch_is_taken_as_it_is(gpu, tmp_path):
    recipe = on_torch(recipe_of(search=False, data={"batch_size": 16, "drop_last": False}))
    data = tiny(train_examples=16 * BATCHES + 7)
    assert trained(tmp_path, recipe, True, data) == trained(tmp_path, recipe, False, data)
    assert len(gpu) == 2


def test_what_a_step_draws_is_drawn_anew(gpu, tmp_path):
    recipe = on_torch(load_run("imloss/cifar10_vgg16_t5", "smoke", RECIPES).recipe)
    model = dataclasses.replace(recipe.model, options=recipe.model.options | {"dropout": 0.5})
    recipe = dataclasses.replace(recipe, model=model)
    assert trained(tmp_path, recipe, graphs=True) == trained(tmp_path, recipe, graphs=False)
    assert len(gpu) == 2


def test_a_step_that_cannot_be_recorded_is_taken_as_it_is_and_says_so_once(gpu, tmp_path, monkeypatch, capsys):
    def refuse(*_):
        raise RuntimeError("operation not permitted\nwhen stream is capturing")

    monkeypatch.setattr(graphed, "record", refuse)
    graphed._say.cache_clear()
    recipe = on_torch(recipe_of(search=False))
    found = trained(tmp_path / "one", recipe, graphs=True)
    assert found == trained(tmp_path, recipe, graphs=False)
    assert found == trained(tmp_path / "two", recipe, graphs=True)
    said = "not as a CUDA graph: operation not permitted when stream is capturing"
    assert capsys.readouterr().err.count(said) == 1


@pytest.mark.parametrize("sections", [{"data": {"batch_size": 16, "micro_batch": 8}}, {"neuron": {"backend": "cpp"}}])
def test_steps_that_add_up_gradients_and_those_on_a_cpu_are_none(sections, gpu, tmp_path, monkeypatch):
    if "neuron" in sections:
        monkeypatch.undo()
        monkeypatch.setattr(graphed, "record", lambda *_: pytest.fail("recorded"))
    trained(tmp_path, recipe_of(search=False, **sections), graphs=True)
    assert not gpu


# --- One step


class Net(nn.Module):
    """Counts its calls."""

    def __init__(self):
        super().__init__()
        self.calls = 0
        node = IterativeLIFNode(surrogate_function=Dspike(2.0), step_mode="m", backend="torch")
        self.layers = nn.Sequential(nn.Linear(4, 8), ThresholdDependentBatchNorm1d(1.0, 0.5, 8), node)
        self.unused = nn.Parameter(torch.ones(2))

    def forward(self, x, labels):
        self.calls += 1
        functional.reset_net(self)
        outputs = self.layers(x.expand(3, *x.shape)).mean(0)
        return (outputs - labels).square().mean(), outputs.detach()


@pytest.fixture
def net():
    torch.manual_seed(0)
    return Net()


def batches(number):
    return [(torch.randn(16, 4), torch.rand(16, 8)) for _ in range(number)]


def gradients(net, loss):
    net.zero_grad()
    loss.backward()
    return [None if p.grad is None else p.grad.clone() for p in net.parameters()]


def test_python_runs_in_the_first_steps_alone_and_weights_that_change_are_seen(gpu, net):
    plain, taken = Net(), graphed.Graphed(net, net)
    plain.load_state_dict(net.state_dict())
    for x, labels in batches(8):
        results = []
        for each, step in ((net, taken), (plain, plain)):
            loss, outputs = step(x, labels)
            results.append([loss.detach(), outputs, *gradients(each, loss)])
            with torch.no_grad():
                each.layers[0].weight.sub_(each.layers[0].weight.grad)
            functional.set_temperature(each, float(1 + labels[0, 0]))
        for found, expected in zip(*results, strict=True):
            assert (found is expected is None) or torch.equal(found, expected)
    assert (net.calls, plain.calls) == (graphed._FIRST + 1, 8)  # it is recorded once
    for name, buffer in net.named_buffers():
        assert torch.equal(buffer, plain.get_buffer(name)), name


def test_what_a_step_gave_stays_when_the_next_is_taken(gpu, net):
    taken = graphed.Graphed(net, net)
    given = [taken(*batch) for batch in batches(6)]
    assert len({loss.item() for loss, _ in given}) == 6
    assert not torch.equal(given[-1][1], given[-2][1])


def test_other_conditions_take_the_step_as_it_is(gpu, net):
    taken = graphed.Graphed(net, net)
    for x, labels in batches(graphed._FIRST + 1):
        taken(x, labels)
    ((x, labels),) = batches(1)
    assert len(gpu) == 2

    def calls(x=x, labels=labels):
        before = net.calls
        found, expected = taken(x, labels), net(x, labels)
        assert torch.equal(found[0], expected[0])
        return net.calls - before - 1

    assert calls() == 0
    assert calls(x[:8], labels[:8]) == 1
    assert calls(x.T.contiguous().T) == 1  # another layout
    with torch.no_grad():
        assert calls() == 1
    with torch.autocast("cpu", torch.bfloat16):
        assert calls() == 1
    net.eval()
    assert calls() == 1
    net.train()
    net.layers[0].weight.requires_grad_(False)
    assert calls() == 1
    net.layers[0].weight.requires_grad_(True)
    assert calls() == 0
    assert calls(x.clone().requires_grad_()) == 1
    net.layers[1].eval()
    assert calls() == 1
    net.layers[1].train()
    assert calls() == 0
    mean = net.layers[1].running_mean
    net.layers[1].running_mean = mean.clone()
    assert calls() == 1
    net.layers[1].running_mean = mean
    net.layers[0].weight.data = net.layers[0].weight.data.clone()
    assert calls() == 1


def test_what_differs_at_first_is_recorded_when_it_stays(gpu, net):
    taken = graphed.Graphed(net, net)
    for size in (16, 16, 16, 7, 16, 16, 16, 7):
        taken(torch.randn(size, 4), torch.rand(size, 8))
    with torch.no_grad():
        for batch in batches(graphed._FIRST + 1):
            taken(*batch)
    assert not gpu
    for batch in batches(graphed._FIRST + 1):
        taken(*batch)
    assert len(gpu) == 2


def test_gradients_may_be_added_up_and_kept(gpu, net):
    plain, taken = Net(), graphed.Graphed(net, net)
    plain.load_state_dict(net.state_dict())
    for number, batch in enumerate(batches(9)):
        for each, step in ((net, taken), (plain, plain)):
            if number % 3 == 0:
                each.zero_grad(set_to_none=number == 6)
            step(*batch)[0].backward()
        for one, other in zip(net.parameters(), plain.parameters(), strict=True):
            assert (one.grad is other.grad is None) or torch.equal(one.grad, other.grad)
    assert len(gpu) == 2


def test_a_backward_pass_of_another_step_is_refused(gpu, net):
    taken = graphed.Graphed(net, net)
    losses = [taken(*batch)[0] for batch in batches(6)]
    with pytest.raises(RuntimeError, match="has one backward pass, before the next step"):
        losses[-2].backward()
    losses[-1].backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="call backward"):
        losses[-1].backward()


def test_a_hook_of_a_parameter_runs_once(gpu, net, capsys):
    calls = []
    net.layers[0].weight.register_hook(lambda grad: calls.append(1))
    taken = graphed.Graphed(net, net)
    for batch in batches(6):
        taken(*batch)[0].backward()
    assert len(calls) == 6
    assert "not as a CUDA graph: a parameter has a hook" in capsys.readouterr().err


def test_what_is_not_on_a_gpu_is_taken_as_it_is(net, capsys):
    taken = graphed.Graphed(net, net)
    losses = [taken(*batch)[0].item() for batch in batches(6)]
    assert len(set(losses)) == 6
    assert net.calls == 6
    assert "not as a CUDA graph: it runs on cpu" in capsys.readouterr().err


def test_frozen_parameters_stay_without_gradients(gpu, net):
    net.layers[0].weight.requires_grad_(False)
    taken = graphed.Graphed(net, net)
    for x, labels in batches(graphed._FIRST + 1):
        loss, _ = taken(x, labels)
    _, weight, bias, *_ = gradients(net, loss)
    assert weight is None
    assert torch.equal(bias, gradients(net, net(x, labels)[0])[2])
    assert len(gpu) == 2


def test_inputs_are_not_kept_and_random_states_are_left(gpu, net):
    taken = graphed.Graphed(net, net)
    for x, labels in batches(graphed._FIRST):
        taken(x, labels)
    (x, labels), state = batches(1)[0], torch.get_rng_state()
    kept = x.clone()
    taken(x, labels)
    assert torch.equal(x, kept)
    assert torch.equal(torch.get_rng_state(), state)
    assert len(gpu) == 2


@pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no GPU")
@pytest.mark.parametrize("precision", ["32-true", "16-mixed", "bf16-mixed"])
def test_a_gpu_makes_the_same_numbers(tmp_path, precision):
    recipe = dataclasses.replace(recipe_of(), gpu_precision=precision)
    data = tiny(train_examples=16 * BATCHES)
    plain, graphs = (
        numbers(train(recipe, data, 0, "cuda", tmp_path / str(how), None, "test", graphed=how)) for how in (False, True)
    )
    assert graphs == plain
