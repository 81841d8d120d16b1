"""skorch: its net goes on as if there had been no search, between two trainings and before the first one."""

import subprocess
import sys
from copy import deepcopy

import numpy as np
import pytest
import torch
from sklearn.model_selection import GridSearchCV, ShuffleSplit
from sklearn.pipeline import Pipeline
from skorch import NeuralNetClassifier, NeuralNetRegressor
from skorch.callbacks import Callback, Freezer, GradientNormClipping, Initializer, InputShapeSetter, LRScheduler
from skorch.dataset import ValidSplit
from torch import nn, optim
from torch.nn import functional

from findlr import ConfigurationError, OptimizerError
from findlr import find_lr as plain
from findlr.skorch import find_lr
from findlr.testing import TrainingConformance
from findlr.testing.bits import differing
from tests.agent import Agent

X = np.random.default_rng(0).normal(size=(60, 4)).astype("float32")
Y = np.sin(X[:, :1])


class Net(nn.Module):
    def __init__(self, width=8):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(4, width), nn.BatchNorm1d(width), nn.Tanh(), nn.Dropout(0.2))
        self.head = nn.Linear(width, 1)

    def forward(self, x):
        return self.head(self.layers(x))


class Accumulates(NeuralNetRegressor):
    """Steps after every second batch of an epoch, as skorch's own recipe does."""

    def train_step(self, batch, **fit_params):
        step = self.train_step_single(batch, **fit_params)
        if len(self.history[-1, "batches"]) % 2 == 0:
            self.optimizer_.step()
            self.optimizer_.zero_grad()
        return step


def net_of(kind=NeuralNetRegressor, **how):
    settings = dict(max_epochs=5, lr=0.01, batch_size=10, iterator_train__shuffle=True, verbose=0, warm_start=True)
    torch.manual_seed(0)
    return kind(Net, **settings | how)


def steps_of(net):
    return 2 if isinstance(net, Accumulates) else 1


def told(net):
    """The history, but for the seconds."""
    return [{key: value for key, value in epoch.items() if key != "dur"} for epoch in net.history]


SETTINGS = {
    "adamw, clipped": {
        "optimizer": optim.AdamW,
        "callbacks": [GradientNormClipping(0.5), LRScheduler("StepLR", step_size=2)],
    },
    "momentum, no split": {"optimizer__momentum": 0.9, "train_split": None},
    "frozen from the second epoch on": {"callbacks": [Freezer("layers.*", at=2)]},
    "accumulated": {"kind": Accumulates},
}


@pytest.mark.parametrize("how", SETTINGS.values(), ids=SETTINGS)
class TestTraining(TrainingConformance):
    before, after = 1, 2  # epochs

    @pytest.fixture(autouse=True)
    def _given(self, how):
        self.how = how

    def training(self):
        return net_of(**self.how)

    def train(self, training, steps):
        training.max_epochs = steps
        training.fit(X, Y)

    def search(self, training, **how):
        return find_lr(training, X, Y, gradient_accumulation_steps=steps_of(training), **how)

    def state(self, training):
        return training.module_.state_dict(), training.optimizer_.state_dict()["state"], told(training)


def test_a_net_that_is_not_initialized_is_as_it_was():
    net = net_of()
    before = dict(vars(net))
    find_lr(net, X, Y)
    assert vars(net) == before
    assert not net.initialized_


def test_the_same_finding_as_the_plain_call():
    how = dict(num_steps=40, schedule="constant", total_steps=200)
    net = net_of(iterator_train__shuffle=False, train_split=None, optimizer=optim.Adam)
    finding = find_lr(net, X, Y, **how)
    net = net_of().set_params(optimizer=optim.Adam).initialize()
    loader = torch.utils.data.DataLoader(
        torch.utils.data.TensorDataset(torch.tensor(X), torch.tensor(Y)), batch_size=10
    )
    by_hand = plain(net.module_, net.optimizer_, nn.MSELoss(), loader, **how)
    np.testing.assert_array_equal(finding.curve.loss, by_hand.curve.loss)
    np.testing.assert_array_equal(finding.curve.baseline, by_hand.curve.baseline)
    assert finding.facts["versions"].keys() - by_hand.facts["versions"].keys() == {"skorch"}
    assert (finding.lr, finding.interval, finding.plan) == (by_hand.lr, by_hand.interval, by_hand.plan)


