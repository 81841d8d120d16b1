"""A race over workers from each room: the same runs, or one error before the first step."""

import multiprocessing
from concurrent.futures import ProcessPoolExecutor

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from findlr import ConfigurationError
from tests.at_home import HOME_ALONE

HOW = dict(verify=True, progress=False)


@pytest.fixture
def pool():
    with ProcessPoolExecutor(2, mp_context=multiprocessing.get_context("spawn")) as made:
        yield made


def parts():
    torch.manual_seed(0)
    inputs = torch.randn(400, 4)
    loader = DataLoader(TensorDataset(inputs, inputs.sum(dim=1, keepdim=True)), 20, shuffle=True)
    net = nn.Sequential(nn.Linear(4, 16), nn.Dropout(0.1), nn.Tanh(), nn.Linear(16, 1))
    return net, torch.optim.SGD(net.parameters(), lr=0.1), loader


def ignite(**how):
    engine = pytest.importorskip("ignite.engine")
    from findlr.ignite import find_lr

    net, optimizer, loader = parts()
    trainer = engine.create_supervised_trainer(net, optimizer, nn.MSELoss())
    return net, lambda: find_lr(trainer, loader, to_save={"model": net, "optimizer": optimizer}, total_steps=400, **how)


def accelerated(**how):
    accelerate = pytest.importorskip("accelerate")
    from findlr.accelerate import find_lr

    accelerator = accelerate.Accelerator(cpu=True)
    net, optimizer, loader = parts()
    prepared = accelerator.prepare(net, optimizer)
    return net, lambda: find_lr(accelerator, *prepared, nn.MSELoss(), loader, total_steps=400, **how)


def skorch(**how):
    kit = pytest.importorskip("skorch")
    from findlr.skorch import find_lr

    made = kit.NeuralNetRegressor(parts()[0], max_epochs=20, batch_size=20, verbose=0).initialize()
    inputs = np.random.default_rng(0).normal(size=(400, 4)).astype("float32")
    return made.module_, lambda: find_lr(made, inputs, inputs.sum(axis=1, keepdims=True), **how)


def fastai(**how):
    core, load, learner = (pytest.importorskip(f"fastai.{name}") for name in ("data.core", "data.load", "learner"))
    from findlr.fastai import find_lr

    net, _, loader = parts()
    pairs = list(loader.dataset)
    data = core.DataLoaders(load.DataLoader(pairs, bs=20), load.DataLoader(pairs[:40], bs=20))
    learn = learner.Learner(data, net, loss_func=nn.functional.mse_loss)
    return net, lambda: find_lr(learn, total_steps=400, **how)


def lightning(**how):
    kit = pytest.importorskip("lightning")
    from findlr.lightning import find_lr

    net, _, loader = parts()

    class Module(kit.LightningModule):
        def __init__(self):
            super().__init__()
            self.lr, self.net = 0.1, net

        def training_step(self, batch):
            return (self.net(batch[0]) - batch[1]).square().mean()

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), lr=self.lr)

    trainer = kit.Trainer(accelerator="cpu", max_epochs=20, barebones=True)
    return net, lambda: find_lr(trainer, Module(), loader, **how)


def huggingface(**how):
    kit = pytest.importorskip("transformers")
    from findlr.huggingface import find_lr

    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = parts()[0]

        def forward(self, x, labels):
            outputs = self.net(x)
            return {"loss": (outputs - labels).square().mean(), "logits": outputs}

    model = Model()
    data = [{"x": x, "labels": y} for x, y in parts()[2].dataset]
    arguments = kit.TrainingArguments(output_dir="unused", max_steps=400, report_to=[], use_cpu=True)
    trainer = kit.Trainer(model, arguments, train_dataset=data)
    return model, lambda: find_lr(trainer, **how)


def keras(**how):
    kit = pytest.importorskip("keras")
    from findlr.keras import find_lr

    model = kit.Sequential([kit.Input((4,)), kit.layers.Dense(1)])
    model.compile("sgd", loss="mse")
    inputs = np.random.default_rng(0).normal(size=(400, 4))
    return model, lambda: find_lr(model, inputs, inputs.sum(axis=1), total_steps=400, **how)


def test_an_ignite_trainers_runs_are_the_same(pool):
    _, alone = ignite(**HOW, executor=HOME_ALONE)
    _, there = ignite(**HOW, executor=pool)
    finding = there()
    assert finding.race.path == "parallel"
    assert finding.race.runs == alone().race.runs


@pytest.mark.parametrize("room", [accelerated, skorch, fastai, lightning, huggingface])
def test_where_the_steps_stay_in_their_process_that_is_one_error(room, pool, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    net, search = room(**HOW, executor=pool)
    before = [p.detach().clone() for p in net.parameters()]
    with pytest.raises(ConfigurationError, match="executor= can't be had, because a framework takes the steps"):
        search()
    assert all(map(torch.equal, net.parameters(), before))


def test_a_keras_model_stays_in_its_process(pool):
    model, search = keras(**HOW, executor=pool)
    before = model.get_weights()
    with pytest.raises(ConfigurationError, match="executor= can't be had, because a Keras model"):
        search()
    assert all(map(np.array_equal, model.get_weights(), before))
