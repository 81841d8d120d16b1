"""Loops in a range test: written in epochs, counting, without a step, with several optimizers."""

from traceback import print_exc

import numpy as np
import pytest
import torch
from torch import nn, optim
from torch.func import functional_call
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset

from findlr import RangeTest, Stop, find_lr
from findlr.errors import OptimizerError
from findlr.views.plot import compare


def parts():
    torch.manual_seed(0)
    inputs = torch.randn(40, 4)
    batches = [(x, x.sum(1, keepdim=True)) for x in inputs.split(8)]
    net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 1))
    return net, optim.SGD(net.parameters(), lr=0.1), batches


def passed(net, optimizer, batch, test):
    inputs, targets = batch
    loss = nn.functional.mse_loss(net(inputs), targets)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    test.record(loss)


def test_a_training_in_epochs_gets_one_pass_at_a_time():
    net, optimizer, batches = parts()
    counts = []
    with RangeTest(net, optimizer, num_steps=12, max_lr=0.1, progress=False) as test:
        while not test.done:
            items = test.epoch(batches)
            assert len(items) == len(batches)
            counts.append(sum(passed(net, optimizer, batch, test) is None for batch in items))
    assert counts == [5, 5, 2]
    assert len(test.finding.curve) == 12


@pytest.mark.parametrize(("max_lr", "stop"), [(0.1, Stop.FINISHED), (1e4, Stop.DIVERGED)])
def test_no_pass_is_empty_where_passes_are_left_early(max_lr, stop):
    net, optimizer, batches = parts()
    counts = []

    def some_of(items):
        for at, batch in enumerate(items, start=1):
            passed(net, optimizer, batch, test)
            if at == 3:
                break
        counts.append(at)

    with RangeTest(net, optimizer, num_steps=12, min_lr=1e-2, max_lr=max_lr, progress=False) as test:
        while not test.done:
            some_of(test.epoch(batches))
    assert test.finding.stop is stop
    assert sum(counts) == len(test.finding.curve)


def test_a_point_of_several_steps_is_whole_where_its_loop_asks_whether_the_sweep_is_over():
    net, optimizer, batches = parts()
    with RangeTest(net, optimizer, num_steps=6, max_lr=0.1, progress=False) as test:
        for _ in test.steps():
            for batch in batches[:3]:
                passed(net, optimizer, batch, test)
                assert not test.done
    assert len(test.finding.curve) == 6


def test_a_loop_that_counts():
    net, optimizer, batches = parts()
    with RangeTest(net, optimizer, num_steps=8, max_lr=0.1, progress=False) as test:
        items = test(batches)
        assert len(items) == len(batches)
        for batch in items:
            passed(net, optimizer, batch, test)


def test_a_loop_that_asks_its_loader_for_more_than_batches():
    net, optimizer, batches = parts()
    data = TensorDataset(*map(torch.cat, zip(*batches, strict=True)))
    loader = DataLoader(data, batch_size=8, sampler=torch.utils.data.DistributedSampler(data, 1, 0))
    with RangeTest(net, optimizer, num_steps=12, max_lr=0.1, progress=False) as test:
        while not test.done:
            items = test.epoch(loader)
            items.sampler.set_epoch(3)
            assert (len(items.dataset), items.batch_size, items.drop_last) == (40, 8, False)
            for batch in items:
                passed(net, optimizer, batch, test)
        assert test(loader).dataset is data
        with pytest.raises(AttributeError, match=r"DataLoader.*'rows'"):
            _ = items.rows
        assert not hasattr(items, "_iterator")
    assert loader.sampler.epoch == 0


def test_a_stream_has_no_length():
    net, optimizer, batches = parts()
    with RangeTest(net, optimizer, num_steps=8, progress=False) as test, pytest.raises(TypeError, match="no len"):
        len(test(torch.utils.data.DataLoader(Endless(batches), batch_size=None)))


