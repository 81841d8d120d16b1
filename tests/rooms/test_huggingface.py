"""Hugging Face's Trainer: a training with a search in it is one without, and the numbers are the plain call's."""

import gc
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional

os.environ["HF_HUB_OFFLINE"] = "1"

import transformers
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    GPT2Config,
    GPT2LMHeadModel,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)

from findlr import ConfigurationError, LoaderError, LossError, OptimizerError, Stop, find_lr
from findlr import huggingface as room
from findlr.huggingface.training import plan_of, trainable_of
from findlr.testing import TrainableConformance, TrainingConformance
from findlr.testing.bits import differing, draws

pytestmark = pytest.mark.filterwarnings(
    "ignore::FutureWarning", "ignore::UserWarning"
)  # of what a framework will change

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
    def training(self):
        shutil.rmtree("out", ignore_errors=True)
        return trainer_of(**self.how())

    def how(self):
        return {}

    def train(self, training, steps):
        train(training, steps)

    def search(self, training, **how):
        return room.find_lr(training, **how)

    def state(self, training):
        return state_of(training)


class TestBert(Conformance):
    """With dropout, and everything that a Trainer writes."""

    def how(self):
        steps = dict(save_strategy="steps", save_steps=4, eval_strategy="steps", eval_steps=3)
        return dict(**steps, parts={"eval_dataset": sentences()})


class TestGpt2(Conformance):
    """Accumulation with num_items_in_batch, over the ends of epochs; a warmup; NEFTune's hook."""

    def how(self):
        long = dict(gradient_accumulation_steps=3, warmup_steps=2, lr_scheduler_type="cosine")
        return dict(model=gpt2, data=texts, **long, neftune_noise_alpha=5.0)


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
    at = 0

    def how(self):
        return {}

    def trainable(self):
        self.trainer = stopped(self.at, **self.how())
        return trainable_of(self.trainer, scored=True)

    def state(self, trainable):
        parameters = [parameter.tolist() for parameter in self.trainer.model.parameters()]
        return repr((parameters, self.trainer.seen, vars(self.trainer.accelerator.gradient_state)))


class TestBertsSteps(OfTrainable):
    def how(self):
        return dict(parts={"eval_dataset": sentences(12)})


class TestGpt2sStepsInTheMiddleOfAnEpoch(OfTrainable):
    at = 2

    def how(self):
        return dict(model=gpt2, data=texts, gradient_accumulation_steps=2, parts={"eval_dataset": {"a": texts(12)}})


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


STOPS = {
    "finish": [Stop.FINISHED],
    "diverge": [Stop.DIVERGED, Stop.NOT_FINITE],
    "raise": [Stop.INTERRUPTED],
    "interrupt": [Stop.INTERRUPTED],
}


class Hears(TrainerCallback):
    def __init__(self):
        self.heard = []

    def __getattribute__(self, name):
        if name.startswith("on_"):
            self.heard.append(name)
        return super().__getattribute__(name)


class Guarded(room.FindLR):
    """Lets the training go on after a search that was broken off."""

    def on_step_end(self, *args, **how):
        try:
            super().on_step_end(*args, **how)
        except (StoppedError, KeyboardInterrupt) as error:
            self.finding = error.finding


@pytest.mark.parametrize(
    ("name", "workers"), [("finish", 0), ("diverge", 0), ("raise", 0), ("interrupt", 0), ("finish", 1)]
)
def test_a_search_in_the_middle_of_an_epoch(name, workers):
    def run(search):
        data = dict(dataloader_num_workers=workers, dataloader_persistent_workers=workers > 0)
        trainer = trainer_of(gpt2, texts, logging, max_steps=7, gradient_accumulation_steps=3, **data)
        trainer.add_callback(hears := Hears())
        if search:
            callback = Guarded(trainer, at=2, **exits(trainer, name))
            trainer.add_callback(callback)
        trainer.train()
        if search:
            assert callback.finding.stop in STOPS[name]
        return state_of(trainer) | draws() | {"heard": hears.heard}

    assert not list(differing(run(search=True), run(search=False)))


# Ways to train


def by_tokens(outputs, labels, num_items_in_batch=None):
    """A loss of the user's own."""
    losses = functional.cross_entropy(outputs.logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten(), reduction="sum")
    return losses / num_items_in_batch


def adapted(**how):
    """GPT-2 with adapters."""
    from peft import LoraConfig, get_peft_model

    return get_peft_model(
        gpt2(), LoraConfig(task_type="CAUSAL_LM", r=4, target_modules=["c_attn"], lora_dropout=0.1, **how)
    )


def in_pairs(model, *args, **how):
    """A Trainer that is given its optimizer and its scheduler."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=20)
    return Trainer(model, *args, optimizers=(optimizer, scheduler), **how)


def made_anew(_, *args, **how):
    """A Trainer that makes its model as it begins."""
    return Remembering(None, *args, model_init=bert, **how)


class Normed:
    """A loss with a state of its own."""

    def __init__(self):
        self.norm = torch.nn.BatchNorm1d(64)

    def __call__(self, outputs, labels, num_items_in_batch=None):
        normed = self.norm(outputs.logits.flatten(0, 1))
        losses = functional.cross_entropy(outputs.logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten())
        return losses + 0.1 * (normed - self.norm.running_mean).square().mean()


def logging(*args, **how):
    """A Trainer whose loss logs something, and counts."""

    class Logging(Remembering):
        calls = 0

        def compute_loss(self, *args, **how):
            self.calls += 1
            self.log({"calls": self.calls})
            return super().compute_loss(*args, **how)

    return Logging(*args, **how)


class Stream(torch.utils.data.IterableDataset):
    """Sentences that come one after the other."""

    def __iter__(self):
        return iter(sentences())


def tokenizer():
    """One that needs no hub."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    made = Tokenizer(
        models.WordLevel({"<pad>": 0, "<eos>": 1, **{f"w{i}": i for i in range(2, 64)}}, unk_token="<pad>")
    )
    made.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=made, pad_token="<pad>", eos_token="<eos>")


