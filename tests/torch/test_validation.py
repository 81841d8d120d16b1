"""The held-out loss along a sweep: Smith's curve beside the training loss, with nothing else moved."""

import copy
import itertools
import random

import numpy as np
import pytest
import torch
from torch import nn, optim
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset

from findlr import ConfigurationError, Finding, LoaderError, LossError, Stop, find, find_lr
from findlr.search.recording import Recording
from findlr.search.stopping import StopRule
from findlr.search.sweep import run_sweep
from findlr.testing import Quadratic
from findlr.torch.validation import Evaluating
from findlr.views.drawing import describe

RANGE = dict(min_lr=1e-3, max_lr=0.5, num_steps=20, control_variate=False)


class Noisy(nn.Module):
    """Draws in eval mode, too."""

    def forward(self, x):
        return x + 0.01 * torch.randn_like(x)


def parts():
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(8, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.2), Noisy(), nn.Linear(16, 3))
    net[1].eval()  # a frozen BatchNorm
    inputs = torch.randn(200, 8)
    data = TensorDataset(inputs, inputs[:, :3].argmax(dim=1))
    loader = DataLoader(data, 16, shuffle=True)
    return net, optim.SGD(net.parameters(), lr=0.05, momentum=0.9), nn.CrossEntropyLoss(), loader


def held_out(**how):
    inputs = torch.randn(50, 8, generator=torch.Generator().manual_seed(1))
    return DataLoader(TensorDataset(inputs, inputs[:, :3].argmax(dim=1)), 16, shuffle=True, **how)  # the last one: 2


LOADERS = {
    "shuffled": held_out,
    "own generator": lambda: held_out(generator=torch.Generator().manual_seed(3)),
    "list": lambda: list(held_out()),
    "2 workers": lambda: held_out(num_workers=2),
    "persistent workers": lambda: held_out(num_workers=2, persistent_workers=True),
}


@pytest.mark.parametrize("loader", LOADERS)
def test_the_validation_loss_moves_nothing_in_the_sweep_nor_after_it(loader):
    training, validation = parts(), LOADERS[loader]()
    with_it = find_lr(*training, **RANGE, validation_loader=validation, validation_every=5)
    assert not training[0][1].training
    rng = torch.get_rng_state()
    order = [targets.tolist() for _, targets in validation]
    training = parts()
    again = LOADERS[loader]()
    without = find_lr(*training, **RANGE)
    assert torch.equal(rng, torch.get_rng_state())
    assert with_it.curve.loss.tolist() == without.curve.loss.tolist()
    assert order == [targets.tolist() for _, targets in again]
    assert np.isfinite(with_it.curve.validation).sum() == 4
    for batches in (validation, again):
        if getattr(batches, "_iterator", None):
            batches._iterator._shutdown_workers()


def test_it_is_the_mean_over_all_examples_in_eval_mode_after_the_step():
    """A mean of the batches' means, or one over len(dataset), is wrong where the last batch is smaller."""
    batches = list(held_out())
    curve = find_lr(*parts(), **RANGE, validation_loader=batches).curve
    net, optimizer, criterion, loader = parts()
    stream = (batch for _ in range(9) for batch in loader)
    for lr, seen in zip(curve.lr, curve.validation, strict=True):
        optimizer.param_groups[0]["lr"] = lr
        inputs, targets = next(stream)
        optimizer.zero_grad()
        criterion(net(inputs), targets).backward()
        optimizer.step()
        modes = [module.training for module in net.modules()]
        net.eval()
        rng = torch.get_rng_state()
        with torch.no_grad():
            outputs = torch.cat([net(inputs) for inputs, _ in batches])
            truth = criterion(outputs, torch.cat([targets for _, targets in batches]))
        torch.set_rng_state(rng)
        for module, mode in zip(net.modules(), modes, strict=True):
            module.training = mode
        assert seen == pytest.approx(truth.item(), rel=1e-5)


def test_a_validation_loader_that_drops_its_last_batch_gives_the_mean_of_what_it_gives():
    whole = find_lr(*parts(), **RANGE, validation_loader=held_out(drop_last=True)).curve
    assert whole.validation[0] == pytest.approx(np.log(3), abs=0.3)


@pytest.mark.parametrize("every", [1, 3, 20, 21])
def test_every_k_steps_and_nan_between(every):
    curve = find_lr(*parts(), **RANGE, validation_loader=held_out(), validation_every=every).curve
    if every > 20:
        assert curve.validation is None
    else:
        expected = [(i + 1) % every == 0 for i in range(20)]
        assert np.isfinite(curve.validation).tolist() == expected


def test_it_counts_in_the_cost_and_survives_json(tmp_path):
    finding = find_lr(*parts(), **RANGE, validation_loader=held_out(), validation_every=5)
    assert (finding.cost.forwards, finding.cost.backwards) == (20 + 4 * 4, 20)
    assert finding.cost.steps == pytest.approx(20 + 16 / 3)
    finding.save(tmp_path / "run.json")
    assert Finding.load(tmp_path / "run.json").curve == finding.curve


