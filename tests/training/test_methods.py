"""What each training method does in a run, where it can be seen, and that a resumed run goes on with it."""

import dataclasses

import pytest
import torch
import torch.nn.functional as F
from lightning.pytorch.plugins.layer_sync import TorchSyncBatchNorm
from runs import Interruption, numbers, recipe_of, run, spy_on_steps, stop_after_epoch
from torch import nn

from jellyplus import functional, model, surrogate
from jellyplus._errors import InputError
from jellyplus.neuron import IterativeLIFNode, Node
from jellyplus.training import recipe as parts
from jellyplus.training.checkpoint import load_checkpoint
from jellyplus.training.classifier import Classifier
from jellyplus.training.layout import time_first
from jellyplus.training.methods.finite_differences import UseFiniteDifferences
from jellyplus.training.methods.warm_start import warm_start
from jellyplus.training.network import build_network

K = [1.0, 10 ** (1 / 3), 10 ** (2 / 3)]  # Eq. 15 for K_min = 1, K_max = 10, N = 3: 10^(i / N)
WEIGHTS = [0.25 * (12 - i) / 12 for i in range(1, 13)]  # Eq. 10 over 3 epochs of 4 iterations


def evolving(**changes):
    """3 epochs of 4 steps with EvAF's K(i), evolutionary shortcut branches, IM-Loss and step decay."""
    recipe = dataclasses.replace(
        recipe_of(search=False),
        surrogate=parts.Surrogate("evaf", {"k": 1.0}),
        evolution=parts.evolution.Settings(1.0, 10.0),
        im_loss=parts.im_loss.Settings(2.0, "membrane"),
        shortcut=parts.shortcut.Settings(0.25, True),
        schedule=parts.Schedule("step", 3, None, 2, 0.1),
    )
    return dataclasses.replace(recipe, **changes)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The outcome of the uninterrupted run, its folder, and what its branches were weighted with."""
    seen, forward = [], model.Shortcuts.forward
    folder = tmp_path_factory.mktemp("whole")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(model.Shortcuts, "forward", lambda self, x: seen.append(self.weight.item()) or forward(self, x))
        return run(folder, evolving()), folder, seen


# --- Evolution -----------------------------------------------------------------------------------------------------


def test_k_is_in_the_history_and_in_the_checkpoint(whole):
    outcome, folder, _ = whole
    assert [entry["k"] for entry in outcome.history] == pytest.approx(K, rel=1e-12)
    state = load_checkpoint(folder / "state")["state_dict"]
    saved = {value.item() for name, value in state.items() if name.endswith("surrogate_function.k")}
    assert [*saved] == pytest.approx(K[-1:], rel=1e-6)


def test_lambda_changes_with_every_iteration_and_ends_at_zero(whole):
    outcome, folder, seen = whole
    assert seen == pytest.approx(WEIGHTS, rel=1e-6, abs=1e-12)
    assert [entry["shortcut_weight"] for entry in outcome.history] == pytest.approx(WEIGHTS[3::4], rel=1e-6, abs=1e-12)
    assert load_checkpoint(folder / "state")["state_dict"]["net.shortcuts.weight"] == 0


def test_plain_branches_keep_their_weight(tmp_path):
    outcome = run(tmp_path, evolving(shortcut=parts.shortcut.Settings(0.7, False)))
    assert [entry["shortcut_weight"] for entry in outcome.history] == pytest.approx([0.7] * 3)


def test_the_network_of_a_run_has_no_branches_and_its_weights_have(whole):
    outcome, _, _ = whole
    assert outcome.net.shortcuts is None
    assert {"shortcuts.weight", "shortcuts.branches.2.2.weight"} <= outcome.weights.keys()
    assert not any("shortcuts" in name for name in outcome.net.state_dict())


@pytest.mark.parametrize("epoch", [0, 1])
def test_an_evolving_run_interrupted_after_an_epoch_ends_with_the_same_numbers(tmp_path, monkeypatch, whole, epoch):
    with monkeypatch.context() as patch:
        stop_after_epoch(patch, epoch)
        with pytest.raises(Interruption):
            run(tmp_path, evolving())
    assert numbers(run(tmp_path, evolving())) == numbers(whole[0])


def test_an_evolving_run_interrupted_within_an_epoch_ends_with_the_same_numbers(tmp_path, monkeypatch, whole):
    with monkeypatch.context() as patch:
        spy_on_steps(patch, {}, stop_at=(1, 2))
        with pytest.raises(Interruption):
            run(tmp_path, evolving())
    assert numbers(run(tmp_path, evolving())) == numbers(whole[0])


def test_the_progress_bar_shows_what_evolves(tmp_path, capsys):
    run(tmp_path, evolving())
    shown = capsys.readouterr().err
    assert "K=4.64" in shown
    assert "lambda=0.0833" in shown


# --- Losses and schedule -------------------------------------------------------------------------------------------


def test_im_loss_is_a_part_of_the_training_loss_and_recorded(whole, tmp_path):
    history = whole[0].history
    assert all(0 < entry["im_loss"] < entry["train_loss"] for entry in history)
    without = run(tmp_path, evolving(im_loss=None))
    assert "im_loss" not in without.history[0]
    assert numbers(without)[0] != numbers(whole[0])[0]


def test_the_loss_of_a_step_is_the_cross_entropy_of_the_summed_outputs_and_im_loss():
    """Algorithm 1 of the shortcut paper, Eq. 12 of IM-Loss; both terms computed apart, on the same network."""
    torch.manual_seed(0)
    recipe = evolving()
    net = build_network(recipe)
    classifier = Classifier(net, recipe, seed=0)
    classifier._loss_sums, classifier._seen = torch.zeros(2), []
    x, labels = torch.randn(4, 3, 16, 16), torch.tensor([0, 1, 2, 3])
    loss = classifier.training_step((x, labels, torch.arange(4)))
    means = [(node.h_seq.mean() - 0.5) ** 2 for node in classifier.methods["im_loss"]._loss._nodes.values()]
    branches, forward = [], net.shortcuts.forward
    net.shortcuts.forward = lambda outputs: branches.append(forward(outputs)) or torch.zeros(())
    y_seq = classifier_output(net, x)
    cross_entropy = F.cross_entropy((y_seq + branches[0]).mean(0), labels)
    torch.testing.assert_close(loss, cross_entropy + 2.0 * sum(means) / len(means))


def classifier_output(net, x):
    for node in net.modules():
        if isinstance(node, Node):
            node.reset()
    return net(time_first(x))


def test_step_decay_multiplies_the_learning_rate(whole):
    rate = evolving().optimizer.learning_rate
    rates = [entry["learning_rate"] for entry in whole[0].history]
    assert rates == pytest.approx([rate, rate, rate / 10])


@pytest.mark.parametrize(
    "convert", [TorchSyncBatchNorm().apply, nn.SyncBatchNorm.convert_sync_batchnorm], ids=["Lightning", "torch"]
)
def test_synchronised_batch_norm_of_another_make_is_refused_with_the_reason(convert):
    """What sync_batchnorm=True calls under DDP; the module is what Lightning has there."""
    recipe = recipe_of(search=False)
    with pytest.raises(ValueError, match="lose its alpha V_th: leave out sync_batchnorm=True"):
        convert(Classifier(build_network(recipe), recipe, seed=0))


# --- Finite differences --------------------------------------------------------------------------------------------


def differences(**changes):
    settings = parts.finite_differences.Settings("conv1.weight", 0.1)
    return dataclasses.replace(recipe_of(search=False, schedule={"epochs": 1}), finite_differences=settings, **changes)


def test_the_parameter_gets_finite_differences_and_the_others_their_surrogate_gradient(tmp_path, monkeypatch):
    """The gradients of every step against those computed apart, on a fresh copy of the weights of that step."""
    seen, original = [], UseFiniteDifferences.before_update

    def spied(self, module):
        before = {name: p.grad.clone() for name, p in module.net.named_parameters()}
        original(self, module)
        x, labels, _ = self._batch
        expected = functional.finite_difference_gradient(
            module.net, "conv1.weight", lambda y: F.cross_entropy(y.mean(0), labels), x[None], 0.1
        )
        after = {name: p.grad.clone() for name, p in module.net.named_parameters()}
        seen.append((before, after, expected))

    monkeypatch.setattr(UseFiniteDifferences, "before_update", spied)
    run(tmp_path, differences())
    assert len(seen) == 4
    for before, after, expected in seen:
        assert torch.equal(after["conv1.weight"], expected)
        assert not torch.equal(after["conv1.weight"], before["conv1.weight"])
        assert all(torch.equal(after[name], before[name]) for name in before if name != "conv1.weight")


def test_a_parameter_that_the_network_does_not_have_is_refused_before_training(tmp_path):
    recipe = differences()
    settings = dataclasses.replace(recipe.finite_differences, parameter="conv9.weight")
    with pytest.raises(InputError, match=r"finite_differences\.parameter: the network has no conv9\.weight"):
        run(tmp_path, dataclasses.replace(recipe, finite_differences=settings))


def test_a_random_loss_is_refused_before_training(tmp_path):
    recipe = differences()
    options = {"input_size": 16, "dropout": 0.2}
    vgg = dataclasses.replace(recipe.model, architecture="vgg16_diet", options=options)
    recipe = dataclasses.replace(recipe, model=vgg, norm=dataclasses.replace(recipe.norm, branch_alpha=None))
    with pytest.raises(InputError, match="finite_differences needs a loss that is not random: state 0 for the dropout"):
        run(tmp_path, recipe)


def test_shortcut_branches_need_stages(tmp_path):
    recipe = recipe_of(search=False)
    toy = dataclasses.replace(recipe.model, architecture="toy_cnn", options={"input_size": 16})
    recipe = dataclasses.replace(recipe, model=toy, norm=None, shortcut=parts.shortcut.Settings(1.0, False))
    with pytest.raises(InputError, match="shortcut does not fit toy_cnn: shortcut branches need two stages"):
        run(tmp_path, recipe)


# --- Warm start ----------------------------------------------------------------------------------------------------


def silent_net(depth=6, seed=0):
    """A plain network without norm and biases whose last layers do not spike at first."""
    torch.manual_seed(seed)
    neuron = lambda: IterativeLIFNode(surrogate_function=surrogate.EvAF(), step_mode="m")  # noqa: E731
    net = model.plain(width=8, depth=depth, time_steps=2, neuron=neuron, norm=lambda alpha, channels: nn.Identity())
    for module in net.modules():
        if isinstance(module, nn.Conv2d):
            module.weight.data.mul_(0.5)
    return net


def last_rate(net, x):
    node = [module for module in net.modules() if isinstance(module, Node)][-1]
    rates = []
    handle = node.register_forward_hook(lambda module, args, output: rates.append(output.mean().item()))
    classifier_output(net, x[0])
    handle.remove()
    return rates[0]


def test_the_warm_start_ends_as_soon_as_the_last_layer_spikes():
    net, x = silent_net(), torch.rand(1, 8, 3, 16, 16)
    assert last_rate(net, x) == 0
    needed = warm_start(net, [x], learning_rate=0.1, momentum=0.9, max_iterations=200)
    assert 0 < needed <= 200
    assert last_rate(net, x) > 0
    again = silent_net()
    assert warm_start(again, [x], learning_rate=0.1, momentum=0.9, max_iterations=needed - 1) is None
    assert last_rate(again, x) == 0
    assert not any(node.store_h_seq for node in net.modules() if isinstance(node, Node))


def test_a_warm_start_that_is_not_needed_changes_nothing():
    torch.manual_seed(0)
    net, x = build_network(recipe_of(search=False)), torch.rand(1, 8, 3, 16, 16)
    before = [p.clone() for p in net.parameters()]
    assert warm_start(net, [x], learning_rate=0.1, momentum=0.9, max_iterations=5) == 0
    assert all(torch.equal(p, q) for p, q in zip(net.parameters(), before, strict=True))


def test_a_weight_of_2_is_twice_the_learning_rate():
    """SGD's step is linear in the gradient, momentum included; powers of two round alike."""
    x, trained = torch.rand(1, 8, 3, 16, 16), []
    for learning_rate, weight in ((0.125, 2.0), (0.25, 1.0), (0.125, 1.0)):
        net = silent_net()
        needed = warm_start(net, [x], learning_rate, momentum=0.5, max_iterations=200, weight=weight)
        trained.append((needed, [parameter.tolist() for parameter in net.parameters()]))
    assert trained[0] == trained[1] != trained[2]


