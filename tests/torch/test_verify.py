"""The control variate and the race on real nets: against slow references, and nothing lost."""

import copy
import math
import random
from itertools import islice

import numpy as np
import pytest
import torch
from torch import nn, optim
from torch.utils.data import DataLoader, TensorDataset

from findlr import ConfigurationError, Finding, LoaderError, OptimizerError, Plan, TorchTrainable, find, find_lr
from findlr.search.restoring import Remembered, restored


class Net(nn.Module):
    """BatchNorm, dropout, and a tied weight."""

    def __init__(self):
        super().__init__()
        self.first = nn.Linear(8, 8)
        self.norm = nn.BatchNorm1d(8)
        self.drop = nn.Dropout(0.3)
        self.second = nn.Linear(8, 8)
        self.second.weight = self.first.weight
        self.last = nn.Linear(8, 3)

    def forward(self, x):
        return self.last(self.drop(self.norm(self.second(torch.relu(self.first(x))))))


def parts(seed=0, net=None):
    torch.manual_seed(seed)
    net = net or Net()
    inputs = torch.randn(160, 8)
    loader = DataLoader(TensorDataset(inputs, inputs[:, :3].argmax(dim=1)), 16, shuffle=True)
    return net, optim.SGD(net.parameters(), lr=0.05, momentum=0.9), nn.CrossEntropyLoss(), loader


def state_of(net, optimizer):
    tensors = [*net.state_dict().values(), *(v for s in optimizer.state.values() for v in s.values() if v is not None)]
    return [t.clone() for t in tensors], torch.get_rng_state(), [m.training for m in net.modules()]


def same(a, b):
    return len(a[0]) == len(b[0]) and all(map(torch.equal, a[0], b[0])) and torch.equal(a[1], b[1]) and a[2] == b[2]


# The control variate


def test_the_baseline_is_the_same_batch_and_dropout_under_the_starting_weights():
    torch.manual_seed(0)
    training = TorchTrainable(*parts())
    start = copy.deepcopy(training.model)
    snapshot = training.snapshot()
    assert training.prepare_baseline(snapshot) is None
    batches = []
    draw = training.batches.next
    training.batches.next = lambda: batches.append(draw()) or batches[-1]
    for lr in (0.01, 0.1, 1.0):
        before = torch.get_rng_state()
        training.step(lr)
        after = torch.get_rng_state()
        got = training.baseline()
        assert torch.equal(torch.get_rng_state(), after)
        torch.set_rng_state(before)
        if len(batches) == 1:
            torch.set_rng_state(_after_opening(snapshot))
        reference = copy.deepcopy(start)
        assert got == nn.functional.cross_entropy(reference(batches[-1][0]), batches[-1][1]).item()
        torch.set_rng_state(after)
    training.restore(snapshot)


def _after_opening(snapshot):
    """The random state after a first batch is drawn from the same loader."""
    snapshot_state = torch.get_rng_state()
    *_, loader = parts()
    torch.set_rng_state(snapshot_state)
    next(iter(loader))
    return torch.get_rng_state()


def test_the_control_variate_changes_no_loss_of_the_sweep():
    without = find_lr(*parts(), control_variate=False)
    with_it = find_lr(*parts(), control_variate=True)
    np.testing.assert_array_equal(without.curve.loss, with_it.curve.loss)
    assert without.curve.baseline is None
    assert with_it.curve.baseline[0] == with_it.curve.loss[0]
    early = slice(0, 40)
    difference = with_it.curve.loss - with_it.curve.baseline
    assert difference[early].std() < 0.02 * with_it.curve.loss[early].std()
    assert with_it.cost.steps == pytest.approx(without.cost.steps * 4 / 3, abs=1)


class Noisy(nn.Module):
    """Draws from Python's or NumPy's generator in each forward pass, or from none."""

    def __init__(self, draw):
        super().__init__()
        self.net, self.draw = nn.Linear(8, 3), draw

    def forward(self, inputs):
        return self.net(inputs) + self.draw()


