"""A training that can be built twice, and what is compared: everything.

Two trainings are built from the same seed. Both train, one calls findlr, both train on; then everything that either
holds, and everything that it saw on the way, is compared bit by bit.
"""

import multiprocessing.util
import random
import signal
import sys
import tempfile
from array import array
from contextlib import chdir, contextmanager, nullcontext
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import nn, optim
from torch.utils.data import BatchSampler, DataLoader, Dataset, IterableDataset, RandomSampler, Sampler

from findlr import RangeTest, find_lr
from findlr.analysis.plan import Plan
from findlr.search import interrupts
from findlr.torch import training
from findlr.torch.planned import read_schedule

SWEEP = {"min_lr": 1e-6, "max_lr": 1e-3, "num_steps": 12}
STEPS = range(SWEEP["num_steps"])
DIVERGING = {"min_lr": 1e-2, "max_lr": 1e6, "num_steps": 40, "smoothing": 0.5}

multiprocessing.util.get_temp_dir()  # made once in a process: not in the folder that a check looks into


# What is trained: models on 16 numbers in 4 classes


class Recurrent(nn.Module):
    def __init__(self):
        super().__init__()
        self.lstm = nn.LSTM(4, 8, num_layers=2, dropout=0.3, batch_first=True)
        self.head = nn.Linear(8, 4)

    def forward(self, x):
        return self.head(self.lstm(x.view(-1, 4, 4))[0][:, -1])


def mlp():
    return nn.Sequential(nn.Linear(16, 8), nn.Tanh(), nn.Linear(8, 4))


def cnn():
    return nn.Sequential(
        nn.Unflatten(1, (1, 4, 4)),
        nn.Conv2d(1, 4, 3),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.Dropout(),
        nn.Flatten(),
        nn.Linear(16, 4),
    )


def tied():
    model = nn.Sequential(nn.Linear(16, 16), nn.Tanh(), nn.Linear(16, 16), nn.Linear(16, 4))
    model[2].weight = model[0].weight
    return model


def frozen():
    """A trained trunk in eval mode inside a model in train mode."""
    trunk = nn.Sequential(nn.Linear(16, 8), nn.BatchNorm1d(8), nn.Dropout()).eval().requires_grad_(requires_grad=False)
    return nn.Sequential(trunk, nn.Linear(8, 8), nn.BatchNorm1d(8), nn.Dropout(), nn.Linear(8, 4))


MODELS = {"mlp": mlp, "cnn": cnn, "lstm": Recurrent, "tied": tied, "frozen": frozen}
OPTIMIZERS = {
    "sgd": lambda p: optim.SGD(p, lr=0.1),
    "momentum": lambda p: optim.SGD(p, lr=0.05, momentum=0.9, nesterov=True),
    "adam": lambda p: optim.Adam(p, lr=1e-2),
    "adamw-foreach": lambda p: optim.AdamW(p, lr=1e-2, foreach=True, amsgrad=True),
    "adamw-fused": lambda p: optim.AdamW(p, lr=1e-2, fused=True),
    "rmsprop": lambda p: optim.RMSprop(p, lr=1e-2, momentum=0.5, centered=True),
    "adagrad": lambda p: optim.Adagrad(p, lr=1e-2),
}


# Where its batches come from: 6 in an epoch


class Bomb:
    """Goes off at the ``at``-th time that the ``place`` it lies in is passed; unarmed until find_lr is called."""

    def __init__(self, place=None, at=0, error=RuntimeError):
        self.place, self.error, self.armed = place, error, False
        self.left = array("q", [at])  # which no search puts back: numbers of its own would be, and count anew

    def passed(self, place):
        if self.armed and place == self.place:
            self.left[0] -= 1
            if self.left[0] < 0:
                error = self.error("boom")
                if error is not None:  # a signal may wait
                    raise error


class Samples(Dataset):
    def __init__(self, bomb):
        generator = torch.Generator().manual_seed(0)
        self.x = torch.randn(46, 16, generator=generator)
        self.y = (self.x[:, 0] > 0) + 2 * (self.x[:, 1] > 0)
        self.bomb = bomb

    def __len__(self):
        return len(self.x)

    def __getitem__(self, i):
        self.bomb.passed("dataset")
        noise = random.random() + float(np.random.rand()) + torch.randn(16)
        return self.x[i] + 0.1 * noise, self.y[i]


