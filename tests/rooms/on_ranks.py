"""Trainings of the rooms on several ranks, each beside one without a search; started by torchrun.

torchrun --nproc-per-node 2 -m tests.rooms.on_ranks lightning accelerate huggingface
"""

import json
import sys
import warnings
from contextlib import suppress

import torch
import torch.distributed as dist
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from tests.ranks.training import SWEEP, digest, told


def data():
    torch.manual_seed(0)
    inputs = torch.randn(192, 16)
    return TensorDataset(inputs, inputs[:, :4].argmax(dim=1))


def net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(16, 24), nn.BatchNorm1d(24), nn.Tanh(), nn.Dropout(0.1), nn.Linear(24, 4))


def numbers(*modules):
    tensors = [tensor for module in modules for tensor in module.state_dict().values()]
    return digest([tensor.tolist() for tensor in tensors] + [torch.get_rng_state().tolist()])


def lightning(searches):
    import lightning

    import findlr.lightning

    class Module(lightning.LightningModule):
        def __init__(self):
            super().__init__()
            self.lr, self.net, self.losses = 1e-2, net(), []

        def training_step(self, batch):
            loss = nn.functional.cross_entropy(self.net(batch[0]), batch[1])
            if self.trainer.callbacks and not searching:
                self.losses.append(loss.item())
            return loss

        def configure_optimizers(self):
            return torch.optim.AdamW(self.parameters(), self.lr)

    searching = False
    module, quiet = Module(), dict(logger=False, enable_checkpointing=False, enable_model_summary=False)
    trainer = lightning.Trainer(
        **quiet,
        **dict(accelerator="cpu", devices=dist.get_world_size() if dist.is_initialized() else WORLD),
        **dict(strategy="ddp", max_epochs=2, enable_progress_bar=False, gradient_clip_val=0.5),
        **dict(accumulate_grad_batches=2),
    )
    loader = DataLoader(data(), 8, shuffle=True)
    torch.manual_seed(1)
    finding = None
    if searches:
        searching = True
        finding = findlr.lightning.find_lr(trainer, module, loader, progress=False, **SWEEP)
        searching = False
    trainer.fit(module, loader)
    return finding, numbers(module)


def accelerate(searches, **how):
    import accelerate

    import findlr.accelerate

    accelerator = accelerate.Accelerator(cpu=True, gradient_accumulation_steps=2)
    model = net()
    torch.manual_seed(1)
    optimizer, loader = torch.optim.AdamW(model.parameters(), 1e-2), DataLoader(data(), 8, shuffle=True)
    model, optimizer, loader = accelerator.prepare(model, optimizer, loader)
    criterion = nn.CrossEntropyLoss()
    finding = None
    if searches:
        given = accelerator, model, optimizer, criterion, loader
        finding = findlr.accelerate.find_lr(*given, progress=False, clip_grad_norm=0.5, **SWEEP, **how)
    for _ in range(2):
        for inputs, targets in loader:
            with accelerator.accumulate(model):
                accelerator.backward(criterion(model(inputs), targets))
                accelerator.clip_grad_norm_(model.parameters(), 0.5)
                optimizer.step()
                optimizer.zero_grad()
    return finding, numbers(model)


def accelerate_race(searches):
    return accelerate(searches, verify=True, total_steps=400, budget=300)


def huggingface(searches, fails_at=()):
    import tempfile

    import transformers

    import findlr.huggingface

    torch.manual_seed(0)
    sizes = dict(hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32, vocab_size=40)

    class Trainer(transformers.Trainer):
        """Fails on the second rank when so many losses are left."""

        left = None

        def compute_loss(self, *args, **kwargs):
            if self.left is not None and dist.get_rank():
                self.left -= 1
                if self.left == 0:
                    raise ValueError("blown")
            return super().compute_loss(*args, **kwargs)

    model = transformers.BertForSequenceClassification(transformers.BertConfig(**sizes, num_labels=4))
    tokens = torch.randint(1, 40, (96, 8))
    examples = [{"input_ids": row, "labels": row[0] % 4} for row in tokens]
    with tempfile.TemporaryDirectory() as folder:
        args = transformers.TrainingArguments(
            folder, per_device_train_batch_size=4, gradient_accumulation_steps=2, max_steps=8, use_cpu=True
        )
        args.report_to, args.save_strategy, args.disable_tqdm = [], "no", True
        trainer = Trainer(model, args, train_dataset=examples)
        for trainer.left in fails_at if searches else ():
            with suppress(ValueError, findlr.RankError):
                findlr.huggingface.find_lr(trainer, progress=False, **SWEEP)
                raise AssertionError("no rank has failed")
        trainer.left = None
        finding = findlr.huggingface.find_lr(trainer, progress=False, **SWEEP) if searches else None
        trainer.train()
    return finding, numbers(trainer.model)


def huggingface_after_failures(searches):
    """In the losses of a step, and in those of its batches under the starting weights: the other rank goes on then."""
    return huggingface(searches, fails_at=range(9, 13))


def main(*rooms):
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    for room in rooms:
        _, expected = globals()[room](searches=False)
        finding, seen = globals()[room](searches=True)
        mine = {
            "room": room,
            "rank": dist.get_rank(),
            "same": seen == expected,
            "finding": told(finding),
            "facts": [finding.facts["batch_size"], finding.facts["world_size"]],
            "points": len(finding.curve),
        }
        everyones = [None] * dist.get_world_size()
        dist.all_gather_object(everyones, mine)
        if dist.get_rank() == 0:
            sys.stdout.write(f"on ranks: {json.dumps(everyones)}\n")
            sys.stdout.flush()
    dist.destroy_process_group()


if __name__ == "__main__":
    import os

    WORLD = int(os.environ["WORLD_SIZE"])
    main(*sys.argv[1:])
