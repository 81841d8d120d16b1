"""A task: a small training whose best rate is known from a grid."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn
from torch.optim import SGD, Adadelta, Adafactor, Adagrad, Adam, AdamW, Optimizer, RMSprop
from torch.utils.data import DataLoader, Dataset

from study.tasks.optimizers import Lion, MuonAdamW, SignSGD

Criterion = Callable[[Tensor, Tensor], Tensor]

MakeOptimizer = Callable[..., Optimizer]  # (parameters, lr)

OPTIMIZERS: dict[str, MakeOptimizer] = {
    "SGD": SGD,
    "SGD+momentum": partial(SGD, momentum=0.9),
    "Adam": Adam,
    "AdamW": partial(AdamW, weight_decay=0.01),
    "RMSprop": RMSprop,
    "Adagrad": Adagrad,
    "Adam(.5)": partial(Adam, betas=(0.5, 0.999)),  # as GANs have it
    "Adafactor": Adafactor,
    "Lion": Lion,
    "Muon+AdamW": MuonAdamW,
    "Adadelta": Adadelta,
    "SignSGD": SignSGD,
}
FUSED = {"SGD", "SGD+momentum", "Adam", "AdamW", "Adagrad", "Adam(.5)"}  # have a faster form for the same steps

# Rules and constants are fitted on one half of the families; the README reports the other half.
SPLITS = {
    "mlp": "fit",
    "batchnorm": "fit",
    "transformer": "fit",
    "small_data": "fit",
    "shifted": "fit",
    "tabular": "fit",
    "autoencoder": "fit",
    "cnn": "fit",
    "recurrent": "fit",
    "new_head": "fit",
    "converged": "fit",
    "residual": "fit",
    "tiles": "fit",
    "sets": "fit",
    "ratings": "fit",
    "surface": "fit",
    "variational": "fit",
    "contrastive": "fit",
    "convex": "fit",
    "deep_text": "fit",
    "tuned": "fit",
    "masks": "fit",
    "graphs": "fit",
    "motion": "fit",
    "quantiles": "fit",
    "metric": "fit",
    "distilled": "fit",
    "words": "fit",
    "gated": "fit",
    "deep": "fit",
    "resumed": "fit",
    "scarce": "fit",
    "plateaus": "fit",
    "tails": "fit",
    "uneven": "fit",
    "continued": "fit",
    "layerwise": "fit",
    "summed": "fit",
    "whole": "fit",
    "uncommon": "fit",
    "normal": "fit",
    "grammar": "fit",
    "masked": "fit",
    "low_rank": "fit",
    "ctc": "fit",
    "forecast": "fit",
    "nodes": "fit",
    "annealed": "fit",
    "proxies": "fit",
    "physics": "fit",
    "diffusion": "fit",
    "routed": "fit",
    "critics": "fit",
    "forward_forward": "fit",
    "heavy_tails": "fit",
    "rare": "fit",
    "queues": "fit",
    "boxes": "report",
    "upscaled": "report",
    "quantised": "report",
    "signs": "report",
    "twins": "report",
    "mixed": "report",
    "translated": "report",
    "pointers": "report",
    "state_spaces": "report",
    "prompts": "report",
    "skip_gram": "report",
    "survival": "report",
    "clicks": "report",
    "ranked": "report",
    "kernels": "report",
    "mixtures": "report",
    "weighed": "report",
    "flows": "report",
    "differential": "report",
    "bandits": "report",
    "values": "report",
    "relations": "report",
    "maps": "report",
}


@dataclass(frozen=True)
class Data:
    """Training and held-out examples, in memory."""

    inputs: Tensor
    targets: Tensor
    validation_inputs: Tensor
    validation_targets: Tensor


class Examples(Dataset[tuple[Tensor, Tensor]]):
    """Tensors as a data set; a whole batch is indexed at once, which is much faster than item by item."""

    def __init__(self, inputs: Tensor, targets: Tensor) -> None:
        self.inputs, self.targets = inputs, targets

    def __len__(self) -> int:
        return len(self.inputs)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        return self.inputs[index], self.targets[index]

    def __getitems__(self, indices: list[int]) -> tuple[Tensor, Tensor]:
        rows = torch.tensor(indices)
        return self.inputs[rows], self.targets[rows]


def as_it_is(batch: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """Collate nothing: ``Examples`` gives whole batches."""
    return batch


@dataclass(frozen=True)
class Setup:
    """One seed of a task, ready to train."""

    model: nn.Module
    make_optimizer: MakeOptimizer
    criterion: Criterion
    loader: DataLoader[tuple[Tensor, Tensor]]
    validation_loader: DataLoader[tuple[Tensor, Tensor]]
    validation_loss: Callable[[nn.Module], float]


@dataclass(frozen=True)
class Task:
    """A training whose final held-out loss depends on the rate.

    Args:
        name: the task's name; it starts with its family's.
        family: a key of SPLITS.
        data: gives the examples, the same at each call.
        model: gives a fresh model from torch's global random state.
        criterion: the loss of (outputs, targets), for training and validation alike.
        optimizer: a key of OPTIMIZERS.
        schedule: a name in ``findlr.analysis.plan.SCHEDULES``.
        total_steps: optimizer steps of the whole training.
        batch_size: examples a step.
        needs: the folder in FINDLR_DATA that the data comes from; "" for data that every machine has.
    """

    name: str
    family: str
    data: Callable[[], Data]
    model: Callable[[], nn.Module]
    criterion: Criterion
    optimizer: str
    schedule: str
    total_steps: int
    batch_size: int
    needs: str = ""

    @property
    def split(self) -> str:
        """The half of the benchmark that its family belongs to: "fit" or "report"."""
        return SPLITS[self.family]

    def make(self, seed: int) -> Setup:
        """The model, optimizer, loss and data of one seed: it sets the initial weights and the order of the data."""
        data = self.data()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            model = self.model()
        generator = torch.Generator().manual_seed(1000 + seed)
        held_out = Examples(data.validation_inputs, data.validation_targets)
        return Setup(
            model=model,
            make_optimizer=OPTIMIZERS[self.optimizer],
            criterion=self.criterion,
            loader=DataLoader(
                Examples(data.inputs, data.targets),
                batch_size=self.batch_size,
                shuffle=True,
                generator=generator,
                collate_fn=as_it_is,
            ),
            validation_loader=DataLoader(held_out, batch_size=self.batch_size, collate_fn=as_it_is),
            validation_loss=partial(held_out_loss, self.criterion, data),
        )


@torch.no_grad()
def held_out_loss(criterion: Criterion, data: Data, model: nn.Module) -> float:
    """The mean loss on the whole held-out set, in eval mode; the modules' modes are put back."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        return float(criterion(model(data.validation_inputs), data.validation_targets))
    finally:
        for module, training in modes:
            module.training = training


def sequence_cross_entropy(outputs: Tensor, targets: Tensor) -> Tensor:
    """Cross entropy of logits (batch, length, classes); targets of -100 are not scored."""
    return nn.functional.cross_entropy(outputs.flatten(0, 1), targets.flatten())
