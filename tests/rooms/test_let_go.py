"""After a search in a framework, nothing of findlr's stays in memory until garbage is collected."""

import gc
from functools import partial

import jax
import keras
import lightning
import numpy as np
import optax
import pytest
import torch
from accelerate import Accelerator
from ignite.engine import Engine
from skorch import NeuralNetRegressor
from torch import nn, optim
from torch.utils.data import DataLoader, TensorDataset
from transformers import Trainer, TrainingArguments

import findlr.accelerate
import findlr.huggingface
import findlr.ignite
import findlr.jax
import findlr.keras
import findlr.lightning
import findlr.skorch
from tests.garbage import kinds_of_garbage

X = np.random.default_rng(0).normal(size=(160, 8)).astype("float32")
Y = X.sum(axis=1, keepdims=True)
HOW = {"verify": True, "budget": 150, "num_steps": 40, "progress": False}
PLAN = {"total_steps": 300}


class Net(nn.Module):
    """Fails at its ``failing``-th batch."""

    def __init__(self, failing=None):
        super().__init__()
        torch.manual_seed(0)
        self.layer, self.failing, self.count = nn.Linear(8, 1), failing, 0

    def forward(self, x, labels=None):
        self.count += 1
        if self.count == self.failing:
            raise ValueError("the model exploded")
        out = self.layer(x)
        return out if labels is None else {"loss": nn.functional.mse_loss(out, labels)}


def loader():
    return DataLoader(TensorDataset(torch.tensor(X), torch.tensor(Y)), 8)


def in_huggingface(failing, tmp_path):
    arguments = TrainingArguments(str(tmp_path), max_steps=300, report_to="none", disable_tqdm=True, use_cpu=True)
    rows = [{"x": x, "labels": y} for x, y in zip(X, Y, strict=True)]
    return partial(findlr.huggingface.find_lr, Trainer(Net(failing), arguments, train_dataset=rows), **HOW)


def in_lightning(failing, tmp_path):
    class Module(lightning.LightningModule):
        def __init__(self):
            super().__init__()
            self.net = Net(failing)

        def training_step(self, batch, _):
            return self.net(*batch)["loss"]

        def configure_optimizers(self):
            return optim.AdamW(self.parameters(), 1e-3)

    quiet = ("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary")
    where = {"accelerator": "cpu", "default_root_dir": tmp_path}
    trainer = lightning.Trainer(max_steps=300, **where, **dict.fromkeys(quiet, False))
    return partial(findlr.lightning.find_lr, trainer, Module(), loader(), **HOW)


def in_accelerate(failing, _):
    accelerator, net = Accelerator(cpu=True), Net(failing)
    net, optimizer, data = accelerator.prepare(net, optim.AdamW(net.parameters()), loader())
    how = {"loss_fn": lambda model, batch: model(*batch)["loss"]}
    return partial(findlr.accelerate.find_lr, accelerator, net, optimizer, loader=data, **how, **PLAN, **HOW)


def in_ignite(failing, _):
    net = Net(failing)
    optimizer = optim.AdamW(net.parameters())

    def step(_, batch):
        optimizer.zero_grad()
        loss = net(*batch)["loss"]
        loss.backward()
        optimizer.step()
        return loss.item()

    parts = {"model": net, "optimizer": optimizer}
    return partial(findlr.ignite.find_lr, Engine(step), loader(), to_save=parts, **PLAN, **HOW)


def in_skorch(failing, _):
    net = NeuralNetRegressor(
        Net, module__failing=failing, optimizer=optim.AdamW, verbose=0, max_epochs=20, batch_size=8
    )
    return partial(findlr.skorch.find_lr, net, X, Y, **HOW)


def in_keras(failing, _):
    class Batches(keras.utils.PyDataset):
        count = 0

        def __len__(self):
            return 20

        def __getitem__(self, index):
            self.count += 1
            if self.count == failing:
                raise ValueError("the data exploded")
            return X[8 * index : 8 * index + 8], Y[8 * index : 8 * index + 8]

    model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(1)])
    model.compile("adam", "mse")
    return partial(findlr.keras.find_lr, model, Batches(), epochs=15, **HOW)


def in_jax(failing, _):
    optimizer, count = optax.inject_hyperparams(optax.adam)(learning_rate=1e-3), 0
    learned = jax.value_and_grad(lambda weights, x, y: ((x @ weights - y) ** 2).mean())

    def step(state, batch):
        nonlocal count
        count += 1
        if count == failing:
            raise ValueError("the step exploded")
        weights, memory = state
        loss, gradients = learned(weights, *batch)
        updates, memory = optimizer.update(gradients, memory)
        return (optax.apply_updates(weights, updates), memory), loss

    weights = np.zeros((8, 1), "float32")
    batches = [(X[i : i + 8], Y[i : i + 8]) for i in range(0, 160, 8)]
    return partial(findlr.jax.find_lr, step, (weights, optimizer.init(weights)), batches, **PLAN, **HOW)


ROOMS = [in_accelerate, in_huggingface, in_ignite, in_jax, in_keras, in_lightning, in_skorch]


@pytest.mark.parametrize("failing", [None, 6])
@pytest.mark.parametrize("search", ROOMS)
def test_nothing_of_findlr_waits_for_the_collector(search, failing, tmp_path):
    call = search(failing, tmp_path)
    gc.collect()
    gc.disable()
    try:
        call()
    except ValueError as error:
        assert failing
        error.with_traceback(None)
    else:
        assert not failing
    finally:
        left = kinds_of_garbage("findlr")
        gc.enable()
    assert not left
