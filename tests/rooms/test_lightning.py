"""Lightning: a training with a search in it is the training without one, whatever is in the Trainer."""

import copy
import importlib
import logging
import os
import signal
import threading
import warnings

import numpy as np
import pytest
import torch
from torch import nn, optim
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset

import findlr
from findlr.errors import ConfigurationError, LoaderError, LossError, OptimizerError
from findlr.lightning import FindLR, find_lr
from findlr.testing import TrainingConformance
from findlr.testing.checks import must
from findlr.testing.training import BrokenOffError

warnings.filterwarnings("ignore", module="lightning|pytorch_lightning")
pytestmark = pytest.mark.filterwarnings("ignore:::lightning", "ignore:::pytorch_lightning", "ignore::FutureWarning")
for package in ("lightning.pytorch", "pytorch_lightning"):
    logging.getLogger(package).setLevel(logging.ERROR)
    logging.getLogger(f"{package}.utilities.rank_zero").setLevel(logging.ERROR)

import lightning.pytorch as pl  # noqa: E402
import torchmetrics  # noqa: E402
from lightning.pytorch.callbacks import Callback, GradientAccumulationScheduler, ModelCheckpoint  # noqa: E402
from lightning.pytorch.loggers import CSVLogger  # noqa: E402


def data(batches=12, size=8):
    generator = torch.Generator().manual_seed(3)
    inputs = torch.randn(batches * size, 4, generator=generator)
    return TensorDataset(inputs, inputs.sum(1, keepdim=True).sin())


def loader(batches=12, size=8, **how):
    return DataLoader(data(batches, size), size, shuffle=True, generator=torch.Generator().manual_seed(5), **how)


def net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.2), nn.Linear(8, 1))


class Module(pl.LightningModule):
    """Logs, measures, counts, keeps an average of its weights."""

    def __init__(self, scheduled=False):
        super().__init__()
        self.net, self.lr, self.scheduled = net(), 1e-2, scheduled
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
        assert isinstance(float(outputs["loss"]), float)
        for kept, p in zip(self.average, self.net.parameters(), strict=True):
            kept.lerp_(p.detach(), 0.1)

    def validation_step(self, batch, batch_idx):
        self.log("val_loss", functional.mse_loss(self.net(batch[0]), batch[1]))

    def on_train_epoch_start(self):
        self.of_epoch = []

    def configure_optimizers(self):
        optimizer = optim.AdamW(self.parameters(), lr=self.lr)
        if not self.scheduled:
            return optimizer
        scheduler = optim.lr_scheduler.OneCycleLR(optimizer, max_lr=self.lr, total_steps=60)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}


class Manual(Module):
    """A step of its own: two optimizers, an update of each every second batch."""

    automatic_optimization = False

    def __init__(self):
        super().__init__()
        self.automatic_optimization = False
        self.other = nn.Linear(1, 1)

    def training_step(self, batch, batch_idx):
        mine, others = self.optimizers()
        outputs = self.net(batch[0])
        loss = functional.mse_loss(outputs, batch[1])
        self.log("loss", loss)
        self.seen.append(batch[0].sum().item())
        self.manual_backward(loss + functional.mse_loss(self.other(outputs.detach()), batch[1]))
        if batch_idx % 2:
            for optimizer in (others, mine):
                optimizer.step()
                optimizer.zero_grad()
        return loss

    def on_train_batch_end(self, outputs, batch, batch_idx):
        pass

    def configure_optimizers(self):
        return [optim.AdamW(self.net.parameters(), lr=self.lr), optim.SGD(self.other.parameters(), lr=0.1)]


class Counts(Callback):
    """A callback with a state."""

    def __init__(self):
        self.batches = []

    def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx):
        self.batches.append(float(batch[0].sum()))


