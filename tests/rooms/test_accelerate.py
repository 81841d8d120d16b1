"""Trainings with Accelerate go on as if there had been no search, through every door."""

import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState, GradientState
from accelerate.utils import DataLoaderConfiguration
from torch import nn, optim
from torch.utils.data import DataLoader, TensorDataset

from findlr import RangeTest, find_lr
from findlr.testing import TrainingConformance

EXAMPLES, BATCH = 70, 8  # nine batches, the last one of six examples


def parts():
    torch.manual_seed(0)
    inputs = torch.randn(EXAMPLES, 6)
    data = TensorDataset(torch.arange(EXAMPLES), inputs, inputs.sum(dim=1, keepdim=True).sin())
    net = nn.Sequential(nn.Linear(6, 16), nn.Tanh(), nn.Dropout(0.1), nn.Linear(16, 1))
    return net, optim.AdamW(net.parameters(), lr=0.01, weight_decay=0.1), data


def loss_of(model, batch):
    return 100 * (model(batch[1]) - batch[2]).square().mean()


def accelerator_of(**how):
    """A new one; of its singletons, too."""
    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()
    return Accelerator(cpu=True, **how)


class Loop:
    """A training as Accelerate's guide has it, whose epoch stays open between two calls."""

    def __init__(self, scale=None, workers=0, **how):
        self.accelerator = accelerator_of(**how)
        if scale is not None:
            changes = {"growth_factor": 2.0**20, "backoff_factor": 2.0**-20, "growth_interval": 3}
            self.accelerator.scaler = torch.amp.GradScaler("cpu", init_scale=scale, **changes)
        net, optimizer, data = parts()
        loader = DataLoader(data, BATCH, shuffle=True, num_workers=workers, persistent_workers=workers > 0)
        scheduler = optim.lr_scheduler.CosineAnnealingLR(optimizer, 100)
        prepared = self.accelerator.prepare(net, optimizer, loader, scheduler)
        self.model, self.optimizer, self.loader, self.scheduler = prepared
        self.seen = []
        self.epochs = self._epochs()

    def _epochs(self):
        while True:
            for batch in self.loader:
                loss = self.micro_step(batch)
                self.scheduler.step()
                self.seen.append((batch[0], loss.detach()))
                yield

    def micro_step(self, batch):
        with self.accelerator.accumulate(self.model):
            loss = loss_of(self.model, batch)
            self.accelerator.backward(loss)
            if self.accelerator.sync_gradients:
                self.accelerator.clip_grad_norm_(self.model.parameters(), 1.0)
            self.optimizer.step()
            self.optimizer.zero_grad()
        return loss

    def train_step(self, draw):
        losses = [self.micro_step(draw())]
        while not self.accelerator.sync_gradients:
            losses.append(self.micro_step(draw()))
        return torch.stack(losses).mean()


SETTINGS = {
    "plain": {},
    "accumulation": {"gradient_accumulation_steps": 3},
    "bf16": {"mixed_precision": "bf16"},
    "bf16-accumulation": {"mixed_precision": "bf16", "gradient_accumulation_steps": 3},
    "persistent-workers": {"gradient_accumulation_steps": 3, "workers": 1},
    "skipped-steps": {"gradient_accumulation_steps": 3, "scale": 2.0**127},  # every fourth one
    "seedable-sampler": {"dataloader_config": DataLoaderConfiguration(use_seedable_sampler=True)},
}


class Accelerated(TrainingConformance):
    """What the doors have in common."""

    before = 4  # of nine batches; one more than an accumulation

    @pytest.fixture(autouse=True, params=SETTINGS)
    def use(self, request):
        self.how = SETTINGS[request.param]

    def training(self):
        return Loop(**self.how)

    def train(self, training, steps):
        for _ in range(steps):
            next(training.epochs)

    def state(self, training):
        shared, optimizer = training.accelerator.gradient_state, training.optimizer.optimizer
        return {
            "weights": list(training.model.parameters()),
            "gradients": [p.grad is not None and p.grad for p in training.model.parameters()],
            "optimizer": [list(state.values()) for state in optimizer.state.values()],
            "rates": [group["lr"] for group in optimizer.param_groups],
            "scheduler": training.scheduler.state_dict(),
            "seen": training.seen,
            "batches counted": training.accelerator.step,
            "syncs": shared.sync_gradients,
            "open loaders": [each is training.loader for each in shared.dataloader_references],
            "at the end": (shared.end_of_dataloader, shared.remainder),
            "passes": training.loader.iteration,
            "scaler": training.accelerator.scaler and training.accelerator.scaler.state_dict(),
            "skipped": training.accelerator.optimizer_step_was_skipped,
        }