class Endless(torch.utils.data.IterableDataset):
    def __init__(self, batches):
        self.batches = batches

    def __iter__(self):
        return iter(self.batches)


def test_weights_that_move_without_a_step_are_an_error_at_once():
    net, optimizer, batches = parts()
    seen = []

    def loop():
        with RangeTest(net, optimizer, progress=False) as test:
            for inputs, _ in test(batches):
                seen.append(net(inputs).mean())
                test.record(seen[-1])
                with torch.no_grad():
                    net[0].weight.mul_(0.9)

    with pytest.raises(OptimizerError, match="moves the weights, and does not call step"):
        loop()
    assert len(seen) <= 3


@pytest.mark.parametrize("when", ["before", "after", "by hand"])
def test_an_update_by_hand_is_an_error_however_it_drops_its_gradients(when):
    net, optimizer, batches = parts()
    seen = []

    def loop():
        with RangeTest(net, optimizer, progress=False) as test:
            for inputs, _ in test(batches):
                if when == "before":
                    optimizer.zero_grad(set_to_none=False)
                seen.append(net(inputs).mean())
                test.record(seen[-1])
                seen[-1].backward()
                with torch.no_grad():
                    for p in net.parameters():
                        p.sub_(0.1 * p.grad)
                        if when == "by hand":
                            p.grad.zero_()
                if when == "after":
                    optimizer.zero_grad()

    with pytest.raises(OptimizerError, match="moves the weights, and does not call step"):
        loop()
    assert len(seen) <= 3


def test_weights_that_a_forward_pass_writes_to_may_accumulate():
    torch.manual_seed(0)
    words = torch.randint(0, 100, (640, 4))
    batches = list(zip(words.split(8), (words[:, 0] > 50).long().split(8), strict=True))
    net = nn.Sequential(nn.Embedding(100, 8, max_norm=1.0), nn.Flatten(), nn.Linear(32, 2))
    optimizer, steps = optim.Adam(net.parameters()), []
    with RangeTest(net, optimizer, num_steps=10, progress=False) as test:
        for at, (inputs, targets) in enumerate(test(batches)):
            loss = functional.cross_entropy(net(inputs), targets)
            (loss / 4).backward()
            test.record(loss)
            if at % 4 == 3:
                optimizer.step()
                optimizer.zero_grad()
                steps.append(at)
    assert len(steps) == len(test.finding.curve) == 10


def test_a_loop_that_never_steps_ends():
    net, optimizer, batches = parts()
    seen = []

    def loop():
        with RangeTest(net, optimizer, progress=False) as test:
            for inputs, _ in test(batches):
                seen.append(net(inputs).mean().item())
                test.record(seen[-1])

    with pytest.raises(OptimizerError, match="1000 items"):
        loop()
    assert len(seen) <= 1_001


def test_several_optimizers_are_swept_together_with_their_ratio():
    net, _, batches = parts()
    pair = {"first": optim.SGD(net[0].parameters(), lr=0.1), "last": optim.Adam(net[2].parameters(), lr=0.01)}
    rates = []
    with RangeTest(net, pair, sweep=["first", "last"], num_steps=10, max_lr=0.1, progress=False) as test:
        for inputs, targets in test(batches):
            loss = nn.functional.mse_loss(net(inputs), targets)
            for each in pair.values():
                each.zero_grad()
            loss.backward()
            for each in pair.values():
                each.step()
            test.record(loss)
            rates.append([each.param_groups[0]["lr"] for each in pair.values()])
    assert all(first == pytest.approx(10 * last) for first, last in rates)
    assert [each.param_groups[0]["lr"] for each in pair.values()] == [0.1, 0.01]
    assert test.finding.facts["optimizers"] == 2


class Holds:
    """A scaler inside a wrapper."""

    def __init__(self):
        self.scaler = torch.amp.GradScaler("cpu")


