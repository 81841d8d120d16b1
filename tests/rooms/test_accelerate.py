"""Trainings with Accelerate go on as if there had been no search, through every door."""

import os
import socket
import subprocess
import sys
from functools import partial

import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState, GradientState
from accelerate.utils import DataLoaderConfiguration, GradientAccumulationPlugin
from torch import nn, optim
from torch.utils.data import DataLoader, TensorDataset

from findlr import RangeTest, accelerate, find_lr
from findlr.errors import ConfigurationError, OptimizerError
from findlr.testing import TrainableConformance, TrainingConformance

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
            self.accelerator.native_amp = True  # as on a GPU
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
    "skipped-steps": {"mixed_precision": "fp16", "gradient_accumulation_steps": 3, "scale": 2.0**127},  # each fourth
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


def by_room(loop, **how):
    given = loop.accelerator, loop.model, loop.optimizer, None, loop.loader
    return accelerate.find_lr(*given, loss_fn=loss_of, clip_grad_norm=1.0, **how)


def plainly(loop, **how):
    given, accumulated = (loop.model, loop.optimizer, None, loop.loader), loop.accelerator.gradient_accumulation_steps
    return find_lr(*given, loss_fn=loss_of, clip_grad_norm=1.0, accumulation_steps=accumulated, **how)


class TestRoom(Accelerated):
    def search(self, training, **how):
        return by_room(training, **how)


class TestFindLr(Accelerated):
    def search(self, training, **how):
        return plainly(training, **how)


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


class TestTrainable(TrainableConformance):
    """What the room makes of its arguments."""

    max_lr = 0.1

    @pytest.fixture(autouse=True, params=["bf16-accumulation", "skipped-steps"])
    def use(self, request):
        self.how = SETTINGS[request.param]

    def trainable(self):
        loop = Loop(**self.how)
        return accelerate._Trainable(
            *(loop.model, loop.optimizer, None, loop.loader),
            loss_fn=loss_of,
            clip_grad_norm=1.0,
            accumulation_steps=3,
            stepper=partial(accelerate._Stepper, loop.accelerator),
        )

    def state(self, trainable):
        optimizer = trainable.optimizer
        kept = [value for state in optimizer.state.values() for value in state.values()]
        return [tensor.tolist() for tensor in (*trainable.model.parameters(), *kept)]


@pytest.mark.parametrize("setting", SETTINGS)
def test_the_room_and_the_plain_call_find_the_same(setting):
    how = dict(num_steps=30, total_steps=400, verify=True, min_lr=1e-6, max_lr=1.0, progress=False)
    room, plain = by_room(Loop(**SETTINGS[setting]), **how), plainly(Loop(**SETTINGS[setting]), **how)
    assert room.facts["autocast"] == {"bf16": "bfloat16", "skip": "float16"}.get(setting[:4])
    assert room.facts["versions"].keys() - plain.facts["versions"].keys() == {"accelerate"}
    room.facts.update(plain.facts)
    assert room == plain


def test_the_first_points_are_the_losses_of_accelerates_own_loop():
    settings = {"gradient_accumulation_steps": 3}
    loop, rate = Loop(**settings), 1e-8
    found = by_room(loop, num_steps=3, min_lr=rate, max_lr=rate * (1 + 1e-12), progress=False)
    loop = Loop(**settings)
    loop.optimizer.optimizer.param_groups[0]["lr"] = rate
    loop.scheduler.base_lrs = [rate]
    losses = []
    for batch in loop.loader:
        losses.append(loop.micro_step(batch).item())
    assert found.curve.loss.tolist() == [sum(losses[i : i + 3]) / 3 for i in (0, 3, 6)]


def test_what_the_room_refuses():
    loop = Loop()
    given = loop.accelerator, loop.model, loop.optimizer, nn.MSELoss(), loop.loader
    with pytest.raises(ConfigurationError, match="the accelerator comes first, got Sequential"):
        accelerate.find_lr(loop.model, *given[2:])
    with pytest.raises(OptimizerError, match="the optimizer is not prepared"):
        accelerate.find_lr(*given[:2], loop.optimizer.optimizer, *given[3:])
    with pytest.raises(ConfigurationError, match="the accelerator says accumulation_steps: leave it out"):
        accelerate.find_lr(*given, accumulation_steps=2)
    with pytest.raises(ConfigurationError, match="there is no argument 'num_it'; it is called 'num_steps' here"):
        accelerate.find_lr(*given, num_it=50)


LAUNCHED = """
import torch
from accelerate import Accelerator, DistributedType
from findlr import ConfigurationError
from findlr.accelerate import find_lr
accelerator, net = Accelerator(cpu=True), torch.nn.Linear(2, 1)
net, optimizer = accelerator.prepare(net, torch.optim.SGD(net.parameters(), lr=0.1))
given = accelerator, net, optimizer, torch.nn.MSELoss(), [(torch.ones(4, 2), torch.zeros(4, 1))]
print(accelerator.distributed_type.value, type(net).__name__, len(find_lr(*given, num_steps=12).curve))
accelerator.state.distributed_type = DistributedType.DEEPSPEED
try:
    find_lr(*given)
except ConfigurationError as error:
    print(error)
"""


def test_a_launched_process_is_searched_and_deepspeed_is_refused():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    launched = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    command = [sys.executable, "-W", "ignore", "-c", LAUNCHED]
    done = subprocess.run(command, check=True, capture_output=True, text=True, env={**os.environ, **launched})
    assert "MULTI_CPU DistributedDataParallel 12" in done.stdout
    assert "the accelerator trains by DEEPSPEED" in done.stdout


def test_without_accelerate_the_extra_is_named():
    hidden = "import sys; sys.modules['accelerate'] = None; import findlr.accelerate"
    done = subprocess.run([sys.executable, "-c", hidden], check=False, capture_output=True, text=True)
    assert "MissingExtraError: accelerate is not installed; run: pip install 'findlr[accelerate]'" in done.stderr


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
        seen.extend(batch[0].flatten().tolist())  # as numbers: tensors that it keeps are put back
        return loss_of(model, batch)

    how = dict(num_steps=18, max_lr=1e-6, control_variate=False, progress=False)
    find_lr(loop.model, loop.optimizer, loss_fn=loss_fn, loader=loop.loader, **how)
    expected = [batch[0] for _ in range(2) for batch in loop.loader]
    assert seen == torch.cat(expected).flatten().tolist()


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
    assert scales[0] < 2.0**127
    assert scaler.get_scale() == 2.0**127


def test_the_last_step_of_an_epoch_takes_the_batches_that_are_left():
    plan = by_room(Loop(gradient_accumulation_steps=4), total_steps="5 epochs", progress=False).plan
    assert (plan.total_steps, plan.epochs) == (15, 5)  # of nine batches each
    loop = Loop(gradient_accumulation_plugin=GradientAccumulationPlugin(num_steps=4, sync_with_dataloader=False))
    assert by_room(loop, total_steps="5 epochs", progress=False).plan.total_steps == 10


def test_the_schedule_and_the_suggestion_go_through_the_wrappers():
    loop = Loop()
    finding = find_lr(
        *(loop.model, loop.optimizer, None, loop.loader), loss_fn=loss_of, schedule=loop.scheduler, progress=False
    )
    assert (finding.plan.total_steps, finding.plan.optimizer) == (100, "AdamW")
    found = find_lr(*(loop.model, loop.optimizer, None, loop.loader), loss_fn=loss_of, max_lr=1.0, progress=False)
    found.apply(loop.optimizer, loop.scheduler)
    assert loop.optimizer.optimizer.param_groups[0]["lr"] == found.lr