class TestFindLr(Accelerated):
    def search(self, training, **how):
        accumulated = training.accelerator.gradient_accumulation_steps
        return find_lr(
            *(training.model, training.optimizer, None, training.loader),
            loss_fn=loss_of,
            accumulation_steps=accumulated,
            clip_grad_norm=1.0,
            **how,
        )


class OwnStep(Accelerated):
    """Accelerate's own steps, which its counter divides into accumulations."""

    @pytest.fixture(autouse=True, params=["plain", "accumulation", "skipped-steps"])
    def use(self, request):
        self.how = SETTINGS[request.param]


class TestTrainStep(OwnStep):
    def search(self, training, **how):
        return find_lr(
            training.model, training.optimizer, loader=training.loader, train_step=training.train_step, **how
        )


class TestRangeTest(OwnStep):
    def search(self, training, **how):
        with RangeTest(training.model, training.optimizer, **how) as test:
            for batch in test(training.loader):
                test.record(training.micro_step(batch))
        return test.finding


def test_prepared_parts_give_the_same_finding():
    def search(*, prepare):
        net, optimizer, data = parts()
        given = net, optimizer, DataLoader(data, BATCH, shuffle=True)
        net, optimizer, loader = accelerator_of().prepare(*given) if prepare else given
        return find_lr(net, optimizer, loss_fn=loss_of, loader=loader, total_steps=400, verify=True, progress=False)

    assert search(prepare=True) == search(prepare=False)


def test_examples_held_out_are_not_trained_on():
    loop, seen = Loop(), {True: set(), False: set()}

    def loss_fn(model, batch):
        seen[model.training] |= set(batch[0].tolist())
        return loss_of(model, batch)

    find_lr(
        *(loop.model, loop.optimizer),
        loss_fn=loss_fn,
        loader=loop.loader,
        num_steps=30,
        total_steps=400,
        verify=True,
        control_variate=False,
        on_step=lambda step: seen[True].clear() if step.index == 29 else None,  # the race begins
        progress=False,
    )
    assert len(seen[False]) == BATCH
    assert len(seen[True]) > BATCH
    assert not seen[True] & seen[False]


def test_a_seedable_sampler_shuffles_each_pass_of_the_search_anew():
    loop, seen = Loop(**SETTINGS["seedable-sampler"]), []

    def loss_fn(model, batch):
        seen.append(batch[0])
        return loss_of(model, batch)

    how = dict(num_steps=18, max_lr=1e-6, control_variate=False, progress=False)
    find_lr(loop.model, loop.optimizer, loss_fn=loss_fn, loader=loop.loader, **how)
    expected = [batch[0] for _ in range(2) for batch in loop.loader]
    assert torch.equal(torch.cat(seen), torch.cat(expected))


def test_the_scaler_of_a_prepared_optimizer_is_stepped_with():
    loop, scales = Loop(**SETTINGS["skipped-steps"]), []
    scaler = loop.accelerator.scaler
    find_lr(
        *(loop.model, loop.optimizer),
        loss_fn=loss_of,
        loader=loop.loader,
        num_steps=3,
        on_step=lambda _: scales.append(scaler.get_scale()),
        progress=False,
    )
    assert scales[0] == 2.0**107
    assert scaler.get_scale() == 2.0**127


def test_the_schedule_and_the_suggestion_go_through_the_wrappers():
    loop = Loop()
    finding = find_lr(
        *(loop.model, loop.optimizer, None, loop.loader), loss_fn=loss_of, schedule=loop.scheduler, progress=False
    )
    assert (finding.plan.total_steps, finding.plan.optimizer) == (100, "AdamW")
    found = find_lr(*(loop.model, loop.optimizer, None, loop.loader), loss_fn=loss_of, max_lr=1.0, progress=False)
    found.apply(loop.optimizer, loop.scheduler)
    assert loop.optimizer.optimizer.param_groups[0]["lr"] == found.lr
