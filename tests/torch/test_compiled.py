"""torch.compile: a search adds no graph to compiled code, before, during and after."""

import contextlib

import pytest
import torch
from torch import nn, optim
from torch.utils.data import DataLoader, TensorDataset

from findlr import RangeTest, TorchTrainable, find_lr

# torch's own, when it compiles: it looks at torch.jit's functions, and at the gradient of each tensor.
pytestmark = [
    pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning"),
]

RANGE = dict(min_lr=1e-4, max_lr=0.5, num_steps=25)
OPTIMIZERS = {
    "sgd": lambda p: optim.SGD(p, lr=0.05, momentum=0.9),
    "adamw-tensor-rate": lambda p: optim.AdamW(p, lr=torch.tensor(1e-3)),
    "rmsprop": lambda p: optim.RMSprop(p, lr=1e-3),
}


class Graphs:
    """A back end that counts the graphs it is given, and runs them as they are."""

    def __init__(self):
        self.count = 0

    def __call__(self, graph, _):
        self.count += 1
        return graph


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner, self.norm = nn.Linear(8, 16), nn.BatchNorm1d(16)
        self.outer, self.dropout = nn.Linear(16, 3), nn.Dropout(0.2)

    def forward(self, x):
        return self.outer(self.dropout(self.norm(self.inner(x)).relu()))


class Training:
    """A training whose ``compiled`` part is compiled."""

    def __init__(self, compiled, optimizer):
        torch._dynamo.reset()
        torch.manual_seed(0)
        self.graphs = Graphs()
        self.net = Net()
        inputs = torch.randn(160, 8)
        data = TensorDataset(inputs, inputs[:, :3].argmax(dim=1))
        self.loader, self.held_out = DataLoader(data, 16, shuffle=True), DataLoader(data, 32)
        self.optimizer, self.criterion = OPTIMIZERS[optimizer](self.net.parameters()), nn.CrossEntropyLoss()
        self.one = self.step
        if compiled == "wrapped":
            self.net = torch.compile(self.net, backend=self.graphs)
        elif compiled == "in-place":
            self.net.compile(backend=self.graphs)
        elif compiled == "optimizer":
            self.optimizer.step = torch.compile(self.optimizer.step, backend=self.graphs)
        else:
            self.one = torch.compile(self.step, backend=self.graphs)
        self.losses = []

    def step(self, inputs, targets):
        self.optimizer.zero_grad()
        loss = self.criterion(self.net(inputs), targets)
        loss.backward()
        self.optimizer.step()
        return loss.detach()

    def train(self, epochs=1):
        for _ in range(epochs):
            for batch in self.loader:
                self.losses.append(self.one(*batch).item())
        return self

    def state(self):
        return self.losses, [p.tolist() for p in self.net.parameters()], torch.get_rng_state().tolist()

    def find(self):
        find_lr(self.net, self.optimizer, self.criterion, self.loader, **RANGE, validation_loader=self.held_out)

    def verify(self):
        how = dict(verify=True, total_steps=60, budget=200, validation_loader=self.held_out)
        find_lr(self.net, self.optimizer, self.criterion, self.loader, **RANGE, **how)

    def broken_off(self):
        def boom(step):
            if step.index == 7:
                raise RuntimeError("boom")

        with pytest.raises(RuntimeError, match="boom"):
            find_lr(self.net, self.optimizer, self.criterion, self.loader, **RANGE, on_step=boom)

    def own_loop(self):
        with RangeTest(self.net, self.optimizer, **RANGE) as test:
            for batch in test(self.loader):
                test.record(self.one(*batch))
        assert len(test.finding.curve) == 25
        assert len(set(test.finding.curve.loss)) == 25

    def own_loop_broken_off(self):
        with contextlib.suppress(KeyboardInterrupt), RangeTest(self.net, self.optimizer, **RANGE) as test:
            for batch in test(self.loader):
                test.record(self.one(*batch))
                raise KeyboardInterrupt


def stance():
    return torch._dynamo.eval_frame._stance.stance


CALLS = [Training.find, Training.verify, Training.broken_off, Training.own_loop, Training.own_loop_broken_off]


@pytest.mark.parametrize(
    ("compiled", "optimizer"),
    [("wrapped", "sgd"), ("in-place", "sgd"), *(("optimizer", name) for name in OPTIMIZERS), ("step", "rmsprop")],
)
def test_a_search_adds_no_graph_to_compiled_code(compiled, optimizer):
    without = Training(compiled, optimizer).train()
    before, state = without.graphs.count, without.train().state()
    after = without.graphs.count
    called = Training(compiled, optimizer).train()
    assert called.graphs.count == before > 0
    for call in CALLS:
        call(called)
        assert called.graphs.count == before, call.__name__
        assert stance() == "default", call.__name__
    assert called.train().state() == state
    assert called.graphs.count == after


@pytest.mark.parametrize("compiled", ["wrapped", "in-place", "optimizer", "step"])
def test_what_was_not_compiled_yet_runs_eagerly_and_compiles_at_the_first_training_step(compiled):
    without = Training(compiled, "rmsprop").train()
    called = Training(compiled, "rmsprop")
    called.find()
    called.own_loop()
    assert called.graphs.count == 0
    assert called.train().state() == without.state()
    assert called.graphs.count == without.graphs.count > 0


class OwnSGD(optim.SGD):
    """Not torch's own: its step may call compiled code."""


def compiled(thing):
    return torch.compile(thing, backend="eager")


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({}, False),
        ({"model": compiled}, True),
        ({"model": lambda net: nn.Sequential(net, compiled(nn.ReLU()))}, True),
        ({"criterion": compiled(nn.functional.cross_entropy)}, True),
        ({"criterion": compiled(nn.CrossEntropyLoss())}, True),
        ({"criterion": None, "loss_fn": lambda model, batch: model(batch[0]).mean()}, True),
        ({"optimizer": OwnSGD}, True),
    ],
    ids=["nothing", "model", "a part", "a function", "a criterion", "loss_fn", "an optimizer of the user's own"],
)
def test_graphs_are_held_where_compiled_code_may_see_the_rate(change, expected):
    net = nn.Linear(2, 2)
    model = change.get("model", lambda net: net)(net)
    optimizer = change.get("optimizer", optim.SGD)(net.parameters(), lr=0.1)
    criterion = change.get("criterion", nn.CrossEntropyLoss())
    training = TorchTrainable(model, optimizer, criterion, [0], loss_fn=change.get("loss_fn"))
    assert training._may_compile is expected


def test_without_it_a_rate_that_changes_makes_graphs():
    """The fault that the tests above would not see if it did not exist."""
    training = Training("optimizer", "rmsprop").train()
    before = training.graphs.count
    for lr in (1e-3, 2e-3, 3e-3):
        training.optimizer.param_groups[0]["lr"] = lr
        training.train()
    assert training.graphs.count > before


def test_a_stance_of_the_users_own_is_put_back():
    training = Training("wrapped", "sgd").train()
    with torch.compiler.set_stance("force_eager"):
        training.find()
        training.own_loop()
        assert stance() == "force_eager"
    assert stance() == "default"


@pytest.mark.parametrize("compiled", ["wrapped", "in-place"])
def test_a_compiled_model_has_no_control_variate(compiled):
    training = Training(compiled, "sgd")
    finding = find_lr(training.net, training.optimizer, training.criterion, training.loader, **RANGE)
    assert finding.curve.baseline is None