@pytest.mark.parametrize("draw", [np.random.normal, lambda: random.gauss(0, 1)], ids=["numpy", "python"])
def test_the_baseline_sees_the_draws_that_a_forward_pass_made_outside_of_torch(draw):
    random.seed(0)
    np.random.seed(0)
    *_, loader = parts()

    def train():
        noisy = Noisy(draw)
        noisy.load_state_dict({"net.weight": torch.zeros(3, 8), "net.bias": torch.zeros(3)})
        criterion = nn.MSELoss()
        data = [(inputs, torch.zeros(len(inputs), 3)) for inputs, _ in loader]
        optimizer = optim.SGD(noisy.parameters(), lr=1e-9)
        return find_lr(noisy, optimizer, criterion, data, num_steps=30, max_lr=1e-7, control_variate=True).curve

    curve = train()
    assert len(set(curve.loss.tolist())) == 30
    np.testing.assert_allclose(curve.baseline, curve.loss, rtol=1e-4)  # nothing is learned at such rates


def test_generators_that_the_first_step_does_not_draw_from_are_left_alone(monkeypatch):
    reads = []
    read = np.random.get_state
    monkeypatch.setattr(np.random, "get_state", lambda *args, **how: reads.append(1) or read(*args, **how))
    find_lr(*parts(), control_variate=True, num_steps=30)
    short = len(reads)
    reads.clear()
    find_lr(*parts(), control_variate=True, num_steps=90)
    assert len(reads) - short < 30  # of 60 steps more, each of which has two: what is left are the loader's passes


def test_the_control_variate_leaves_everything_as_it_was():
    net, optimizer, criterion, loader = parts()
    before = state_of(net, optimizer)
    find_lr(net, optimizer, criterion, loader, control_variate=True)
    assert same(before, state_of(net, optimizer))


def test_a_module_with_two_names_and_a_tied_weight_is_trained_all_the_same():
    net = nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 3), nn.Linear(3, 3))
    net[2].weight = net[1].weight
    net.append(net[1])
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    batches = [(torch.ones(2, 4), torch.tensor([0, 1]))]
    bound = []

    def call(**how):
        bound.clear()
        return find_lr(net, optimizer, nn.CrossEntropyLoss(), batches, on_step=watch, **how)

    def watch(step):
        bound.append([type(p) for p in net.parameters()] == [nn.Parameter] * 5)

    with_it, without = call(), call(control_variate=False)
    assert with_it.curve.baseline is not None
    assert with_it.curve.loss.tolist() == without.curve.loss.tolist()
    call()
    assert all(bound)


def test_a_model_with_hooks_has_no_control_variate(caplog):
    caplog.set_level("INFO", "findlr")
    net, optimizer, criterion, loader = parts()
    net.last.register_forward_hook(lambda *arguments: None)
    with pytest.raises(ConfigurationError, match="forward hooks"):
        find_lr(net, optimizer, criterion, loader, control_variate=True)
    assert find_lr(net, optimizer, criterion, loader).curve.baseline is None
    assert "no control variate: " in caplog.text


class Held(nn.Module):
    """Keeps its weight where functional_call can't reach it."""

    def __init__(self, inputs):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(3, inputs))
        self.held = [self.weight]

    def forward(self, x):
        return x @ self.held[0].T

    def double(self):
        self.weight.data = self.weight.data.double()
        return self


def test_a_self_check_that_fails_leaves_the_control_variate_out():
    finding = find_lr(*parts(net=Held(8)))
    assert finding.curve.baseline is None
    assert len(finding.curve) > 50


def test_a_control_variate_that_was_asked_for_is_not_left_out_in_silence(caplog):
    assert find_lr(*parts(net=Held(8)), control_variate=True).curve.baseline is None
    assert caplog.text.count("its check after the first step failed") == 1
    find_lr(*parts(net=Held(8)))
    assert caplog.text.count("its check after the first step failed") == 1  # nobody asked for it


def test_a_loss_that_changes_with_each_pass_leaves_the_control_variate_out():
    def criterion():
        scale = [1.0]

        def scaled(outputs, targets):
            scale[0] *= 0.99
            return scale[0] * nn.functional.cross_entropy(outputs, targets)

        return scaled

    net, optimizer, _, loader = parts()
    finding = find_lr(net, optimizer, criterion(), loader)
    assert finding.curve.baseline is None
    plain = find_lr(net, optimizer, criterion(), loader, control_variate=False)
    np.testing.assert_allclose(
        finding.curve.loss[:30], plain.curve.loss[:30], rtol=1e-6
    )  # seen before it is called again


