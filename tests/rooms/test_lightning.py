"""Lightning: a training with a search in it is the training without one, whatever is in the Trainer."""

import logging
import random
import signal
import subprocess
import sys
import warnings
from functools import partial

import lightning.pytorch
import numpy as np
import pytest
import pytorch_lightning
import torch
import torchmetrics
from lightning.pytorch import LightningDataModule, LightningModule
from lightning.pytorch.callbacks import (
    BaseFinetuning,
    Callback,
    GradientAccumulationScheduler,
    LambdaCallback,
    ModelCheckpoint,
    StochasticWeightAveraging,
    TQDMProgressBar,
)
from lightning.pytorch.loggers import CSVLogger, Logger
from lightning.pytorch.plugins import MixedPrecision
from lightning.pytorch.profilers import SimpleProfiler
from lightning.pytorch.utilities.combined_loader import CombinedLoader
from torch import nn, optim
from torch.nn import functional
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

import findlr
from findlr.errors import ConfigurationError, LoaderError, LossError, OptimizerError
from findlr.lightning import FindLR, find_lr
from findlr.lightning.searching import trainable_of
from findlr.testing import TrainableConformance, TrainingConformance
from findlr.testing.bits import differing
from findlr.testing.checks import breaks_off
from findlr.testing.conformance import BrokenOffError
from tests.agent import Agent
from tests.torch.training import copied

pytestmark = [
    pytest.mark.filterwarnings(f"ignore::{kind}")
    for kind in ("UserWarning", "FutureWarning", "DeprecationWarning", "ResourceWarning")
]
SWEEP = {"min_lr": 1e-5, "max_lr": 0.1, "num_steps": 8, "progress": False}


@pytest.fixture(autouse=True)
def _quiet():
    for name in ("lightning.pytorch", "pytorch_lightning"):
        logging.getLogger(f"{name}.utilities.rank_zero").setLevel(logging.ERROR)


def dataset(batches=12):
    inputs = torch.randn(batches * 8, 4, generator=torch.Generator().manual_seed(3))
    return TensorDataset(inputs, inputs.sum(1, keepdim=True).sin())


def loader_of(batches=12, **how):
    return DataLoader(dataset(batches), 8, shuffle=True, generator=torch.Generator().manual_seed(5), **how)


def seeded(seed=7):
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


def net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.2), nn.Linear(8, 1))


class Module(LightningModule):
    """Logs, measures, keeps an average of its weights, and remembers its batches."""

    def __init__(self, scheduler=None, **scheduled):
        super().__init__()
        self.net, self.lr, self.scheduler, self.scheduled = net(), 1e-2, scheduler, scheduled
        self.error = torchmetrics.MeanSquaredError()
        self.average = [p.detach().clone() for p in self.net.parameters()]
        self.seen = []

    def training_step(self, batch, batch_idx):
        inputs, targets = batch
        outputs = self.net(inputs)
        loss = functional.mse_loss(outputs, targets)
        self.error(outputs.detach(), targets)
        self.log("loss", loss, on_step=True, on_epoch=True, prog_bar=True)
        self.log_dict({"error": self.error, "index": float(batch_idx)})
        self.seen.append(inputs.sum().item())
        return {"loss": loss, "outputs": outputs.detach()}

    def on_train_batch_end(self, outputs, batch, batch_idx):
        assert outputs["outputs"].shape == (len(batch[0]), 1)
        assert not outputs["loss"].requires_grad
        for kept, p in zip(self.average, self.net.parameters(), strict=True):
            kept.lerp_(p.detach(), 0.1)

    def validation_step(self, batch, batch_idx):
        self.log("val_loss", functional.mse_loss(self.net(batch[0]), batch[1]))

    def configure_optimizers(self):
        optimizer = optim.AdamW(self.parameters(), lr=self.lr)
        if self.scheduler is None:
            return optimizer
        return [optimizer], [{"scheduler": self.scheduler(optimizer), **self.scheduled}]


class Manual(Module):
    """Steps by itself: two optimizers, a step of each every second batch."""

    def __init__(self, returns=True, steps=True):
        super().__init__()
        self.automatic_optimization, self.returns, self.steps = False, returns, steps
        self.other = nn.Linear(1, 1)

    def training_step(self, batch, batch_idx):
        mine, other = self.optimizers()
        outputs = self.net(batch[0])
        loss = functional.mse_loss(outputs, batch[1])
        self.log("loss", loss)
        self.seen.append(batch[0].sum().item())
        self.manual_backward(loss + functional.mse_loss(self.other(outputs.detach()), batch[1]))
        if batch_idx % 2 and self.steps:
            for optimizer, scheduler in zip((other, mine), self.lr_schedulers(), strict=True):
                optimizer.step()
                optimizer.zero_grad()
                scheduler.step()
        return loss if self.returns else None

    def on_train_batch_end(self, outputs, batch, batch_idx):
        pass

    def configure_optimizers(self):
        optimizers = [optim.AdamW(self.net.parameters(), lr=self.lr), optim.SGD(self.other.parameters(), lr=0.1)]
        return optimizers, [optim.lr_scheduler.StepLR(each, 3) for each in optimizers]


def one_cycle(optimizer):
    return optim.lr_scheduler.OneCycleLR(optimizer, max_lr=1e-2, total_steps=60)


class Counts(Callback):
    """A callback with a state."""

    def __init__(self):
        self.batches = []

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        self.batches.append(float(batch[0].sum()))


def trainer_of(folder, *callbacks, package=lightning.pytorch, **how):
    quiet = ("enable_progress_bar", "enable_model_summary", "enable_checkpointing", "logger")
    settings = dict.fromkeys(quiet, False) | {"accelerator": "cpu", "max_epochs": 5, "default_root_dir": folder}
    return package.Trainer(callbacks=list(callbacks), **settings | how)


class Fitting:
    """A Trainer with all that it may have, in a folder of its own."""

    def __init__(self, folder, module, loader, *callbacks, **how):
        seeded()
        self.folder, self.module, self.loader, self.counts = folder, module, loader, Counts()
        self.validation = DataLoader(dataset(2), 8)
        checkpoint = ModelCheckpoint(dirpath=folder, filename="{step}", save_top_k=-1, every_n_train_steps=1)
        settings = {"max_epochs": -1, "max_steps": 0, "log_every_n_steps": 1, "val_check_interval": 4}
        settings |= {"logger": CSVLogger(folder, flush_logs_every_n_steps=1), "enable_checkpointing": True}
        self.trainer = trainer_of(folder, self.counts, *callbacks, checkpoint, **settings | how)
        self.limits = self.trainer.fit_loop.epoch_loop

    def fit(self, steps, ckpt_path=None):
        self.limits.max_steps += steps
        self.trainer.fit(self.module, self.loader, self.validation, ckpt_path=ckpt_path)

    def state(self):
        trainer, loops = self.trainer, self.trainer.fit_loop
        checkpoints = {path.name: torch.load(path, weights_only=False) for path in sorted(self.folder.glob("*.ckpt"))}
        for checkpoint in checkpoints.values():
            checkpoint["callbacks"].pop("FindLR", None)
            checkpoint["callbacks"] = str(checkpoint["callbacks"]).replace(str(self.folder), "")
        return {
            "weights": self.module.state_dict(),
            "average": self.module.average,
            "attributes": sorted(vars(self.module)),
            "optimizers": [optimizer.state_dict() for optimizer in trainer.optimizers],
            "precision": trainer.precision_plugin.state_dict(),
            "batches": [self.module.seen, self.counts.batches],
            "metrics": {name: float(value) for name, value in trainer.callback_metrics.items()},
            "metric": [self.module.error.sum_squared_error, self.module.error.total],
            "steps": [trainer.global_step, trainer.current_epoch, str(loops.state_dict()), str(trainer.state)],
            "order": self.loader.generator.get_state(),
            "logs": [path.read_text() for path in sorted(self.folder.rglob("metrics.csv"))],
            "checkpoints": checkpoints,
            "settings": [trainer.num_sanity_val_steps, trainer.loggers == [trainer.logger], trainer.should_stop],
        }


def same(one, other):
    others = list(differing(one, other))
    assert not others, others[:5]


# A search before a fit, between two fits, and never


ACCUMULATION = {"accumulate_grad_batches": 2, "gradient_clip_val": 0.1, "precision": "bf16-mixed"}


class Conformance(TrainingConformance):
    settings, how, made, callbacks = {}, {}, 0, ()

    @pytest.fixture(autouse=True)
    def _folders(self, tmp_path):
        self.folder = tmp_path

    def training(self):
        self.made += 1
        callbacks = [callback() for callback in self.callbacks]
        return Fitting(self.folder / str(self.made), self.module(), self.loader(), *callbacks, **self.settings)

    def loader(self):
        return loader_of()

    def train(self, training, steps):
        training.fit(steps)

    def search(self, training, **how):
        training.limits.max_steps += 100  # as for the fit that follows
        try:
            data = training.loader, training.validation
            return find_lr(training.trainer, training.module, *data, **how, **self.how)
        finally:
            training.limits.max_steps -= 100

    def state(self, training):
        assert len(training.module.seen) >= self.after
        return training.state()


