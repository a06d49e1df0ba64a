"""tdBN is Eqs. 5-8 of Zheng et al. 2021, read as loops."""

import copy
import inspect
import math
import warnings

import pytest
import torch
from spikingjelly.activation_based import functional
from spikingjelly.activation_based import layer as sj_layer

from jellyplus import layer

SHAPES = {
    "ThresholdDependentBatchNorm1d": (3, 4, 2),
    "ThresholdDependentBatchNorm2d": (3, 2, 2, 3, 2),
    "ThresholdDependentBatchNorm3d": (2, 2, 2, 2, 1, 3),
}
EVERY = pytest.mark.parametrize("name", SHAPES)


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def make(name, alpha=0.6, v_th=0.8, eps=1e-2, momentum=0.3, trained=True):
    norm = getattr(layer, name)(alpha, v_th, 2, eps=eps, momentum=momentum).double()
    if trained:
        with torch.no_grad():
            norm.weight.copy_(torch.tensor([1.5, -0.75]))
            norm.bias.copy_(torch.tensor([0.25, -0.5]))
            norm.running_mean.copy_(torch.tensor([0.25, -1.0]))
            norm.running_var.copy_(torch.tensor([0.5, 2.0]))
    return norm


def channel(x, c):
    """Every number of one channel, as Python floats."""
    return x.select(2, c).flatten().tolist()


def loop(norm, x, statistics):
    """Eqs. 5 and 6, one number at a time; ``statistics`` is (mean, variance) of each channel."""
    y = x.clone()
    for c, (mean, variance) in enumerate(statistics):
        scale, shift = norm.weight[c].item(), norm.bias[c].item()
        hat = [norm.alpha * norm.v_th * (value - mean) / math.sqrt(variance + norm.eps) for value in channel(x, c)]
        y.select(2, c).copy_(x.new_tensor([scale * h + shift for h in hat]).view_as(x.select(2, c)))
    return y


def batch_statistics(x):
    """Eqs. 7 and 8: over time, batch and space."""
    result = []
    for c in range(x.shape[2]):
        values = channel(x, c)
        mean = sum(values) / len(values)
        result.append((mean, sum((v - mean) ** 2 for v in values) / len(values)))
    return result


@EVERY
def test_training_is_eqs_5_to_8_over_time_batch_and_space(name):
    norm, x = make(name), 2 * normal(*SHAPES[name]) + 1
    torch.testing.assert_close(norm(x), loop(norm, x, batch_statistics(x)), rtol=1e-12, atol=1e-12)


@EVERY
def test_evaluation_uses_the_running_statistics(name):
    norm, x = make(name).eval(), 2 * normal(*SHAPES[name]) + 1
    torch.testing.assert_close(norm(x), loop(norm, x, [(0.25, 0.5), (-1.0, 2.0)]), rtol=1e-12, atol=1e-12)
    assert norm.running_mean.tolist() == [0.25, -1.0]
    assert norm.num_batches_tracked == 0


@EVERY
def test_running_statistics_move_by_momentum_towards_the_mean_and_the_unbiased_variance(name):
    norm, x = make(name), 2 * normal(*SHAPES[name]) + 1
    n = x.numel() // 2
    norm(x)
    for c, (mean, variance) in enumerate(batch_statistics(x)):
        start = ((0.25, 0.5), (-1.0, 2.0))[c]
        assert norm.running_mean[c].item() == pytest.approx(0.7 * start[0] + 0.3 * mean)
        assert norm.running_var[c].item() == pytest.approx(0.7 * start[1] + 0.3 * variance * n / (n - 1))
    assert norm.num_batches_tracked == 1