def test_a_race_is_scored_on_the_nets_own_split_and_by_its_own_loss():
    seen = []

    class Watched(NeuralNetRegressor):
        def get_loss(self, y_pred, y_true, X=None, training=False):
            if not training:
                seen.append(tuple(map(tuple, X.tolist())))
            return super().get_loss(y_pred, y_true, X, training)

    torch.manual_seed(0)
    net = Watched(Net, max_epochs=40, batch_size=10, verbose=0)
    finding = find_lr(net, X, Y, verify=True, max_lr=1.0)
    assert len(finding.race.runs) == 3
    _, held_out = net.get_split_datasets(X, Y)
    batches = [inputs for inputs, _ in net.get_iterator(held_out)]
    assert set(seen) == {tuple(map(tuple, batch.tolist())) for batch in batches}


def test_the_split_is_measured_along_the_sweep_where_it_is_asked_for():
    assert find_lr(net_of(), X, Y).curve.validation is None
    assert find_lr(net_of(), X, Y, validation_every=5).curve.validation is not None


def test_the_plan_is_the_nets():
    assert find_lr(net_of(), X, Y).plan.to_dict() | {"momentum": 0, "optimizer": ""} == {
        **find_lr(net_of(), X, Y, total_steps=25, schedule="constant").plan.to_dict(),
        "momentum": 0,
        "optimizer": "",
    }
    halved = find_lr(net_of(callbacks=[LRScheduler("StepLR", step_size=1, gamma=0.5)]), X, Y).plan
    assert halved.shares(25).tolist() == np.repeat(0.5 ** np.arange(5), 5).tolist()
    by_batch = LRScheduler("LambdaLR", lr_lambda=lambda step: 1 - step / 25, step_every="batch")
    assert find_lr(net_of(callbacks=[by_batch]), X, Y).plan.share(0.5) == pytest.approx(0.52)
    plateau = LRScheduler("ReduceLROnPlateau")
    assert find_lr(net_of(callbacks=[plateau]), X, Y).plan.schedule == "constant"
    assert find_lr(net_of(callbacks=[plateau]), X, Y, total_steps="3 epochs", schedule="cosine").plan.total_steps == 15


def test_each_run_of_a_race_counts_its_batches_anew():
    seen = []

    class Seen(Accumulates):
        def train_step(self, batch, **fit_params):
            seen.append(len(self.history[-1, "batches"]))
            return super().train_step(batch, **fit_params)

    net = net_of(Seen, max_epochs=200)
    found = find_lr(net, X, Y, gradient_accumulation_steps=2, verify=True, max_lr=1.0)
    assert found.plan.total_steps == 400  # of 1,000 batches
    assert seen.count(1) == 1 + len(found.race.runs)
    assert not net.history


def test_an_accumulation_that_is_not_told_is_named():
    with pytest.raises(OptimizerError, match=r"given 1 of its batches.*gradient_accumulation_steps"):
        find_lr(net_of(Accumulates), X, Y)


class Gan(NeuralNetRegressor):
    """Steps a critic of its own, too; the criterion does not fit, and no step calls it."""

    def initialize_module(self):
        super().initialize_module()
        self.critic_ = nn.Linear(4, 1)
        return self

    def initialize_optimizer(self, *args, **how):
        super().initialize_optimizer(*args, **how)
        self.second_ = optim.SGD(self.critic_.parameters(), 0.01)
        return self

    def train_step(self, batch, **fit_params):
        real, fake = batch[0], self.module_(torch.randn(len(batch[0]), 4)).expand(-1, 4)
        judged = (
            functional.softplus(-self.critic_(real)).mean() + functional.softplus(self.critic_(fake.detach())).mean()
        )
        self.second_.zero_grad()
        judged.backward()
        self.second_.step()
        loss = functional.softplus(-self.critic_(fake)).mean()
        self.optimizer_.zero_grad()
        loss.backward()
        self.optimizer_.step()
        return {"loss": loss, "y_pred": fake}


def test_a_step_that_never_calls_get_loss_has_no_control_variate_and_no_held_out_score(caplog):
    caplog.set_level("INFO", "findlr")
    labels = np.arange(60) % 3
    net = net_of(Gan, criterion=nn.NLLLoss)
    found = find_lr(net, X, labels, verify=True, total_steps=300, num_steps=100, max_lr=10.0)
    assert "no control variate: train_step never calls get_loss" in caplog.text
    assert found.curve.baseline is None
    assert len(found.race.runs) >= 3
    assert not found.race.held_out