def sft(model, args, train_dataset, **how):
    """TRL's."""
    from datasets import Dataset
    from trl import SFTConfig, SFTTrainer

    rows = [{"text": " ".join(f"w{int(word)}" for word in row["input_ids"])} for row in train_dataset]
    given = {name: getattr(args, name) for name in SFT}
    settings = SFTConfig("out", max_length=24, packing=how.pop("packing"), **given)
    data = Dataset.from_list(rows)
    return SFTTrainer(model, settings, train_dataset=data, eval_dataset=data, processing_class=tokenizer(), **how)


def dpo(model, args, train_dataset, **how):
    """TRL's, with a reference model that follows the one that is trained."""
    from datasets import Dataset
    from trl import DPOConfig, DPOTrainer

    rows = [[f"w{int(word)}" for word in row["input_ids"]] for row in train_dataset]
    pairs = [{"prompt": a, "chosen": f" {b} {c}", "rejected": f" {c}"} for a, b, c, *_ in rows]
    given = {name: getattr(args, name) for name in SFT}
    settings = DPOConfig("out", max_length=24, sync_ref_model=True, ref_model_sync_steps=2, **given)
    data = Dataset.from_list(pairs)
    return DPOTrainer(
        model, gpt2(), settings, train_dataset=data, eval_dataset=data, processing_class=tokenizer(), **how
    )


SFT = ["report_to", "use_cpu", "disable_tqdm", "logging_steps", "save_strategy", "per_device_train_batch_size"]
SFT += ["learning_rate", "max_steps", "gradient_accumulation_steps", "bf16"]


def lora():
    from peft import LoraConfig

    return LoraConfig(task_type="CAUSAL_LM", r=4, target_modules=["c_attn"])


language = dict(model=gpt2, data=texts)
twice = dict(gradient_accumulation_steps=2)
WAYS = {
    "label smoothing": lambda: dict(**language, **twice, label_smoothing_factor=0.1),
    "compute_loss_func": lambda: dict(**language, **twice, parts={"compute_loss_func": by_tokens}),
    "a loss with a state": lambda: dict(**language, parts={"compute_loss_func": Normed()}),
    "gradient checkpointing": lambda: dict(**language, gradient_checkpointing=True),
    "bf16": lambda: dict(**language, **twice, bf16=True),
    "Adafactor": lambda: dict(**language, optim="adafactor"),
    "LoRA": lambda: dict(data=texts, model=adapted),
    "LoRA, gradient checkpointing": lambda: dict(data=texts, model=adapted, **twice, gradient_checkpointing=True),
    "DoRA": lambda: dict(data=texts, model=lambda: adapted(use_dora=True), **twice),
    "an optimizer of the user's": lambda: dict(make=in_pairs),
    "a model that is made anew": lambda: dict(make=made_anew),
    "a stream": lambda: dict(data=Stream, **twice),
    "a loss that logs": lambda: dict(
        make=logging, eval_strategy="steps", eval_steps=3, parts={"eval_dataset": sentences(8)}
    ),
    "SFT": lambda: dict(**language, **twice, make=sft, parts={"packing": False}),
    "SFT, packed, LoRA": lambda: dict(**language, make=sft, parts={"packing": True, "peft_config": lora()}),
    "DPO": lambda: dict(**language, **twice, make=dpo),
    "a callback that freezes": lambda: dict(parts={"callbacks": [Freezes("on_epoch_begin")]}),
}


@pytest.mark.parametrize("way", WAYS)
def test_a_training_after_a_search_is_the_training_without(way):
    def run(search):
        trainer = trainer_of(**WAYS[way]())
        for steps in (2, 5):
            if search:
                first = room.find_lr(trainer, min_lr=1e-5, max_lr=1e-1, num_steps=5, progress=False)
                assert first == room.find_lr(trainer, min_lr=1e-5, max_lr=1e-1, num_steps=5, progress=False)
            train(trainer, steps)
        return state_of(trainer) | draws()

    assert not list(differing(run(search=True), run(search=False)))


# The number


class Line(torch.nn.Module):
    """A model that knows nothing of ``num_items_in_batch``."""

    def __init__(self):
        super().__init__()
        self.layers = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Dropout(0.1), torch.nn.Linear(8, 1))

    def forward(self, inputs, labels=None):
        outputs = self.layers(inputs).squeeze(1)
        return {"logits": outputs} if labels is None else {"loss": (outputs - labels).square().mean()}


def line():
    torch.manual_seed(0)
    return Line()


def points(count=120):
    drawn = torch.randn(count, 4, generator=torch.Generator().manual_seed(0))
    return [{"inputs": each, "labels": each.sum()} for each in drawn]


def of_line(**how):
    return dict(model=line, data=points, make=Trainer, max_steps=90, warmup_steps=9) | how