class TestAdamW(Conformance):
    module = Module


class TestAccumulation(Conformance):
    settings = ACCUMULATION
    test_a_search_that_is_broken_off = None  # of which the others tell

    def module(self):
        return Module(one_cycle, interval="step")


class TestScaler(Conformance):
    """Whose first steps are skipped."""

    module = Module
    test_a_search_that_is_broken_off = None

    @property
    def settings(self):
        return {"plugins": MixedPrecision("16-mixed", "cpu", torch.amp.GradScaler("cpu", init_scale=2.0**20))}


class TestManual(Conformance):
    module, how = Manual, {"sweep": "net"}


class TestWorkers(Conformance):
    module = Module
    test_a_search_that_is_broken_off = None  # each time, workers take long to start

    def loader(self):
        return loader_of(4, num_workers=1, persistent_workers=True)


class TestTrainable(TrainableConformance):
    """What is searched, seen from inside; it goes on to be usable once its fit has been left."""

    max_lr = 0.05

    @pytest.fixture(autouse=True)
    def _folder(self, tmp_path):
        self.folder = tmp_path

    def trainable(self):
        found = []

        class Takes(FindLR):
            def _search(self, trainer):
                found.append(trainable_of(trainer))
                raise BrokenOffError

        seeded()
        module = Module()
        module.log = module.log_dict = lambda *_, **__: None
        with pytest.raises(BrokenOffError):
            trainer_of(self.folder, Takes(), accumulate_grad_batches=2).fit(module, loader_of())
        return found[0]

    def state(self, trainable):
        module, optimizer = trainable.model, trainable.optimizer
        return str([module.state_dict(), module.average, optimizer.state_dict(), torch.get_rng_state().sum()])


# A search among the callbacks of a fit


@pytest.mark.parametrize("how", [{}, {"max_lr": 1e6, "min_lr": 1e4}], ids=["finishes", "diverges"])
@pytest.mark.parametrize("module", [Module, Manual])
def test_a_fit_with_a_search_in_it_is_the_fit_without_one(module, how, tmp_path):
    states = []
    for name in ("with", "without"):
        search = FindLR(**SWEEP | how, sweep="net" if module is Manual else None)
        resumed = FindLR(**SWEEP, sweep=0)
        first = Fitting(tmp_path / name / "1", module(), loader_of(), *[search] * (name == "with"))
        first.fit(3)
        (start,) = (tmp_path / name / "1").glob(f"step={first.trainer.global_step}.ckpt")
        if name == "with":
            assert len(search.finding.curve) >= 2
            checkpoint = torch.load(start, weights_only=False)
            del checkpoint["callbacks"]["FindLR"]  # so that the fit from it searches again
            start = tmp_path / "never.ckpt"
            torch.save(checkpoint, start)
        second = Fitting(tmp_path / name / "2", module(), loader_of(), *[resumed] * (name == "with"), max_steps=3)
        second.fit(4, ckpt_path=start)
        assert second.trainer.global_step >= 7
        if name == "with":
            assert len(resumed.finding.curve) == 8
        states.append([first.state(), second.state()])
    same(*states)


@pytest.mark.parametrize("error", [BrokenOffError, KeyboardInterrupt])
def test_a_search_that_is_broken_off_among_the_callbacks_leaves_the_state_before_it(error, tmp_path):
    class Raises(Callback):
        def on_train_batch_start(self, *_):
            raise error

    search = FindLR(**SWEEP, on_step=breaks_off(error, 3))
    handler, states = signal.getsignal(signal.SIGINT), []
    for i, callback in enumerate((search, Raises())):
        training = Fitting(tmp_path / str(i), Module(), loader_of(), callback)
        with pytest.raises(error if error is BrokenOffError else SystemExit):  # which Lightning makes of a Ctrl-C
            training.fit(3)
        signal.signal(signal.SIGINT, handler)
        states.append([training.state(), torch.get_rng_state()])
    same(*states)
    assert len(search.finding.curve) == 4


def test_apply_writes_the_rate_and_a_resumed_fit_does_not_search_again(tmp_path):
    search = FindLR(apply=True, **SWEEP | {"num_steps": 40, "max_lr": 1.0})
    training = Fitting(tmp_path / "1", Module(), loader_of(), search)
    training.fit(2)
    (group,) = training.trainer.optimizers[0].param_groups
    assert group["lr"] == search.finding.lr == training.module.lr != 1e-2
    again = FindLR(apply=True, **SWEEP)
    resumed = Fitting(tmp_path / "2", Module(), loader_of(), again, max_steps=2)
    resumed.fit(2, ckpt_path=tmp_path / "1" / "step=2.ckpt")
    assert again.finding is None
    assert resumed.trainer.optimizers[0].param_groups[0]["lr"] == search.finding.lr


def test_apply_puts_the_schedulers_peak_there(tmp_path):
    search = FindLR(apply=True, **SWEEP | {"num_steps": 100, "max_lr": 10.0})
    module = Module(lambda optimizer: optim.lr_scheduler.StepLR(optimizer, 1, gamma=0.5), interval="step")
    trainer_of(tmp_path, search, max_steps=3).fit(module, loader_of(100))
    assert module.trainer.optimizers[0].param_groups[0]["lr"] == pytest.approx(search.finding.lr / 8)


def test_apply_moves_the_peak_that_a_scheduler_keeps(tmp_path):
    search = FindLR(apply=True, **SWEEP | {"num_steps": 100, "max_lr": 10.0})
    module = Cycled()
    trainer_of(tmp_path, search, max_steps=60).fit(module, loader_of(100))
    assert module.trainer.optimizers[0].param_groups[0]["max_lr"] == pytest.approx(search.finding.lr)


class WarmedUp(Module):
    """A warmup by hand, as in Lightning's documentation."""

    def optimizer_step(self, epoch, batch_idx, optimizer, optimizer_closure):
        optimizer.step(closure=optimizer_closure)
        for group in optimizer.param_groups:
            group["lr"] = min(1.0, (self.trainer.global_step + 1) / 5) * self.lr


def test_apply_acts_where_the_module_writes_its_rate_itself(tmp_path):
    search = FindLR(apply=True, **SWEEP | {"num_steps": 100, "max_lr": 10.0})
    module = WarmedUp()
    trainer_of(tmp_path, search, max_steps=10).fit(module, loader_of(100))
    assert module.trainer.optimizers[0].param_groups[0]["lr"] == search.finding.lr == module.lr


def annealing_to(floor):
    return Module(lambda optimizer: optim.lr_scheduler.CosineAnnealingLR(optimizer, 60, eta_min=floor), interval="step")


def test_apply_is_refused_before_the_search_where_a_scheduler_is_on_its_way(tmp_path):
    first = Fitting(tmp_path / "1", annealing_to(1e-5), loader_of())
    first.fit(2)
    seen = []
    search = FindLR(apply=True, on_step=seen.append, **SWEEP)
    resumed = Fitting(tmp_path / "2", annealing_to(1e-5), loader_of(), search)
    with pytest.raises(ConfigurationError, match=r"CosineAnnealingLR is on its way.*Leave apply out, and build"):
        resumed.fit(4, ckpt_path=tmp_path / "1" / "step=2.ckpt")
    assert not seen


def test_apply_says_so_where_the_rate_that_is_found_can_not_be_written(tmp_path, caplog):
    search, module = FindLR(apply=True, **SWEEP | {"num_steps": 100, "max_lr": 10.0}), annealing_to(50.0)
    module.lr = 100.0
    trainer_of(tmp_path, search, max_steps=30).fit(module, loader_of(100))
    assert search.finding.suggestion is not None
    assert "the training goes on at its own rate" in caplog.text
    assert module.lr == module.trainer.optimizers[0].param_groups[0]["initial_lr"] == 100.0


def test_apply_says_so_where_no_rate_is_found(tmp_path, caplog):
    search = FindLR(apply=True, **SWEEP | {"max_lr": 1e-4})
    training = Fitting(tmp_path, Module(), loader_of(), search)
    training.fit(1)
    assert search.finding.suggestion is None
    assert "no rate was found, and the training goes on at its own" in caplog.text
    assert training.trainer.optimizers[0].param_groups[0]["lr"] == training.module.lr


