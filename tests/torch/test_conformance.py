"""TorchTrainable passes the suite that every Trainable passes."""

import pytest
import torch
from torch import nn, optim

from findlr.testing import TrainableConformance
from findlr.torch import TorchTrainable
from tests.torch.training import LOADERS, OPTIMIZERS, Training, cnn, copied, frozen, tied


def pairs(training, **how):
    return TorchTrainable(training.model, training.optimizer, training.criterion, training.loader, **how)


def named(training, **how):
    def loss_fn(model, batch):
        return nn.functional.cross_entropy(model(batch[0]), batch[1])

    return TorchTrainable(training.model, training.optimizer, loader=training.loader, loss_fn=loss_fn, **how)


CONFIGURATIONS = {
    "plain": lambda: pairs(Training()),
    "cnn-adam": lambda: pairs(Training(cnn, OPTIMIZERS["adam"])),
    "frozen-loss_fn": lambda: named(Training(frozen)),
    "tied-own-generator": lambda: pairs(Training(tied, loader=LOADERS["own-generator"])),
    "homemade-sampler": lambda: pairs(Training(cnn, loader=LOADERS["homemade-sampler"])),
    "validation": lambda: pairs(
        validated := Training(cnn, loader=LOADERS["own-generator"]), validation_loader=validated.loader
    ),
    "accumulation-clip": lambda: pairs(Training(cnn), accumulation_steps=2, clip_grad_norm=1.0),
    "bf16": lambda: pairs(Training(cnn), autocast=torch.bfloat16),
    "fp16-scaler": lambda: pairs(
        Training(cnn), autocast=torch.float16, scaler=torch.amp.GradScaler("cpu", growth_interval=3)
    ),
    "host": lambda: pairs(Training(cnn), snapshot="cpu"),
    "disk": lambda: pairs(Training(cnn), snapshot="disk"),
    "lbfgs": lambda: pairs(Training(optimizer=lambda p: optim.LBFGS(p, max_iter=2))),
}


@pytest.fixture(params=CONFIGURATIONS.values(), ids=CONFIGURATIONS)
def _configuration(request):
    request.instance.make = request.param


@pytest.mark.usefixtures("_configuration")
class TestTorchTrainable(TrainableConformance):
    max_lr = 0.05

    def trainable(self):
        return self.make()

    def state(self, trainable):
        tensors = [*trainable.model.parameters(), *trainable.model.buffers()]
        return copied([tensors, trainable.optimizer.state_dict(), torch.get_rng_state()])