@pytest.mark.parametrize("how", [{}, {"gradient_accumulation_steps": 2}], ids=["1", "2"])
def test_the_plain_call_finds_the_same(how):
    how = of_line(max_grad_norm=0, optim="sgd", **how)
    found = room.find_lr(trainer_of(**how), progress=False)
    trainer = stopped(**how)
    plainly = find_lr(
        *(trainer.model, trainer.optimizer),
        loss_fn=lambda model, batch: model(**batch)["loss"],
        loader=trainer.callback_handler.train_dataloader,
        accumulation_steps=trainer.args.gradient_accumulation_steps,
        **dict(schedule="linear", total_steps=90, warmup=9, progress=False),
    )
    assert found.curve.loss.tolist() == plainly.curve.loss.tolist()
    assert found.curve.lr.tolist() == plainly.curve.lr.tolist()
    assert (found.lr, found.plan, found.interval) == (plainly.lr, plainly.plan, plainly.interval)
    assert found.cost.steps == plainly.cost.steps


def test_the_control_variate_follows_an_accumulation():
    how = dict(gradient_accumulation_steps=3, label_smoothing_factor=0.1)
    found = room.find_lr(trainer_of(gpt2, texts, **how), num_steps=10, max_lr=0.01, progress=False)
    assert found.curve.baseline is not None
    assert found.curve.baseline[0] == pytest.approx(found.curve.loss[0], rel=1e-5)
    assert found.curve.baseline[-1] > found.curve.loss[-1]


@pytest.mark.parametrize("use_reentrant", [False, True])
def test_there_is_a_control_variate_with_checkpointed_activations(use_reentrant):
    how = dict(gradient_checkpointing=True, gradient_checkpointing_kwargs={"use_reentrant": use_reentrant})
    found = room.find_lr(trainer_of(adapted, texts, **how), num_steps=10, max_lr=0.01, progress=False)
    assert found.curve.baseline is not None  # whose pass runs the hook that marks the embeddings, too
    assert found.curve.baseline[0] == pytest.approx(found.curve.loss[0], rel=1e-5)


def test_the_finding_says_what_to_paste():
    found = room.find_lr(trainer_of(**of_line(max_grad_norm=0.5, bf16=True)), progress=False)
    assert found.code().startswith("trainer.args.learning_rate = 0.")
    assert "trainer.args.learning_rate = 0." in str(found)
    assert found.facts["clip_grad_norm"] == 0.5
    assert found.facts["autocast"] == "bfloat16"
    assert {"torch", "transformers"} <= set(found.facts["versions"])
    theirs = room.find_lr(trainer_of(**of_line(make=in_pairs)), progress=False)
    assert theirs.code().startswith("optimizer = torch.optim.SGD(")


def making(*groups):
    """A Trainer whose optimizer is made by hand; a group's rate is a function of the argument."""

    class Making(Trainer):
        made = 0

        def create_optimizer(self, *_):
            self.made += 1
            if self.optimizer is None:
                layers, rate = [self.model.layers[0], self.model.layers[2]], self.args.learning_rate
                if len(groups) == 1:
                    layers = [self.model]
                each = [{"params": p.parameters(), "lr": lr(rate)} for p, lr in zip(layers, groups, strict=True)]
                self.optimizer = torch.optim.AdamW(each)
            return self.optimizer

    return Making


def scheduled(make):
    """A Trainer with a scheduler of its own, made of the optimizer and the argument."""

    class Scheduled(making(lambda lr: lr)):
        def create_scheduler(self, num_training_steps, optimizer=None):
            if self.lr_scheduler is None:
                self.lr_scheduler = make(optimizer or self.optimizer, self.args.learning_rate)
            return self.lr_scheduler

    return Scheduled


schedulers = torch.optim.lr_scheduler
OF_ITS_OWN = {
    "a peak that is the argument": (
        lambda o, lr: schedulers.CyclicLR(o, lr / 10, lr, step_size_up=3, cycle_momentum=False),
        "trainer.args.learning_rate = ",
    ),
    "a multiple that is never 1": (
        lambda o, lr: schedulers.LambdaLR(o, lambda step: 4 * 0.5**step),
        "trainer.args.learning_rate = ",
    ),
    "a peak that is fixed": (
        lambda o, lr: schedulers.OneCycleLR(o, 0.01, total_steps=6, cycle_momentum=False),
        "optimizer = torch.optim.AdamW(",
    ),
}


@pytest.mark.parametrize(("make", "line"), OF_ITS_OWN.values(), ids=OF_ITS_OWN)
def test_the_line_to_paste_gives_a_scheduler_of_ones_own_its_peak(make, line):
    how = of_line(make=scheduled(make), max_steps=6)
    found = room.find_lr(trainer_of(**how), progress=False)
    assert found.code().startswith(line)
    if line.startswith("trainer."):
        trainer, rates = trainer_of(**how), []
        trainer.add_callback(Rates(rates))
        exec(found.code(), {"trainer": trainer})
        trainer.train()
        assert max(rates) == pytest.approx(found.lr, rel=0.05)


def annealed(counted, by=0.1):
    """A trainer's class whose loss grows with global_step, as one is faded in; it tells the steps and epochs it saw."""

    class Anneals(Remembering):
        def compute_loss(self, *args, **how):
            counted.append((self.state.global_step, round(self.state.epoch, 6)))
            return super().compute_loss(*args, **how) * (1 + by * self.state.global_step)

    return Anneals