class Meter:
    """A running average, and the losses that it has seen."""

    def __init__(self):
        self.average, self.count, self.seen = None, 0, []

    def update(self, loss):
        self.average = loss if self.average is None else 0.9 * self.average + 0.1 * loss
        self.count += 1
        self.seen.append(loss)


def test_a_loss_that_fills_a_meter_keeps_the_control_variate_and_fills_it_once_a_step():
    meter, calls = Meter(), 0
    net, optimizer, criterion, loader = parts()

    def metered(model, batch):
        nonlocal calls
        calls += 1
        loss = criterion(model(batch[0]), batch[1])
        meter.update(loss.item())
        return loss

    finding = find_lr(net, optimizer, loader=loader, loss_fn=metered)
    assert finding == find_lr(*parts())
    assert meter.seen == finding.curve.loss.tolist()
    assert meter.count == calls == len(finding.curve)


def test_a_forward_pass_that_writes_into_its_weights_spoils_neither_snapshot_nor_baseline():
    class Embedded(nn.Module):
        def __init__(self):
            super().__init__()
            self.table = nn.Embedding(10, 4, max_norm=0.5)  # renormalised in place by each forward pass
            self.last = nn.Linear(4, 3)

        def forward(self, tokens):
            return self.last(self.table(tokens).mean(dim=1))

    torch.manual_seed(0)
    net = Embedded()
    batches = [(torch.randint(10, (8, 5)), torch.randint(3, (8,))) for _ in range(20)]
    before = copy.deepcopy(net.state_dict())
    finding = find_lr(net, optim.SGD(net.parameters(), lr=0.1), nn.CrossEntropyLoss(), batches, control_variate=True)
    assert all(torch.equal(before[name], value) for name, value in net.state_dict().items())
    with torch.no_grad():
        expected = [nn.functional.cross_entropy(copy.deepcopy(net)(x), y).item() for x, y in batches]
    np.testing.assert_array_equal(finding.curve.baseline[:20], expected)


def scaled_in_place(model, batch):
    """Writes into its batch, as a normalisation of images does: what comes next time is another batch."""
    inputs, targets = batch
    return nn.functional.cross_entropy(model(inputs.div_(2.0)), targets)


def scaled(model, batch):
    return nn.functional.cross_entropy(model(batch[0] / 2.0), batch[1])


def test_a_loss_that_writes_into_its_batch_has_the_control_variate_and_the_race_of_one_that_does_not():
    def searched(loss_fn):
        net, optimizer, _, loader = parts()
        return find_lr(net, optimizer, loader=loader, loss_fn=loss_fn, total_steps=300, verify=True)

    finding = searched(scaled_in_place)
    assert finding.curve.baseline is not None
    assert finding == searched(scaled)


# The race


@pytest.mark.parametrize("validation", [False, True])
def test_a_verified_search_leaves_everything_as_it_was_and_keeps_its_budget(validation):
    net, optimizer, criterion, loader = parts()
    for inputs, targets in loader:  # a warm optimizer
        optimizer.zero_grad()
        criterion(net(inputs), targets).backward()
        optimizer.step()
    before = state_of(net, optimizer)
    finding = find_lr(
        *(net, optimizer, criterion, loader),
        schedule="one_cycle",
        total_steps=400,
        verify=True,
        budget=1.0,
        validation_loader=[next(iter(loader))] if validation else None,
    )
    after = state_of(net, optimizer)
    if not validation:  # drawing the batch above moved the random state
        assert same(before, after)
    assert all(map(torch.equal, before[0], after[0]))
    assert finding.race is not None
    assert len(finding.race.runs) >= 3
    assert finding.suggestion.rule == "race"
    assert finding.cost.steps <= 400
    assert Finding.from_dict(finding.to_dict()) == finding