class Streamed(IterableDataset):
    def __init__(self, samples):
        self.samples = samples

    def __iter__(self):
        return (self.samples[i] for i in torch.randperm(len(self.samples)).tolist())


class Homemade(Sampler):
    """What people write: a counter, a list shuffled in place, an array bound anew, generators of three kinds."""

    def __init__(self, count):
        self.epoch, self.order, self.weights = 0, list(range(count)), np.arange(count)
        self.array_rng, self.old_rng, self.plain_rng = (
            np.random.default_rng(1),
            np.random.RandomState(2),
            random.Random(3),
        )

    def __iter__(self):
        self.epoch += 1
        self.plain_rng.shuffle(self.order)
        self.weights = self.array_rng.permutation(self.weights)
        offset = self.epoch + int(self.weights[0]) + self.old_rng.randint(100)
        return iter([(i + offset) % len(self.order) for i in self.order])

    def __len__(self):
        return len(self.order)


class EpochOfItsOwn:
    """A loader that is no DataLoader, and shuffles by its epoch."""

    def __init__(self, samples, collate_fn):
        self.samples, self.collate_fn, self.epoch = samples, collate_fn, 0

    def __iter__(self):
        self.epoch += 1
        order = torch.randperm(len(self.samples), generator=torch.Generator().manual_seed(self.epoch)).tolist()
        return iter(DataLoader(self.samples, batch_size=8, sampler=order, collate_fn=self.collate_fn))


def collate(bomb, items):
    bomb.passed("loader")
    return torch.utils.data.default_collate(items)


def generator(seed=7):
    return torch.Generator().manual_seed(seed)


class Counting(RandomSampler):
    """A sampler whose order depends on how often it was asked, too."""

    passes = 0

    def __iter__(self):
        self.passes += 1
        return iter([(i + self.passes) % len(self) for i in super().__iter__()])


def with_nested_sampler(samples, **how):
    sampler = Counting(samples, replacement=True, generator=generator())
    return DataLoader(samples, batch_sampler=BatchSampler(sampler, 8, drop_last=False), **how)


LOADERS = {
    "global-rng": lambda s, **how: DataLoader(s, batch_size=8, shuffle=True, **how),
    "own-generator": lambda s, **how: DataLoader(s, batch_size=8, shuffle=True, generator=generator(), **how),
    "nested-sampler": with_nested_sampler,
    "homemade-sampler": lambda s, **how: DataLoader(s, batch_size=8, sampler=Homemade(len(s)), **how),
    "iterable": lambda s, **how: DataLoader(Streamed(s), batch_size=8, **how),
    "list": lambda s, **how: list(DataLoader(s, batch_size=8)),
    "no-dataloader": EpochOfItsOwn,
}
WORKERS = {
    "2-workers": lambda s, **how: DataLoader(s, batch_size=8, shuffle=True, num_workers=2, **how),
    "iterable-2-workers": lambda s, **how: DataLoader(Streamed(s), batch_size=8, num_workers=2, **how),
    "persistent": lambda s, **how: DataLoader(
        s, batch_size=8, shuffle=True, num_workers=2, persistent_workers=True, generator=generator(), **how
    ),
}


class Criterion(nn.Module):
    def __init__(self, loss, bomb):
        super().__init__()
        self.loss, self.bomb = loss, bomb

    def forward(self, outputs, targets):
        self.bomb.passed("criterion" if torch.is_grad_enabled() else "baseline")
        return self.loss(outputs, targets)


# What is trained beside them, after each step of the optimizer


def scheduler(training):
    made = optim.lr_scheduler.OneCycleLR(training.optimizer, max_lr=0.1, total_steps=1000)  # moves the momentum, too
    return made, made.step


def ema(training):
    made = optim.swa_utils.AveragedModel(training.model, use_buffers=True)
    return made, lambda: made.update_parameters(training.model)