@pytest.mark.parametrize("accumulated", [1, 2])
def test_the_state_counts_the_steps_and_epochs_of_a_search_as_of_a_training(accumulated):
    counted, how = [], {"num_steps": 14, "progress": False, "control_variate": False, "max_lr": 1e-4}
    trainer = trainer_of(make=annealed(counted), max_steps=14, gradient_accumulation_steps=accumulated)
    room.find_lr(trainer, **how)
    searched, counted[:] = list(counted), []
    assert trainer.state.global_step == 0
    trainer.train()
    assert searched == counted
    assert counted[-1][0] == 13


def test_the_control_variate_sees_the_global_step_of_its_batch():
    curves = []
    for by in (0.1, 0.0):
        trainer = trainer_of(make=annealed([], by))
        curves.append(room.find_lr(trainer, num_steps=8, max_lr=1e-2, progress=False).curve)
    annealing, plain = curves
    assert annealing.baseline == pytest.approx(plain.baseline * (1 + 0.1 * np.arange(8)), rel=1e-6)


def test_each_run_of_a_race_counts_from_the_global_step_of_its_training():
    counted = []
    trainer = trainer_of(make=annealed(counted), max_steps=40)
    how = {"num_steps": 30, "budget": 200, "max_lr": 0.1, "progress": False, "control_variate": False}
    found = room.find_lr(trainer, verify=True, **how)
    begun = [i for i in range(len(counted)) if [step for step, _ in counted[i : i + 2]] == [0, 1]]
    assert len(begun) == 1 + len(found.race.runs)


@pytest.mark.parametrize("kind", ["linear", "cosine", "constant_with_warmup"])
def test_a_warmup_that_is_longer_than_the_training_ends_at_the_rate_that_was_found(kind):
    how = of_line(max_steps=40, warmup_steps=500, lr_scheduler_type=kind)
    trainer, rates = trainer_of(**how), []
    found = room.find_lr(trainer, progress=False)
    trainer.add_callback(Rates(rates))
    exec(found.code(), {"trainer": trainer})
    trainer.train()
    assert rates[-1] == max(rates) == pytest.approx(found.lr, rel=0.05)
    trainer, rates = trainer_of(**how), []
    trainer.add_callback(room.FindLR(trainer, apply=True, progress=False))
    trainer.add_callback(Rates(rates))
    trainer.train()
    assert rates[-1] == pytest.approx(found.lr)


class Rates(TrainerCallback):
    """Notes the rate of each step."""

    def __init__(self, seen):
        self.seen = seen

    def on_step_begin(self, args, state, control, optimizer=None, **_):
        self.seen.append(optimizer.param_groups[0]["lr"])


IN_ARGUMENTS, IN_GROUPS = "trainer.args.learning_rate = ", "in zip(trainer.create_optimizer().param_groups, ["
MAKERS = {
    "the head at ten times the rate": (making(lambda lr: lr, lambda lr: 10 * lr), IN_ARGUMENTS),
    "an eighth": (making(lambda lr: lr / 8), IN_ARGUMENTS),
    "a rate that is fixed": (making(lambda _: 0.01), IN_GROUPS),
    "one of two that is fixed": (making(lambda lr: lr, lambda _: 1e-3), IN_GROUPS),
    "a rate from a table": (making(lambda lr: {1e-3: 1e-2}[lr]), IN_GROUPS),
}


@pytest.mark.parametrize(("make", "line"), MAKERS.values(), ids=MAKERS)
def test_the_line_to_paste_gives_an_optimizer_of_ones_own_the_rates_that_were_found(make, line):
    how = of_line(make=make, lr_scheduler_type="constant", max_steps=3)
    trainer = trainer_of(**how)
    found = room.find_lr(trainer, progress=False)
    assert line in found.code()
    assert trainer.made == 0
    assert trainer.args.learning_rate == 1e-3
    trainer = trainer_of(**how)
    exec(found.code(), {"trainer": trainer})
    trainer.train()
    assert [group["lr"] for group in trainer.optimizer.param_groups] == pytest.approx(found.lrs, rel=0.05)


@pytest.mark.parametrize(("make", "line"), MAKERS.values(), ids=MAKERS)
def test_a_rate_that_is_applied_leaves_the_argument_right(make, line):
    trainer = trainer_of(**of_line(make=make, lr_scheduler_type="constant", max_steps=3))
    trainer.add_callback(callback := room.FindLR(trainer, apply=True, progress=False))
    trainer.train()
    assert [group["lr"] for group in trainer.optimizer.param_groups] == pytest.approx(callback.finding.lrs)
    if line == IN_GROUPS:
        assert trainer.args.learning_rate == 1e-3
        return
    made = [group["lr"] for group in trainer_of(**of_line(make=make)).create_optimizer().param_groups]
    largest = max(callback.finding.lrs) * 1e-3 / max(made)
    assert trainer.args.learning_rate == pytest.approx(largest)


class Both(Trainer):
    """Makes its optimizer and its scheduler in one function."""

    def create_optimizer_and_scheduler(self, num_training_steps):
        rate = self.args.learning_rate
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=rate if self.args.weight_decay else 0.5)
        self.lr_scheduler = torch.optim.lr_scheduler.ConstantLR(self.optimizer, 1.0)