def test_a_scaler_is_noticed_wherever_it_is_held():
    net, optimizer, batches = parts()
    held = Holds()
    with RangeTest(net, optimizer, num_steps=60, progress=False) as test:
        for at, (inputs, targets) in enumerate(test(batches)):
            loss = nn.functional.mse_loss(net(inputs), targets) * (float("nan") if at > 5 else 1.0)
            optimizer.zero_grad()
            held.scaler.scale(loss).backward()
            held.scaler.step(optimizer)
            held.scaler.update()
            test.record(loss)
    assert len(test.finding.curve) <= 8
    assert held.scaler.get_scale() == 2.0**16


class Scaled(torch.amp.GradScaler):
    """A scaler of somebody's own."""

    def step(self, optimizer, *args, **how):
        return super().step(optimizer, *args, **how)


@pytest.mark.parametrize("kind", [torch.amp.GradScaler, Scaled])
def test_a_scaler_that_the_loop_makes_is_noticed(kind):
    net, optimizer, batches = parts()
    at = 0
    with RangeTest(net, optimizer, num_steps=60, progress=False) as test:
        while not test.done:
            scaler = kind("cpu")
            for inputs, targets in test.epoch(batches):
                at += 1
                loss = nn.functional.mse_loss(net(inputs), targets) * (float("nan") if at > 12 else 1.0)
                optimizer.zero_grad()
                scaler.scale(loss).backward()
                scaler.step(optimizer)
                scaler.update()
                test.record(loss)
    assert len(test.finding.curve) == 13
    assert test.finding.stop is Stop.NOT_FINITE
    assert "step" in vars(torch.amp.GradScaler)
    assert torch.amp.GradScaler.step.__module__ == "torch.amp.grad_scaler"


def test_a_step_that_a_scaler_of_the_loop_skips_is_no_point():
    net, optimizer, batches = parts()
    scalers, at = [], 0
    with RangeTest(net, optimizer, num_steps=20, max_lr=1e-3, progress=False) as test:
        for inputs, targets in test(batches):
            scalers = scalers or [torch.amp.GradScaler("cpu")]
            loss = nn.functional.mse_loss(net(inputs), targets)
            optimizer.zero_grad()
            scalers[0].scale(loss).backward()
            if at in (7, 8):
                net[0].weight.grad[0, 0] = float("inf")
            scalers[0].step(optimizer)
            scalers[0].update()
            test.record(loss)
            at += 1
    assert len(test.finding.curve) == 20
    assert at == 22


def test_a_loss_that_differentiates_has_a_control_variate():
    net, optimizer, batches = parts()

    def penalized(model, batch):
        inputs = batch[0].clone().requires_grad_()
        outputs = model(inputs)
        (slope,) = torch.autograd.grad(outputs.sum(), inputs, create_graph=True)
        return (outputs - batch[1]).square().mean() + (slope.square().sum(1) - 4).square().mean()

    finding = find_lr(net, optimizer, loader=batches, loss_fn=penalized, validation_loader=batches, progress=False)
    assert finding.curve.baseline is not None


def adapted(model, batch):
    """A step of its own to other weights; what it can't differentiate it prints, and then misses, as learn2learn's."""
    inputs, targets = batch
    weights = dict(model.named_parameters())
    loss = nn.functional.mse_loss(functional_call(model, weights, inputs), targets)
    try:
        slopes = torch.autograd.grad(loss, list(weights.values()), create_graph=True)
    except RuntimeError:
        print_exc()
    weights = {name: w - 0.1 * slope for (name, w), slope in zip(weights.items(), slopes, strict=True)}
    return nn.functional.mse_loss(functional_call(model, weights, inputs), targets)


def test_a_loss_that_differentiates_behind_an_error_of_its_own_has_a_control_variate_and_a_race():
    net, optimizer, batches = parts()
    settings = dict(total_steps=200, verify=True, progress=False)
    finding = find_lr(net, optimizer, loader=batches, loss_fn=adapted, **settings)
    assert finding.curve.baseline is not None
    assert len(finding.race.runs) >= 3