def trainer_of(folder, *callbacks, package=pl, **how):
    settings = dict(accelerator="cpu", max_epochs=-1, max_steps=0, log_every_n_steps=1)
    settings |= dict(enable_progress_bar=False, enable_model_summary=False, default_root_dir=folder, logger=False)
    settings |= dict(enable_checkpointing=False, val_check_interval=4) | how
    return package.Trainer(callbacks=list(callbacks), **settings)


class Fitting:
    """A training in pieces: each fit goes on where the last one ended."""

    def __init__(self, folder, module, loader, **how):
        self.module, self.loader, self.counts = module, loader, Counts()
        self.checkpoint = ModelCheckpoint(dirpath=folder, filename="{step}", save_top_k=-1, every_n_train_steps=1)
        self.validation = DataLoader(data(2), 8)
        self.trainer = trainer_of(
            folder,
            *(self.counts, self.checkpoint),
            **{"logger": CSVLogger(folder, flush_logs_every_n_steps=1), "enable_checkpointing": True} | how,
        )

    def fit(self, steps):
        self.trainer.fit_loop.epoch_loop.max_steps += steps
        self.trainer.fit(self.module, self.loader, self.validation)


class Conformance(TrainingConformance):
    """Two fits of one Trainer, with ``find_lr`` before, between and never."""

    @pytest.fixture(autouse=True)
    def _folders(self, tmp_path):
        self.folder, self.made = tmp_path, 0

    def training(self):
        self.made += 1
        random_states(7)
        return Fitting(self.folder / str(self.made), *self.make())

    def train(self, training, steps):
        training.fit(steps)

    def search(self, training, **how):
        limits = training.trainer.fit_loop.epoch_loop
        limits.max_steps += 100  # as for the fit that follows
        try:
            return find_lr(training.trainer, training.module, training.loader, training.validation, **how, **self.how)
        finally:
            limits.max_steps -= 100

    def state(self, training):
        trainer, module, folder = training.trainer, training.module, self.folder / str(self.made)
        files = {
            path.name: torch.load(path, weights_only=False)
            for path in sorted(training.checkpoint.dirpath and folder_of(training).glob("*.ckpt"))
        }
        for each in files.values():
            each["callbacks"] = str(each["callbacks"]).replace(str(folder_of(training)), "")
            each.pop("hparams_name", None)
        return {
            "weights": module.state_dict(),
            "average": module.average,
            "optimizers": [optimizer.state_dict() for optimizer in trainer.optimizers],
            "seen": module.seen,
            "callback": training.counts.batches,
            "metrics": dict(trainer.callback_metrics),
            "global_step": trainer.global_step,
            "epoch": trainer.current_epoch,
            "order": training.loader.generator.get_state(),
            "log": log_of(training),
            "checkpoints": files,
            "loop": plain(trainer.fit_loop.state_dict()),
            "kept": [len(trainer.callbacks), len(trainer.loggers), trainer.num_sanity_val_steps, str(trainer.state)],
        }


def folder_of(training):
    return type(training.checkpoint.dirpath) and __import__("pathlib").Path(training.checkpoint.dirpath)


def log_of(training):
    paths = sorted(folder_of(training).rglob("metrics.csv"))
    return [path.read_text() for path in paths]


def plain(value):
    return str(value)


def random_states(seed):
    import random

    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


class TestPlain(Conformance):
    how = {}

    def make(self):
        return Module(), loader()

    def training(self):
        self.made += 1
        random_states(7)
        module, batches = self.make()
        return Fitting(self.folder / str(self.made), module, batches, **getattr(self, "settings", {}))


class TestAccumulated(TestPlain):
    settings = {"accumulate_grad_batches": 2, "gradient_clip_val": 0.1, "precision": "bf16-mixed"}

    def make(self):
        return Module(scheduled=True), loader()


class TestManual(TestPlain):
    how = {"sweep": "net"}

    def make(self):
        return Manual(), loader()


class TestWorkers(TestPlain):
    def make(self):
        return Module(), loader(4, num_workers=1, persistent_workers=True)

    test_a_search_that_is_broken_off = None  # each worker takes long to start