@pytest.mark.skipif(not transformers.__version__.startswith("4."), reason="transformers 5 does not call that function")
def test_the_line_to_paste_acts_where_one_function_makes_optimizer_and_scheduler():
    trainer = trainer_of(**of_line(make=Both, weight_decay=0.1, max_steps=3))
    found = room.find_lr(trainer, progress=False)
    exec(found.code(), {"trainer": trainer})
    trainer.train()
    assert trainer.optimizer.param_groups[0]["lr"] == pytest.approx(found.lr, rel=0.05)
    found = room.find_lr(trainer_of(**of_line(make=Both, max_steps=3)), progress=False)
    assert found.code().startswith("optimizer = torch.optim.SGD(")  # for that function: its rate is its own


def line_made_anew(_, *args, **how):
    """A Trainer that makes its model, and so its optimizer, as it begins."""
    return Trainer(None, *args, model_init=line, **how)


KEPT = {Trainer: "trainer.optimizer.param_groups", line_made_anew: "trainer.args.learning_rate = "}


@pytest.mark.parametrize("make", KEPT)
def test_after_a_training_the_line_to_paste_acts_in_the_next(make):
    trainer = trainer_of(**of_line(make=make, max_steps=3, warmup_steps=0))
    trainer.train()
    found = room.find_lr(trainer, progress=False)
    assert KEPT[make] in found.code()
    exec(found.code(), {"trainer": trainer})
    trainer.train()
    assert trainer.state.log_history[0]["learning_rate"] == pytest.approx(found.lr * 2 / 3, rel=0.05)


SCHEDULES = {
    "linear": ("linear", 0.1),
    "cosine": ("cosine", 0.1),
    "constant": ("constant", None),
    "constant_with_warmup": ("constant", 0.1),
    "reduce_lr_on_plateau": ("constant", None),
}


@pytest.mark.parametrize("kind", SCHEDULES)
def test_the_plan_is_that_of_the_arguments(kind):
    metric = dict(eval_strategy="steps", parts={"eval_dataset": sentences(8)}) if "plateau" in kind else {}
    plan = plan_of(stopped(lr_scheduler_type=kind, max_steps=50, warmup_steps=5, **metric))
    assert (plan.schedule, plan.warmup) == SCHEDULES[kind]
    assert plan.total_steps == 50


def test_a_plan_without_a_name_is_the_schedulers():
    how = dict(lr_scheduler_type="cosine_with_restarts", lr_scheduler_kwargs={"num_cycles": 2})
    plan = plan_of(stopped(max_steps=100, **how))
    assert plan.share(0.51) > 0.99 > 0.02 > plan.share(0.49)
    stages = dict(num_stable_steps=4, num_decay_steps=4, min_lr_ratio=0.1)  # and four more at a tenth
    plan = plan_of(stopped(max_steps=12, lr_scheduler_type="warmup_stable_decay", lr_scheduler_kwargs=stages))
    assert plan.shares(12)[[0, 4, 8, 11]] == pytest.approx([1, 1, 0.1, 0.1])
    plan = plan_of(stopped(make=in_pairs, max_steps=20, lr_scheduler_type="linear"))
    assert plan.share(0.5) == pytest.approx(0.5, abs=0.05)
    assert plan.share(0.2) > 0.85


class Cycled(Trainer):
    """Makes a scheduler of its own, whatever the arguments say."""

    def create_scheduler(self, num_training_steps, optimizer=None):
        if self.lr_scheduler is None:
            how = dict(max_lr=self.args.learning_rate, total_steps=num_training_steps)
            self.lr_scheduler = torch.optim.lr_scheduler.OneCycleLR(self.optimizer, **how)
            self._created_lr_scheduler = True
        return self.lr_scheduler


class Halfway(Trainer):
    """Decays over twice the training."""

    def create_scheduler(self, num_training_steps, optimizer=None):
        return super().create_scheduler(2 * num_training_steps, optimizer)


@pytest.mark.parametrize(("make", "shares"), [(Cycled, [0.04, 1, 0.61]), (Halfway, [1, 0.85, 0.7])])
def test_a_scheduler_of_ones_own_is_the_plan(make, shares):
    plan = plan_of(stopped(make=make, max_steps=100))
    assert [plan.share(at) for at in (0.0, 0.3, 0.6)] == pytest.approx(shares, abs=0.06)
    assert plan.total_steps == 100


def test_the_last_step_of_an_epoch_takes_the_batches_that_are_left():
    trainer = trainer_of(max_steps=-1, num_train_epochs=3, gradient_accumulation_steps=7)
    finding = room.find_lr(trainer, num_steps=8, progress=False)
    trainer.train()
    assert (finding.plan.total_steps, finding.plan.epochs) == (trainer.state.global_step, 3)


def test_a_step_has_no_more_batches_than_an_epoch():
    trainer = trainer_of(max_steps=-1, num_train_epochs=2, gradient_accumulation_steps=64)
    finding = room.find_lr(trainer, num_steps=3, max_lr=1e-2, progress=False, control_variate=False)
    assert finding.facts["accumulation_steps"] == 10
    assert len(finding.curve) == 3
    trainer.seen = []
    trainer.train()
    assert len(trainer.seen) == 10 * trainer.state.global_step
    plain = trainer_of(max_steps=-1, num_train_epochs=2, gradient_accumulation_steps=10)
    alike = room.find_lr(plain, num_steps=3, max_lr=1e-2, progress=False, control_variate=False)
    assert list(finding.curve.loss) == list(alike.curve.loss)


def test_epochs_are_the_length():
    assert plan_of(stopped(max_steps=-1, num_train_epochs=3, gradient_accumulation_steps=4)).total_steps == 9


# Races