class OnlyThese:
    """A batch sampler's examples less those not wanted, in batches of 16; a last smaller one is dropped."""

    def __init__(self, sampler, wanted):
        self.sampler, self.wanted = sampler, wanted

    def __iter__(self):
        indices = [index for batch in self.sampler for index in batch if index in self.wanted]
        yield from (indices[i : i + 16] for i in range(0, len(indices) - 15, 16))


def test_a_run_of_the_race_is_a_bare_training_on_the_compressed_schedule():
    finding = find_lr(*parts(), schedule="cosine", total_steps=300, verify=True, budget=500, control_variate=False)
    run = finding.race.runs[-1]
    net, optimizer, criterion, loader = parts()
    order = iter(loader.batch_sampler)
    held_out = list(DataLoader(loader.dataset, batch_sampler=[next(order), next(order)]))  # a fifth of ten batches
    share = (run.steps / 300) ** 0.5
    wanted = {index for _ in range(math.ceil(share * 8)) for index in next(order)}
    assert 16 < len(wanted) < 128
    rest = DataLoader(loader.dataset, batch_sampler=OnlyThese(loader.batch_sampler, wanted))
    stream = list(islice((batch for _ in range(1000) for batch in rest), run.steps))  # drawn before the first step
    for share, (inputs, targets) in zip(Plan("cosine").shares(run.steps), stream, strict=True):
        optimizer.param_groups[0]["lr"] = run.lr * share
        optimizer.zero_grad()
        criterion(net(inputs), targets).backward()
        optimizer.step()
    net.eval()
    with torch.no_grad():
        losses = torch.stack([criterion(net(inputs), targets) for inputs, targets in held_out])
    assert run.loss == losses.mean().item()


class Greedy(nn.Module):
    """Dropout, and a change of the batch in place."""

    def __init__(self):
        super().__init__()
        self.drop, self.last = nn.Dropout(0.5), nn.Linear(8, 3)

    def forward(self, x):
        outputs = self.last(self.drop(x))
        x.mul_(-1)
        return outputs


class Counted(DataLoader):
    opened = 0

    def __iter__(self):
        Counted.opened += 1
        return super().__iter__()


def greedy(make=DataLoader, loss_fn=None, **how):
    torch.manual_seed(0)
    net, optimizer, criterion, loader = parts(net=Greedy())
    criterion = None if loss_fn else criterion
    loader = make(loader.dataset, batch_size=16, shuffle=True, **how)
    return TorchTrainable(net, optimizer, criterion, loader, loss_fn=loss_fn)


def runs_of(training):
    with Remembered(training) as begin:
        runs = []
        for _ in range(3):
            training.restore(begin)
            runs.append([training.step(0.01) for _ in range(8)])
    return runs


@pytest.mark.parametrize("workers", [0, 2])
def test_batches_are_drawn_once_and_every_run_sees_the_same_ones_and_the_same_dropout(workers):
    plain = runs_of(greedy(num_workers=workers))
    training = greedy(Counted, num_workers=workers)
    before = state_of(training.model, training.optimizer)
    opened = Counted.opened
    with restored(training):
        training.keep_batches(8)
        assert len(training.batches.kept) == 8
        first, *others = runs_of(training)
        assert others == [first, first]
        assert len(set(first)) == 8
        after = [training.step(0.01) for _ in range(4)]  # what comes after those that are kept
        assert len({*first, *after}) == 12
    assert Counted.opened - opened == 2  # by the first 8 of 10 batches, and once more for the second pass
    assert same(before, state_of(training.model, training.optimizer))
    assert training.batches.kept == []
    assert runs_of(training) == plain


def test_a_race_opens_the_loader_once():
    net, optimizer, criterion, loader = parts(net=nn.Linear(8, 3))
    inputs = torch.randn(800, 8)
    loader = Counted(TensorDataset(inputs, inputs[:, :3].argmax(dim=1)), 16, shuffle=True, num_workers=2)
    opened = Counted.opened
    how = dict(num_steps=20, total_steps=40, verify=True, budget=300, control_variate=False)
    finding = find_lr(net, optimizer, criterion, loader, **how)
    assert [run.steps for run in finding.race.runs] == [40] * len(finding.race.runs)
    assert Counted.opened - opened == 2  # by the sweep, and by the race


