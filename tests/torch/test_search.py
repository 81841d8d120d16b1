"""find_lr on real nets: what it records, what it refuses, and that a refusal leaves everything as it was."""

import copy
import math
import subprocess
import sys

import numpy as np
import pytest
import torch
from torch import nn, optim
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

from findlr import (
    ConfigurationError,
    LoaderError,
    LossError,
    OptimizerError,
    Stop,
    TorchTrainable,
    Verdict,
    find_lr,
    rules,
)


def digits_like(n=96, seed=0):
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.randn(n, 8, generator=generator)
    return TensorDataset(inputs, inputs[:, :3].argmax(dim=1))


def parts(lr=0.01):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 3))
    return net, optim.SGD(net.parameters(), lr=lr), nn.CrossEntropyLoss(), DataLoader(digits_like(), 16, shuffle=True)


def state_of(net, optimizer):
    rates = [group["lr"] for group in optimizer.param_groups]
    return [p.detach().clone() for p in net.parameters()], rates, torch.get_rng_state(), net.training


def same(before, after):
    tensors = all(map(torch.equal, before[0], after[0]))
    return tensors and before[1] == after[1] and torch.equal(before[2], after[2]) and before[3] == after[3]


def test_the_articles_call():
    net, optimizer, criterion, loader = parts()
    finding = find_lr(net, optimizer, criterion, loader)
    assert 1e-3 < finding.lr < 1
    assert finding.suggestion.rule == "quick"
    assert finding.curve.lr[0] == 1e-8
    assert finding.facts["batch_size"] == 16
    assert finding.facts["accumulation_steps"] == 1
    assert finding.facts["optimizer"]["name"] == "SGD"
    assert finding.facts["optimizer"]["groups"][0]["lr"] == 0.01
    assert finding.facts["ratios"] == [1.0]
    assert finding.facts["versions"]["torch"] == torch.__version__
    assert finding.cost.backwards == len(finding.curve)
    assert finding.cost.forwards == 2 * len(finding.curve) + 2  # the control variate, and its self-check
    assert finding.cost.steps == pytest.approx((len(finding.curve) * 4 + 2) / 3)


def test_each_step_is_the_bare_loops_step():
    net, optimizer, criterion, loader = parts()
    curve = find_lr(net, optimizer, criterion, loader, min_lr=1e-3, max_lr=0.5, num_steps=30).curve
    losses = []
    batches = [batch for _ in range(5) for batch in loader]
    for lr, (inputs, targets) in zip(curve.lr, batches, strict=True):
        optimizer.param_groups[0]["lr"] = float(lr)
        optimizer.zero_grad()
        loss = criterion(net(inputs), targets)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses == curve.loss.tolist()
    assert (curve.lr[0], curve.lr[-1]) == (1e-3, 0.5)


def test_an_epoch_is_the_articles_and_a_shorter_loader_starts_over():
    net, optimizer, criterion, loader = parts()
    assert find_lr(net, optimizer, criterion, loader, num_steps="epoch").curve.num_steps == len(loader) == 6
    assert len(find_lr(net, optimizer, criterion, loader, max_lr=1e-3).curve) == 100


def test_linear_spacing():
    net, optimizer, criterion, loader = parts()
    curve = find_lr(net, optimizer, criterion, loader, min_lr=0.01, max_lr=0.4, num_steps=40, spacing="linear").curve
    np.testing.assert_allclose(curve.lr, np.arange(1, 41) / 100, rtol=1e-12)


def test_loss_fn_takes_the_whole_batch():
    net, optimizer, criterion, _ = parts()
    batches = [{"x": torch.randn(4, 8), "extra": "text", "y": torch.tensor([0, 1, 2, 0])}] * 3
    finding = find_lr(
        net, optimizer, loader=batches, loss_fn=lambda model, batch: criterion(model(batch["x"]), batch["y"])
    )
    assert finding.facts["batch_size"] == 4