def test_a_race_is_scored_on_the_eval_set():
    def raced(data):
        how = of_line(parts={"eval_dataset": data})
        return room.find_lr(trainer_of(**how), verify=True, budget=200, num_steps=40, progress=False).race

    seen = []

    class Seen(list):
        def __getitem__(self, i):
            seen.append(i)
            return super().__getitem__(i)

    own, other = raced(Seen(points(40))), raced([{**each, "labels": -each["labels"]} for each in points(40)])
    assert set(seen) > set(range(20))
    assert own.runs[0].loss < own.start
    assert other.runs[0].loss > other.start


def test_a_search_in_a_training_leaves_no_loader_of_its_own_behind():
    counts = []
    for search in (False, True):
        how = of_line(max_steps=6, eval_strategy="steps", eval_steps=3, parts={"eval_dataset": points()})
        trainer = trainer_of(**how)
        if search:
            trainer.add_callback(callback := room.FindLR(trainer, at=2, validation_every=5, progress=False))
        trainer.train()
        counts.append(len(trainer.accelerator._dataloaders))
    assert callback.finding.curve.validation is not None
    assert counts[0] == counts[1]


def test_without_an_eval_set_a_race_is_scored_on_examples_that_it_does_not_train_on():
    found = room.find_lr(trainer_of(**of_line()), verify=True, budget=200, num_steps=40, progress=False)
    assert len(found.race.runs) >= 3


def test_the_eval_loss_along_the_sweep():
    trainer = trainer_of(**of_line(parts={"eval_dataset": points(10)}))
    found = room.find_lr(trainer, validation_every=5, num_steps=20, max_lr=0.1, progress=False)
    assert found.curve.validation is not None
    trainer.model.layers[1].p = 0.0
    expected = trainer.evaluate()["eval_loss"]
    assert found.curve.validation[np.isfinite(found.curve.validation)][0] == pytest.approx(expected, rel=1e-3)


def test_an_eval_set_without_labels_is_refused():
    data = [{"inputs": each["inputs"]} for each in points(10)]
    with pytest.raises(LoaderError, match="no labels"):
        room.find_lr(trainer_of(**of_line(parts={"eval_dataset": data})), validation_every=5, progress=False)


# A step of ones own


class Aside(Trainer):
    """Computes the loss in its step; ``compute_loss`` can't."""

    def training_step(self, model, inputs, *args, **how):
        model.train()
        inputs = self._prepare_inputs(inputs)
        loss = (model(inputs["inputs"])["logits"] - inputs["labels"]).square().mean()
        self.accelerator.backward(loss)
        return loss.detach()

    def compute_loss(self, *args, **how):
        raise ValueError("no loss here")


class AroundTheStep(Trainer):
    def training_step(self, *args, **how):
        self.steps = True
        try:
            return super().training_step(*args, **how)
        finally:
            self.steps = False


def test_a_step_that_never_calls_compute_loss_has_no_control_variate_and_no_held_out_score(caplog):
    caplog.set_level("INFO", "findlr")
    trainer = trainer_of(**of_line(make=Aside, parts={"eval_dataset": points(20)}))
    found = room.find_lr(trainer, verify=True, budget=200, num_steps=40, max_lr=1.0, progress=False)
    assert "no control variate: training_step never calls compute_loss" in caplog.text
    assert found.curve.baseline is None
    assert len(found.race.runs) >= 3
    assert not found.race.held_out
    assert "compute_loss" not in vars(trainer)


def test_a_step_around_the_trainers_own_keeps_its_control_variate():
    trainer = trainer_of(**of_line(make=AroundTheStep, gradient_accumulation_steps=2))
    trainer.compute_loss = given = trainer.compute_loss
    callback = room.FindLR(trainer, num_steps=8, max_lr=1e-2, progress=False)
    trainer.add_callback(callback)
    trainer.train()
    assert callback.finding.curve.baseline is not None
    assert trainer.compute_loss is given


# In a training


def test_the_rate_that_is_applied_is_the_one_that_a_training_could_have_begun_with():
    trainer = trainer_of(**of_line(gradient_accumulation_steps=2))
    trainer.add_callback(callback := room.FindLR(trainer, apply=True, progress=False))
    trainer.train()
    other = trainer_of(**of_line(gradient_accumulation_steps=2, learning_rate=callback.finding.lr))
    other.train()
    assert trainer.args.learning_rate == callback.finding.lr
    assert not list(differing(state_of(trainer), state_of(other)))


def test_a_search_where_a_training_is_resumed():
    def resumed(search):
        trainer = trainer_of(max_steps=7)
        if search:
            trainer.add_callback(room.FindLR(trainer, num_steps=5, max_lr=0.1, progress=False))
        trainer.train(resume_from_checkpoint="out/checkpoint-3")
        return state_of(trainer)

    trainer_of(max_steps=3, save_strategy="steps", save_steps=3).train()
    assert not list(differing(resumed(search=True), resumed(search=False)))


def test_a_curve_that_refuses_changes_no_rate(caplog):
    trainer = trainer_of(**of_line())
    trainer.add_callback(room.FindLR(trainer, apply=True, min_lr=1e-9, max_lr=1e-8, num_steps=20, progress=False))
    trainer.train()
    assert trainer.args.learning_rate == 1e-3
    assert "the training keeps its rate" in caplog.text


class Annealed(Remembering):
    """Whose scheduler can't be given a new peak on its way."""

    def create_scheduler(self, num_training_steps, optimizer=None):
        optimizer = self.optimizer if optimizer is None else optimizer
        self.lr_scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, num_training_steps, eta_min=1e-5)
        return self.lr_scheduler


