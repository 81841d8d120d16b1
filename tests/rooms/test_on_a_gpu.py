"""Trainings of frameworks on a GPU, where there is one, and the same on the CPU: a search in them changes nothing."""

# ruff: noqa: E402 - each framework may be missing

import os

import pytest
import torch
from torch import nn, optim
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # deterministic algorithms ask for it
accelerate = pytest.importorskip("accelerate")
lightning = pytest.importorskip("lightning")
transformers = pytest.importorskip("transformers")

from findlr import Finding
from findlr.accelerate import find_lr as find_lr_by_accelerator
from findlr.huggingface import find_lr as find_lr_of_trainer
from findlr.lightning import find_lr as find_lr_in_fit

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::UserWarning")

DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU"))]
RANGE = dict(num_steps=30, max_lr=0.1, progress=False)


@pytest.fixture(autouse=True)
def _deterministic(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)
    accelerate.state.AcceleratorState._reset_state(reset_partial_state=True)


def net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Dropout(0.2), nn.Linear(32, 4))


def data():
    inputs = torch.randn(120, 8, generator=torch.Generator().manual_seed(0))
    return TensorDataset(inputs, inputs[:, :4].argmax(1))


class OfTrainer:
    """A small BERT by a Trainer, on words whose first tells the class."""

    def __init__(self, device, precision):
        sizes = dict(hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16, vocab_size=64)
        torch.manual_seed(0)
        model = transformers.BertForSequenceClassification(transformers.BertConfig(**sizes))
        words = torch.randint(5, 60, (80, 10), generator=torch.Generator().manual_seed(0))
        args = transformers.TrainingArguments(
            *["out"], report_to="none", save_strategy="no", disable_tqdm=True, max_steps=8, bf16=precision == "bf16",
            per_device_train_batch_size=4, use_cpu=device == "cpu",
        )  # fmt: skip
        self.trainer = transformers.Trainer(model, args, train_dataset=[*map(self.row, words)])

    @staticmethod
    def row(words):
        return {"input_ids": words, "labels": int(words[0] > 32)}

    def search(self):
        return find_lr_of_trainer(self.trainer, **RANGE)

    def train(self):
        self.trainer.train()
        return list(self.trainer.model.parameters())


class InFit:
    """A small net by a LightningModule."""

    def __init__(self, device, precision):
        class Module(lightning.LightningModule):
            def __init__(self):
                super().__init__()
                self.net = net()

            def training_step(self, batch):
                return functional.cross_entropy(self.net(batch[0]), batch[1])

            def configure_optimizers(self):
                return optim.AdamW(self.parameters(), lr=1e-3)

        where = dict(accelerator="cpu" if device == "cpu" else "gpu", devices=1)
        precise = "bf16-mixed" if precision == "bf16" else "32-true"
        self.trainer = lightning.Trainer(max_steps=8, barebones=True, precision=precise, **where)
        self.module, self.loader = Module(), DataLoader(data(), 10, shuffle=True)

    def search(self):
        return find_lr_in_fit(self.trainer, self.module, self.loader, **RANGE)

    def train(self):
        self.trainer.fit(self.module, self.loader)
        return list(self.module.parameters())


class ByAccelerator:
    """The same net in a loop with an Accelerator."""

    def __init__(self, device, precision):
        how = dict(mixed_precision="bf16" if precision == "bf16" else "no", cpu=device == "cpu")
        self.accelerator, model = accelerate.Accelerator(**how), net()
        parts = model, optim.AdamW(model.parameters(), lr=1e-3), DataLoader(data(), 10, shuffle=True)
        self.model, self.optimizer, self.loader = self.accelerator.prepare(*parts)

    def search(self):
        parts = self.model, self.optimizer, functional.cross_entropy, self.loader
        return find_lr_by_accelerator(self.accelerator, *parts, **RANGE)

    def train(self):
        for inputs, targets in self.loader:
            self.optimizer.zero_grad()
            self.accelerator.backward(functional.cross_entropy(self.model(inputs), targets))
            self.optimizer.step()
        return list(self.model.parameters())


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("kind", [OfTrainer, InFit, ByAccelerator])
def test_training_after_a_search_is_training(kind, precision, device):
    torch.manual_seed(1)
    expected = kind(device, precision).train()
    if kind is ByAccelerator:
        accelerate.state.AcceleratorState._reset_state(reset_partial_state=True)
    torch.manual_seed(1)
    training = kind(device, precision)
    finding = training.search()
    assert isinstance(finding, Finding)
    assert len(finding.curve) > 20
    assert finding.facts["device"] == device
    assert all(map(torch.equal, expected, training.train()))