def test_a_criterion_with_parameters_of_its_own_is_swept_and_put_back():
    class Scaled(nn.Module):
        def __init__(self):
            super().__init__()
            self.scale = nn.Parameter(torch.tensor(2.0))

        def forward(self, outputs, targets):
            return nn.functional.cross_entropy(outputs * self.scale, targets)

    net, _, _, loader = parts()
    criterion = Scaled()
    optimizer = optim.SGD([*net.parameters(), *criterion.parameters()], lr=0.1)
    find_lr(net, optimizer, criterion, loader)
    assert criterion.scale.item() == 2.0


def test_a_loss_that_shares_memory_with_a_parameter_is_read_before_the_step():
    class Own(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.tensor([3.0]))

    net = Own()
    optimizer = optim.SGD(net.parameters(), lr=0.1)
    finding = find_lr(net, optimizer, loader=[0], loss_fn=lambda model, _: model.weight[0], min_lr=0.1, max_lr=0.2)
    assert finding.curve.loss[0] == 3.0


def test_a_finding_names_the_line_to_paste():
    net, _, criterion, loader = parts()
    optimizer = optim.SGD(net.parameters(), lr=0.01, momentum=0.9, nesterov=True)
    finding = find_lr(net, optimizer, criterion, loader)
    line = finding.code()
    assert line == f"optimizer = torch.optim.SGD(model.parameters(), lr={finding.lr:.2g}, momentum=0.9, nesterov=True)"
    names = {"torch": torch, "model": net}
    exec(line, names)
    assert names["optimizer"].param_groups[0]["lr"] == pytest.approx(finding.lr, rel=0.05)

    optimizer = optim.Adam([{"params": net[0].parameters(), "lr": 1e-4}, {"params": net[2].parameters()}], lr=1e-3)
    finding = find_lr(net, optimizer, criterion, loader)
    exec(finding.code(), {"optimizer": optimizer})
    assert [group["lr"] for group in optimizer.param_groups] == pytest.approx(finding.lrs, rel=0.05)


# What is refused: one sentence, and nothing has changed


class Lambda(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, outputs, targets):
        return self.function(outputs, targets)


class Empty(IterableDataset):
    def __iter__(self):
        return iter(())


