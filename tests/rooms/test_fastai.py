"""fastai: the Learner goes on as if there had been no search, before its first fit and between two."""

import random
import subprocess
import sys
from copy import deepcopy
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from fastai.callback.core import Callback, CancelStepException, CancelTrainException
from fastai.callback.fp16 import MixedPrecision
from fastai.callback.mixup import MixUp
from fastai.callback.progress import CSVLogger
from fastai.callback.schedule import combined_cos
from fastai.callback.tracker import SaveModelCallback, TerminateOnNaNCallback
from fastai.callback.training import GradientAccumulation, GradientClip
from fastai.data.core import DataLoaders, Datasets
from fastai.data.load import DataLoader
from fastai.learner import Learner, load_learner
from fastai.optimizer import SGD, Adam, OptimWrapper, RMSProp, ranger
from torch import nn, optim

from findlr import ConfigurationError, LossError, OptimizerError, Stop
from findlr import find_lr as plain
from findlr.fastai import find_lr
from findlr.testing import TrainingConformance
from tests.torch.training import copied

mse = nn.functional.mse_loss


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Tanh(), nn.Dropout(0.2))
        self.head = nn.Linear(8, 1)

    def forward(self, x):
        return self.head(self.body(x))


def loaders(workers=0):
    torch.manual_seed(0)
    random.seed(0)
    np.random.seed(0)
    inputs = torch.randn(60, 4)
    pairs = list(zip(inputs, inputs[:, :1].sin(), strict=True))
    train = DataLoader(pairs[:50], bs=10, shuffle=True, drop_last=True, num_workers=workers)
    return DataLoaders(train, DataLoader(pairs[50:], bs=5))


def learner(workers=0, model=Net, **how):
    return Learner(loaders(workers), model(), **{"loss_func": mse} | how)


def split(model):
    return [list(model.body.parameters()), list(model.head.parameters())]


def fit(learn, epochs, **how):
    with learn.no_bar(), learn.no_logging():
        learn.fit_one_cycle(epochs, **how)


def told(learn):
    """What the recorder has, but for the seconds."""
    recorder = learn.recorder
    names = [name for name in ("lrs", "losses", "iters", "values", "hps") if hasattr(recorder, name)]
    return {
        name: [list(each) if hasattr(each, "items") else each for each in getattr(recorder, name)] for name in names
    }


SETTINGS = {
    "adam, clipped, mixed up": {"cbs": [GradientClip, MixUp], "metrics": mse},
    "groups, accumulated": {
        "opt_func": partial(SGD, mom=0.9),
        "splitter": split,
        "lr": slice(1e-3, 1e-2),
        "wd": 0.1,
        "cbs": partial(GradientAccumulation, 25),
    },
    "torch's AdamW": {"opt_func": partial(OptimWrapper, opt=optim.AdamW)},
    "lookahead": {"opt_func": ranger, "cbs": TerminateOnNaNCallback},
}


class Conformance(TrainingConformance):
    before, after = 1, 2  # epochs

    @pytest.fixture(autouse=True)
    def _given(self, how):
        self.how = how

    def train(self, training, steps):
        fit(training, steps)

    def search(self, training, **how):
        return find_lr(training, **how)

    def state(self, training):
        opt, rng = training.opt, training.dls.train.rng.getstate()
        kept = opt.opt.state_dict() if isinstance(opt, OptimWrapper) else state_of(opt)
        return training.model.state_dict(), kept, told(training), repr(rng), training.train_iter


def state_of(opt):
    """Of an optimizer of fastai's, as plain containers."""
    state = opt.state_dict()
    return [[dict(each) for each in state[name]] for name in ("hypers", "state")]


@pytest.mark.parametrize("how", SETTINGS.values(), ids=SETTINGS)
class TestTraining(Conformance):
    def training(self):
        cbs = self.how.get("cbs")
        return learner(**self.how | {"cbs": cbs() if isinstance(cbs, partial) else cbs})


class Average(Callback):
    """An average of the weights."""

    order = 55

    def before_fit(self):
        if "copy" not in vars(self):
            self.copy = deepcopy(self.model)

    def after_batch(self):
        if self.training:
            for kept, p in zip(self.copy.parameters(), self.model.parameters(), strict=True):
                kept.data.lerp_(p.detach(), 0.1)


