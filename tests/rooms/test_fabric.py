"""Lightning's Fabric: the plain call sees through what ``setup`` gives, and a step of one's own uses its precision."""

import logging

import pytest
import torch
from torch import nn, optim
from torch.utils.data import DataLoader, TensorDataset

import findlr
from findlr.testing import TrainingConformance

Fabric = pytest.importorskip("lightning.fabric").Fabric


@pytest.fixture(autouse=True)
def _quiet():
    logging.getLogger("lightning.fabric.utilities.rank_zero").setLevel(logging.ERROR)


class Training:
    def __init__(self, *, precision=None, accumulation=1, **how):
        torch.manual_seed(0)
        inputs = torch.randn(120, 4)
        data = TensorDataset(inputs, inputs.sum(1, keepdim=True).sin())
        self.net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Dropout(0.2), nn.Linear(8, 1))
        self.inner = optim.AdamW(self.net.parameters(), lr=1e-3)
        self.loader = DataLoader(data, 8, shuffle=True, generator=torch.Generator().manual_seed(5), **how)
        self.model, self.optimizer, self.accumulation, self.losses = self.net, self.inner, accumulation, []
        self.criterion = nn.MSELoss()
        if precision is not None:
            self.fabric = Fabric(accelerator="cpu", devices=1, precision=precision)
            self.model, self.optimizer = self.fabric.setup(self.net, self.inner)
            self.loader = self.fabric.setup_dataloaders(self.loader)
        self.batches = self.endless()

    def endless(self):
        while True:
            yield from self.loader

    def step(self, draw):
        for _ in range(self.accumulation):
            inputs, targets = draw()
            loss = self.criterion(self.model(inputs), targets)
            self.fabric.backward(loss / self.accumulation)
        self.fabric.clip_gradients(self.model, self.optimizer, max_norm=0.5)
        self.optimizer.step()
        self.optimizer.zero_grad()
        return loss


class Conformance(TrainingConformance):
    def train(self, training, steps):
        for _ in range(steps):
            training.losses.append(training.step(lambda: next(training.batches)).item())

    def state(self, training):
        moments = training.inner.state_dict()
        return training.net.state_dict(), list(moments["state"].values()), moments["param_groups"], training.losses


class TestFindLr(Conformance):
    def training(self):
        return Training(precision="32-true")

    def search(self, training, **how):
        return findlr.find_lr(training.model, training.optimizer, training.criterion, training.loader, **how)


class TestTrainStep(Conformance):
    def training(self):
        return Training(precision="bf16-mixed", accumulation=2)

    def search(self, training, **how):
        return findlr.find_lr(
            training.model, training.optimizer, loader=training.loader, train_step=training.step, **how
        )


def test_what_setup_gives_finds_what_the_parts_find():
    found = []
    for precision in ("32-true", None):
        training = Training(precision=precision)
        parts = training.model, training.optimizer, training.criterion, training.loader
        found.append(findlr.find_lr(*parts, verify=True, total_steps=100, progress=False))
    fabric, plain = found
    assert fabric.curve == plain.curve
    assert (fabric.lr, fabric.why, fabric.plan) == (plain.lr, plain.why, plain.plan)
    assert fabric.code() == plain.code()
    assert fabric.code().startswith("optimizer = torch.optim.AdamW(model.parameters(), lr=")


def test_an_epoch_that_is_open_in_persistent_workers_goes_on():
    seen = []
    for searches in (True, False):
        training = Training(precision="32-true", num_workers=1, persistent_workers=True)
        batches = iter(training.loader)
        first = next(batches)
        if searches:
            parts = training.model, training.optimizer, training.criterion, training.loader
            findlr.find_lr(*parts, num_steps=5, progress=False)
        seen.append([inputs.tolist() for inputs, _ in (first, *batches, *training.loader)])
    assert seen[0] == seen[1]
