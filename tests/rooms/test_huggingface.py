"""Hugging Face's Trainer: a training with a search in it is the training without, and the numbers are the plain call's."""

import gc
import json
import os
import shutil
from pathlib import Path

import pytest
import torch
from torch.nn import functional

os.environ["HF_HUB_OFFLINE"] = "1"

from transformers import (
    BertConfig,
    BertForSequenceClassification,
    GPT2Config,
    GPT2LMHeadModel,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)

from findlr import ConfigurationError, Finding, Stop, find_lr
from findlr import huggingface as room
from findlr.testing import TrainableConformance, TrainingConformance

TIMES = {"train_runtime", "train_samples_per_second", "train_steps_per_second"}
TIMES |= {name.replace("train", "eval") for name in TIMES}


@pytest.fixture(scope="module", autouse=True)
def _quick_collections():
    """A Trainer collects garbage as it begins, and looks at all of what was imported."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def sentences(count=40):
    """A class that the first word tells."""
    words = torch.randint(5, 60, (count, 10), generator=torch.Generator().manual_seed(0))
    return [{"input_ids": each, "labels": int(each[0] > 32)} for each in words]


def texts(count=40):
    """Words that go up by one, with endings of several lengths that are not learned."""
    starts = torch.randint(5, 40, (count,), generator=torch.Generator().manual_seed(0))
    made = []
    for i, start in enumerate(starts):
        words = start + torch.arange(10)
        made.append({"input_ids": words, "labels": words.where(torch.arange(10) < 10 - i % 5, -100)})
    return made


def bert():
    torch.manual_seed(0)
    sizes = dict(hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16)
    return BertForSequenceClassification(BertConfig(vocab_size=64, max_position_embeddings=16, **sizes))


def gpt2():
    torch.manual_seed(0)
    words = dict(vocab_size=64, bos_token_id=0, eos_token_id=0)
    return GPT2LMHeadModel(GPT2Config(n_embd=16, n_layer=1, n_head=2, n_positions=16, **words))


class Remembering(Trainer):
    """Remembers what it was trained on."""

    def __init__(self, *args, **how):
        super().__init__(*args, **how)
        self.seen = []

    def training_step(self, model, inputs, *args, **how):
        self.seen.append(inputs["input_ids"].tolist())
        return super().training_step(model, inputs, *args, **how)


def trainer_of(model=bert, data=sentences, make=Remembering, parts=(), **args):
    usual = dict(report_to="none", use_cpu=True, disable_tqdm=True, logging_steps=2, save_strategy="no")
    usual |= dict(per_device_train_batch_size=4, per_device_eval_batch_size=4, learning_rate=1e-3, max_steps=5)
    return make(model(), TrainingArguments("out", **usual | args), train_dataset=data(), **dict(parts))


def train(trainer, steps):
    trainer.args.max_steps = steps
    trainer.train()


def state_of(trainer):
    """Weights, optimizer, logs, what was seen, what was saved."""
    optimizer = trainer.optimizer.state_dict()
    return {
        "weights": trainer.model.state_dict(),
        "optimizer": [optimizer["param_groups"], list(optimizer["state"].values())],
        "scheduler": trainer.lr_scheduler.state_dict(),
        "hooks": [len(module._forward_hooks) for module in trainer.model.modules()],
        "logs": [{k: v for k, v in log.items() if k not in TIMES} for log in trainer.state.log_history],
        "seen": getattr(trainer, "seen", None),
        "saved": {str(path): saved(path) for path in sorted(Path("out").rglob("*")) if path.is_file()},
    }


def saved(path):
    if path.suffix in (".pt", ".pth", ".bin"):
        return None if path.name == "training_args.bin" else plain(torch.load(path, weights_only=False))
    if path.name == "trainer_state.json":
        history = json.loads(path.read_text())["log_history"]
        return [{k: v for k, v in log.items() if k not in TIMES} for log in history]
    return path.read_bytes() if path.suffix == ".safetensors" else None


def plain(value):
    if isinstance(value, dict):
        return {key: plain(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(each) for each in value]
    return value if isinstance(value, torch.Tensor) else repr(value)


class Conformance(TrainingConformance):
    how = {}

    def training(self):
        shutil.rmtree("out", ignore_errors=True)
        return trainer_of(**self.how)

    def train(self, training, steps):
        train(training, steps)

    def search(self, training, **how):
        return room.find_lr(training, **how)

    def state(self, training):
        return state_of(training)


class TestBert(Conformance):
    """With dropout, and everything that a Trainer writes."""

    how = dict(save_strategy="steps", save_steps=4, eval_strategy="steps", eval_steps=3, parts={"eval_dataset": sentences()})


class TestGpt2(Conformance):
    """Accumulation with num_items_in_batch, over the ends of epochs; a warmup; NEFTune's hook."""

    how = dict(model=gpt2, data=texts, gradient_accumulation_steps=3, warmup_steps=2, lr_scheduler_type="cosine")
    how |= dict(neftune_noise_alpha=5.0)