@pytest.mark.parametrize("why", ["memory", "no copies"])
def test_batches_that_cannot_be_kept_are_drawn_for_each_run(why, monkeypatch):
    if why == "memory":
        monkeypatch.setattr("findlr.torch.trainable.MOST_KEPT_BYTES", 7 * 16 * 40)
    else:
        monkeypatch.setattr("findlr.torch.data.nesting.copied", refused)
    plain = runs_of(greedy())
    training = greedy()
    with restored(training):
        training.keep_batches(8)
        assert training.batches.kept == []
        assert runs_of(training) == plain
    assert runs_of(training) == plain


def refused(batch):
    raise LoaderError("a batch can't be copied")


def test_a_loader_that_gives_the_same_object_again_is_kept_as_it_was():
    class Refilled:
        def __iter__(self):
            batch = torch.zeros(4, 8), torch.zeros(4, dtype=torch.long)
            for i in range(8):
                batch[0].fill_(i + 1)
                yield batch

    net, optimizer, criterion, _ = parts(net=nn.Linear(8, 3))
    training = TorchTrainable(net, optimizer, criterion, Refilled())
    training.keep_batches(8)
    assert [batch[0][0, 0].item() for batch in training.batches.kept] == list(range(1, 9))


@pytest.mark.parametrize("validation", [False, True])
@pytest.mark.parametrize(("steps", "total_steps"), [(10, 10), (10, 1000), (2, 1000)])
def test_no_example_that_scores_is_trained_on_and_one_epoch_thins_nothing(validation, steps, total_steps):
    class Indices(torch.utils.data.Dataset):
        def __len__(self):
            return 203

        def __getitem__(self, i):
            return torch.full((8,), float(i)), i % 3

    net, optimizer, criterion, _ = parts()
    loader = DataLoader(Indices(), 16, shuffle=True, generator=torch.Generator().manual_seed(0))
    training = TorchTrainable(net, optimizer, criterion, loader, validation_loader=[next(iter(loader))] * 3)
    if not validation:
        training._held_out._validation = None
    before = loader.generator.get_state()
    snapshot = training.snapshot()
    assert training.hold_out(8, steps, total_steps) == (3 if validation else 2)
    seen = [{int(x) for x in training.batches.next()[0][:, 0]} for _ in range(40)]
    assert {len(batch) for batch in seen} == {16}
    if not validation:
        assert not set().union(*seen) & {int(x) for batch, _ in training._held_out._aside for x in batch[:, 0]}
    share = math.sqrt(steps / total_steps) if steps > 2 else 1.0
    left = 13 - (0 if validation else 2)  # batches of a pass
    most = 16 * min(math.ceil(max(share, 2 / left) * left), left)
    assert most - 16 - 11 < len(set().union(*seen)) <= min(most, 203)
    training.restore(snapshot)
    assert torch.equal(before, loader.generator.get_state())
    assert training.batches._source is loader


def examples_in(batches):
    return {float(x) for batch in batches for x in batch[0][:, 0]}


@pytest.mark.parametrize("batches", [1, 4, 12])
@pytest.mark.parametrize("kind", [list, "again", "opened", "no length"])
def test_a_list_of_batches_or_a_loader_of_few_is_scored_on_examples_that_no_run_trains_on(kind, batches):
    net, optimizer, criterion, _ = parts()
    numbers = torch.arange(batches * 16.0).reshape(batches, 16, 1).expand(-1, -1, 8)
    every = [(x, torch.zeros(16, dtype=torch.long)) for x in numbers]
    loader = {list: every, "again": tuple(every)}.get(kind) or Passes(every, has_length=kind == "opened")
    training = TorchTrainable(net, optimizer, criterion, loader)
    count = training.hold_out(8, 10, 10)
    seen = [training.batches.next() for _ in range(20)]
    aside = training._held_out._aside
    assert all(len(x) == len(y) == 16 for x, y in [*seen, *aside])
    assert isinstance(training.evaluate(), float)
    if batches < 5 or isinstance(loader, (list, tuple)):
        assert count == len(aside) == {1: 1, 4: 4, 12: 2}[batches]
        assert len(examples_in(aside)) == {1: 3, 4: 12, 12: 32}[batches]
        assert not examples_in(aside) & examples_in(seen)
        assert training.unseen()
    else:
        assert count == 8
        assert not training.unseen()  # the eight have come again


