"""What findlr can't put back, as docs/restore.md says: where one of these turns red, the page has become too modest."""

import pytest
import torch
from torch import nn

from findlr import find_lr
from tests.torch.training import Samples, Training, mlp


def test_an_array_in_a_dataset():
    class Counting(Samples):
        def __init__(self, bomb):
            super().__init__(bomb)
            self.reads = torch.zeros(len(self))

        def __getitem__(self, i):
            self.reads[i] += 1
            return super().__getitem__(i)

    training = Training()
    data = Counting(training.bomb)
    find_lr(training.model, training.optimizer, training.criterion, torch.utils.data.DataLoader(data, 8), num_steps=5)
    assert data.reads.sum() > 0


def test_an_object_of_a_module():
    class Count:
        passes = 0

    class Counting(nn.Linear):
        def __init__(self):
            super().__init__(16, 4)
            self.count = Count()

        def forward(self, inputs):
            self.count.passes += 1
            return super().forward(inputs)

    training = Training(Counting)
    training.find()
    assert training.model.count.passes > 0


class Environment:
    steps = 0

    def state_dict(self):
        return {"steps": self.steps}

    def load_state_dict(self, state):
        self.steps = state["steps"]


@pytest.mark.parametrize("restored", [False, True])
def test_an_environment(restored):
    training, environment = Training(), Environment()

    def loss_fn(model, batch):
        environment.steps += 1
        return training.criterion(model(batch[0]), batch[1])

    restore = [environment] if restored else []
    find_lr(training.model, training.optimizer, loader=training.loader, loss_fn=loss_fn, restore=restore, num_steps=5)
    assert (environment.steps == 0) == restored


def test_a_graph_from_before():
    training = Training(mlp)
    inputs, targets = training.batch()
    loss = training.criterion(training.model(inputs), targets)
    training.find()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()
