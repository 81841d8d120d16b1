"""What hypothesis draws: small models, optimizers and trainings, as descriptions that can be built twice."""

from dataclasses import dataclass
from functools import partial

import torch
from hypothesis import strategies as st
from torch import nn, optim

from tests.torch.training import DIVERGING, LOADERS, SWEEP, Bomb, OwnLoop, Training, ema

WIDTH = 6
BLOCKS = {
    "linear": lambda: nn.Linear(WIDTH, WIDTH),
    "bare": lambda: nn.Linear(WIDTH, WIDTH, bias=False),
    "batch-norm": lambda: nn.BatchNorm1d(WIDTH),
    "cumulative-batch-norm": lambda: nn.BatchNorm1d(WIDTH, momentum=None),
    "layer-norm": lambda: nn.LayerNorm(WIDTH),
    "spectral-norm": lambda: nn.utils.parametrizations.spectral_norm(nn.Linear(WIDTH, WIDTH)),
    "dropout": nn.Dropout,
    "alpha-dropout": nn.AlphaDropout,
    "tanh": nn.Tanh,
}
OPTIMIZERS = {
    "sgd": optim.SGD,
    "nesterov": partial(optim.SGD, momentum=0.9, nesterov=True, weight_decay=0.01),
    "dampened": partial(optim.SGD, momentum=0.8, dampening=0.3, maximize=True),
    "adam": optim.Adam,
    "amsgrad": partial(optim.Adam, amsgrad=True, foreach=True),
    "adamw-fused": partial(optim.AdamW, fused=True),
    "adamax": optim.Adamax,
    "nadam": optim.NAdam,
    "radam": optim.RAdam,
    "rmsprop": partial(optim.RMSprop, momentum=0.5, centered=True),
    "adagrad": partial(optim.Adagrad, lr_decay=0.1),
    "adadelta": optim.Adadelta,
    "asgd": partial(optim.ASGD, t0=3),
}
ERRORS = {
    "error": RuntimeError,
    "out-of-memory": torch.OutOfMemoryError,
    "exit": SystemExit,
    "ctrl-c": KeyboardInterrupt,
}


def decay(training):
    scheduler = optim.lr_scheduler.StepLR(training.optimizer, 3, gamma=0.7)
    return scheduler, scheduler.step


EXTRAS = {"none": None, "scheduler": decay, "ema": ema}


@dataclass(frozen=True)
class Drawn:
    """A training, and how it is called: everything that ``build`` needs, as plain values."""

    blocks: tuple[str, ...]
    tied: bool
    repeated: bool
    frozen: frozenset[int]
    in_eval: frozenset[int]
    optimizer: str
    rates: tuple[float, ...]
    tensor_rates: bool
    loader: str
    own_loop: bool
    accumulation: int
    clip: float | None
    precision: str
    extra: str
    diverging: bool
    snapshot: str
    fault: tuple[str, str, int] | None
    before: int

    def model(self):
        layers = [nn.Linear(16, WIDTH), *(BLOCKS[name]() for name in self.blocks), nn.Linear(WIDTH, 4)]
        linear = [layer for layer in layers if type(layer) is nn.Linear and layer.in_features == WIDTH]
        if self.tied and len(linear) > 2:
            linear[1].weight = linear[0].weight
        if self.repeated and len(layers) > 2:
            layers.insert(2, layers[1])
        for i in self.in_eval & set(range(len(layers))):
            layers[i].eval()
        model = nn.Sequential(*layers)
        for i, parameter in enumerate(model.parameters()):
            parameter.requires_grad_(i not in self.frozen)
        return model

    def groups(self, parameters):
        kinds = len(self.rates)
        groups = [{"params": parameters[i::kinds], "lr": rate} for i, rate in enumerate(self.rates)]
        groups = [group for group in groups if group["params"]]
        if self.tensor_rates:
            for group in groups:
                group["lr"] = torch.tensor(group["lr"])
            return OPTIMIZERS[self.optimizer](groups, foreach=False)
        return OPTIMIZERS[self.optimizer](groups)

    def build(self):
        place, error, at = self.fault or (None, "error", 0)
        return (OwnLoop if self.own_loop else Training)(
            self.model,
            self.groups,
            LOADERS[self.loader],
            accumulation=self.accumulation,
            clip=self.clip,
            autocast={"fp16": torch.float16, "bf16": torch.bfloat16}.get(self.precision),
            scaled=self.precision == "fp16",
            extra=EXTRAS[self.extra],
            bomb=partial(Bomb, place, at, ERRORS[error]),
        )

    def settings(self):
        return {**(DIVERGING if self.diverging else SWEEP), "snapshot": self.snapshot}


@st.composite
def drawn(draw):
    """A random training, and a random call."""
    blocks = tuple(draw(st.lists(st.sampled_from(sorted(BLOCKS)), max_size=5)))
    optimizer = draw(st.sampled_from(sorted(OPTIMIZERS)))
    positions = st.integers(0, 2 * len(blocks) + 2)
    places = st.sampled_from(["criterion", "loader", "optimizer"])
    own_loop = draw(st.booleans())
    return Drawn(
        blocks=blocks,
        tied=draw(st.booleans()),
        repeated=draw(st.booleans()),
        frozen=draw(st.frozensets(positions.filter(bool), max_size=len(blocks))),
        in_eval=draw(st.frozensets(st.integers(0, len(blocks) + 1), max_size=2)),
        optimizer=optimizer,
        rates=tuple(draw(st.lists(st.sampled_from([0.1, 0.01, 1e-4]), min_size=1, max_size=3))),
        tensor_rates=draw(st.booleans()) and optimizer in ("sgd", "adam", "nadam", "rmsprop"),
        loader=draw(st.sampled_from(sorted(LOADERS))),
        own_loop=own_loop,
        accumulation=1 if own_loop else draw(st.integers(1, 3)),
        clip=draw(st.sampled_from([None, 0.1])),
        precision=draw(st.sampled_from(["plain", "bf16", "fp16"])),
        extra=draw(st.sampled_from(sorted(EXTRAS))),
        diverging=draw(st.booleans()),
        snapshot=draw(st.sampled_from(["device", "cpu", "disk"])),
        fault=draw(st.none() | st.tuples(places, st.sampled_from(sorted(ERRORS)), st.integers(0, 14))),
        before=draw(st.integers(0, 7)),
    )