class CriticFirst(Gan):
    """Steps its critic alone at every second batch, the first among them."""

    turns = 0

    def train_step(self, batch, **fit_params):
        self.turns += 1
        if self.turns % 2 == 0:
            return NeuralNetRegressor.train_step(self, batch, **fit_params)
        loss = self.critic_(batch[0]).square().mean()
        loss.backward()
        self.second_.step()
        return {"loss": loss, "y_pred": None}


@pytest.mark.parametrize("kind", [Accumulates, CriticFirst])
def test_whether_get_loss_is_called_is_judged_by_the_first_step_that_was_taken(kind):
    net = net_of(kind, module__width=4, train_split=None).initialize()
    net.get_loss = given = net.get_loss
    found = find_lr(net, X, Y, num_steps=8, max_lr=1e-2, gradient_accumulation_steps=steps_of(net))
    assert found.curve.baseline is not None
    assert net.get_loss is given


class Shaped(Net):
    def __init__(self, input_dim=1):
        super().__init__()
        self.layers[0] = nn.Linear(input_dim, 8)


def test_callbacks_decide_what_is_trained():
    frozen = net_of(callbacks=[Freezer("layers.*"), Initializer("head.weight", fn=nn.init.zeros_)]).initialize()
    before = {name: value.clone() for name, value in frozen.module_.state_dict().items()}
    finding = find_lr(frozen, X, Y, max_lr=1e-3)
    assert finding.plan.parameters == 9
    assert [p.requires_grad for p in frozen.module_.parameters()] == [True] * 6
    assert not list(differing(dict(frozen.module_.state_dict()), before))
    assert not frozen.history
    frozen.fit(X, Y)
    assert not frozen.module_.layers[0].weight.requires_grad

    class Freezes(Callback):
        def on_train_begin(self, net, **_):
            net.module_.layers.requires_grad_(False)

    assert find_lr(net_of(callbacks=[Freezes()]), X, Y, max_lr=1e-3).plan.parameters == 9

    given = net_of().set_params(module=Shaped, module__input_dim=4)
    shaped = net_of().set_params(module=Shaped, callbacks=[InputShapeSetter()])
    assert find_lr(shaped, X, Y).plan.parameters == find_lr(given, X, Y).plan.parameters
    assert "module__input_dim" not in shaped.get_params()


def test_the_line_to_paste_is_skorchs():
    net = net_of(optimizer=optim.Adam)
    finding = find_lr(net, X, Y)
    assert finding.code() == f"net.set_params(lr={finding.lr:.2g})"
    assert finding.code() in str(finding)
    exec(finding.code())
    net.fit(X, Y)
    assert net.optimizer_.param_groups[0]["lr"] == float(f"{finding.lr:.2g}")


@pytest.mark.parametrize(
    ("how", "line"),
    [
        ({"optimizer__lr": 0.05}, "net.set_params(optimizer__lr="),
        ({"optimizer__param_groups": [("*", {"momentum": 0.5})]}, "net.set_params(lr="),
        ({"optimizer__param_groups": [("*", {"lr": 0.05})]}, "optimizer = torch.optim.SGD("),
    ],
)
def test_the_line_to_paste_sets_what_the_optimizer_is_made_with(how, line):
    net = net_of(**how)
    finding = find_lr(net, X, Y)
    assert finding.code().startswith(line)
    if line.startswith("net."):
        exec(finding.code())
        net.fit(X, Y)
        assert net.optimizer_.param_groups[0]["lr"] == float(f"{finding.lr:.2g}")


class Rates(Callback):
    """Notes the rate of each step."""

    def initialize(self):
        self.seen = []

    def on_batch_begin(self, net, training=True, **_):
        self.seen += [net.optimizer_.param_groups[0]["lr"]] * training


SCHEDULED = {
    "a policy with a peak of its own": (
        dict(policy=optim.lr_scheduler.OneCycleLR, max_lr=0.01, total_steps=25, step_every="batch"),
        "net.set_params(callbacks__schedule__max_lr=",
    ),
    "one that keeps the lowest rate, too": (
        dict(
            policy=optim.lr_scheduler.CyclicLR,
            base_lr=1e-4,
            max_lr=0.01,
            step_size_up=5,
            cycle_momentum=False,
            step_every="batch",
        ),
        "net.set_params(callbacks__schedule__max_lr=",
    ),
    "one of skorch's": (dict(policy="WarmRestartLR", max_lr=0.01), "net.set_params(callbacks__schedule__max_lr="),
    "a multiple that is never 1": (
        dict(policy=optim.lr_scheduler.LambdaLR, lr_lambda=lambda step: 8 * 0.5**step),
        "net.set_params(lr=",
    ),
}


