"""What trains beside a model, in an object of the user's own."""

import numpy as np
import torch
from torch import nn, optim


class Agent:
    """A model beside the one that is trained, with an optimizer, a scheduler, a generator and numbers of its own."""

    def __init__(self):
        self.net, self.norm, self.steps = nn.Linear(1, 1), nn.BatchNorm1d(1), 0
        self.optimizer = optim.SGD(self.net.parameters(), lr=0.1, momentum=0.9)
        self.schedule = optim.lr_scheduler.StepLR(self.optimizer, 2)
        self.generator, self.seen = np.random.default_rng(3), torch.zeros(2)

    def learn(self, *_):
        self.optimizer.zero_grad()
        self.net(torch.full((1, 1), self.generator.normal(), dtype=torch.float32)).square().sum().backward()
        self.optimizer.step()
        self.schedule.step()
        self.norm(torch.tensor([[0.0], [1.0]]))
        self.seen = self.seen + 1
        self.steps += 1

    def state(self):
        parts = self.net, self.norm, self.optimizer, self.schedule
        return [*(each.state_dict() for each in parts), self.generator.bit_generator.state, self.seen, self.steps]