class Critic(Callback):
    """A model beside the Learner's, with optimizers of its own, torch's and fastai's, and an object that counts."""

    def __init__(self):
        self.net, self.theirs = nn.Linear(1, 1), nn.Linear(1, 1)
        self.optimizer = optim.SGD(self.net.parameters(), lr=0.1, momentum=0.9)
        self.other = Adam(list(self.theirs.parameters()), lr=0.1)
        self.pool = SimpleNamespace(steps=0, seen=torch.zeros(1), draws=np.random.default_rng(1))

    def after_step(self):
        self.pool.seen = self.pool.seen + self.pool.draws.normal()
        self.pool.steps += 1
        for net, optimizer in ((self.net, self.optimizer), (self.theirs, self.other)):
            net(self.pool.seen).square().sum().backward()
            optimizer.step()
            optimizer.zero_grad()


class Teaches(Learner):
    """Has a model that is no part of its own."""

    def one_batch(self, i, b):
        if "teacher" not in vars(self):
            self.teacher = nn.BatchNorm1d(4)
        self.teacher(b[0])
        super().one_batch(i, b)


@pytest.mark.parametrize("how", [Average, Critic, Teaches])
class TestWhatALearnerAndItsCallbacksHold(Conformance):
    def training(self):
        data = loaders()  # which seeds
        kind, cbs = (Teaches, []) if self.how is Teaches else (Learner, [self.how()])
        return kind(data, Net(), loss_func=mse, cbs=cbs)

    def state(self, training):
        held = [each for owner in (training, *training.cbs) for each in vars(owner).values()]
        parts = [each.state_dict() for each in held if isinstance(each, (nn.Module, optim.Optimizer))]
        for each in (each for each in training.cbs if isinstance(each, Critic)):
            pool = each.pool
            parts += [state_of(each.other), pool.steps, pool.seen, pool.draws.bit_generator.state]
        assert len(parts) > 1  # the Learner's own model is one
        return super().state(training), parts


def test_a_learner_without_an_optimizer_is_as_it_was_and_says_nothing(capsys):
    learn = learner(lr=0.02)
    before = dict(vars(learn)), list(learn.cbs), [dict(vars(each)) for each in learn.cbs]
    find_lr(learn, progress=False)
    assert learn.opt is None
    assert (dict(vars(learn)), list(learn.cbs), [dict(vars(each)) for each in learn.cbs]) == before
    assert capsys.readouterr().out == ""
    assert learn.model.training


def test_what_fit_changes_before_its_first_batch_is_as_it_was():
    learn = learner(opt_func=partial(SGD, mom=0.9), splitter=split, lr=slice(1e-3, 1e-2), wd=0.1)
    fit(learn, 1)
    learn.opt.set_hypers(wd=0.2)

    def seen():
        smooth = learn.recorder.smooth_loss
        modes = [module.training for module in learn.model.modules()]
        return copied([learn.opt.hypers[0], learn.opt.hypers[1], modes, smooth.count, smooth.val])

    before = seen()
    assert not learn.model.training
    find_lr(learn, lr=0.5)
    assert seen() == before


def test_each_run_of_a_race_begins_where_the_learner_stood():
    seen = []

    class Seen(Callback):
        def before_fit(self):
            self.steps = 0

        def before_step(self):
            seen.append((self.train_iter, self.steps))
            self.steps += 1

    finding = find_lr(learner(cbs=Seen()), total_steps=300, verify=True, control_variate=False, max_lr=1.0)
    assert seen.count((0, 0)) == 1 + len(finding.race.runs)


@pytest.mark.parametrize(
    ("opt_func", "optimizer"),
    [(SGD, optim.SGD), (partial(OptimWrapper, opt=optim.AdamW), optim.AdamW)],
    ids=["fastai's SGD", "torch's AdamW"],
)
def test_the_same_finding_as_the_plain_call(opt_func, optimizer):
    how = dict(num_steps=40, schedule="one_cycle", warmup=0.25, total_steps="9 epochs", min_lr=1e-5)
    finding = find_lr(learner(opt_func=opt_func), **how)
    by_hand = learner()
    swept = optimizer(by_hand.model.parameters(), lr=1e-3)
    plainly = plain(by_hand.model, swept, mse, by_hand.dls.train, **how)
    np.testing.assert_array_equal(finding.curve.loss, plainly.curve.loss)
    np.testing.assert_array_equal(finding.curve.baseline, plainly.curve.baseline)
    assert finding.plan == plainly.plan
    assert finding.facts["versions"].keys() - plainly.facts["versions"].keys() == {"fastai"}
    assert (finding.lr, finding.interval, finding.verdict) == (plainly.lr, plainly.interval, plainly.verdict)


def fading(seen, by=1.0):
    """A callback that lets the loss grow with the share of the training that is done; it tells the shares it saw."""

    class Fades(Callback):
        def after_loss(self):
            if self.training:
                seen.append(round(self.learn.pct_train, 6))
                self.learn.loss_grad = self.learn.loss_grad * (1 + by * self.learn.pct_train)
                self.learn.loss = self.learn.loss_grad.clone()

    return Fades()