def test_a_rate_that_can_not_be_written_ends_no_training(caplog):
    ended = []
    for search in (False, True):
        trainer = trainer_of(make=Annealed, max_steps=6)
        if search:
            how = {"num_steps": 60, "max_lr": 1.0, "progress": False}
            trainer.add_callback(callback := room.FindLR(trainer, apply=True, at=3, **how))
        trainer.train()
        ended.append([trainer.model.state_dict(), trainer.lr_scheduler.state_dict(), trainer.args.learning_rate])
    assert callback.finding.suggestion is not None
    assert "the training keeps its rate, because" in caplog.text
    assert not list(differing(*ended))


def test_a_rate_that_could_not_be_written_is_refused_before_the_search():
    trainer_of(make=Annealed, max_steps=6, save_strategy="steps", save_steps=3).train()
    trainer = trainer_of(make=Annealed, max_steps=6)
    trainer.add_callback(room.FindLR(trainer, apply=True, progress=False))
    with pytest.raises(ConfigurationError, match=r"CosineAnnealingLR is on its way.*Leave apply out, and build"):
        trainer.train(resume_from_checkpoint="out/checkpoint-3")
    assert not trainer.seen


class Freezes(TrainerCallback):
    """Freezes all but the head, in one of its hooks."""

    def __init__(self, hook):
        self.calls, self.average = 0, torch.nn.BatchNorm1d(2)
        setattr(self, hook, self.freeze)

    def freeze(self, args, state, control, model=None, **_):
        self.calls += 1
        self.average.running_mean += 1
        assert state.epoch == 0
        for name, parameter in model.named_parameters():
            parameter.requires_grad = name.startswith("classifier")


@pytest.mark.parametrize("hook", ["on_train_begin", "on_epoch_begin", "on_step_begin"])
def test_a_search_trains_what_callbacks_leave_to_be_trained(hook):
    trainer = trainer_of(max_steps=5, parts={"callbacks": [freezes := Freezes(hook)]})
    found = room.find_lr(trainer, num_steps=5, progress=False)
    assert found.plan.parameters == 34
    assert all(parameter.requires_grad for parameter in trainer.model.parameters())
    assert freezes.calls == 0
    assert not freezes.average.running_mean.any()
    if hook != "on_step_begin":  # which comes after the batches are drawn
        trainer.add_callback(callback := room.FindLR(trainer, num_steps=5, progress=False))
        trainer.train()
        assert callback.finding == found


def test_no_callback_hears_of_a_search():
    trainer = trainer_of(**of_line())
    trainer.add_callback(hears := Hears())
    hears.heard.clear()
    room.find_lr(trainer, num_steps=5, progress=False)
    assert not hears.heard


@pytest.mark.parametrize("way", [dict(make=in_pairs), dict(make=made_anew), dict(neftune_noise_alpha=5.0, bf16=True)])
@pytest.mark.parametrize("trained", [False, True])
def test_everything_is_the_same_object_after_a_search(way, trained):
    trainer = trainer_of(**way, max_steps=2)
    if trained:
        trainer.train()
    parts = ["args", "state", "control", "callback_handler", "accelerator", "model"]
    owners = [trainer, *(getattr(trainer, name) for name in parts), trainer.model.config]
    optimizer = trainer.optimizer
    owners += [] if optimizer is None else [optimizer, getattr(optimizer, "optimizer", optimizer)]
    owners += [] if optimizer is None else optimizer.param_groups
    before, states = [dict(named(owner)) for owner in owners], draws()
    room.find_lr(trainer, num_steps=5, max_lr=1e-2, progress=False)
    for owner, names in zip(owners, before, strict=True):
        assert named(owner).keys() == names.keys()
        assert [name for name, value in named(owner).items() if value is not names[name]] == []
    assert not list(differing(states, draws()))


def named(owner):
    return owner if isinstance(owner, dict) else vars(owner)


def test_the_trainers_bar_makes_room_for_ours(capsys):
    trainer = trainer_of(**of_line(disable_tqdm=False, max_steps=3, logging_steps=10))
    cleared = []
    trainer.add_callback(room.FindLR(trainer, num_steps=5, progress=False))
    bar = trainer.callback_handler.callbacks[-2]
    begin = bar.on_train_begin

    def begun(*args, **how):
        begin(*args, **how)
        clear = bar.training_bar.clear
        bar.training_bar.clear = lambda *args, **how: (cleared.append(1), clear(*args, **how))

    bar.on_train_begin = begun
    trainer.train()
    assert cleared


# What is refused


@pytest.mark.parametrize(
    ("how", "told"),
    [
        (dict(auto_find_batch_size=True), "auto_find_batch_size"),
        (dict(optim="lomo"), "optim='lomo'"),
        (dict(optim="galore_adamw_layerwise"), "optim='galore_adamw_layerwise'"),
    ],
)
def test_what_cannot_be_put_back_is_refused(how, told):
    with pytest.raises(ConfigurationError, match=told):
        room.find_lr(trainer_of(**of_line(**how)))


@pytest.mark.parametrize(("flag", "told"), [("is_deepspeed_enabled", "DeepSpeed"), ("is_fsdp_enabled", "FSDP")])
def test_what_takes_its_own_steps_is_refused(flag, told):
    trainer = trainer_of(**of_line())
    setattr(trainer, flag, True)  # as the Trainer itself says that it is so
    with pytest.raises(ConfigurationError, match=told):
        room.FindLR(trainer)