def test_under_verify_it_scores_the_race_only():
    finding = find_lr(*parts(), **RANGE, validation_loader=held_out(), verify=True, total_steps=100, budget=150)
    assert finding.race is not None
    assert finding.curve.validation is None


@pytest.mark.parametrize("every", [0, -1, 1.5, True])
def test_a_count_of_steps_that_cannot_be_is_refused(every):
    with pytest.raises(ConfigurationError, match="validation_every"):
        find_lr(*parts(), validation_loader=held_out(), validation_every=every)


class Endless:
    """A stream without a length, of so many batches if it ends."""

    def __init__(self, count=None):
        self.count = count

    def __iter__(self):
        return itertools.islice(itertools.cycle(held_out()), self.count)


def test_a_validation_loader_that_does_not_end_is_one_clear_error(monkeypatch):
    monkeypatch.setattr("findlr.torch.validation._MOST_BATCHES", 50)
    training = parts()
    before = copy.deepcopy(training[0].state_dict())
    with pytest.raises(LoaderError, match="validation_loader gave 50 batches and has not ended"):
        find_lr(*training, **RANGE, validation_loader=Endless())
    assert all(torch.equal(value, before[name]) for name, value in training[0].state_dict().items())
    assert find_lr(*training, **RANGE, validation_loader=Endless(50), validation_every=10).curve.validation is not None


@pytest.mark.parametrize("race", [{}, {"verify": True, "total_steps": 100}])
@pytest.mark.parametrize("too_large", [False, True])
def test_an_empty_validation_loader_is_one_clear_error_and_everything_is_back(too_large, race):
    net, optimizer, criterion, loader = parts()
    before = [p.detach().clone() for p in net.parameters()]
    empty = DataLoader(loader.dataset, len(loader.dataset) + 1, drop_last=True) if too_large else []
    with pytest.raises(LoaderError, match="validation_loader is empty"):
        find_lr(net, optimizer, criterion, loader, validation_loader=empty, progress=False, **race)
    assert all(map(torch.equal, before, net.parameters()))


@pytest.mark.parametrize("given", [5, held_out().dataset, iter(held_out()), (batch for batch in held_out())], ids=type)
def test_what_is_no_validation_loader_is_told_by_that_name(given):
    with pytest.raises(
        LoaderError, match=r"^validation_loader (must be an iterable of batches|is a one-shot iterator)"
    ):
        find_lr(*parts(), validation_loader=given)


@pytest.mark.parametrize("how", [{}, dict(verify=True, total_steps=100, budget=200)])
def test_a_validation_batch_that_is_no_pair_is_told_as_the_validation_loaders_in_a_few_lines(how):
    with pytest.raises(
        LoaderError, match=r"^validation_loader does not fit: .* got a dict of 1: give loss_fn"
    ) as caught:
        find_lr(*parts(), **RANGE, validation_loader=[{"x": torch.ones(2, 8)}], **how)
    assert len(caught.traceback) <= 5


def test_a_validation_batch_that_raises_leaves_every_mode_as_it_was():
    net, optimizer, criterion, loader = parts()
    modes = [module.training for module in net.modules()]
    with pytest.raises(LoaderError):
        find_lr(net, optimizer, criterion, loader, validation_loader=[(torch.ones(2, 5), torch.ones(2))])
    assert [module.training for module in net.modules()] == modes


@pytest.mark.parametrize("how", [{}, dict(verify=True, total_steps=100, budget=200)])
def test_a_batch_that_does_not_fit_is_told_as_the_validation_loaders(how):
    net, optimizer, criterion, loader = parts()
    with pytest.raises(LoaderError, match=r"\(float64 \(2, 8\), .* of validation_loader: its layer Linear"):
        find_lr(net, optimizer, criterion, loader, validation_loader=[(torch.ones(2, 8).double(), None)], **how)

    def own(outputs, targets):
        if len(outputs) != len(targets):
            raise KeyError("labels")
        return functional.cross_entropy(outputs, targets)

    with pytest.raises(KeyError, match="labels") as caught:
        find_lr(net, optimizer, own, loader, validation_loader=[(torch.ones(2, 8), torch.ones(3).long())], **how)
    assert "the first batch is (float32 (2, 8), int64 (3,)) of validation_loader" in caught.value.__notes__[0]


def test_both_curves_are_on_the_plot():
    from matplotlib.figure import Figure

    finding = find_lr(*parts(), **{**RANGE, "num_steps": 60}, validation_loader=held_out(), validation_every=4)
    drawing = describe(finding)
    assert 8 <= len(drawing.validation) <= 15
    labels = [text.get_text() for text in finding.plot(Figure().subplots()).get_legend().get_texts()]
    assert "validation loss" in labels
    assert describe(find_lr(*parts(), **RANGE)).validation is None


class Validated(Quadratic):
    """A Trainable without a framework that measures, skips and tells of skips late."""

    validation_every = 2
    skips = ()
    steps = 0

    def step(self, lr):
        self.steps += 1
        return super().step(lr)

    def validate(self):
        return self.weight

    def skipped(self):
        return float(self.steps - 1 in self.skips)