class Passes:
    """Can be read again, and is no list."""

    def __init__(self, batches, has_length):
        self.batches = batches
        if has_length:
            self.__class__ = type("Counted", (Passes,), {"__len__": lambda self: len(self.batches)})

    def __iter__(self):
        return iter(self.batches)


X_OF_A_GRAPH = torch.ones(16, 8)


@pytest.mark.parametrize(
    "batch",
    [
        (X_OF_A_GRAPH[:4], torch.zeros(4, dtype=torch.long)),
        (X_OF_A_GRAPH, torch.zeros(2, 40, dtype=torch.long)),
        (X_OF_A_GRAPH, torch.ones(16, 16)),
        (X_OF_A_GRAPH, [0] * 16),
        (X_OF_A_GRAPH,),
        (X_OF_A_GRAPH.to_sparse(), torch.zeros(16)),
    ],
    ids=["four", "edges", "a matrix of edges", "numbers in a list", "inputs alone", "sparse"],
)
def test_where_no_example_can_be_spared_a_race_says_that_it_is_scored_on_what_it_trained_on(batch):
    net = torch.nn.Linear(8, 1)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)

    def loss_fn(model, batch):
        return (model(batch[0]) - 1).square().mean()

    how = dict(total_steps=60, verify=True, max_lr=0.1, progress=False)
    race = find_lr(net, optimizer, loss_fn=loss_fn, loader=[batch], **how).race
    assert race.held_out is False
    assert race.start == pytest.approx(loss_fn(net, batch).item())
    many = [(torch.full((16, 8), float(i)), *batch[1:]) for i in range(40)]
    assert find_lr(net, optimizer, loss_fn=loss_fn, loader=many, **how).race.held_out is True


def test_evaluating_touches_no_statistic_and_no_mode():
    net, optimizer, criterion, loader = parts()
    net.norm.eval()
    training = TorchTrainable(net, optimizer, criterion, loader, validation_loader=list(loader))
    assert training.hold_out(8, 10, 100) == 8
    assert training.hold_out(100, 10, 100) == 10
    before = state_of(net, optimizer)
    first = training.evaluate()
    assert training.evaluate() == first
    assert same(before, state_of(net, optimizer))


def test_an_interrupt_in_the_race_puts_everything_back_and_keeps_the_sweep():
    net, optimizer, criterion, loader = parts()
    before = state_of(net, optimizer)
    calls = 0

    def interrupted(outputs, targets):
        nonlocal calls
        calls += 1
        if calls == 150:
            raise KeyboardInterrupt
        return criterion(outputs, targets)

    with pytest.raises(KeyboardInterrupt) as error:
        find_lr(*(net, optimizer, interrupted, loader), total_steps=500, verify=True, budget=1.0, control_variate=False)
    assert same(before, state_of(net, optimizer))
    assert len(error.value.finding.curve) > 50


def test_lbfgs_is_not_verified_for_its_steps_know_no_budget():
    net, _, criterion, loader = parts()
    with pytest.raises(OptimizerError, match="LBFGS takes as many"):
        find_lr(net, optim.LBFGS(net.parameters()), criterion, loader, verify=True, total_steps=100)


def test_a_default_budget_below_the_sweep_is_refused_too():
    with pytest.raises(ConfigurationError, match=r"the default budget is 350 steps, and the sweep alone may take 401"):
        find_lr(*parts(), num_steps=300, verify=True, total_steps=500)


def test_verify_without_total_steps_is_refused():
    with pytest.raises(ConfigurationError, match="total_steps"):
        find_lr(*parts(), verify=True)


def test_the_same_parts_twice_give_the_same_verified_finding():
    net, optimizer, criterion, loader = parts()
    arguments = dict(total_steps=400, schedule="one_cycle", verify=True)
    training = TorchTrainable(net, optimizer, criterion, loader)
    plan = Plan("one_cycle", 400)
    assert find(training, plan, verify=True) == find(training, plan, verify=True)
    first, second = (find_lr(net, optimizer, criterion, loader, **arguments) for _ in range(2))
    assert first == second
