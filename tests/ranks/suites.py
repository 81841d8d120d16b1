"""Suites for ``torchrun -m findlr.testing.ranks``: a training on several ranks, from inside and from outside."""

import torch.distributed as dist

from findlr import TorchTrainable, find_lr
from findlr.testing import TrainableConformance, TrainingConformance
from tests.ranks.training import Training, by_ddp, by_fsdp


class Inside(TrainableConformance):
    def trainable(self):
        return TorchTrainable(*Training(by_ddp()).parts)

    def state(self, trainable):
        return [tensor.tolist() for tensor in trainable.model.state_dict().values()]


class Outside(TrainingConformance):
    wrap = staticmethod(by_ddp())

    def training(self):
        return Training(self.wrap)

    def train(self, training, steps):
        training.train(steps)

    def search(self, training, **how):
        return find_lr(*training.parts, **how)

    def state(self, training):
        return training.state()


class Sharded(Outside):
    wrap = staticmethod(by_fsdp)


class Disagrees(Outside):
    """A search that finds something else on each rank."""

    def search(self, training, **how):
        model, *others = training.parts
        return find_lr(model.module, *others, **how | {"max_lr": how["max_lr"] * (1 + dist.get_rank())})