def test_any_trainable_can_measure_one():
    curve = find(Validated(), num_steps=20).curve
    assert np.isfinite(curve.validation).tolist() == [False, True] * (len(curve) // 2)
    assert curve.validation[1] == pytest.approx(1.0, abs=1e-4)


@pytest.mark.parametrize("read_every", [1, 7])
def test_skips_that_are_told_late_drop_their_points(read_every):
    training = Validated()
    training.skips = {0, 4, *range(10, 29)}
    recording = Recording(training.read, 50, StopRule(), read_every)
    run_sweep(training, np.geomspace(1e-6, 1e-3, 50), recording, validated=training)
    curve = recording.curve(0.98)
    assert recording.stop is Stop.FINISHED
    assert curve.lr.tolist() == [lr for i, lr in enumerate(np.geomspace(1e-6, 1e-3, 50)) if i not in training.skips]
    assert np.isfinite(curve.validation).sum() == len([i for i in range(1, 50, 2) if i not in training.skips])


@pytest.mark.parametrize("read_every", [1, 7])
def test_twenty_late_skips_in_a_row_end_the_sweep(read_every):
    training = Validated()
    training.skips = range(10, 50)
    recording = Recording(training.read, 50, StopRule(), read_every)
    run_sweep(training, np.geomspace(1e-6, 1e-3, 50), recording)
    assert recording.stop is Stop.OVERFLOW
    assert len(recording.curve(0.98)) == 10


def test_held_out_data_with_a_nan_are_told_before_any_run_is_scored():
    net, optimizer, criterion, loader = parts()
    bad = [(torch.full((16, 8), float("nan")), torch.zeros(16, dtype=torch.long))]
    before = [p.detach().clone() for p in net.parameters()]
    with pytest.raises(LossError, match=r"under the starting weights is nan.*validation_loader") as caught:
        find_lr(net, optimizer, criterion, loader, validation_loader=bad, verify=True, total_steps=400)
    assert all(map(torch.equal, before, net.parameters()))
    assert len(caught.value.finding.curve) > 20


def test_a_sweep_whose_held_out_losses_are_no_numbers_says_so(caplog):
    bad = [(torch.full((16, 8), float("nan")), torch.zeros(16, dtype=torch.long))]
    finding = find_lr(*parts(), **RANGE, validation_loader=bad, validation_every=5)
    assert finding.curve.validation is None
    assert "no held-out loss is a number" in caplog.text


class Detector(nn.Module):
    """Gives its losses in train mode, and boxes in eval mode, as torchvision's do; counts what it is trained on."""

    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(4, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.3), nn.Linear(16, 4))
        self.register_buffer("seen", torch.zeros(()))

    def forward(self, images, boxes=None):
        found = self.body(images)
        if not self.training:
            return [{"boxes": each} for each in found]
        self.seen = self.seen + len(images)
        return {"box": functional.smooth_l1_loss(found, boxes), "size": found.square().mean() * 0.01}


@pytest.mark.parametrize("verify", [True, False])
@pytest.mark.parametrize("mode", ["train", "eval"])
def test_a_loss_that_only_train_mode_has_is_scored_there(mode, verify, caplog):
    torch.manual_seed(0)
    images = torch.randn(320, 4)
    loader = DataLoader(TensorDataset(images, images.cumsum(1)), 16, shuffle=True)
    net = getattr(Detector(), mode)()
    optimizer = optim.SGD(net.parameters(), lr=0.1)
    before = {name: value.clone() for name, value in net.state_dict().items()}
    found = find_lr(
        net,
        optimizer,
        loader=loader,
        loss_fn=lambda net, batch: sum(net(*batch).values()),
        validation_loader=list(loader)[:2],
        validation_every=10,
        verify=verify,
        total_steps=200,
        progress=False,
    )
    scores = [run.loss for run in found.race.runs] if verify else found.curve.validation[9::10]
    assert np.isfinite(scores).all()
    assert [each.message.partition(" (")[0] for each in caplog.records if each.levelname == "WARNING"] == [
        "the training's loss can't be had in eval mode"
    ]
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    assert net.training is (mode == "train")


def test_train_mode_in_an_evaluation_touches_no_statistics_and_drops_nothing():
    net = Detector()
    images = torch.randn(8, 4)
    with Evaluating([net]) as modes:
        modes.train_all_but_torchs()
        first, second = (net(images, images)["box"] for _ in range(2))
        assert torch.equal(first, second)
    assert net.seen == 0
    assert net.body[1].num_batches_tracked == 0
    assert all(module.training for module in net.modules())


def test_what_a_loss_raises_in_both_modes_stays_its_own():
    net, optimizer, _, loader = parts()
    calls = []

    def loss_fn(net, batch):
        calls.append(net.training)
        if len(calls) > 20:
            raise KeyError("labels")
        return functional.cross_entropy(net(batch[0]), batch[1])

    with pytest.raises(KeyError, match="labels"):
        find_lr(net, optimizer, loader=loader, loss_fn=loss_fn, **RANGE | {"num_steps": 20}, validation_loader=loader)