@pytest.mark.parametrize(("fails_at", "modes"), [(1, [False, True]), (2, [False, False])])
def test_only_a_first_loss_that_fails_is_computed_again_with_gradients(fails_at, modes):
    net, optimizer, batches = parts()
    seen = []

    def failing(model, batch):
        if not model.training:
            seen.append(torch.is_grad_enabled())
            if len(seen) >= fails_at:
                raise KeyError("mask")
        return nn.functional.mse_loss(model(batch[0]), batch[1])

    with pytest.raises(KeyError, match="mask"):
        find_lr(net, optimizer, loader=batches, loss_fn=failing, validation_loader=batches, control_variate=False)
    assert seen == modes


class Contrasted(nn.Module):
    """Momentum contrast, with its queue: empty at first, so that the loss rises as it fills."""

    def __init__(self):
        super().__init__()
        self.encoder, self.keys = nn.Linear(8, 16), nn.Linear(8, 16).requires_grad_(False)
        self.keys.load_state_dict(self.encoder.state_dict())
        self.register_buffer("queue", torch.zeros(512, 16))

    def forward(self, inputs):
        keys = functional.normalize(self.keys(inputs + 0.1 * torch.randn_like(inputs)), dim=1)
        anchors = functional.normalize(self.encoder(inputs), dim=1)
        others = anchors @ self.queue.T.clone()
        self.queue = torch.cat([keys, self.queue[: -len(keys)]])
        return torch.cat([(anchors * keys).sum(1, keepdim=True), others], 1) / 0.1


class Quantized(nn.Module):
    """A codebook that follows what is encoded, by a moving average."""

    def __init__(self):
        super().__init__()
        self.encoder = nn.Linear(8, 4)
        self.register_buffer("codes", torch.randn(16, 4))

    def forward(self, inputs):
        encoded = self.encoder(inputs)
        nearest = torch.cdist(encoded, self.codes).argmin(1)
        codes = self.codes[nearest]
        self.codes.data[nearest] = codes.lerp(encoded.detach(), 0.1)  # which no version counts
        return encoded - codes


@pytest.mark.parametrize(("kind", "has_baseline"), [(Contrasted, False), (Quantized, True)])
def test_a_queue_that_fills_or_a_codebook_that_follows_is_neither_a_divergence_nor_a_fall(kind, has_baseline):
    torch.manual_seed(0)
    net = kind()

    def loss_fn(model, batch):
        outputs = model(batch[0])
        return outputs.logsumexp(1).mean() - outputs[:, 0].mean() if kind is Contrasted else outputs.square().mean()

    loader = DataLoader(TensorDataset(torch.randn(640, 8)), 32, shuffle=True)
    finding = find_lr(net, optim.Adam(net.encoder.parameters()), loader=loader, loss_fn=loss_fn, progress=False)
    assert finding.curve.lr[-1] > 1e-5
    curve = finding.curve
    assert (curve.baseline is not None) == has_baseline
    if has_baseline:  # a queue's stale keys look like learning at a high rate
        slow = curve.lr < 1e-5  # at such rates nothing but the buffers moves
        np.testing.assert_allclose(curve.loss[slow], curve.baseline[slow], rtol=1e-2)
        assert np.ptp(curve.loss[slow]) > 10 * np.abs(curve.loss - curve.baseline)[slow].max()


def test_findings_are_compared_by_their_labels():
    from matplotlib.figure import Figure

    runs = {}
    for name in ("one", "two"):
        net, optimizer, batches = parts()
        runs[name] = find_lr(net, optimizer, nn.MSELoss(), batches, num_steps=40, progress=False)
    ax = compare(runs, ax=Figure().subplots())
    assert [text.get_text().split(":")[0] for text in ax.get_legend().get_texts()] == ["one", "two"]
