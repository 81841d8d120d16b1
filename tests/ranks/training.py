"""Trainings on several ranks, each rank with data of its own, and what must be the same after a search."""

import hashlib
import json
import random

import numpy as np
import torch
import torch.distributed as dist
from torch import nn, optim
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, DistributedSampler, TensorDataset, default_collate

OPTIMIZERS = {
    "sgd": lambda p: optim.SGD(p, lr=0.05, momentum=0.9),
    "adamw-fused": lambda p: optim.AdamW(p, lr=1e-3, fused=True),
    "adamw-foreach": lambda p: optim.AdamW(p, lr=1e-3, foreach=True),
}
SWEEP = {"min_lr": 1e-6, "max_lr": 1e-2, "num_steps": 24}
DIVERGING = {"min_lr": 1e-2, "max_lr": 1e6, "num_steps": 40, "smoothing": 0.5}


class Fuse:
    """Does something on one rank, at one place of a step, from one rate on."""

    def __init__(self):
        self.rank = None

    def set(self, training, rank, place, act, lr):
        self.rank, self.place, self.act, self.lr, self.group = rank, place, act, lr, training.optimizer.param_groups[0]
        training.optimizer.register_step_pre_hook(lambda *_: self.at("optimizer"))

    def at(self, place):
        if self.rank == dist.get_rank() and place == self.place and self.group["lr"] >= 0.999 * self.lr:
            self.act()


FUSE = Fuse()


class Fused(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        FUSE.at("forward")
        return x.clone()

    @staticmethod
    def backward(ctx, gradient):
        FUSE.at("backward")
        return gradient


class Layer(nn.Module):
    def forward(self, x):
        return Fused.apply(x)


def criterion(outputs, targets):
    FUSE.at("criterion")
    return nn.functional.cross_entropy(outputs, targets)


def collate(examples):
    FUSE.at("draw")
    return default_collate(examples)


def net():
    hidden = nn.BatchNorm1d(24), nn.Tanh(), nn.Dropout(0.1), nn.Linear(24, 24), nn.Tanh(), Layer()
    return nn.Sequential(nn.Linear(16, 24), *hidden, nn.Linear(24, 4))


def by_ddp(**how):
    return lambda model: DistributedDataParallel(model, **how)


def by_fsdp(model, **how):
    from torch.distributed.fsdp import fully_shard

    for layer in model:
        if isinstance(layer, nn.Linear):
            fully_shard(layer, **how)
    return fully_shard(model, **how)


class Training:
    """A model, an optimizer and data, the same each time; each rank draws other numbers."""

    def __init__(self, wrap, optimizer="sgd", model=net):
        torch.manual_seed(0)
        inputs = torch.randn(192, 16)
        data = TensorDataset(inputs, inputs[:, :4].argmax(dim=1))
        self.model = wrap(model())
        self.optimizer = OPTIMIZERS[optimizer](self.model.parameters())
        rank = dist.get_rank()
        for seed in (torch.manual_seed, random.seed, np.random.seed):
            seed(rank)
        self.loader = DataLoader(data, 8, sampler=DistributedSampler(data, seed=1), collate_fn=collate)
        self.criterion = criterion
        self.losses = []
        self._batches = iter(())

    @property
    def parts(self):
        return self.model, self.optimizer, self.criterion, self.loader

    def batch(self):
        try:
            return next(self._batches)
        except StopIteration:
            self._batches = iter(self.loader)
            return next(self._batches)

    def train(self, steps):
        for _ in range(steps):
            inputs, targets = self.batch()
            self.optimizer.zero_grad()
            loss = self.criterion(self.model(inputs), targets)
            loss.backward()
            self.optimizer.step()
            self.losses.append(loss.item())
        return self

    def state(self):
        """A digest of everything that must be the same on this rank."""
        tensors = [*self.model.parameters(), *self.model.buffers(), *(p.grad for p in self.model.parameters())]
        tensors += [v for state in self.optimizer.state.values() for v in state.values() if torch.is_tensor(v)]
        modes = [module.training for module in self.model.modules()]
        hooks = [len(getattr(p, "_post_accumulate_grad_hooks", None) or ()) for p in self.model.parameters()]
        hooks += [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in self.model.modules()]
        rates = [group["lr"] for group in self.optimizer.param_groups]
        draws = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()
        return digest([*map(_numbers, tensors), modes, hooks, rates, draws, self.losses])


def _numbers(tensor):
    if tensor is None:
        return None
    tensor = tensor.to_local() if hasattr(tensor, "to_local") else tensor
    return str(tensor.dtype), tensor.detach().float().tolist()


def digest(value):
    return hashlib.sha256(json.dumps(value, default=repr).encode()).hexdigest()[:16]


def told(finding):
    """A Finding, its seconds aside."""
    if finding is None:
        return None
    plain = finding.to_dict()
    plain["cost"].pop("seconds")
    return digest(plain)
