"""What another framework's own call changes around a search is put back; data is neither copied nor put back."""

import random
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader

from findlr import TorchTrainable
from findlr.errors import LoaderError
from findlr.search.find import find
from findlr.search.memory import Phase
from findlr.search.restoring import restored
from findlr.torch.step import LossStep
from findlr.torch.training import Training
from findlr.torch.whole import Whole


class Holder:
    """Somebody who draws."""


def draws():
    return random.random(), np.random.rand(), torch.rand(1).item()


def test_all_is_put_back_in_place():
    model, generator = nn.Linear(2, 1), torch.Generator().manual_seed(0)
    loader = DataLoader(torch.ones(8, 2), 2, shuffle=True, generator=torch.Generator().manual_seed(1))
    log, data = [0.5], [torch.zeros(3)]
    trainer = SimpleNamespace(steps=3, log=log, data=data)
    holder = Holder()
    holder.augment = generator
    weight, order = model.weight.detach().clone(), loader.generator.get_state()
    random.seed(0), np.random.seed(0), torch.manual_seed(0)
    expected = draws()
    random.seed(0), np.random.seed(0), torch.manual_seed(0)
    with restored(Whole([trainer], [model], loaders=[loader], holders=[holder])):
        trainer.steps, trainer.new = 4, 1
        log.append(0.4)
        data[0].fill_(1.0)
        model.weight.data.zero_()
        model.extra = nn.Linear(1, 1)
        next(iter(loader))
        torch.rand(1, generator=generator)
        torch.set_grad_enabled(False)
        draws()
    assert vars(trainer) == {"steps": 3, "log": [0.5], "data": data}
    assert trainer.log is log
    assert data[0].tolist() == [1.0] * 3
    assert torch.equal(model.weight, weight)
    assert not hasattr(model, "extra")
    assert torch.equal(loader.generator.get_state(), order)
    assert torch.rand(1, generator=generator) == torch.rand(1, generator=torch.Generator().manual_seed(0))
    assert torch.is_grad_enabled()
    assert draws() == expected


def test_random_states_can_be_put_back_alone():
    trainer = SimpleNamespace(steps=3)
    with restored(Whole([trainer], [])) as memory:
        trainer.steps, first = 4, draws()
        memory.put_back([Phase.RANDOM])
        assert draws() == first
        assert trainer.steps == 4
    assert trainer.steps == 3


def test_data_that_can_be_read_only_once_are_refused():
    with pytest.raises(LoaderError, match="one-shot iterator"):
        Whole([], [], loaders=[iter([1])])


def test_a_room_brings_each_batch_to_where_its_step_needs_it():
    torch.manual_seed(0)
    model = nn.Linear(4, 1)
    training = Training(model, torch.optim.SGD(model.parameters(), lr=0.1))
    batches, placed = [(torch.randn(8, 4), torch.randn(8, 1)) for _ in range(20)], []

    def place(batch):
        placed.append(batch)
        return batch

    step = LossStep(training, nn.MSELoss(), None)
    trainable = TorchTrainable.of(training, step, batches, validation_loader=batches[:2], place=place)
    find(trainable, num_steps=8, max_lr=0.1, progress=False)
    assert len(placed) == 8 + 8 * 2  # those that are trained on, and the validation's after each step