class Training:
    """A model in training, and all that it sees on the way.

    ``extra`` gives something with a state_dict, and a function that is called after each optimizer step.
    """

    def __init__(
        self,
        model=mlp,
        optimizer=OPTIMIZERS["momentum"],
        loader=LOADERS["global-rng"],
        loss=nn.CrossEntropyLoss,
        scheduler=None,
        accumulation=1,
        bomb=None,
        extra=None,
        autocast=None,
        clip=None,
        scaled=False,
    ):
        random.seed(0)
        np.random.seed(0)
        torch.manual_seed(0)
        self.bomb = bomb() if bomb else Bomb()
        self.model, self.criterion = model(), Criterion(loss(), self.bomb)
        self.loader = loader(Samples(self.bomb), collate_fn=partial(collate, self.bomb))
        trained = {p: None for m in (self.model, self.criterion) for p in m.parameters() if p.requires_grad}
        self.optimizer = optimizer([*trained, *getattr(self.criterion.loss, "unregistered", ())])
        self.optimizer.register_step_post_hook(lambda *_: self.bomb.passed("optimizer"))
        self.scheduler = scheduler(self.optimizer) if scheduler else None
        self.extra, after_step = extra(self) if extra else (None, None)
        if after_step:
            self.optimizer.register_step_post_hook(lambda *_: after_step())
        self.accumulation, self.autocast, self.clip = accumulation, autocast, clip
        self.scaler = torch.amp.GradScaler("cpu", growth_interval=3) if scaled else None
        self.open, self.seen, self.micro = None, [], 0

    def modules(self):
        return {"model": self.model, "criterion": self.criterion}

    def optimizers(self):
        return {"optimizer": self.optimizer}

    def batch(self):
        while True:
            self.open = iter(self.loader) if self.open is None else self.open
            try:
                return next(self.open)
            except StopIteration:
                self.open = None

    def train(self, steps):
        """The bare loop."""
        for _ in range(steps):
            batch = self.batch()
            loss = self.pass_of(batch)
            self.seen.append(copied([batch, loss, random.random(), np.random.rand(), torch.rand(1)]))
        return self

    def pass_of(self, batch):
        """One batch of the bare loop; gives its loss."""
        inputs, targets = batch
        if self.micro % self.accumulation == 0:
            self.optimizer.zero_grad()
        self.micro += 1
        with torch.autocast("cpu", self.autocast) if self.autocast else nullcontext():
            loss = self.criterion(self.model(inputs), targets)
        (self.scaler.scale(loss) if self.scaler else loss).backward()
        if self.micro % self.accumulation == 0:
            if self.clip:
                nn.utils.clip_grad_norm_(self.model.parameters(), self.clip)
            if self.scaler:
                self.scaler.step(self.optimizer)
                self.scaler.update()
            else:
                self.optimizer.step()
            if self.scheduler:
                self.scheduler.step()
        return loss

    def find(self, **how):
        """What the call finds, and the exception, if it ends in one."""
        self.bomb.armed = True
        try:
            return self.call(**{**SWEEP, **how}), None
        except (RuntimeError, KeyboardInterrupt, SystemExit) as error:
            return error.finding, error
        finally:
            self.bomb.armed = False

    def call(self, **how):
        steps = {"accumulation_steps": self.accumulation, "autocast": self.autocast, "clip_grad_norm": self.clip}
        call = {**steps, **({"restore": [self.extra]} if self.extra else {}), **how}
        if self.scaler:
            call["scaler"] = self.scaler
        return find_lr(self.model, self.optimizer, self.criterion, self.loader, **call)

    def things(self):
        """Everything that a step can change, by name."""
        roots = self.modules()
        inner = {name: module for root in roots for name, module in roots[root].named_modules(prefix=root)}
        parameters = [p for module in roots.values() for p in module.parameters()]
        groups = [group for optimizer in self.optimizers().values() for group in optimizer.param_groups]
        owners = {**inner, **self.optimizers()}
        return {
            "parameters": {name: module._parameters for name, module in inner.items()},
            "buffers": {name: module._buffers for name, module in inner.items()},
            "training": {name: module.training for name, module in inner.items()},
            "optimizer": {
                f"{whose}.{name}": value
                for whose, optimizer in self.optimizers().items()
                for name, value in vars(optimizer).items()
                if "hooks" not in name
            },
            "hooks": {
                f"{name}.{kind}": len(hooks)
                for name, owner in owners.items()
                for kind, hooks in vars(owner).items()
                if "hooks" in kind and isinstance(hooks, dict)
            },
            "scheduler": self.scheduler and vars(self.scheduler),
            "extra": self.extra and self.extra.state_dict(),
            "scaler": self.scaler and self.scaler.state_dict(),
            "grads": [p.grad for p in [*parameters, *(p for group in groups for p in group["params"])]],
            "rng": [random.getstate(), np.random.get_state(), torch.get_rng_state()],
            "modes": modes(),
        }

    def close(self):
        for iterator in (self.open, getattr(self.loader, "_iterator", None)):
            if hasattr(iterator, "_shutdown_workers"):
                iterator._shutdown_workers()