@EVERY
@pytest.mark.parametrize("training", [True, False])
def test_gradients_equal_numeric_differentiation(name, training):
    norm, x = make(name).train(training), normal(*SHAPES[name]).requires_grad_()
    weights = normal(*SHAPES[name], seed=1)

    def loss():
        return (weights * (norm(x) + norm(x) ** 2)).sum()

    for tensor in (norm.weight, norm.bias, x):
        (grad,) = torch.autograd.grad(loss(), tensor)
        for i in range(tensor.numel()):
            values = []
            for step in (1e-6, -1e-6):
                with torch.no_grad():
                    running = norm.running_mean.clone(), norm.running_var.clone()
                    tensor.view(-1)[i] += step
                    values.append(loss().item())
                    tensor.view(-1)[i] -= step
                    norm.running_mean.copy_(running[0])
                    norm.running_var.copy_(running[1])
            assert grad.flatten()[i].item() == pytest.approx((values[0] - values[1]) / 2e-6, abs=1e-6, rel=1e-6)


def test_the_gradient_of_lambda_carries_alpha_and_the_threshold():
    """dL/dlambda of y = lambda * 0.5 * 0.8 * x^: x = -1, 1 has x^ = -1, 1, L = y at x = 1."""
    norm = layer.ThresholdDependentBatchNorm1d(0.5, 0.8, 1, eps=1e-12).double()
    norm(torch.tensor([-1.0, 1.0], dtype=torch.float64).view(2, 1, 1))[1].sum().backward()
    assert norm.weight.grad.item() == pytest.approx(0.4)


@EVERY
def test_lambda_starts_at_1_and_beta_at_0(name):
    norm = make(name, trained=False)
    assert norm.weight.tolist() == [1, 1]
    assert norm.bias.tolist() == [0, 0]
    assert norm.running_mean.tolist() == [0, 0]
    assert norm.running_var.tolist() == [1, 1]


def test_arguments_stand_in_spikingjellys_order_with_torchs_defaults():
    norm = layer.ThresholdDependentBatchNorm2d(0.5, 0.7, 3)
    assert (norm.alpha, norm.v_th, norm.num_features, norm.eps, norm.momentum) == (0.5, 0.7, 3, 1e-5, 0.1)
    assert norm.step_mode == "m"


def test_the_output_has_deviation_alpha_v_th_and_a_branch_has_half_the_variance():
    x = 3 * normal(4, 8, 2, 5, 5) + 1
    serial, branch = (
        layer.ThresholdDependentBatchNorm2d(alpha, 0.5, 2).double()(x).var(correction=0).item()
        for alpha in (1.0, 1 / math.sqrt(2))
    )
    assert serial == pytest.approx(0.25, rel=1e-4)
    assert branch == pytest.approx(serial / 2, rel=1e-12)


@EVERY
def test_step_mode_s_evaluates_each_time_step_and_refuses_to_train(name):
    norm, x = make(name).eval(), normal(*SHAPES[name])
    whole = norm(x)
    functional.set_step_mode(norm, "s")
    torch.testing.assert_close(torch.stack([norm(x_t) for x_t in x]), whole, rtol=1e-14, atol=1e-14)
    with pytest.raises(ValueError, match=r"set_step_mode\(net, 'm'\)"):
        norm.train()(x[0])


@EVERY
@pytest.mark.parametrize("mode", ["s", "m"])
def test_another_number_of_dimensions_raises(name, mode):
    norm = make(name).eval()
    norm.step_mode = mode
    right = len(SHAPES[name]) - (mode == "s")
    for wrong in (right - 1, right + 1):
        with pytest.raises(ValueError, match=rf"{name} needs input \[{'N' if mode == 's' else 'T'}, .*got shape"):
            norm(torch.zeros([2] * wrong, dtype=torch.float64))
    assert norm(torch.zeros([2] * right, dtype=torch.float64)).shape == (2,) * right


@pytest.mark.parametrize("training", [True, False])
def test_channels_last_stays_channels_last(training):
    norm = make("ThresholdDependentBatchNorm2d").train(training)
    x = normal(6, 2, 4, 5).contiguous(memory_format=torch.channels_last).unflatten(0, (3, 2)).requires_grad_()
    y = norm(x)
    (grad,) = torch.autograd.grad((y * y).sum(), x)
    for tensor in (y, grad):
        assert tensor.shape == x.shape
        assert tensor.flatten(0, 1).is_contiguous(memory_format=torch.channels_last)


