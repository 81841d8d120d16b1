"""After a search nothing of it stays in memory until garbage is collected, whatever it ended by."""

import gc

import pytest
import torch
from torch import nn, optim
from torch.utils.data import DataLoader, TensorDataset

from findlr import RangeTest, find_lr
from tests.garbage import kinds_of_garbage

EXITS = {"finish": None, "raise": ValueError("the loss exploded"), "memory": torch.OutOfMemoryError("out of memory")}
EXITS["interrupt"] = KeyboardInterrupt()


class Training:
    """A net whose ``failing``-th loss raises what the test says."""

    def __init__(self, failing=6, error=None):
        torch.manual_seed(0)
        self.net = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 1))
        self.optimizer = optim.AdamW(self.net.parameters())
        self.loader = DataLoader(TensorDataset(torch.randn(640, 8), torch.randn(640, 1)), 32)
        self.count, self.failing, self.error = 0, failing, error
        self.optimizer.step()  # which makes its state

    def loss(self, model, batch):
        self.count += 1
        if self.error is not None and self.count == self.failing:
            raise self.error
        return nn.functional.mse_loss(model(batch[0]), batch[1])

    def step(self, draw):
        self.optimizer.zero_grad()
        loss = self.loss(self.net, draw())
        loss.backward()
        self.optimizer.step()
        return loss

    def swept(self, **how):
        return find_lr(self.net, self.optimizer, loader=self.loader, loss_fn=self.loss, num_steps=30, **how)

    def looped(self):
        with RangeTest(self.net, self.optimizer, num_steps=30) as test:
            for batch in test(self.loader):
                test.record(self.step(lambda batch=batch: batch))


RACE = {"verify": True, "total_steps": 300, "budget": 150}
DOORS = {
    "sweep": Training.swept,
    "without the control variate": lambda training: training.swept(control_variate=False),
    "race": lambda training: training.swept(**RACE),
    "race of steps": lambda training: find_lr(
        training.net, training.optimizer, loader=training.loader, train_step=training.step, num_steps=30, **RACE
    ),
    "loop": Training.looped,
}


@pytest.fixture(autouse=True)
def by_hand():
    gc.collect()
    gc.disable()
    yield
    gc.enable()


def tensors():
    return sum(issubclass(type(each), torch.Tensor) for each in gc.get_objects())


@pytest.mark.parametrize(("end", "failing"), [*((end, 6) for end in EXITS), ("raise", 1), ("raise", 70)])
@pytest.mark.parametrize("door", DOORS)
def test_nothing_of_a_search_waits_for_the_collector(door, end, failing):
    training = Training(failing, EXITS[end])
    gc.collect()
    before = tensors()
    try:
        DOORS[door](training)
    except (ValueError, torch.OutOfMemoryError, KeyboardInterrupt) as error:
        error.with_traceback(None)
    assert tensors() == before
    del training
    assert not kinds_of_garbage("findlr", "torch")


@pytest.mark.parametrize("door", DOORS)
def test_who_keeps_the_exception_keeps_no_tensor_of_the_search(door):
    training = Training(6, ValueError("the loss exploded"))
    gc.collect()
    before = tensors()
    with pytest.raises(ValueError, match="exploded") as caught:
        DOORS[door](training)
    names = {entry.frame.code.name: dict(entry.frame.f_locals) for entry in caught.traceback}
    assert "batch" in names["loss"]  # the training's own frames are as they were, for a debugger
    del names
    assert tensors() - before <= 2  # the batch in the training's own frame


@pytest.mark.parametrize(
    ("criterion", "kind"),
    [(nn.NLLLoss(), optim.SGD), (nn.MSELoss(), optim.LBFGS), (nn.CosineEmbeddingLoss(), optim.SGD)],
)
def test_nothing_of_a_search_that_fails_at_its_first_step_waits(criterion, kind):
    training = Training()
    training.optimizer = kind(training.net.parameters(), lr=0.1)
    gc.collect()
    before = tensors()
    try:
        find_lr(training.net, training.optimizer, criterion, training.loader, num_steps=30)
    except Exception as error:  # noqa: BLE001 - whatever it is
        error.with_traceback(None)
    assert tensors() == before
    del training, criterion
    assert not kinds_of_garbage("findlr", "torch")