class OwnLoop(Training):
    """The bare loop itself, in a RangeTest."""

    def call(self, **how):
        restore = [stateful for stateful in (self.extra, self.scaler) if stateful]
        test = RangeTest(self.model, self.optimizer, restore=restore, **how)
        with test:
            for batch in test(self.loader):
                test.record(self.pass_of(batch))
        return test.finding


class Gan(OwnLoop):
    """A critic that steps twice for each step of the generator, which is swept."""

    def __init__(self, **how):
        super().__init__(model=cnn, **how)
        self.generator = nn.Sequential(nn.Linear(4, 16), nn.BatchNorm1d(16), nn.Linear(16, 16))
        self.second = optim.Adam(self.generator.parameters(), lr=1e-2)
        self.second.register_step_post_hook(lambda *_: self.bomb.passed("swept"))

    def modules(self):
        return {**super().modules(), "generator": self.generator}

    def optimizers(self):
        return {**super().optimizers(), "second": self.second}

    def pass_of(self, batch):
        inputs, _ = batch
        for _ in range(2):
            fake = self.generator(torch.randn(len(inputs), 4)).detach()
            self.optimizer.zero_grad()
            (self.model(fake).mean() - self.model(inputs).mean()).backward()
            self.optimizer.step()
        self.second.zero_grad()
        outputs = self.model(self.generator(torch.randn(len(inputs), 4)))
        loss = self.criterion(outputs, torch.zeros(len(inputs), dtype=torch.long))
        loss.backward()
        self.second.step()
        return loss

    def call(self, **how):
        test = RangeTest(self.modules(), self.optimizers(), sweep="second", **how)
        with test:
            for batch in test(self.loader):
                test.record(self.pass_of(batch))
        return test.finding


# How two of them are compared


def modes():
    """Torch's modes, which are the whole process's or thread's."""
    dynamo = sys.modules.get("torch._dynamo.eval_frame")
    return {
        "grad mode": torch.is_grad_enabled(),
        "autocast": [torch.is_autocast_enabled("cpu"), torch.get_autocast_dtype("cpu")],
        "autocast's cache": torch.is_autocast_cache_enabled(),
        "nested autocast": torch.autocast_increment_nesting() + torch.autocast_decrement_nesting(),
        "inference mode": torch.is_inference_mode_enabled(),
        "anomalies": [torch.is_anomaly_enabled(), torch.is_anomaly_check_nan_enabled()],
        "determinism": torch.get_deterministic_debug_mode(),
        "precision": torch.get_float32_matmul_precision(),
        "default type": torch.get_default_dtype(),
        "cudnn": [torch.backends.cudnn.benchmark, torch.backends.cudnn.deterministic],
        "stance": dynamo._stance.stance if dynamo else "default",
    }


def copied(value):
    """``value`` with its tensors as their bytes: NaN equals NaN, and 0 is not -0."""
    if isinstance(value, torch.Tensor):
        value = value.detach()
        if value.layout != torch.strided:
            return "sparse", copied(value._indices()), copied(value._values()), value.is_coalesced()
        return value.dtype, tuple(value.shape), value.stride(), value.contiguous().numpy().tobytes()
    if isinstance(value, torch.Generator):
        return copied(value.get_state())
    if isinstance(value, np.ndarray):
        return value.dtype, value.shape, value.tobytes()
    if isinstance(value, dict):
        return {i if isinstance(k, torch.Tensor) else k: copied(v) for i, (k, v) in enumerate(value.items())}
    if isinstance(value, (list, tuple)):
        return [copied(item) for item in value]
    return value if isinstance(value, (bool, int, float, str, type(None), torch.dtype)) else type(value)