REFUSED = {
    "empty list": (dict(loader=[]), LoaderError, "loader is empty"),
    "empty iterable dataset": (dict(loader=DataLoader(Empty())), LoaderError, "loader is empty"),
    "no loader": (dict(loader=None), LoaderError, r"loader is missing.*\[0\] if train_step draws nothing"),
    "not iterable": (dict(loader=3), LoaderError, "iterable of batches, got int"),
    "items not pairs": (dict(loader=[torch.ones(4, 8)]), LoaderError, "loss_fn"),
    "items of three": (
        dict(loader=[(1, 2, 3)]),
        LoaderError,
        r"tuple of 3: give loss_fn=lambda .*\(model\(\*batch\[:-1",
    ),
    "inputs alone": (dict(loader=[torch.ones(4, 8)]), LoaderError, r"got a Tensor: give .*model\(batch\), batch"),
    "inputs alone in a list": (
        dict(loader=[[torch.ones(4, 8)]]),
        LoaderError,
        r"list of 1.*model\(batch\[0\]\), batch\[0\]",
    ),
    "dicts": (dict(loader=[{"x": torch.ones(4, 8)}]), LoaderError, "dict of 1.*loss_fn"),
    "generator": (dict(loader=(b for b in [1])), LoaderError, "one-shot iterator.*generator"),
    "iterator": (dict(loader=iter([1])), LoaderError, "one-shot iterator"),
    "both": (dict(loss_fn=lambda model, batch: 0), ConfigurationError, "got criterion and loss_fn"),
    "criterion and optimizer exchanged": (
        dict(criterion=optim.SGD([torch.zeros(1)])),
        ConfigurationError,
        "got SGD: the order is \\(model, optimizer, criterion, loader\\)",
    ),
    "model and optimizer exchanged": (
        dict(model=optim.SGD([torch.zeros(1)])),
        ConfigurationError,
        "got SGD: the order",
    ),
    "a pair in place of a loader": (
        dict(loader=(torch.ones(4, 8), torch.ones(4))),
        LoaderError,
        r"is a pair itself, \[\(inputs, targets\)\]",
    ),
    "neither": (dict(criterion=None), ConfigurationError, "got none"),
    "criterion is no function": (
        dict(criterion=0.5),
        ConfigurationError,
        "third argument, must be a function",
    ),
    "loader in the criterion's place": (
        dict(criterion=[(1, 2)], loader=None, loss_fn=lambda model, batch: 0),
        ConfigurationError,
        r"the third argument.*got list.*by name: loader=",
    ),
    "non-scalar": (dict(criterion=nn.CrossEntropyLoss(reduction="none")), LossError, r"one number, got shape \(16,\)"),
    "detached": (dict(criterion=lambda o, t: o.sum().detach()), LossError, "without a graph"),
    "None": (
        dict(criterion=lambda o, t: None),
        LossError,
        "must return a tensor, got NoneType: it may lack its return",
    ),
    "float": (dict(criterion=lambda o, t: 1.0), LossError, r"must return a tensor, got float: .* without \.item\(\)"),
    "losses by name": (
        dict(criterion=lambda o, t: {"a": o.sum()}),
        LossError,
        "got dict: return the loss itself, one num",
    ),
    "min_lr 0": (dict(min_lr=0), ConfigurationError, "min_lr"),
    "min_lr above max_lr": (dict(min_lr=1.0, max_lr=0.1), ConfigurationError, "min_lr must be below max_lr"),
    "max_lr infinite": (dict(max_lr=math.inf), ConfigurationError, "max_lr must be a finite"),
    "one step": (dict(num_steps=1), ConfigurationError, "num_steps"),
    "steps in words": (dict(num_steps="two"), ConfigurationError, "num_steps"),
    "smoothing 1": (dict(smoothing=1.0), ConfigurationError, "smoothing"),
    "validation of a step of one's own": (
        dict(criterion=None, train_step=lambda draw: draw(), validation_loader=[(torch.ones(1, 1),) * 2]),
        ConfigurationError,
        "validation_loader goes with criterion or loss_fn",
    ),
    "progress": (dict(progress="yes"), ConfigurationError, "progress must be True, False, None"),
    "rule that is none": (dict(rule="vale"), ConfigurationError, "rule must be one of .*, got 'vale'"),
    "spacing": (dict(spacing="log"), ConfigurationError, "spacing"),
    "spacing, an array": (dict(spacing=np.ones(2)), ConfigurationError, "spacing"),
    "snapshot, an array": (dict(snapshot=np.ones(2)), ConfigurationError, "snapshot must be one of"),
    "sweep, an array": (dict(sweep=np.ones(2)), OptimizerError, "sweep=array.* picks one optimizer"),
    "autocast, an array": (dict(autocast=np.ones(2)), ConfigurationError, "autocast must be"),
    "loader, a number's array": (dict(loader=np.array(1)), LoaderError, "loader must be an iterable"),
    "threshold": (dict(divergence_threshold=1.0), ConfigurationError, "divergence_threshold"),
    "epoch of an iterable": (dict(loader=DataLoader(Empty()), num_steps="epoch"), LoaderError, "length"),
    "model is no module": (dict(model=lambda x: x), ConfigurationError, r"torch.nn.Module, got function$"),
    "models without a step": (dict(model=[nn.ReLU()]), ConfigurationError, "got list; several models need train_step"),
    "optimizer is a class": (dict(optimizer=torch.optim.SGD), OptimizerError, "got the class SGD itself"),
    "optimizer is none": (
        dict(optimizer=0.1),
        OptimizerError,
        "torch.optim.Optimizer, or a list or dict of them, got float",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_bad_input_is_one_clear_error_and_nothing_is_lost(case):
    changes, error, words = REFUSED[case]
    net, optimizer, criterion, loader = parts()
    arguments = {"model": net, "optimizer": optimizer, "criterion": criterion, "loader": loader, **changes}
    before = state_of(net, optimizer)
    with pytest.raises(error, match=words) as raised:
        find_lr(**arguments)
    assert str(raised.value).count("\n") == 0
    assert same(before, state_of(net, optimizer))
    assert all(p.grad is None for p in net.parameters())


def test_an_optimizer_without_parameters():
    net, _, criterion, loader = parts()
    with pytest.raises(OptimizerError, match="has no parameters"):
        find_lr(net, optim.SGD([{"params": []}], lr=0.1), criterion, loader)


def test_an_optimizer_on_another_net():
    net, _, criterion, loader = parts()
    with pytest.raises(OptimizerError, match=r"none of the optimizer's parameters are the model's"):
        find_lr(net, optim.SGD(nn.Linear(2, 2).parameters(), lr=0.1), criterion, loader)


def told_of(caplog):
    return [record.message for record in caplog.records if "that no optimizer trains" in record.message]


def test_a_layer_that_was_replaced_after_the_optimizer_was_made_is_told(caplog):
    net, optimizer, criterion, loader = parts()
    net[2] = nn.Linear(net[2].in_features, net[2].out_features)
    find_lr(net, optimizer, criterion, loader, num_steps=20)
    assert len(told_of(caplog)) == 1
    assert "trains 2 tensors that the model does not have, and the model has 2 tensors" in told_of(caplog)[0]


def test_a_temperature_of_the_loss_and_a_body_that_is_not_trained_are_no_replaced_layer(caplog):
    net, _, criterion, loader = parts()
    scale = nn.Linear(3, 3)
    optimizer = optim.SGD([*net[2].parameters(), *scale.parameters()], lr=0.1)
    find_lr(
        net,
        optimizer,
        loader=loader,
        loss_fn=lambda net, batch: criterion(scale(net(batch[0])), batch[1]),
        num_steps=20,
    )
    find_lr(net, optim.SGD(net[2].parameters(), lr=0.1), criterion, loader, num_steps=20)
    assert not told_of(caplog)


def test_a_temperature_that_only_a_step_trains_beside_a_target_network_is_no_replaced_layer(caplog):
    net, optimizer, criterion, loader = parts()
    target, temperature = copy.deepcopy(net), torch.zeros(1, requires_grad=True)
    of_temperature = optim.SGD([temperature], lr=0.1)

    def step(draw):
        inputs, targets = draw()
        loss = criterion(net(inputs) * temperature.exp() + target(inputs).detach(), targets)
        for each in (optimizer, of_temperature):
            each.zero_grad()
        loss.backward()
        for each in (optimizer, of_temperature):
            each.step()
        return loss

    find_lr(net, optimizer, loader=loader, train_step=step, num_steps=20)
    assert not told_of(caplog)


def test_nothing_requires_grad():
    net, optimizer, criterion, loader = parts()
    net.requires_grad_(False)
    with pytest.raises(OptimizerError, match="requires grad"):
        find_lr(net, optimizer, criterion, loader)


def test_parameters_that_have_no_numbers_yet():
    net, _, criterion, loader = parts()
    net[2].to("meta")
    with pytest.raises(ConfigurationError, match="meta device"):
        find_lr(net, optim.SGD(net.parameters(), lr=0.1), criterion, loader)


def test_lazy_layers():
    net = nn.LazyLinear(3)
    with pytest.raises(ConfigurationError, match="lazy"):
        find_lr(net, optim.SGD(net.parameters(), lr=0.1), nn.CrossEntropyLoss(), [0])


def test_lazy_buffers():
    net = nn.LazyBatchNorm1d(affine=False)
    linear = nn.Linear(8, 3)
    with pytest.raises(ConfigurationError, match="lazy"):
        find_lr(nn.Sequential(net, linear), optim.SGD(linear.parameters(), lr=0.1), nn.CrossEntropyLoss(), [0])


def test_a_model_without_numbers():
    net = nn.Linear(8, 3, device="meta")
    with pytest.raises(ConfigurationError, match="meta device"):
        find_lr(net, optim.SGD(net.parameters(), lr=0.1), nn.CrossEntropyLoss(), [0])


def test_a_model_that_was_made_in_inference_mode():
    with torch.inference_mode():
        net = nn.Linear(8, 3)
    with pytest.raises(ConfigurationError, match="made under torch"):
        find_lr(net, optim.SGD(net.parameters(), lr=0.1), nn.CrossEntropyLoss(), [0])


def metric_parts(bad):
    """Distances of pairs; one batch has the same example twice, at whose distance of 0 the root's gradient is NaN."""
    torch.manual_seed(0)
    inputs = torch.randn(3200, 8)
    targets = (inputs @ torch.randn(8, 1)).abs()
    pairs = zip(inputs.split(32), targets.split(32), strict=True)
    batches = [(each, each * torch.rand(32, 1) + 0.3, distance) for each, distance in pairs]
    batches[bad][1][3] = batches[bad][0][3]
    net = nn.Linear(8, 4)

    def loss_fn(model, batch):
        distances = (model(batch[0]) - model(batch[1])).square().sum(1).sqrt()
        return (distances.unsqueeze(1) - batch[2]).square().mean()

    return net, optim.SGD(net.parameters(), lr=0.1), {"loader": batches, "loss_fn": loss_fn, "progress": False}


@pytest.mark.parametrize("control_variate", [True, False])
@pytest.mark.parametrize("bad", [5, 30])
def test_a_gradient_of_nan_is_no_matter_of_the_rate(bad, control_variate):
    net, optimizer, how = metric_parts(bad)
    finding = find_lr(net, optimizer, control_variate=control_variate, **how)
    assert (finding.stop, finding.verdict) == (Stop.NOT_FINITE, Verdict.NOT_FINITE)
    assert f"batch {bad + 1} of the sweep" in finding.why
    assert "in that batch, or in the gradient of the one before" in finding.why


def test_a_gradient_of_nan_on_the_way_down_gives_no_rate():
    net, optimizer, how = metric_parts(75)
    finding = find_lr(net, optimizer, **how)
    assert finding.suggestion is None
    assert "batch 76 of the sweep" in finding.why


def test_a_nan_ends_the_sweep_and_is_a_result():
    net, optimizer, criterion, loader = parts()
    finding = find_lr(net, optimizer, lambda o, t: criterion(o, t) * math.nan, loader)
    assert (finding.stop, len(finding.curve), finding.suggestion) == (Stop.NOT_FINITE, 1, None)


def test_a_rule_of_choice():
    net, optimizer, criterion, loader = parts()
    finding = find_lr(net, optimizer, criterion, loader, rule=rules.steep)
    assert finding.suggestion == rules.steep(finding.curve, finding.plan)


def test_losses_on_a_device_are_read_ten_at_a_time_and_the_curve_is_the_same():
    reads = []

    class AsOnADevice(TorchTrainable):
        def step(self, lr):
            return torch.tensor(super().step(lr), dtype=torch.float64)

        def read(self, losses):
            reads.append(len(losses))
            return super().read(losses)

    from findlr import find

    training = AsOnADevice(*parts())
    training.read_every = 10
    later = find(training, max_lr=1000.0, control_variate=False)
    net, optimizer, criterion, loader = parts()
    at_once = find_lr(net, optimizer, criterion, loader, max_lr=1000.0, control_variate=False)
    assert later.stop is Stop.DIVERGED
    assert later.curve == at_once.curve
    assert set(reads) == {10}
    assert later.cost.steps > at_once.cost.steps  # those after the one that tripped were taken, and cut


# What is missing


def python(code):
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)


def test_a_missing_torch_names_the_extra():
    done = python("import sys; sys.modules['torch'] = None\nimport findlr\nfindlr.find_lr")
    assert "pip install 'findlr[torch]'" in done.stderr.splitlines()[-1]
    assert "MissingExtraError" in done.stderr.splitlines()[-1]


def test_a_missing_matplotlib_names_the_extra():
    done = python(
        "import sys; sys.modules['matplotlib'] = None\nimport findlr, findlr.testing\n"
        "findlr.find(findlr.testing.Quadratic()).plot()"
    )
    assert "pip install 'findlr[plot]'" in done.stderr.splitlines()[-1]


def test_a_missing_pandas_names_the_extra():
    done = python(
        "import sys; sys.modules['pandas'] = None\nimport findlr, findlr.testing\n"
        "findlr.find(findlr.testing.Quadratic()).to_pandas()"
    )
    assert "pip install 'findlr[pandas]'" in done.stderr.splitlines()[-1]