def test_pct_train_counts_as_in_the_training_that_is_planned():
    seen = []
    learn = learner(cbs=fading(seen))
    steps = 4 * len(learn.dls.train)
    how = {"num_steps": steps, "max_lr": 1e-4, "progress": False, "control_variate": False}
    find_lr(learn, total_steps="4 epochs", **how)
    searched, seen[:] = list(seen), []
    learn.fit(4, 1e-4)
    assert searched == seen
    assert len(seen) == steps


def test_the_control_variate_sees_the_share_of_its_batch():
    curves = []
    for by in (1.0, 0.0):
        learn = learner(cbs=fading([], by))
        curves.append(find_lr(learn, total_steps="4 epochs", num_steps=8, max_lr=1e-2, progress=False).curve)
    annealing, plain = curves
    assert annealing.baseline == pytest.approx(plain.baseline * (1 + np.arange(8) / 20), rel=1e-6)


def test_the_plan_is_fit_one_cycles():
    plan = find_lr(learner(), total_steps="4 epochs").plan
    assert (plan.total_steps, plan.optimizer, plan.momentum) == (20, "Adam", 0.9)
    theirs = combined_cos(0.25, 1 / 25, 1.0, 1e-5)
    for progress in (0.0, 0.1, 0.25, 0.6, 1.0):
        assert plan.share(progress) == pytest.approx(float(theirs(progress)), abs=1e-5)
    assert find_lr(learner(opt_func=RMSProp), schedule="constant").plan.optimizer == "RMSprop"


def test_the_ratios_of_the_groups_are_kept_and_the_line_to_paste_sets_them_all():
    learn = learner(splitter=split, lr=slice(1e-4, 1e-2), opt_func=SGD)
    seen = []

    class Seen(Callback):
        order = 2_000

        def before_step(self):
            seen.append([hypers["lr"] for hypers in self.opt.hypers])

    learn.add_cb(Seen())
    finding = find_lr(learn, min_lr=1e-5, max_lr=10, num_steps=50)
    np.testing.assert_allclose(np.array(seen[: len(finding.curve)]) @ [1, 0], np.array(finding.curve.lr) / 100)
    assert finding.lrs == (pytest.approx(finding.lr / 100), finding.lr)
    exec(finding.code())
    with learn.no_bar(), learn.no_logging():
        learn.fit(1)
    np.testing.assert_allclose(seen[-1], finding.lrs, rtol=0.05)


def test_the_rates_may_be_given_and_a_frozen_group_sets_no_scale():
    learn = learner(splitter=split, opt_func=SGD, train_bn=False)
    assert find_lr(learn, lr=[0.1, 0.01]).facts["ratios"] == [1.0, pytest.approx(0.1)]
    learn.freeze()
    body = [parameter.clone() for parameter in learn.model.body.parameters()]
    assert find_lr(learn, lr=[0.1, 0.01]).facts["ratios"] == [pytest.approx(10), 1.0]
    assert all(map(torch.equal, learn.model.body.parameters(), body))


def test_the_line_to_paste_trains_at_the_rate():
    learn = learner()
    finding = find_lr(learn)
    assert finding.code() == f"learn.lr = {finding.lr:.2g}"
    assert finding.code() in str(finding)
    exec(finding.code())
    fit(learn, 1)
    with pytest.raises(OptimizerError, match="no param_groups to write the rate into; write this instead: learn"):
        finding.apply(learn.opt)
    assert max(learn.recorder.lrs) == pytest.approx(finding.lr, rel=0.15)  # two digits, and a peak between two steps


def test_a_race_is_scored_on_the_validation_loader_and_by_the_learners_callbacks():
    seen = []

    class Seen(Callback):
        def before_batch(self):
            if not self.training:
                seen.append(self.xb[0].sum().item())

    learn = learner(cbs=[Seen(), MixUp()])
    finding = find_lr(learn, total_steps="60 epochs", verify=True, control_variate=False, max_lr=1.0)
    assert len(finding.race.runs) >= 3
    assert sorted(set(seen)) == sorted(x.sum().item() for x, _ in learn.dls.valid)
    assert find_lr(learner()).curve.validation is None
    assert find_lr(learner(), validation_every=5).curve.validation is not None


def inputs_of(number):
    return torch.tensor([number, number * 2, number - 9, 5.0]) / 50


def target_of(number):
    return torch.tensor([number / 50]).sin()