class StoppedError(Exception):
    """Leaves a training."""


class Stopping(TrainerCallback):
    def __init__(self, at):
        self.at = at

    def on_train_begin(self, args, state, control, **_):
        if self.at == 0:
            raise StoppedError

    def on_step_end(self, args, state, control, **_):
        if state.global_step == self.at:
            raise StoppedError


def stopped(at=0, **how):
    """A trainer in the midst of its training."""
    trainer = trainer_of(**how)
    trainer.callback_handler.callbacks = [Stopping(at)]
    with pytest.raises(StoppedError):
        trainer.train()
    return trainer


class OfTrainable(TrainableConformance):
    at, how = 0, {}

    def trainable(self):
        self.trainer = stopped(self.at, **self.how)
        return room.TrainerTrainable.within(self.trainer, scored=True)

    def state(self, trainable):
        parameters = [parameter.tolist() for parameter in self.trainer.model.parameters()]
        return repr((parameters, self.trainer.seen, vars(self.trainer.accelerator.gradient_state)))


class TestBertsSteps(OfTrainable):
    how = dict(parts={"eval_dataset": sentences(12)})


class TestGpt2sStepsInTheMiddleOfAnEpoch(OfTrainable):
    at, how = 2, dict(model=gpt2, data=texts, gradient_accumulation_steps=2, parts={"eval_dataset": {"a": texts(12)}})


# The callback


def exits(trainer, name):
    """How a search ends, as a callback's settings."""
    how = dict(min_lr=1e-5, max_lr=1e-1, num_steps=6, progress=False)
    if name == "diverge":
        return how | dict(min_lr=1e4, max_lr=1e6)
    if name == "finish":
        return how

    def on_step(step):
        if step.index == 3:
            raise {"raise": StoppedError, "interrupt": KeyboardInterrupt}[name]

    return how | dict(on_step=on_step)


class Guarded(room.FindLR):
    """Lets the training go on after a search that was broken off."""

    def on_step_end(self, *args, **how):
        try:
            super().on_step_end(*args, **how)
        except (StoppedError, KeyboardInterrupt) as error:
            assert len(error.finding.curve) == 4
            self.finding = error.finding


@pytest.mark.parametrize("name", ["finish", "diverge", "raise", "interrupt"])
@pytest.mark.parametrize("workers", [0, 2])
def test_a_search_in_the_middle_of_an_epoch(name, workers):
    def run(search):
        accumulation = dict(gradient_accumulation_steps=3, dataloader_num_workers=workers)
        trainer = trainer_of(gpt2, texts, max_steps=7, dataloader_persistent_workers=workers > 0, **accumulation)
        if search:
            callback = Guarded(trainer, at=2, **exits(trainer, name))
            trainer.add_callback(callback)
        trainer.train()
        if search:
            assert isinstance(callback.finding, Finding)
        return state_of(trainer)

    same(run(search=True), run(search=False))


def same(one, other):
    must_be_alike = TrainingConformance()
    must_be_alike.train, must_be_alike.state = lambda *_: None, lambda training: training
    must_be_alike.training = lambda: other
    must_be_alike._check(one, 0)