@pytest.mark.skipif(not hasattr(functional, "set_backend"), reason="SpikingJelly 2.x has mended it")
def test_spikingjellys_own_class_cannot_run():
    """Why this one exists (0.0.0.0.14, layer.py:1822): no _check_input_dim."""
    with pytest.raises(NotImplementedError):
        sj_layer.ThresholdDependentBatchNorm2d(1.0, 0.5, 2)(torch.zeros(2, 2, 2, 3, 3))


@EVERY
def test_without_momentum_the_running_statistics_are_the_mean_of_all_batches(name):
    norm, batches = make(name, momentum=None, trained=False), [normal(*SHAPES[name], seed=seed) for seed in range(3)]
    for x in batches:
        norm(x)
    n = batches[0].numel() // 2
    for c, every in enumerate(zip(*map(batch_statistics, batches), strict=True)):
        assert norm.running_mean[c].item() == pytest.approx(sum(mean for mean, _ in every) / 3)
        assert norm.running_var[c].item() == pytest.approx(sum(variance for _, variance in every) / 3 * n / (n - 1))
    norm.eval()(batches[0])


def test_stochastic_weight_averaging_updates_the_running_statistics():
    net = torch.nn.Sequential(make("ThresholdDependentBatchNorm1d", trained=False))
    batches = [normal(3, 4, 2, seed=seed) for seed in range(3)]
    torch.optim.swa_utils.update_bn(batches, net)
    torch.testing.assert_close(net[0].running_mean, torch.stack(batches).mean((0, 1, 2)))
    assert net[0].momentum == 0.3


@EVERY
def test_tools_may_look_at_every_attribute(name):
    norm = make(name).eval()
    assert not hasattr(norm, "qconfig")
    inspect.getmembers(norm)
    x = normal(*SHAPES[name])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        traced = torch.jit.trace(torch.nn.Sequential(norm), x)
    assert torch.equal(traced(x), norm(x))
    norm.qconfig = None
    assert hasattr(norm, "qconfig")
    assert copy.deepcopy(norm).qconfig is None
    del norm.qconfig
    assert not hasattr(norm, "qconfig")


def test_a_network_with_it_can_be_quantised():
    net = torch.nn.Sequential(torch.nn.Linear(2, 2), make("ThresholdDependentBatchNorm1d").float()).eval()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        quantised = torch.ao.quantization.quantize_dynamic(net, {torch.nn.Linear})
    assert quantised(torch.zeros(3, 4, 2)).shape == (3, 4, 2)


@pytest.mark.parametrize("configured", [False, True])
def test_torchs_conversion_is_refused(configured):
    net = torch.nn.Sequential(make("ThresholdDependentBatchNorm1d"))
    if configured:
        net[0].qconfig = None
    with pytest.raises(ValueError, match="lose its alpha V_th"):
        torch.nn.SyncBatchNorm.convert_sync_batchnorm(net)


def test_weights_of_torchs_batch_norm_load_with_a_warning_and_its_own_without():
    norms = torch.nn.Sequential(*(make("ThresholdDependentBatchNorm2d") for _ in range(2)))
    theirs = torch.nn.Sequential(*(torch.nn.BatchNorm2d(2).double() for _ in range(2)))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        norms.load_state_dict(norms.state_dict())
        theirs.load_state_dict(norms.state_dict())
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("default")
        norms.load_state_dict(theirs.state_dict())
    assert [str(w.message) for w in caught if "alpha * v_th" in str(w.message)] == [str(caught[0].message)]
    x = normal(3, 4, 2, 5, 5)
    with torch.no_grad():
        for norm in norms:
            norm.weight /= norm.alpha * norm.v_th
    theirs_eval = theirs.eval()(x.flatten(0, 1)).view_as(x)
    for norm, its in zip(norms.eval(), theirs, strict=True):
        norm.eps = its.eps
    torch.testing.assert_close(norms(x), theirs_eval)