@pytest.mark.parametrize("limit", [None, 3])
def test_a_step_has_no_more_batches_than_an_epoch(limit, tmp_path):
    counted = []

    class Counted(Module):
        def training_step(self, batch, batch_idx):
            counted.append(batch_idx)
            return super().training_step(batch, batch_idx)

    trainer = trainer_of(tmp_path, max_steps=4, limit_train_batches=limit, accumulate_grad_batches=64)
    module, loader = Counted(), loader_of(5)
    found = find_lr(trainer, module, loader, control_variate=False, **SWEEP | {"num_steps": 4})
    searched, counted[:] = list(counted), []
    trainer.fit(module, loader)
    assert searched == counted
    assert found.facts["accumulation_steps"] * 4 == len(searched)


# The same Finding as that of the plain call


class Plain(Module):
    """Only a loss."""

    def __init__(self, optimizer=optim.AdamW, scheduler=None, **scheduled):
        super().__init__(scheduler, **scheduled)
        self.make = optimizer

    def training_step(self, batch):
        assert self.trainer.training
        return functional.mse_loss(self.net(batch[0]), batch[1])

    def on_train_batch_end(self, outputs, batch, batch_idx):
        pass

    def configure_optimizers(self):
        optimizer = self.make(self.net.parameters(), lr=self.lr)
        return (
            optimizer if self.scheduler is None else {"optimizer": optimizer, "lr_scheduler": self.scheduler(optimizer)}
        )


CASES = {
    "AdamW": ({}, {}, {}),
    "SGD": ({"optimizer": optim.SGD}, {}, {}),
    "LBFGS": ({"optimizer": optim.LBFGS}, {}, {}),
    "accumulation, clipping": (
        {},
        {"accumulate_grad_batches": 3, "gradient_clip_val": 0.1},
        {"accumulation_steps": 3, "clip_grad_norm": 0.1, "total_steps": 20},
    ),
    "clipping by value, bf16": (
        {},
        {"gradient_clip_val": 0.1, "gradient_clip_algorithm": "value", "precision": "bf16-mixed"},
        {"clip_grad_value": 0.1, "autocast": "bf16"},
    ),
    "a schedule": ({"scheduler": lambda o: optim.lr_scheduler.CosineAnnealingLR(o, 5)}, {}, {"schedule": "epochs"}),
    "a plan that is given": ({}, {"max_epochs": -1}, {"schedule": "cosine", "warmup": 0.1, "total_steps": "3 epochs"}),
}


@pytest.mark.parametrize(("made", "settings", "how"), CASES.values(), ids=CASES)
def test_the_finding_is_that_of_the_plain_call(made, settings, how, tmp_path):
    seeded()
    sweep = {"num_steps": 30, "progress": False}
    asked = {name: how[name] for name in ("schedule", "warmup") if name in how and how[name] != "epochs"}
    if asked:
        asked["total_steps"] = how["total_steps"]
    found = find_lr(trainer_of(tmp_path, **settings), Plain(**made), loader_of(), **sweep, **asked)
    seeded()
    model = net()
    optimizer = made.get("optimizer", optim.AdamW)(model.parameters(), lr=1e-2)
    if how.get("schedule") == "epochs":
        how = {"schedule": optim.lr_scheduler.CosineAnnealingLR(optimizer, 5)}
    plain = findlr.find_lr(*(model, optimizer, nn.MSELoss(), loader_of()), **sweep, **{"total_steps": 60, **how})
    assert found.curve == plain.curve
    assert (found.suggestion, found.verdict, found.why) == (plain.suggestion, plain.verdict, plain.why)
    assert found.plan == plain.plan
    assert (found.cost.forwards, found.cost.backwards) == (plain.cost.forwards, plain.cost.backwards)


def returned(self, batch, batch_idx):
    return {"loss": functional.mse_loss(self.net(batch[0]), batch[1])}


def logged(self, batch, batch_idx):
    assert self.trainer.validating
    self.log(name="accuracy", value=0.5)
    self.log_dict(dictionary={"val_loss": functional.mse_loss(self.net(batch[0]), batch[1])})


def nothing(self, batch, batch_idx):
    pass


def by_a_metric(self, batch, batch_idx):
    self.error.update(self.net(batch[0]), batch[1])
    self.log("val_loss", self.error)


def by_its_loader(self, batch, batch_idx, dataloader_idx):
    assert dataloader_idx == 0
    return functional.mse_loss(self.net(batch[0]), batch[1])


def begun(self):
    assert self.trainer.validating
    self.losses = []


def counted(self, batch, batch_idx):
    assert batch_idx == len(self.losses)
    self.losses.append(functional.mse_loss(self.net(batch[0]), batch[1]))
    self.log("val_loss", self.losses[-1])


def left(self, *_):
    raise AssertionError


VALIDATIONS = {
    "returned": {"validation_step": returned},
    "logged": {"validation_step": logged},
    "nothing": {"validation_step": nothing},
    "a metric": {"validation_step": by_a_metric},
    "a loader's": {"validation_step": by_its_loader},
    "begun": {"validation_step": counted, "on_validation_epoch_start": begun, "on_validation_epoch_end": left},
}


@pytest.mark.parametrize("hooks", VALIDATIONS.values(), ids=VALIDATIONS)
def test_a_race_is_scored_on_the_validation_loader(hooks, tmp_path):
    race = {"verify": True, "num_steps": 30, "budget": 200, "max_lr": 1.0, "progress": False}
    seeded()
    module = type("Scored", (Plain,), hooks)()
    validation = {"first": DataLoader(dataset(3), 8), "second": DataLoader(dataset(1), 8)}
    found = find_lr(trainer_of(tmp_path, max_epochs=20), module, loader_of(), validation, **race)
    seeded()
    model = net()
    plain = findlr.find_lr(
        *(model, optim.AdamW(model.parameters(), lr=1e-2), nn.MSELoss(), loader_of()),
        validation_loader=DataLoader(dataset(3), 8),
        total_steps=240,
        **race,
    )
    assert found.race.runs
    assert found.race == plain.race
    assert found.lr == plain.lr


@pytest.mark.parametrize("validation", [None, []])
def test_without_a_validation_loader_a_race_sets_training_examples_aside(validation, tmp_path):
    race = {"verify": True, "num_steps": 30, "budget": 200, "max_lr": 1.0, "progress": False}
    seeded()
    module = type("Scored", (Plain,), {"validation_step": returned})()
    found = find_lr(trainer_of(tmp_path, max_epochs=20), module, loader_of(), validation, **race)
    seeded()
    model = net()
    call = model, optim.AdamW(model.parameters(), lr=1e-2), nn.MSELoss(), loader_of()
    plain = findlr.find_lr(*call, total_steps=240, **race)
    assert found.race.held_out
    assert found.race == plain.race


def test_a_race_of_steps_by_hand(tmp_path):
    how = {"sweep": "net", "verify": True, "num_steps": 30, "budget": 200, "max_lr": 1.0, "progress": False}
    found = find_lr(trainer_of(tmp_path, max_epochs=20), Manual(), loader_of(), **how)
    assert len(found.race.runs) > 1


def test_both_packages_find_the_same(tmp_path):
    other = pytorch_lightning
    body = {name: vars(Plain)[name] for name in ("training_step", "configure_optimizers")}

    def init(self):
        other.LightningModule.__init__(self)
        self.net, self.lr, self.make, self.scheduler = net(), 1e-2, optim.AdamW, None

    theirs = type("Theirs", (other.LightningModule,), {**body, "__init__": init})
    found = []
    for package, module in ((lightning.pytorch, Plain), (other, theirs)):
        seeded()
        found.append(find_lr(trainer_of(tmp_path, package=package), module(), loader_of(), **SWEEP))
        search = FindLR(**SWEEP)
        trainer_of(tmp_path, search, package=package, max_steps=1).fit(module(), loader_of())
        assert len(search.finding.curve) == 8
    assert found[0].curve == found[1].curve
    assert set(found[1].facts["versions"]) == {"python", "numpy", "torch", "pytorch_lightning"}
    with pytest.raises(ConfigurationError, match=r"LightningModule of pytorch_lightning, got Plain"):
        find_lr(trainer_of(tmp_path, package=other), Plain(), loader_of())


@pytest.mark.filterwarnings("ignore:.*returned .None., this fit will run with no optimizer")
@pytest.mark.parametrize("returned", [None, []])
@pytest.mark.parametrize("callback", [False, True])
def test_a_module_without_an_optimizer_is_named(callback, returned, tmp_path):
    class Untrained(Plain):
        def configure_optimizers(self):
            return returned

    search = trainer_of(tmp_path, FindLR(**SWEEP)).fit if callback else partial(find_lr, trainer_of(tmp_path), **SWEEP)
    with pytest.raises(OptimizerError, match="configure_optimizers of Untrained gave no optimizer"):
        search(Untrained(), loader_of())