def test_it_can_be_exported_afterwards(tmp_path):
    data = Datasets(list(range(60)), [[inputs_of], [target_of]], splits=[list(range(50)), list(range(50, 60))])
    learn = Learner(data.dataloaders(bs=10, num_workers=0), Net(), loss_func=mse, path=tmp_path)
    fit(learn, 1)
    find_lr(learn)
    learn.export("net.pkl")
    with pytest.warns(UserWarning, match="pickle"):
        again = load_learner(tmp_path / "net.pkl")
    assert all(map(torch.equal, again.model.parameters(), learn.model.cpu().parameters()))
    fit(learn, 1)


@pytest.mark.filterwarnings("ignore:.*numpy.core")
def test_logs_and_saved_models_are_left_alone(tmp_path):
    learn = learner(path=tmp_path, cbs=[CSVLogger(), SaveModelCallback()])
    with learn.no_bar():
        learn.fit(1)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    assert len(before) == 2
    with torch.no_grad():
        learn.model.head.bias.add_(1)  # so that a model that is loaded would be another one
    weights = copied(learn.model.state_dict())
    find_lr(learn)
    assert copied(learn.model.state_dict()) == weights
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def test_steps_that_are_skipped_are_no_points_and_batches_that_are_cancelled_no_step():
    class Skips(Callback):
        def __init__(self):
            self.tries = 0

        def before_step(self):
            self.tries += 1
            if self.tries in (3, 4):
                raise CancelStepException

        def after_batch(self):
            raise CancelTrainException

    learn = learner(cbs=Skips())
    finding = find_lr(learn, num_steps=10, max_lr=1e-3)
    assert (finding.stop, len(finding.curve)) == (Stop.FINISHED, 10)
    assert learn.skips.tries == 0

    class Never(Callback):
        def before_step(self):
            from fastai.callback.core import CancelBatchException

            raise CancelBatchException

    with pytest.raises(OptimizerError, match="took no step in 1000 batches"):
        find_lr(learner(cbs=Never()))


@pytest.mark.filterwarnings("ignore:.*CUDA")
def test_mixed_precision_and_workers(monkeypatch):
    learn = learner(workers=1, cbs=MixedPrecision("bf16"))
    assert len(find_lr(learn, num_steps=12).curve) > 5
    assert vars(learn).get("scaler") is None


def test_bad_input_is_one_clear_error_and_the_learner_is_as_it_was():
    learn = learner(cbs=MixUp)
    before = dict(vars(learn)), [parameter.clone() for parameter in learn.model.parameters()], torch.get_rng_state()
    for how, said in (
        ({"max_lr": 0}, "max_lr"),
        ({"num_it": 9}, "it is called 'num_steps' here"),
        ({"total_steps": "soon"}, "total_steps"),
        ({"validation_every": 0}, "validation_every"),
        ({"verify": True}, "needs total_steps"),
        ({"restore": 3}, "restore must be a list"),
    ):
        with pytest.raises(ConfigurationError, match=said):
            find_lr(learn, **how)
        assert dict(vars(learn)) == before[0]
        assert all(map(torch.equal, learn.model.parameters(), before[1]))
        assert torch.equal(torch.get_rng_state(), before[2])
    with pytest.raises(ConfigurationError, match="must be a fastai Learner, got Linear"):
        find_lr(nn.Linear(1, 1))
    with pytest.raises(LossError, match="loss_func must return one number"):
        find_lr(learner(loss_func=lambda pred, y: (pred - y).square(), cbs=OnlyForward))


@pytest.mark.parametrize(
    ("loss_func", "said"),
    [
        (lambda pred, y: (pred - y).square(), r"must return one number, got shape"),
        (lambda pred, y: (mse(pred, y), 1.0), r"must return a loss, got tuple"),
    ],
)
def test_a_loss_of_more_than_one_number_is_refused(loss_func, said):
    with pytest.raises(LossError, match=said):
        find_lr(learner(loss_func=loss_func))


def test_what_the_model_raises_is_raised():
    def fails(*_):
        raise ZeroDivisionError

    learn = learner()
    learn.model.register_forward_pre_hook(fails)
    with pytest.raises(ZeroDivisionError):
        find_lr(learn)


class OnlyForward(Callback):
    """Lets a loss of any shape have gradients."""

    def before_backward(self):
        self.learn.loss_grad = self.loss_grad.mean()


def test_what_puts_another_model_in_place_is_refused():
    class ParallelTrainer(Callback):
        pass

    with pytest.raises(ConfigurationError, match="ParallelTrainer puts another model"):
        find_lr(learner(cbs=ParallelTrainer))


def test_without_fastai_one_error_says_what_to_install():
    code = "import sys; sys.modules['fastai'] = None; import findlr.fastai"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "MissingExtraError: fastai is not installed; run: pip install 'findlr[fastai]'" in done.stderr