def identities(value):
    """Which objects ``value`` is made of; Python's numbers have no identity worth keeping."""
    if isinstance(value, torch.Tensor):
        return id(value), value.data_ptr() if value.layout == torch.strided else 0
    if isinstance(value, dict):
        return [id(value), {i: identities(item) for i, item in enumerate(value.values())}]
    if isinstance(value, (list, tuple)):
        return [identities(item) for item in value]
    return None


def differing(a, b, path=""):
    """Names of what is not the same."""
    if isinstance(a, dict) and isinstance(b, dict):
        if a.keys() != b.keys():
            return [f"{path}: keys {sorted(map(str, a.keys() ^ b.keys()))}"]
        return [name for key in a for name in differing(a[key], b[key], f"{path}/{key}")]
    if isinstance(a, list) and isinstance(b, list) and len(a) == len(b):
        return [name for i, (x, y) in enumerate(zip(a, b, strict=True)) for name in differing(x, y, f"{path}/{i}")]
    return [] if a == b else [path]


def without_a_call(make, before=4, after=9):
    """What a training is that never called: at the place of the call, what it saw, and at the end."""
    training = make()
    try:
        at_call = copied(training.train(before).things())
        training.train(after)
        return at_call, training.seen, copied(training.things())
    finally:
        training.close()


def check(make, before=4, after=9, call=lambda training: training.find(), never_called=None):
    """Train, call, train on; against the same training without the call. Gives what the call gave."""
    at_call, seen, at_end = never_called or without_a_call(make, before, after)
    called = make()
    try:
        called.train(before)
        ids = object_ids(called)
        with leaves_nothing():
            result = call(called)
        assert differing(at_call, copied(called.things())) == []
        assert differing(ids, object_ids(called)) == []
        called.train(after)
        assert differing(seen, called.seen) == []
        assert differing(at_end, copied(called.things())) == []
    finally:
        called.close()
    return result


@contextmanager
def leaves_nothing():
    """No worker process, no file, no handler of a signal or of a dropped exception is left of what the block does."""
    workers = set(multiprocessing.active_children())
    handlers = {number: signal.getsignal(number) for number in signal.valid_signals()}
    hook = sys.unraisablehook
    usual = tempfile.tempdir
    # In a folder of its own, because other tests may run beside it.
    with tempfile.TemporaryDirectory() as own, chdir(own), tempfile.TemporaryDirectory() as folder:
        tempfile.tempdir = folder
        try:
            yield
        finally:
            tempfile.tempdir = usual
        assert [*Path(folder).iterdir(), *Path().iterdir()] == []
    assert {number: signal.getsignal(number) for number in signal.valid_signals()} == handlers
    assert sys.unraisablehook == hook
    assert interrupts.waiting == []
    assert set(multiprocessing.active_children()) <= workers


def object_ids(training):
    """Which objects the training is made of, less what things() makes."""
    things = training.things()
    for name in ("rng", "modes", "hooks", "extra", "scaler"):
        del things[name]
    for name in ("parameters", "buffers", "training", "optimizer"):
        things[name] = list(things[name].values())
    return {name: identities(thing) for name, thing in things.items()}


def plan_for(optimizer, schedule, total_steps, warmup=None):
    """The plan as ``find_lr`` makes it."""
    return training.Training(nn.Identity(), optimizer).planned(
        Plan(*read_schedule(schedule, total_steps), warmup=warmup)
    )


def step_in(test, net, optimizer, criterion, batch):
    """What a loop of one's own does with a batch, in the block of a RangeTest."""
    inputs, targets = batch
    loss = criterion(net(inputs), targets)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    test.record(loss)


def loop(net, optimizer, criterion, loader, **how):
    """``find_lr`` by a loop of one's own."""
    with RangeTest(net, optimizer, **how) as test:
        for batch in test(loader):
            step_in(test, net, optimizer, criterion, batch)
    return test.finding