class WithoutSome(Module):
    """Goes on without every third batch."""

    def __init__(self, skipped):
        super().__init__()
        self.skipped = skipped

    def training_step(self, batch, batch_idx):
        return None if batch_idx % 3 == self.skipped else functional.mse_loss(self.net(batch[0]), batch[1])

    def on_train_batch_end(self, outputs, batch, batch_idx):
        assert outputs.keys() == ({"loss"} if batch_idx % 3 != self.skipped else set())


@pytest.mark.parametrize("skipped", [0, 1])
def test_a_batch_for_which_the_training_step_returns_none_is_no_point(skipped, tmp_path):
    seeded()
    module, loader = WithoutSome(skipped), DataLoader(dataset(), 8)
    found = find_lr(trainer_of(tmp_path), module, loader, **SWEEP)
    seeded()
    model, others = net(), [batch for i, batch in enumerate(loader) if i % 3 != skipped]
    optimizer = optim.AdamW(model.parameters(), lr=1e-2)
    plain = findlr.find_lr(model, optimizer, nn.MSELoss(), others, **SWEEP)
    assert found.curve.loss.tolist() == plain.curve.loss.tolist()
    assert found.curve.baseline == pytest.approx(plain.curve.baseline)
    assert found.cost.steps > len(found.curve)


def test_a_batch_without_a_loss_is_left_out_of_an_accumulated_step(tmp_path):
    curves = []
    for count in (1, 3):
        seeded()
        batches = [batch for batch in DataLoader(dataset(), 8) for _ in range(count)]
        module = (LastOfThree if count == 3 else Plain)()
        trainer = trainer_of(tmp_path, accumulate_grad_batches=count)
        how = SWEEP | {"control_variate": count == 3}
        module.make = optim.Adagrad  # to which a third of the gradient is the gradient
        curves.append(find_lr(trainer, module, DataLoader(batches, batch_size=None), **how).curve)
    assert curves[0].loss == pytest.approx(curves[1].loss, rel=1e-3)
    assert curves[1].baseline is not None


class LastOfThree(Plain):
    def training_step(self, batch, batch_idx):
        return None if batch_idx % 3 < 2 else super().training_step(batch)


class HasAgents(Module):
    def __init__(self):
        super().__init__()
        self.agents = [Agent()]

    def training_step(self, batch, batch_idx):
        self.agents[0].learn()
        return super().training_step(batch, batch_idx)


@pytest.mark.parametrize("place", ["before", "among the callbacks"])
def test_what_objects_of_a_module_hold_is_put_back(place, tmp_path):
    states = []
    for search in (True, False):
        seeded()
        module, found = HasAgents(), FindLR(**SWEEP)
        trainer = trainer_of(tmp_path, *[found] * (search and place != "before"), max_epochs=1)
        if search and place == "before":
            find_lr(trainer, module, loader_of(), **SWEEP)
        trainer.fit(module, loader_of())
        (agent,) = module.agents
        states.append([module.state_dict(), agent.state()])
    same(*states)


class Cuts(Module):
    """Ends each epoch before its fifth batch."""

    def on_train_batch_start(self, batch, batch_idx):
        return -1 if batch_idx == 4 else None