def test_what_is_no_trainer_is_refused():
    with pytest.raises(ConfigurationError, match="got Line"):
        room.find_lr(line())


@pytest.mark.parametrize(
    ("how", "told"),
    [
        (dict(num_iter=10), "'num_steps'"),
        (dict(total_steps=10), "total_steps is read from the trainer"),
        (dict(accumulation_steps=2), "accumulation_steps is read from the trainer"),
        (dict(validation_every=2), "the trainer has none"),
        (dict(restore=[3]), "state_dict"),
    ],
)
def test_what_is_no_argument_is_refused(how, told):
    with pytest.raises(ConfigurationError, match=told):
        room.find_lr(trainer_of(**of_line()), **how)


@pytest.mark.parametrize("none", [dict(max_steps=0), dict(max_steps=-1, num_train_epochs=0)])
def test_a_training_without_a_step_is_refused(none):
    with pytest.raises(ConfigurationError, match="is to take 0 steps: set max_steps or num_train_epochs"):
        room.find_lr(trainer_of(**of_line(warmup_steps=0, **none)))


def test_an_empty_dict_of_eval_sets_is_none():
    with pytest.raises(
        ConfigurationError, match="validation_every needs an eval set, and the trainer has an empty one"
    ):
        room.find_lr(trainer_of(**of_line(parts={"eval_dataset": []})), validation_every=2)
    with pytest.raises(ConfigurationError, match="verify=True scores its runs on the eval set, and it is empty"):
        room.find_lr(trainer_of(**of_line(parts={"eval_dataset": []})), verify=True)
    how = of_line(parts={"eval_dataset": {}})
    with pytest.raises(ConfigurationError, match="validation_every needs an eval set"):
        room.find_lr(trainer_of(**how), validation_every=2)
    own, plain = (
        room.find_lr(trainer_of(**each), verify=True, budget=200, num_steps=40, progress=False)
        for each in (how, of_line())
    )
    assert own == plain


def test_an_optimizer_that_sets_its_own_rate_is_refused():
    trainer = trainer_of()
    optimizer = transformers.Adafactor(trainer.model.parameters(), lr=None, relative_step=True, warmup_init=True)
    trainer.optimizer = optimizer
    trainer.lr_scheduler = transformers.optimization.AdafactorSchedule(optimizer)
    with pytest.raises(OptimizerError, match=r"has lr=None.*relative_step=False, lr=1e-3"):
        room.find_lr(trainer)


def test_a_model_that_is_frozen_is_refused():
    def frozen():
        return line().requires_grad_(False)

    with pytest.raises(OptimizerError, match="has no parameters: unfreeze some"):
        room.find_lr(trainer_of(**of_line(model=frozen)))


class Wrong(Trainer):
    """Returns something else than its loss."""

    def training_step(self, *args, **how):
        loss = super().training_step(*args, **how)
        return {"none": None, "a dict": {"loss": loss}, "two": loss.repeat(2)}[self.kind]


@pytest.mark.parametrize(("kind", "told"), [("none", "NoneType"), ("a dict", "dict"), ("two", r"shape \(2,\)")])
def test_a_step_that_returns_no_loss_is_refused(kind, told):
    trainer = trainer_of(**of_line(make=Wrong))
    trainer.kind = kind
    with pytest.raises(LossError, match=f"training_step must return .*{told}"):
        room.find_lr(trainer)


def test_a_callback_of_another_trainer_is_refused():
    trainer, other = trainer_of(**of_line()), trainer_of(**of_line())
    trainer.add_callback(room.FindLR(other))
    with pytest.raises(ConfigurationError, match=r"this FindLR is another trainer's: trainer\.add_callback\("):
        trainer.train()


@pytest.mark.parametrize(("at", "told"), [(4, "has not searched: at=4, and this train() ended at 3"), (3, "")])
def test_a_callback_that_has_not_searched_says_so(at, told, caplog):
    trainer = trainer_of(**of_line(max_steps=3, warmup_steps=0))
    trainer.add_callback(room.FindLR(trainer, at=at, num_steps=5, progress=False))
    trainer.train()
    assert told in caplog.text
    assert bool(told) == ("has not searched" in caplog.text)


@pytest.mark.parametrize(
    ("how", "told"),
    [
        (dict(apply="no"), "apply must be True or False, got 'no'"),
        (dict(at="100"), "at must be a whole number"),
        (dict(at=-1), "at must be a whole number"),
        (dict(at=None), "at must be a whole number"),
    ],
)
def test_a_callback_knows_when_it_acts_and_whether(how, told):
    with pytest.raises(ConfigurationError, match=told):
        room.FindLR(trainer_of(**of_line()), **how)


def test_what_is_missing_is_named():
    code = "import sys; sys.modules['transformers'] = None; import findlr.huggingface"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "MissingExtraError: transformers is not installed; run: pip install 'findlr[huggingface]'" in done.stderr


def test_an_error_before_the_first_step_leaves_the_trainer_as_it_was():
    def fails(**_):
        raise StoppedError

    trainer = trainer_of(**of_line())
    trainer.create_scheduler = fails
    before = dict(vars(trainer))
    with pytest.raises(StoppedError):
        room.find_lr(trainer)
    assert all(vars(trainer)[name] is value for name, value in before.items())
    assert vars(trainer).keys() == before.keys()