def bare(max_iterations):
    """No norm, V_th so high that the last layer is silent."""
    shape = {"model": {"width": 4}, "neuron": {"v_threshold": 1.0}}
    recipe = recipe_of(search=False, optimizer={"learning_rate": 0.0}, **shape)
    settings = parts.warm_start.Settings(learning_rate=0.1, momentum=0.9, max_iterations=max_iterations)
    evaf = parts.Surrogate("evaf", {"k": 1.0})
    return dataclasses.replace(recipe, norm=None, surrogate=evaf, warm_start=settings)


def test_a_run_records_its_warm_start_and_a_resumed_one_does_not_repeat_it(tmp_path, monkeypatch):
    whole = run(tmp_path / "whole", bare(500))
    assert whole.history[0]["warm_start_iterations"] > 0
    assert "warm_start_iterations" not in whole.history[1]
    with monkeypatch.context() as patch:
        stop_after_epoch(patch, 0)
        with pytest.raises(Interruption):
            run(tmp_path / "cut", bare(500))
    assert numbers(run(tmp_path / "cut", bare(500))) == numbers(whole)


def test_a_warm_start_that_gets_nowhere_says_what_to_do(tmp_path):
    with pytest.raises(InputError, match=r"silent after 1 iterations; raise warm_start\.learning_rate or"):
        run(tmp_path, bare(1))