@pytest.mark.parametrize(("how", "line"), SCHEDULED.values(), ids=SCHEDULED)
def test_the_line_to_paste_sets_the_peak_of_a_schedule(how, line):
    net = net_of(callbacks=[("schedule", LRScheduler(**how)), ("rates", Rates())])
    finding = find_lr(net, X, Y)
    assert finding.code().startswith(line)
    exec(finding.code())
    net.fit(X, Y)
    assert max(dict(net.callbacks_)["rates"].seen) == pytest.approx(finding.lr, rel=0.05)


def test_a_policy_whose_peak_no_setting_sets_is_named():
    far = LRScheduler("CyclicLR", base_lr=1e-4, max_lr=0.01, cycle_momentum=False, step_every="batch")  # never there
    code = find_lr(net_of(callbacks=[far]), X, Y).code()
    assert "once your CyclicLR is made" in code
    assert "the function that was given" not in code


class Halves:
    """A split with a state of its own."""

    def __init__(self):
        self.draws, self.asked, self.sizes = np.random.default_rng(3), 0, []

    def __call__(self, dataset, y=None, groups=None):
        self.asked += 1
        order = self.draws.permutation(len(dataset))
        self.sizes.append(len(order) // 2 - self.asked)
        return torch.utils.data.Subset(dataset, order[: self.sizes[-1]]), torch.utils.data.Subset(dataset, order[40:])


SPLITS = {
    "a random state": lambda: ValidSplit(0.2, random_state=np.random.RandomState(3)),
    "sklearn's": lambda: ValidSplit(ShuffleSplit(1, random_state=np.random.RandomState(3))),
    "one of the user's own": Halves,
}


@pytest.mark.parametrize("split", SPLITS.values(), ids=SPLITS)
def test_what_a_split_holds_is_put_back(split):
    nets = [net_of(train_split=split()) for _ in range(2)]
    find_lr(nets[0], X, Y)
    for net in nets:
        torch.manual_seed(1)
        net.fit(X, Y)
    assert told(nets[0]) == told(nets[1])


def test_the_ratios_of_the_groups_are_kept():
    net = net_of(optimizer__param_groups=[("head*", {"lr": 0.001})])
    finding = find_lr(net, X, Y)
    assert sorted(np.array(finding.lrs) / finding.lr) == [pytest.approx(0.1), 1.0]


def test_a_classifier_finds_a_rate_and_learns_at_it():
    labels = (Y[:, 0] > 0).astype("int64")
    net = NeuralNetClassifier(
        nn.Linear,
        module__in_features=4,
        module__out_features=2,
        criterion=nn.CrossEntropyLoss,
        verbose=0,
        batch_size=10,
    )
    finding = find_lr(net, X, labels, num_steps=200, min_lr=1e-4, max_lr=100)
    net.set_params(lr=finding.lr, max_epochs=20).fit(X, labels)
    assert net.score(X, labels) > 0.9


def test_what_is_given_to_fit_reaches_the_module_and_dicts_are_batches():
    class Scaled(nn.Linear):
        def forward(self, X, scale):
            return super().forward(X) * scale

    net = NeuralNetRegressor(Scaled, module__in_features=4, module__out_features=1, batch_size=10, train_split=None)
    assert len(find_lr(net, {"X": X}, Y, fit_params={"scale": 2.0}, num_steps=20).curve) > 5


def test_a_callback_that_is_asked_at_each_step_is_put_back():
    class Counts(Callback):
        def initialize(self):
            self.seen = [0]
            return self

        def on_grad_computed(self, net, named_parameters, **kwargs):
            self.seen[0] += 1

    net = net_of(callbacks=[("counts", Counts())]).initialize()
    find_lr(net, X, Y)
    assert dict(net.callbacks_)["counts"].seen == [0]


class Learns(Callback):
    def __init__(self):
        self.agent = Agent()

    def on_grad_computed(self, net, named_parameters, **kwargs):
        self.agent.learn()


class HasAgents(NeuralNetRegressor):
    """Whose steps let agents learn, and keep an average of the weights."""

    def initialize_module(self):
        super().initialize_module()
        self.average_ = deepcopy(self.module_)
        return self

    def initialize(self):
        super().initialize()
        self.agents = {"first": Agent()} if not hasattr(self, "agents") else self.agents
        return self

    def train_step(self, batch, **fit_params):
        step = super().train_step(batch, **fit_params)
        self.agents["first"].learn()
        for kept, p in zip(self.average_.parameters(), self.module_.parameters(), strict=True):
            kept.data.lerp_(p.detach(), 0.1)
        return step


class TestWhatANetAndItsCallbacksHold(TrainingConformance):
    before, after = 1, 2  # epochs

    def training(self):
        torch.manual_seed(0)
        self.callback = Learns()
        return net_of(HasAgents, callbacks=[self.callback], max_epochs=1).initialize()

    def train(self, training, steps):
        for _ in range(steps):
            training.fit(X, Y)

    def search(self, training, **how):
        return find_lr(training, X, Y, **how)

    def state(self, training):
        (agent,) = [each.agent for _, each in training.callbacks_ if isinstance(each, Learns)]
        assert agent.steps
        return [
            training.module_.state_dict(),
            training.average_.state_dict(),
            agent.state(),
            training.agents["first"].state(),
        ]


def test_each_run_of_a_race_begins_with_what_a_net_and_its_callbacks_held():
    seen = []

    class Looks(HasAgents):
        def train_step(self, batch, **fit_params):
            agents = dict(self.callbacks_)["learns"].agent, self.agents["first"]
            seen.append([(agent.steps, agent.net.weight.grad is None) for agent in agents])
            return super().train_step(batch, **fit_params)

    net = net_of(Looks, callbacks=[("learns", Learns())], max_epochs=200).initialize()
    found = find_lr(net, X, Y, verify=True, max_lr=1.0)
    assert seen.count([(0, True), (0, True)]) == 1 + len(found.race.runs)


def test_bad_input_is_one_clear_error_and_the_net_is_as_it_was():
    net = net_of()
    before, drawn = dict(vars(net)), torch.get_rng_state()
    with pytest.raises(ConfigurationError, match="must be a skorch NeuralNet, got Linear"):
        find_lr(nn.Linear(1, 1), X, Y)
    torch.set_rng_state(drawn)
    for how, said in (
        ({"max_lr": 0}, "max_lr"),
        ({"steps": 9}, "it is called 'num_steps' here"),
        ({"total_steps": "soon"}, "total_steps"),
        ({"sweep": "second"}, "one of 'optimizer'"),
        ({"validation_every": 0}, "validation_every"),
        ({"gradient_accumulation_steps": 0}, "gradient_accumulation_steps"),
        ({"fit_params": "weights"}, "fit_params must be a dict, got str"),
    ):
        with pytest.raises(ConfigurationError, match=said):
            find_lr(net, X, Y, **how)
    assert vars(net) == before
    assert torch.equal(drawn, torch.get_rng_state())
    with pytest.raises(ConfigurationError, match="max_epochs is 0, so fit takes no step: set it on the net"):
        find_lr(net_of(max_epochs=0), X, Y)
    short = LRScheduler(optim.lr_scheduler.OneCycleLR, max_lr=1, total_steps=3, step_every="batch")
    with pytest.raises(ConfigurationError, match="can't be read over 25 steps"):
        find_lr(net_of(callbacks=[short]), X, Y)


def test_an_estimator_that_holds_the_net_is_told_where_it_is():
    with pytest.raises(ConfigurationError, match=r"got Pipeline: of a Pipeline, give its net, pipe\[-1\]"):
        find_lr(Pipeline([("net", net_of())]), X, Y)
    with pytest.raises(ConfigurationError, match="got GridSearchCV: give the net in it, its estimator"):
        find_lr(GridSearchCV(net_of(), {"lr": [0.1]}), X, Y)


def test_without_skorch_one_error_says_what_to_install():
    code = "import sys; sys.modules['skorch'] = None; import findlr.skorch"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "MissingExtraError: skorch is not installed; run: pip install 'findlr[skorch]'" in done.stderr


class Frozen(Exception):
    """Takes no attribute, as an exception that is a frozen dataclass."""

    def __setattr__(self, name, value):
        raise AttributeError(name)


class Failing(Net):
    def forward(self, x):
        raise Frozen


def test_an_exception_that_cannot_be_written_into_stays_as_it_is():
    with pytest.raises(Frozen):
        find_lr(NeuralNetRegressor(Failing, lr=0.01, train_split=None).initialize(), X, Y)