@pytest.mark.parametrize("accumulated", [1, 2])
def test_a_batch_before_which_the_module_ends_the_epoch_is_not_trained_on(accumulated, tmp_path):
    seeded()
    how = {"accumulate_grad_batches": accumulated}
    found = find_lr(trainer_of(tmp_path, **how), Cuts(), DataLoader(dataset(), 8), **SWEEP)
    seeded()
    model, others = net(), [batch for i, batch in enumerate(DataLoader(dataset(), 8)) if i % 5 != 4]
    optimizer = optim.AdamW(model.parameters(), lr=1e-2)
    plain = findlr.find_lr(model, optimizer, nn.MSELoss(), others, accumulation_steps=accumulated, **SWEEP)
    assert found.curve.loss[: 10 // accumulated].tolist() == plain.curve.loss[: 10 // accumulated].tolist()
    assert len(found.curve) == 8


# Data, plans, the line to paste


def unseeded():
    return DataLoader(dataset(), 8, shuffle=True)


class Own(Plain):
    def train_dataloader(self):
        return unseeded()


class Data(LightningDataModule):
    def setup(self, stage):
        self.ready = torch.rand(1)

    def train_dataloader(self):
        assert self.ready is not None
        return unseeded()

    def val_dataloader(self):
        return DataLoader(dataset(2), 8)


def test_data_that_a_module_or_a_datamodule_has(tmp_path):
    curves = []
    for arguments in ((Own(),), (Plain(), Data()), (Plain(), None, None, Data()), (Plain(), unseeded())):
        seeded()
        curves.append(find_lr(trainer_of(tmp_path), *arguments, **SWEEP).curve)
    assert all(curve == curves[-1] for curve in curves)
    data = Data()
    find_lr(trainer_of(tmp_path), Plain(), datamodule=data, **SWEEP)
    assert not hasattr(data, "ready")


class Augments(Data):
    """Its hooks draw and count, in numbers, containers, tensors, a module and an object of its own."""

    def __init__(self):
        super().__init__()
        self.draws, self.batches, self.sums = np.random.default_rng(1), 0, [0.0]
        self.mean, self.norm, self.noise = torch.zeros(1), nn.BatchNorm1d(4), Noise()

    @torch.no_grad()
    def on_after_batch_transfer(self, batch, dataloader_idx):
        inputs, targets = batch
        self.batches += 1
        self.sums.append(inputs.sum().item())
        self.mean += inputs.mean()
        inputs = self.norm(inputs) + self.noise(inputs) + float(self.draws.normal())
        return inputs * (1 + 0.01 * self.batches + 1e-3 * len(self.sums)) + self.mean, targets


class Noise:
    """What a datamodule uses."""

    def __init__(self):
        self.draws, self.calls = np.random.RandomState(1), {"calls": 0}

    def __call__(self, inputs):
        self.calls["calls"] += 1
        return self.calls["calls"] + float(self.draws.normal())


@pytest.mark.parametrize("place", ["before", "among the callbacks"])
def test_what_a_datamodules_hooks_change_is_put_back(place, tmp_path):
    states = []
    for search in (True, False):
        seeded()
        module, data = Module(), Augments()
        found = FindLR(**SWEEP)
        trainer = trainer_of(tmp_path, *[found] * (search and place != "before"), max_epochs=1)
        if search and place == "before":
            find_lr(trainer, module, datamodule=data, **SWEEP)
        trainer.fit(module, datamodule=data)
        told = [data.batches, data.sums, data.mean, data.norm.state_dict(), data.noise.calls, data.draws.normal()]
        states.append([module.state_dict(), module.seen, *told])
    same(*states)


class Holds(Plain):
    def __init__(self):
        super().__init__()
        self.loader = loader_of()

    def train_dataloader(self):
        return self.loader


def test_the_order_of_a_loader_that_the_module_holds_is_put_back(tmp_path):
    module, fresh = Holds(), Holds()
    find_lr(trainer_of(tmp_path), module, **SWEEP)
    assert torch.equal(module.loader.generator.get_state(), fresh.loader.generator.get_state())


class Sums(Plain):
    """Takes batches from several loaders."""

    def training_step(self, batch):
        self.seen.append([each[0].sum().item() for each in batch.values()])
        return sum(super(Sums, self).training_step(each) for each in batch.values())


@pytest.mark.parametrize("combined", [False, True])
def test_several_loaders(combined, tmp_path):
    seen = []
    for search in (True, False):
        seeded()
        loaders = {"one": loader_of(6), "two": loader_of(4, num_workers=1, persistent_workers=True)}
        data = CombinedLoader(loaders, "min_size") if combined else loaders
        callback, module = FindLR(**SWEEP), Sums()
        trainer = trainer_of(tmp_path, *[callback] * search, max_epochs=2)
        trainer.fit(module, data)
        seen.append([module.seen, module.state_dict(), trainer.num_training_batches])
        assert not search or len(callback.finding.curve) == 8
    same(*seen)
    assert seen[0][2] == (4 if combined else 6)


def test_an_epoch_that_is_cut_is_an_epoch_of_the_search(tmp_path):
    module = Module()
    found = find_lr(trainer_of(tmp_path, limit_train_batches=3), module, loader_of(), **SWEEP | {"num_steps": "epoch"})
    assert len(found.curve) == 3
    assert found.plan.total_steps == 15
    sums = []

    class Sums(Plain):
        def training_step(self, batch):
            sums.append(batch[0].sum().item())
            return super().training_step(batch)

    how = SWEEP | {"control_variate": False}
    find_lr(trainer_of(tmp_path, limit_train_batches=3), Sums(), DataLoader(dataset(), 8), **how)
    assert sums[:3] == sums[3:6]
    assert len(set(sums)) == 3
    shuffled = find_lr(trainer_of(tmp_path, overfit_batches=2), module, loader_of(), **SWEEP | {"num_steps": "epoch"})
    assert len(shuffled.curve) == 2


class Rates(Callback):
    def on_train_start(self, trainer, pl_module):
        self.rates = []

    def on_before_optimizer_step(self, trainer, pl_module, optimizer):
        self.rates.append(optimizer.param_groups[0]["lr"])


@pytest.mark.parametrize(
    ("make", "how"),
    [
        (lambda o: optim.lr_scheduler.MultiStepLR(o, [2, 4]), {}),
        (lambda o: optim.lr_scheduler.CosineAnnealingLR(o, 2), {}),  # up again after two epochs
        (lambda o: optim.lr_scheduler.LambdaLR(o, lambda epoch: (epoch + 1) / 10), {}),  # rises to the end
        (lambda o: optim.lr_scheduler.StepLR(o, 1, 0.5), {"frequency": 2}),
        (lambda o: optim.lr_scheduler.StepLR(o, 1, 0.5), {"frequency": 3, "interval": "step"}),
    ],
)
@pytest.mark.parametrize("limits", [{}, {"accumulate_grad_batches": 5}, {"max_steps": 31}])
def test_the_plan_is_the_rates_that_the_trainer_will_give(make, how, limits, tmp_path):
    if limits and how.get("interval"):  # whose frequency counts batches
        return
    rates, module = Rates(), Module(make, **how)
    trainer = trainer_of(tmp_path, rates, **limits)
    plan = find_lr(trainer, module, loader_of(), **SWEEP).plan
    trainer.fit(module, loader_of())
    assert plan.total_steps == len(rates.rates)
    np.testing.assert_allclose(plan.shares(plan.total_steps), np.array(rates.rates) / max(rates.rates))
    assert plan.epochs == len(rates.rates) / (3 if "accumulate_grad_batches" in limits else 12)


def test_a_scheduler_that_counts_steps_and_is_moved_once_an_epoch_is_named(tmp_path, caplog):
    def make(optimizer):
        return optim.lr_scheduler.CosineAnnealingLR(optimizer, 60)

    find_lr(trainer_of(tmp_path), Module(make), loader_of(), **SWEEP)
    assert "this CosineAnnealingLR is made for 60 steps, and Lightning moves it only 5 times" in caplog.text
    caplog.clear()
    find_lr(trainer_of(tmp_path), Module(make, interval="step"), loader_of(), **SWEEP)
    assert not caplog.text


class Endless(IterableDataset):
    def __iter__(self):
        return iter(dataset())


@pytest.mark.parametrize("limit", [1.0, 5])
def test_data_without_a_length(limit, tmp_path):
    module = Module(lambda optimizer: optim.lr_scheduler.StepLR(optimizer, 1))  # by epochs
    trainer = trainer_of(tmp_path, limit_train_batches=limit, max_epochs=-1, max_steps=20)
    found = find_lr(trainer, module, DataLoader(Endless(), 8), **SWEEP)
    assert len(found.curve) == 8
    assert found.plan.total_steps == 20
    found = find_lr(trainer_of(tmp_path, limit_train_batches=limit), module, DataLoader(Endless(), 8), **SWEEP)
    assert found.plan.total_steps == (None if limit == 1.0 else 25)


def test_an_accumulation_that_changes_is_that_of_the_first_step(tmp_path):
    search, changes = FindLR(**SWEEP), GradientAccumulationScheduler({0: 2, 1: 3})
    trainer_of(tmp_path, changes, search, max_epochs=1).fit(Plain(), loader_of())
    assert search.finding.facts["accumulation_steps"] == 2
    found = find_lr(trainer_of(tmp_path, changes, max_epochs=1), Plain(), loader_of(), **SWEEP)
    assert found.facts["accumulation_steps"] == 2


class Times(Callback):
    """Counts the steps of 5 epochs: the sixth, which StochasticWeightAveraging adds, ends with an idle one."""

    def __init__(self):
        self.steps = 0

    def on_before_optimizer_step(self, trainer, pl_module, optimizer):
        self.steps += trainer.current_epoch < 5


@pytest.mark.parametrize("how", [{}, {"max_steps": 20}, {"accumulate_grad_batches": 5}], ids=str)
@pytest.mark.parametrize("kind", ["accumulates", "averages"])
def test_the_plan_has_the_steps_that_a_fit_takes_whatever_callbacks_change(kind, how, tmp_path):
    if kind == "accumulates":
        makes, how = lambda: GradientAccumulationScheduler({0: 4, 1: 3, 3: 1}), {**how, "accumulate_grad_batches": 1}
    else:
        makes = lambda: StochasticWeightAveraging(1e-3)  # noqa: E731
    search, took = FindLR(**SWEEP), Times()
    trainer_of(tmp_path, makes(), took, search, **how).fit(Module(), loader_of())
    assert search.finding.plan.total_steps == took.steps
    found = find_lr(trainer_of(tmp_path, makes(), **how), Module(), loader_of(), **SWEEP)
    assert found.plan.total_steps == took.steps


# Callbacks that decide what is trained


class Thaws(BaseFinetuning):
    """Freezes the first layers, and adds them to the optimizer in the second epoch."""

    def freeze_before_training(self, pl_module):
        self.freeze(pl_module.net[:2])

    def finetune_function(self, pl_module, epoch, optimizer):
        if epoch == 1:
            self.unfreeze_and_add_param_group(pl_module.net[:2], optimizer)


class Unfrozen(Module):
    def configure_optimizers(self):
        return optim.AdamW([p for p in self.parameters() if p.requires_grad], lr=self.lr)


class TestFinetuning(Conformance):
    """Whose second epoch comes while the conformance suite trains."""

    module, callbacks = Unfrozen, (Thaws,)

    def loader(self):
        return loader_of(4)


class Freezes(Callback):
    """Freezes the first layer in one of its hooks."""

    def __init__(self, hook):
        self.calls, self.average = 0, nn.BatchNorm1d(2)
        setattr(self, hook, self.freeze)

    def freeze(self, trainer, pl_module, *_, **__):
        self.calls += 1
        self.average.running_mean += 1
        pl_module.net[0].requires_grad_(False)


class Configures(Plain):
    def configure_callbacks(self):
        return Freezes("on_fit_start")


DECIDE = {
    "in setup": (Plain, [Freezes("setup")]),
    "as the training starts": (Plain, [Freezes("on_train_start")]),
    "as the epoch starts": (Plain, [Freezes("on_train_epoch_start")]),
    "at the first batch": (Plain, [Freezes("on_train_batch_start")]),
    "by a function": (Plain, [LambdaCallback(on_fit_start=lambda _, module: module.net[0].requires_grad_(False))]),
    "the module's own": (Configures, []),
}


@pytest.mark.parametrize(("kind", "callbacks"), DECIDE.values(), ids=DECIDE)
def test_a_search_trains_what_callbacks_leave_to_be_trained(kind, callbacks, tmp_path):
    module, counts = kind(), Counts()
    trainer = trainer_of(tmp_path, *callbacks, counts)
    found = find_lr(trainer, module, loader_of(), **SWEEP)
    assert found.plan.parameters == 25  # of 65
    assert [p.requires_grad for p in module.parameters()] == [True] * 6
    assert trainer.callbacks == [*callbacks, counts]
    assert not counts.batches
    assert not any(each.calls or each.average.running_mean.any() for each in callbacks if isinstance(each, Freezes))


def test_a_scheduler_that_follows_a_metric_or_is_stepped_by_hand_is_no_plan(tmp_path):
    plateau = Module(optim.lr_scheduler.ReduceLROnPlateau, monitor="val_loss")
    validation = DataLoader(dataset(2), 8)
    assert find_lr(trainer_of(tmp_path), plateau, loader_of(), validation, **SWEEP).plan.schedule == "constant"
    assert find_lr(trainer_of(tmp_path), Manual(), loader_of(), sweep=1, **SWEEP).plan.schedule == "constant"


class Parameters(Plain):
    def __init__(self, learning_rate=3e-3):
        super().__init__()
        self.save_hyperparameters()

    def configure_optimizers(self):
        return optim.AdamW(self.net.parameters(), lr=self.hparams.learning_rate)


class Fixed(Plain):
    def configure_optimizers(self):
        return optim.AdamW(self.net.parameters(), lr=3e-4)


class Cycled(Plain):
    def configure_optimizers(self):
        optimizer = optim.AdamW(self.net.parameters())
        cycle = optim.lr_scheduler.OneCycleLR(optimizer, max_lr=self.lr, total_steps=60)
        return [optimizer], [{"scheduler": cycle, "interval": "step"}]


class UpAndDown(Plain):
    """The scheduler keeps a lowest and a highest rate, and the optimizer begins at the lowest."""

    def configure_optimizers(self):
        optimizer = optim.AdamW(self.net.parameters())
        cycle = optim.lr_scheduler.CyclicLR(optimizer, self.lr / 10, self.lr, step_size_up=20)
        return [optimizer], [{"scheduler": cycle, "interval": "step"}]


class Noam(Plain):
    """The schedule is a multiple of the optimizer's rate that is never 1."""

    def configure_optimizers(self):
        optimizer = optim.AdamW(self.net.parameters(), lr=self.lr)
        noam = optim.lr_scheduler.LambdaLR(
            optimizer, lambda step: 0.25 * min((step + 1) / 10, (10 / (step + 1)) ** 0.5)
        )
        return [optimizer], [{"scheduler": noam, "interval": "step"}]


class CycledElsewhere(Plain):
    """The scheduler has a peak of its own, so that ``self.lr`` does not act."""

    def configure_optimizers(self):
        optimizer = optim.AdamW(self.net.parameters(), lr=self.lr)
        return [optimizer], [{"scheduler": one_cycle(optimizer), "interval": "step"}]


class Heads(Parameters):
    """The last layer at ten times the rate; and the random numbers, flags and attributes move."""

    def configure_optimizers(self):
        self.asked = torch.rand(1)
        self.net[0].requires_grad_(False)
        self.hparams.setdefault("asked", 1)
        body, head = self.net[:4].parameters(), self.net[4].parameters()
        rate = self.hparams.learning_rate
        return optim.AdamW([{"params": body, "lr": rate}, {"params": head, "lr": 10 * rate}])


class Eighth(Plain):
    def configure_optimizers(self):
        return optim.SGD(self.net.parameters(), lr=self.lr / 8)


class Both(Parameters):
    """``self.lr`` is there, but it is hparams that the optimizer is made with."""

    def __init__(self, learning_rate=1e-2):
        super().__init__(learning_rate)
        self.lr = learning_rate


class OneIsFixed(Plain):
    def configure_optimizers(self):
        body, head = self.net[:4].parameters(), self.net[4].parameters()
        return optim.AdamW([{"params": body, "lr": 1e-2}, {"params": head, "lr": self.lr}])


class FromATable(Plain):
    def configure_optimizers(self):
        return optim.AdamW(self.net.parameters(), lr={1e-2: 1e-2}[self.lr])


LINES = {
    Plain: "model.lr = ",
    Parameters: "model.hparams.learning_rate = ",
    Cycled: "model.lr = ",
    UpAndDown: "model.lr = ",
    Noam: "model.lr = ",
    CycledElsewhere: "optimizer = torch.optim.AdamW(",
    Fixed: "optimizer = torch.optim.AdamW(",
    Heads: "model.hparams.learning_rate = ",
    Eighth: "model.lr = ",
    Both: "model.hparams.learning_rate = ",
    OneIsFixed: "for group, lr in zip(optimizer.param_groups, [",
    FromATable: "optimizer = torch.optim.AdamW(",
}


@pytest.mark.parametrize("module", LINES)
def test_the_line_to_paste_is_in_lightnings_words(module, tmp_path):
    found = find_lr(trainer_of(tmp_path), module(), loader_of(), progress=False)
    assert found.code().startswith(LINES[module])
    following = "finding.apply(optimizer, scheduler)" if module is CycledElsewhere else LINES[module]
    assert following in str(found) or module is OneIsFixed


@pytest.mark.parametrize("module", [module for module, line in LINES.items() if line.startswith("model.")])
def test_the_line_to_paste_gives_the_optimizer_the_rates_that_were_found(module, tmp_path):
    seeded()
    model = module()
    found = find_lr(trainer_of(tmp_path), model, loader_of(), progress=False)
    exec(found.code(), {"model": model})
    rates = []

    class Rates(Callback):
        def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
            rates.append([group["lr"] for group in trainer.optimizers[0].param_groups])

    trainer_of(tmp_path, Rates()).fit(model, loader_of())
    assert [max(each) for each in zip(*rates, strict=True)] == pytest.approx(found.lrs, rel=0.05)


def test_asking_for_other_optimizers_changes_nothing(tmp_path):
    states = []
    for search in ([], [FindLR(**SWEEP)]):
        seeded()
        module = Heads()
        trainer_of(tmp_path, *search, max_steps=3).fit(module, loader_of())
        states.append([module.state_dict(), module.asked, dict(module.hparams), module.lr, torch.get_rng_state()])
    same(*states)


@pytest.mark.parametrize(("sweep", "rate"), [("net", 1e-2), (1, 0.1), (["net", "other"], 0.1), ("other", 0.1)])
def test_which_of_several_optimizers(sweep, rate, tmp_path):
    found = find_lr(trainer_of(tmp_path), Manual(), loader_of(), sweep=sweep, **SWEEP)
    assert max(group["lr"] for group in found.facts["optimizer"]["groups"]) == rate
    assert len(found.curve) == 8


# Loggers, hooks, signals


class Tells(Logger):
    """Whatever it is told is an error."""

    name = version = "tells"

    def log_metrics(self, metrics, step=None):
        raise AssertionError(metrics)

    log_hyperparams = log_metrics


def test_nothing_reaches_a_logger_or_a_callback(tmp_path):
    class Direct(Parameters):
        def training_step(self, batch):
            self.logger.experiment.add_scalar("loss", 1.0)
            self.log("loss", 1.0)
            return super().training_step(batch)

        def configure_callbacks(self):
            return [Silent()]

    class Silent(Callback):
        def on_before_optimizer_step(self, *_):
            raise AssertionError

        setup = on_before_zero_grad = on_train_start = on_after_backward = on_before_optimizer_step

    trainer = trainer_of(tmp_path, Silent(), logger=Tells(), log_every_n_steps=1)
    found = find_lr(trainer, Direct(), loader_of(), **SWEEP)
    assert len(found.curve) == 8
    assert [type(each) for each in (*trainer.callbacks, *trainer.loggers)] == [Silent, Tells]
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("among_callbacks", [False, True])
def test_nothing_reaches_the_profiler(among_callbacks, tmp_path):
    profiler = SimpleProfiler(tmp_path, "profile")
    search = FindLR(**SWEEP)
    trainer = trainer_of(tmp_path, *[search] * among_callbacks, profiler=profiler, max_steps=1)
    if among_callbacks:
        trainer.fit(Plain(), loader_of())
        assert len(profiler.recorded_durations["[Strategy]SingleDeviceStrategy.training_step"]) == 1
    else:
        find_lr(trainer, Plain(), loader_of(), **SWEEP)
        assert not profiler.recorded_durations
        assert not list(tmp_path.iterdir())
    assert trainer.profiler is profiler


def test_a_bar_on_the_screen_stays_there(tmp_path):
    class Looks(Plain):
        def training_step(self, batch):
            assert isinstance(self.trainer.progress_bar_callback, TQDMProgressBar)
            return super().training_step(batch)

    search = FindLR(num_steps=8)
    trainer_of(tmp_path, TQDMProgressBar(), search, enable_progress_bar=True, max_steps=1).fit(Looks(), loader_of())
    assert len(search.finding.curve) == 8


def test_right_after_a_search_all_is_as_it_was(tmp_path):
    training = Fitting(tmp_path, Module(), loader_of())
    training.fit(3)
    training.limits.max_steps += 5
    before = copied(training.state())
    find_lr(training.trainer, training.module, training.loader, training.validation, **SWEEP)
    same(copied(training.state()), before)


def test_lora_on_a_language_model(tmp_path):
    from peft import LoraConfig, get_peft_model
    from transformers import GPT2Config, GPT2LMHeadModel

    class Language(LightningModule):
        def __init__(self, lr=1e-3):
            super().__init__()
            self.save_hyperparameters()
            torch.manual_seed(0)
            tiny = GPT2Config(vocab_size=32, n_positions=8, n_embd=8, n_layer=1, n_head=2)
            self.model = get_peft_model(GPT2LMHeadModel(tiny), LoraConfig(r=2, target_modules=["c_attn"]))

        def training_step(self, batch):
            return self.model(**batch, labels=batch["input_ids"]).loss

        def configure_optimizers(self):
            return optim.AdamW([p for p in self.parameters() if p.requires_grad], lr=self.hparams.lr)

    texts = [{"input_ids": ids} for ids in torch.randint(0, 32, (64, 8), generator=torch.Generator().manual_seed(0))]
    states = []
    for searches in (True, False):
        seeded()
        module, batches = Language(), DataLoader(texts, 8, shuffle=True)
        trainer = trainer_of(tmp_path, max_epochs=2)
        if searches:
            found = find_lr(trainer, module, batches, **SWEEP | {"max_lr": 10.0, "num_steps": 60})
            assert found.facts["sets"] == "model.hparams.lr"
            assert found.plan.parameters == 64
        trainer.fit(module, batches)
        states.append([module.state_dict(), trainer.optimizers[0].state_dict(), torch.get_rng_state()])
    same(*states)


def test_the_rate_acts_whatever_the_modules_own_step_writes(tmp_path):
    class Warms(Plain):
        def optimizer_step(self, epoch, batch_idx, optimizer, closure):
            for group in optimizer.param_groups:
                group["lr"] = 1e-9
            super().optimizer_step(epoch, batch_idx, optimizer, closure)

    curves = []
    for module in (Warms, Plain):
        seeded()
        curves.append(find_lr(trainer_of(tmp_path), module(), loader_of(), **SWEEP).curve)
    assert curves[0] == curves[1]


def test_what_the_hooks_of_the_start_prepare_is_there(tmp_path):
    class Prepares(Plain):
        def on_train_start(self):
            self.scale = 2.0

        def on_train_epoch_start(self):
            self.losses = []

        def training_step(self, batch):
            self.losses.append(super().training_step(batch) * self.scale)
            return self.losses[-1]

    module = Prepares()
    assert len(find_lr(trainer_of(tmp_path), module, loader_of(), **SWEEP).curve) == 8
    assert not hasattr(module, "losses")


def test_the_hooks_of_a_batch_are_called_as_by_the_loop(tmp_path):
    called = []

    def told(name):
        def hook(self, *arguments, **named):
            called.append((name, *[each for each in arguments if isinstance(each, int)]))
            taken = arguments[:1] if name == "training_step" else arguments
            return getattr(super(Told, self), name)(*taken, **named)

        return hook

    names = ("on_train_batch_start", "training_step", "on_before_zero_grad", "optimizer_zero_grad", "backward")
    names += ("on_after_backward", "on_before_optimizer_step", "configure_gradient_clipping", "on_train_batch_end")
    Told = type("Told", (Plain,), {})
    for name in names:
        setattr(Told, name, told(name))
    trainer = trainer_of(tmp_path, accumulate_grad_batches=2, max_steps=2)
    find_lr(trainer, Told(), loader_of(), **SWEEP | {"num_steps": 2, "control_variate": False})
    searched, called[:] = list(called), []
    trainer.fit(Told(), loader_of())
    assert searched == called
    assert called.count(("backward",)) == 4


def test_each_run_of_a_race_counts_its_batches_anew(tmp_path):
    counted = []

    class Tells(Manual):
        def training_step(self, batch, batch_idx):
            counted.append((self.trainer.current_epoch, batch_idx))
            return super().training_step(batch, batch_idx)

    how = {"sweep": "net", "verify": True, "num_steps": 30, "budget": 200, "max_lr": 1.0, "progress": False}
    found = find_lr(trainer_of(tmp_path, max_epochs=20), Tells(), loader_of(), **how)
    assert counted.count((0, 0)) == 1 + len(found.race.runs) > 2


def annealed(*, by_hand=False):
    """A module whose loss grows with global_step, as a VAE's does whose KL term is faded in; and the steps it saw."""
    counted = []

    class Anneals(Plain):
        def __init__(self):
            super().__init__()
            self.automatic_optimization = not by_hand

        def training_step(self, batch):
            counted.append(self.trainer.global_step)
            loss = super().training_step(batch) * (1 + 0.1 * self.trainer.global_step)
            if by_hand:
                self.manual_backward(loss)
                self.optimizers().step()
                self.optimizers().zero_grad()
            return loss

    return Anneals(), counted


@pytest.mark.parametrize(("by_hand", "accumulated"), [(False, 1), (False, 2), (True, 1)])
def test_global_step_counts_the_steps_of_a_search(by_hand, accumulated, tmp_path):
    module, counted = annealed(by_hand=by_hand)
    trainer = trainer_of(tmp_path, accumulate_grad_batches=accumulated)
    find_lr(trainer, module, loader_of(), **SWEEP | {"control_variate": False})
    assert counted == [step for step in range(8) for _ in range(accumulated)]
    assert trainer.global_step == 0


def test_epochs_and_their_batches_count_in_a_search(tmp_path):
    counted, curves = [], []

    class Fades(Plain):
        def training_step(self, batch, batch_idx):
            counted.append((self.trainer.current_epoch, batch_idx))
            return super().training_step(batch) * (1 + self.trainer.current_epoch)

    in_epoch = len(loader_of())
    how = SWEEP | {"num_steps": in_epoch + 3}
    trainer = trainer_of(tmp_path, max_epochs=9)
    seeded()
    find_lr(trainer, Fades(), loader_of(), **how | {"control_variate": False})
    assert counted == [divmod(step, in_epoch) for step in range(in_epoch + 3)]
    assert trainer.current_epoch == 0
    for module in (Fades(), Plain()):
        seeded()
        curves.append(find_lr(trainer_of(tmp_path), module, loader_of(), **how).curve)
    fading, plain = curves
    epochs = np.arange(in_epoch + 3) // in_epoch
    assert fading.baseline == pytest.approx(plain.baseline * (1 + epochs), rel=1e-6)


def test_the_control_variate_sees_the_global_step_of_its_batch(tmp_path):
    curves = []
    for module in (annealed()[0], Plain()):
        seeded()
        curves.append(find_lr(trainer_of(tmp_path), module, loader_of(), **SWEEP).curve)
    annealing, plain = curves
    assert annealing.baseline == pytest.approx(plain.baseline * (1 + 0.1 * np.arange(8)), rel=1e-6)


def test_each_run_of_a_race_counts_from_the_global_step_of_its_fit(tmp_path):
    how = {"verify": True, "num_steps": 30, "budget": 200, "max_lr": 1.0, "progress": False, "control_variate": False}
    (module, counted), search = annealed(), FindLR(**how)
    trainer_of(tmp_path, search, max_steps=40).fit(module, loader_of())
    assert counted[-40:] == list(range(40))
    begun = [i for i, step in enumerate(counted) if counted[i : i + 2] == [0, 1]]
    assert len(begun) == 2 + len(search.finding.race.runs)


@pytest.mark.parametrize("interval", ["step", "epoch"])
@pytest.mark.parametrize("given", [[1], -3, 2.5, True])
def test_what_is_no_number_of_steps_is_refused_beside_a_scheduler(given, interval, tmp_path):
    module = Module(lambda optimizer: optim.lr_scheduler.StepLR(optimizer, 1), interval=interval)
    with pytest.raises(ConfigurationError, match="total_steps must be a whole number of at least 1, got"):
        find_lr(trainer_of(tmp_path), module, loader_of(), total_steps=given, **SWEEP)


def long_warmup(optimizer):
    return optim.lr_scheduler.LambdaLR(optimizer, lambda step: min(1.0, (step + 1) / 1000))


@pytest.mark.parametrize("interval", ["step", "epoch"])
def test_a_warmup_that_is_longer_than_the_fit_ends_at_the_rate_that_was_found(interval, tmp_path):
    search = FindLR(apply=True, **SWEEP | {"num_steps": 40, "max_lr": 1.0})
    module, rates = Module(long_warmup, interval=interval), []

    class Rates(Callback):
        def on_train_batch_start(self, trainer, *_):
            rates.append(trainer.optimizers[0].param_groups[0]["lr"])

    trainer_of(tmp_path, search, Rates(), max_epochs=3).fit(module, loader_of(6))
    assert max(rates) == pytest.approx(search.finding.lr)
    again, rates[:] = Module(long_warmup, interval=interval), []
    exec(search.finding.code(), {"model": again})
    trainer_of(tmp_path, Rates(), max_epochs=3).fit(again, loader_of(6))
    assert max(rates) == pytest.approx(search.finding.lr, rel=0.01)


def test_a_step_may_take_its_batch_apart(tmp_path):
    class Pops(Plain):
        def training_step(self, batch):
            return super().training_step((batch.pop(), batch.pop()))

    batches = [[y, x] for x, y in loader_of()]
    found = find_lr(trainer_of(tmp_path), Pops(), DataLoader(batches, batch_size=None), **SWEEP)
    assert found.curve.baseline is not None


def test_a_logger_of_a_fit_sees_no_step_of_the_search(tmp_path):
    told = []

    class Direct(Plain):
        def training_step(self, batch):
            self.logger.experiment.add_scalar("loss", 1.0)
            return super().training_step(batch)

    class Writes(Logger):
        name = version = "writes"
        experiment = type("Writer", (), {"add_scalar": lambda _, *each: told.append(each)})()

        def log_metrics(self, metrics, step=None):
            pass

        log_hyperparams = log_metrics

    trainer_of(tmp_path, FindLR(**SWEEP), logger=Writes(), max_steps=2).fit(Direct(), loader_of())
    assert len(told) == 2


def test_what_a_module_counts_is_counted_once_a_step(tmp_path):
    class Anneals(Plain):
        steps = 0

        def training_step(self, batch):
            self.steps += 1
            return super().training_step(batch) * (1 + 0.1 * self.steps)

    found = []
    for control_variate in (True, False):
        seeded()
        how = SWEEP | {"control_variate": control_variate}
        found.append(find_lr(trainer_of(tmp_path), Anneals(), loader_of(), **how).curve)
    assert (found[0].loss == found[1].loss).all()


def test_hooks_of_the_transfer_are_called_once_for_each_batch(tmp_path):
    class Noisy(Plain):
        def on_after_batch_transfer(self, batch, dataloader_idx):
            self.seen.append(len(batch[0]))
            return batch[0] + torch.randn_like(batch[0]), batch[1]

    found, module, counts = [], Noisy(), []

    def count(_):
        counts.append(len(module.seen))

    for control_variate in (True, False):
        seeded()
        how = SWEEP | {"control_variate": control_variate, "num_steps": 7}
        found.append(find_lr(trainer_of(tmp_path), module, loader_of(), on_step=count, **how))
        assert counts[-7:] == list(range(2, 9))  # the first is that of fit itself
    assert (found[0].curve.loss == found[1].curve.loss).all()
    assert found[0].curve.baseline is not None


def test_a_real_ctrl_c_while_fit_sets_up(tmp_path):
    class Slow(Module):
        def setup(self, stage):
            if self.waits:
                signal.raise_signal(signal.SIGINT)

    handler, module = signal.getsignal(signal.SIGINT), Slow()
    training = Fitting(tmp_path / "1", module, loader_of())
    training.limits.max_steps = 3
    module.waits = True
    with pytest.raises(KeyboardInterrupt):
        find_lr(training.trainer, module, training.loader, training.validation)
    assert signal.getsignal(signal.SIGINT) is handler
    module.waits = False
    never = Fitting(tmp_path / "2", Slow(), loader_of())
    never.module.waits = False
    for each in (training, never):
        seeded()
        each.limits.max_steps = 0
        each.fit(3)
    same(training.state(), never.state())


def test_after_a_run_without_training_a_fit_is_that_without_a_search(tmp_path):
    """What such a run keeps was made in inference mode, and can be written to there only."""
    states = []
    for name in ("with", "without"):
        training = Fitting(tmp_path / name, Module(), loader_of())
        training.fit(2)
        trainer, module, data = training.trainer, training.module, training.validation
        trainer.validate(module, data, verbose=False)
        if name == "with":
            training.limits.max_steps += 2
            assert len(find_lr(trainer, module, training.loader, data, **SWEEP).curve) == 8
            training.limits.max_steps -= 2
        training.fit(2)
        states.append(training.state())
    same(*states)


def test_a_checkpoint_to_go_on_from(tmp_path):
    first = Fitting(tmp_path / "1", Module(), loader_of())
    first.fit(3)
    path = tmp_path / "1" / "step=3.ckpt"
    states = []
    for i, search in enumerate((True, False)):
        training = Fitting(tmp_path / f"resumed{i}", Module(), loader_of(), max_steps=8)
        if search:
            with warnings.catch_warnings(record=True) as told:
                warnings.simplefilter("always")
                found = find_lr(training.trainer, training.module, training.loader, ckpt_path=path, **SWEEP)
            assert not [each for each in told if "callbacks" in str(each.message)]
            fresh = find_lr(training.trainer, training.module, training.loader, **SWEEP)
            assert found.curve.loss[0] != fresh.curve.loss[0]
        training.fit(0, ckpt_path=path)
        assert training.trainer.global_step == 8
        states.append(training.state())
    same(*states)


def test_lazy_layers_are_refused_before_anything_is_copied(tmp_path):
    class Lazy(Plain):
        def __init__(self):
            super().__init__()
            self.net = nn.Sequential(nn.LazyLinear(8), nn.Linear(8, 1))

    lazy = r"lazy layers.*run one batch through it first"
    with pytest.raises(ConfigurationError, match=lazy):
        find_lr(trainer_of(tmp_path), Lazy(), loader_of())
    with pytest.raises(ConfigurationError, match=lazy):
        trainer_of(tmp_path, FindLR()).fit(Lazy(), loader_of())


# What is refused


class Ends(Plain):
    def on_train_batch_start(self, batch, batch_idx):
        return -1


class Draws(Plain):
    def training_step(self, dataloader_iter):
        pass


class Skips(Plain):
    def optimizer_step(self, epoch, batch_idx, optimizer, optimizer_closure):
        pass


class Undefined(Plain):
    def training_step(self, batch):
        return None


class ByHand(Plain):
    def configure_optimizers(self):
        return None


class Unnamed(Plain):
    def training_step(self, batch):
        return {"cost": super().training_step(batch)}


REFUSED = {
    "no Trainer": (
        lambda f: (object(), Plain(), loader_of()),
        {},
        ConfigurationError,
        "must be a Trainer of lightning's",
    ),
    "no module": (lambda f: (trainer_of(f), net(), loader_of()), {}, ConfigurationError, "must be a LightningModule"),
    "processes": (
        lambda f: (trainer_of(f, devices=2), Plain(), loader_of()),
        {},
        ConfigurationError,
        "starts processes of its own .2.*devices=1",
    ),
    "a name": (lambda f: (trainer_of(f), Plain(), loader_of()), {"lr_min": 1}, ConfigurationError, "called 'min_lr'"),
    "a value": (lambda f: (trainer_of(f), Plain(), loader_of()), {"min_lr": -1}, ConfigurationError, "min_lr"),
    "a one-shot iterator": (
        lambda f: (trainer_of(f), Plain(), iter([1])),
        {},
        LoaderError,
        "one-shot iterator",
    ),
    "the end": (lambda f: (trainer_of(f, max_epochs=0), Plain(), loader_of()), {}, ConfigurationError, "take no step"),
    "no loss": (
        lambda f: (trainer_of(f), Undefined(), loader_of()),
        {},
        LossError,
        "training_step returned None for the first 10 batches: return the loss",
    ),
    "no loss by that name": (
        lambda f: (trainer_of(f), Unnamed(), loader_of()),
        {},
        LossError,
        "training_step must return a tensor",
    ),
    "no closure": (lambda f: (trainer_of(f), Skips(), loader_of()), {}, LossError, "did not call its closure"),
    "no batch": (
        lambda f: (trainer_of(f), Ends(), loader_of()),
        {},
        OptimizerError,
        "on_train_batch_start returned -1 for each of 1000 batches",
    ),
    "an iterator's step": (
        lambda f: (trainer_of(f), Draws(), loader_of()),
        {},
        ConfigurationError,
        "let it take a batch",
    ),
    "no optimizer": (lambda f: (trainer_of(f), ByHand(), loader_of()), {}, OptimizerError, "gave no optimizer"),
    "several optimizers": (
        lambda f: (trainer_of(f), Manual(), loader_of()),
        {},
        OptimizerError,
        "one of 'net', 'other'",
    ),
    "a manual step without a loss": (
        lambda f: (trainer_of(f), Manual(returns=False), loader_of()),
        {"sweep": 0},
        LossError,
        "training_step must return the loss",
    ),
    "a manual step that steps nothing": (
        lambda f: (trainer_of(f), Manual(steps=False), loader_of()),
        {"sweep": 0},
        OptimizerError,
        "training_step returned, and the optimizer that is swept .AdamW. took no step",
    ),
}


@pytest.mark.parametrize(("arguments", "how", "kind", "said"), REFUSED.values(), ids=REFUSED)
def test_what_is_refused(arguments, how, kind, said, tmp_path):
    given = arguments(tmp_path)
    with pytest.raises(kind, match=said) as error:
        find_lr(*given, progress=False, **how)
    assert "consume=True" not in str(error.value)  # which this room does not take
    if hasattr(given[0], "callbacks"):
        assert not any(isinstance(each, FindLR) for each in given[0].callbacks)


@pytest.mark.parametrize("given", ["no", None, 1])
def test_whether_the_rate_is_written_is_true_or_false(given):
    with pytest.raises(ConfigurationError, match="apply must be True or False, got "):
        FindLR(apply=given)


def test_without_lightning_one_line_says_what_to_install(tmp_path):
    hidden = "import sys; sys.modules.update({'lightning': None, 'lightning.pytorch': None, 'pytorch_lightning': None})"
    done = subprocess.run(
        [sys.executable, "-c", f"{hidden}\nimport findlr.lightning"], capture_output=True, text=True, check=False
    )
    assert "MissingExtraError: lightning is not installed; run: pip install 'findlr[lightning]'" in done.stderr


@pytest.mark.parametrize("given", [{"restore": None}, {"restore": 5}, {"snapshot": "ram"}, {"snapshot": None}])
@pytest.mark.parametrize("door", [FindLR, lambda **how: find_lr(trainer_of(None), Module(), loader_of(), **how)])
def test_what_is_put_back_and_where_copies_live_are_looked_at_before_a_fit(door, given):
    with pytest.raises(ConfigurationError, match=f"{next(iter(given))} must be "):
        door(**given)
