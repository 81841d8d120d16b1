"""What is tried on several ranks; each case returns what happened on its rank.

python -m tests.ranks.cases results.json "2 exits('ddp', ['sgd'])" "3 ways"
python -m tests.ranks.cases results.json all
"""

import itertools
import json
import math
import os
import signal
import sys
import tempfile
import time
from functools import partial
from pathlib import Path

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import fp16_compress_hook

from findlr import RangeTest, TorchTrainable, find_lr, rewindable
from findlr.torch.processes import calls
from tests.ranks import launch
from tests.ranks.training import DIVERGING, FUSE, OPTIMIZERS, SWEEP, Training, by_ddp, by_fsdp, digest, net, told

WRAPS = {"ddp": by_ddp(), "fsdp": by_fsdp}


def fail():
    raise ValueError("blown")


def interrupt():
    FUSE.rank = None  # once
    os.kill(os.getpid(), signal.SIGINT)


def kill():
    os.kill(os.getpid(), signal.SIGKILL)


def spoil(loss):
    """A criterion that gives NaN on one rank."""

    def spoiled(outputs, targets):
        found = loss(outputs, targets)
        return found * float("nan") if FUSE.rank == dist.get_rank() and FUSE.group["lr"] >= FUSE.lr else found

    return spoiled


EXITS = {
    "finish": (SWEEP, None),
    "diverge": (DIVERGING, None),
    "nan": (SWEEP, None),
    "raise": (SWEEP, fail),
    "interrupt": (SWEEP, interrupt),
}


def outcome(search):
    """What a search found or raised, and how long that took."""
    start = time.monotonic()
    error = finding = None
    try:
        finding = search()
    except BaseException as raised:  # noqa: BLE001 - it is told
        error, finding = raised, getattr(raised, "finding", None)
    return {
        "error": error if error is None else f"{type(error).__name__}: {error}",
        "finding": told(finding),
        "stop": None if finding is None else finding.stop.name,
        "points": 0 if finding is None else len(finding.curve),
        "facts": None if finding is None else [finding.facts.get("batch_size"), finding.facts.get("world_size")],
        "seconds": time.monotonic() - start,
    }


def compared(make, search, before=0, after=4):
    """A training with a search in it, beside one without."""
    launch.begin()
    FUSE.rank = None
    never = make().train(before + after).state()
    training = make().train(before)
    found = outcome(lambda: search(training))
    FUSE.rank = None
    return {**found, "same": training.train(after).state() == never}


def exits(wrap, optimizers, which=tuple(EXITS), rank=1, before=(0, 3)):
    """Every exit with every optimizer, fresh and in the midst."""

    def case(*_):
        found = {}
        for optimizer in optimizers:
            for way_out in which:
                settings, act = EXITS[way_out]

                def search(training, way_out=way_out, settings=settings, act=act):
                    model, swept, loss, loader = training.parts
                    FUSE.set(training, rank, "criterion" if act else None, act, 1e-4)
                    return find_lr(model, swept, spoil(loss) if way_out == "nan" else loss, loader, **settings)

                for steps in before:
                    made = lambda optimizer=optimizer: Training(WRAPS[wrap], optimizer)  # noqa: E731
                    found[f"{optimizer} {way_out} {steps}"] = compared(made, search, steps)
        return found

    return case


def rate_at(step):
    """The rate of a step of ``SWEEP``."""
    return SWEEP["min_lr"] * (SWEEP["max_lr"] / SWEEP["min_lr"]) ** (step / (SWEEP["num_steps"] - 1))


PLACES = ("draw", "forward", "criterion", "backward", "optimizer", "on_step")


def places(wrap, steps, ranks, which=PLACES):
    """A rank raises at each place, at several steps; all go on to train."""

    def case(*_):
        found = {}
        for place, step, rank in itertools.product(which, steps, ranks):

            def search(training, place=place, step=step, rank=rank):
                FUSE.set(training, rank, place, fail, rate_at(step))
                return find_lr(*training.parts, **SWEEP, on_step=lambda _: FUSE.at("on_step"))

            found[f"{place} {step} {rank}"] = compared(lambda: Training(WRAPS[wrap]), search, 3)
        return found

    return case


def fault(wrap, place, act, step, rank):
    """One fault after which there is nothing but to raise: each rank is put back."""

    def case(*_):
        training = Training(WRAPS[wrap]).train(3)
        before = training.state()
        FUSE.set(training, rank, place, act, rate_at(step))
        found = outcome(lambda: find_lr(*training.parts, **SWEEP, snapshot="disk"))
        return {"it": {**found, "same": training.state() == before}}

    return case


def ends(training, batches=10, **how):
    """A stream that is shorter on the first rank."""
    given = [(torch.ones(8, 16), torch.zeros(8, dtype=torch.long))] * (batches + 2 * dist.get_rank())
    stream = rewindable(batch for batch in given)
    return find_lr(training.model, training.optimizer, training.criterion, stream, **SWEEP, **how)


def ways(*_):  # noqa: C901 - a list of them
    """Every way to say what a step is, and what DistributedDataParallel can be told, on one group."""

    def criterion(training, **how):
        return find_lr(*training.parts, **SWEEP, **how)

    def loss_fn(training):
        def loss(model, batch):
            return training.criterion(model(batch[0]), batch[1])

        return find_lr(training.model, training.optimizer, loader=training.loader, loss_fn=loss, **SWEEP)

    def inner(training):
        """The model that is given is the wrapper's; the loss function calls that."""
        wrapper = training.model

        def loss(_, batch):
            return training.criterion(wrapper(batch[0]), batch[1])

        return find_lr(wrapper.module, training.optimizer, loader=training.loader, loss_fn=loss, **SWEEP)

    def own_step(training):
        def train_step(draw):
            training.optimizer.zero_grad()
            with training.model.no_sync():
                inputs, targets = draw()
                (training.criterion(training.model(inputs), targets) / 2).backward()
            inputs, targets = draw()
            loss = training.criterion(training.model(inputs), targets)
            (loss / 2).backward()
            nn.utils.clip_grad_norm_(training.model.parameters(), 0.5)
            training.optimizer.step()
            return loss

        return find_lr(training.model, training.optimizer, loader=training.loader, train_step=train_step, **SWEEP)

    def loop(training, leaves=lambda step: False):
        with RangeTest(training.model, training.optimizer, **SWEEP) as test:
            for step, (inputs, targets) in enumerate(test(training.loader)):
                training.optimizer.zero_grad()
                loss = training.criterion(training.model(inputs), targets)
                loss.backward()
                training.optimizer.step()
                if leaves(step):
                    fail()
                test.record(loss)
        return test.finding

    def left_by_one(training):
        return loop(training, lambda step: step == 12 and dist.get_rank() == 1)

    def race(training):
        return criterion(training, schedule="one_cycle", total_steps=400, verify=True)

    def race_ends(training):
        return ends(training, 50, schedule="one_cycle", total_steps=400, verify=True)

    def compressed(**how):
        def wrap(model):
            wrapper = by_ddp(**how)(model)
            wrapper.register_comm_hook(None, fp16_compress_hook)
            return wrapper

        return wrap

    branches = by_ddp(find_unused_parameters=True)
    tried = {
        "criterion": (criterion, by_ddp()),
        "loss_fn": (loss_fn, by_ddp()),
        "inner": (inner, by_ddp()),
        "own step": (own_step, by_ddp()),
        "loop": (loop, by_ddp()),
        "race": (race, by_ddp()),
        "race that one fails in": (fails_in_a_run, by_ddp()),
        "data end": (ends, by_ddp()),
        "data end in the race": (race_ends, by_ddp()),
        "clip and accumulate": (lambda t: criterion(t, clip_grad_norm=0.5, accumulation_steps=2), by_ddp()),
        "loop that one leaves": (left_by_one, by_ddp()),
        "validation": (lambda t: criterion(t, validation_loader=t.loader, validation_every=5), by_ddp()),
        "disk": (lambda t: criterion(t, snapshot="disk"), by_ddp()),
        "static graph": (criterion, by_ddp(static_graph=True)),
        "static graph, loop": (loop, by_ddp(static_graph=True)),
        "unused": (criterion, branches),
        "unused, loop": (loop, branches),
        "bucket views": (criterion, by_ddp(gradient_as_bucket_view=True)),
        "no broadcast": (criterion, by_ddp(broadcast_buffers=False)),
        "compressed": (criterion, compressed()),
        "unused, compressed": (criterion, compressed(find_unused_parameters=True)),
        "epoch": (lambda t: find_lr(*t.parts, **SWEEP | {"num_steps": "epoch"}), by_ddp()),
    }
    found = {}
    for name, (search, wrap) in tried.items():
        for before in (0, 3) if name in ("criterion", "static graph", "unused, compressed") else (3,):
            found[f"{name} {before}"] = compared(lambda wrap=wrap: Training(wrap), search, before)
    return found


def fails_in_a_run(training):
    """A rank raises in the first run of a race, which has diverged by that; the others are made."""
    steps = itertools.count(1)

    def act():
        if torch.is_grad_enabled() and next(steps) == 36:
            fail()

    FUSE.set(training, 1, "criterion", act, 0)
    how = {"schedule": "one_cycle", "total_steps": 400, "verify": True, "budget": 120}
    finding = find_lr(*training.parts, min_lr=1e-4, max_lr=1.0, num_steps=24, **how)
    assert [math.isfinite(run.loss) for run in finding.race.runs] == [False, True, True]
    return finding


class Unsized:
    """Batches whose number is not told."""

    def __init__(self, batches):
        self.batches = batches

    def __iter__(self):
        return iter(self.batches)


class Torn:
    """Batches of which one can't be read on the second rank."""

    def __init__(self, batches):
        self.batches = batches

    def __len__(self):
        return len(self.batches)

    def __iter__(self):
        for i, batch in enumerate(self.batches):
            if i == 2 and dist.get_rank() == 1:
                fail()
            yield batch


def sharded_ways(*_):  # noqa: C901 - a list of them
    """What a sharded model can be told."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import CPUOffloadPolicy, MixedPrecisionPolicy
    from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module

    def search(training, **how):
        return find_lr(*training.parts, **SWEEP, **how)

    def loop(training):
        with RangeTest(training.model, training.optimizer, **SWEEP) as test:
            for inputs, targets in test(training.loader):
                training.optimizer.zero_grad()
                loss = training.criterion(training.model(inputs), targets)
                loss.backward()
                nn.utils.clip_grad_norm_(training.model.parameters(), 0.5)
                training.optimizer.step()
                test.record(loss)
        return test.finding

    def small():
        return nn.Sequential(nn.Linear(16, 24), nn.Tanh(), nn.Linear(24, 4))

    def by_tensor(_):
        mesh = init_device_mesh("cpu", (dist.get_world_size(),))
        return parallelize_module(small(), mesh, {"0": ColwiseParallel(), "2": RowwiseParallel()})

    def gathered(training):
        training.model.eval()
        with torch.no_grad():  # which leaves the root's parameters whole
            training.model(torch.zeros(2, 16))
        training.model.train()
        return search(training)

    def fails(place, training):
        FUSE.set(training, dist.get_rank(), place, fail, rate_at(12))
        return search(training)

    def fails_on_one(place, training):
        FUSE.set(training, 1, place, fail, rate_at(12))
        return search(training)

    def fails_to_score(training, **how):
        """A rank's loss raises where a held-out batch is scored."""
        FUSE.set(training, 1, "criterion", lambda: None if torch.is_grad_enabled() else fail(), 0)
        return search(training, **how)

    def validated(held_out, training):
        return search(training, validation_loader=held_out, validation_every=5)

    def with_another(training):
        with torch.random.fork_rng():
            average = by_fsdp(net())

        def train_step(draw):
            inputs, targets = draw()
            training.optimizer.zero_grad()
            loss = training.criterion(training.model(inputs), targets)
            loss.backward()
            training.optimizer.step()
            for mean, now in zip(average.parameters(), training.model.parameters(), strict=True):
                mean.detach().lerp_(now, 0.1)
            return loss

        return find_lr(training.model, training.optimizer, loader=training.loader, train_step=train_step, **SWEEP)

    uneven = [(inputs, torch.zeros(8, dtype=torch.long)) for inputs in torch.zeros(3 + 2 * dist.get_rank(), 8, 16)]
    wider = [(torch.ones(16, 16), torch.zeros(16, dtype=torch.long))] * 4  # than the training's batches
    held_out, torn = ({"validation_loader": each, "validation_every": 5} for each in (wider, Torn(wider)))
    race = {"schedule": "one_cycle", "total_steps": 200, "verify": True}
    mixed = MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32)
    tried = {
        "clip and accumulate": (lambda t: search(t, clip_grad_norm=0.5, accumulation_steps=2), by_fsdp),
        "cpu": (lambda t: search(t, snapshot="cpu"), by_fsdp),
        "disk": (lambda t: search(t, snapshot="disk"), by_fsdp),
        "loop": (loop, by_fsdp),
        "race": (lambda t: search(t, **race), by_fsdp),
        "race that one fails in": (fails_in_a_run, by_fsdp),
        "another one is never called": (with_another, by_fsdp),
        "callback fails": (lambda t: search(t, on_step=lambda s: s.index == 7 and dist.get_rank() and fail()), by_fsdp),
        "callback fails at the end": (
            lambda t: search(t, on_step=lambda s: s.index == 23 and dist.get_rank() and fail()),
            by_fsdp,
        ),
        "no data on one": (lambda t: find_lr(*t.parts[:3], (t.loader, [])[dist.get_rank() == 1], **SWEEP), by_fsdp),
        "data end": (ends, by_fsdp),
        "uneven validation": (partial(validated, uneven), by_fsdp),
        "uneven validation without a length": (partial(validated, Unsized(uneven)), by_fsdp),
        "validation that one fails in": (lambda t: fails_to_score(t, **held_out), by_fsdp),
        "race that one fails to score": (lambda t: fails_to_score(t, **race), by_fsdp),
        "validation that one can't read": (lambda t: search(t, **torn), by_fsdp),
        "tensor parallel, one fails": (partial(fails_on_one, "criterion"), by_tensor),
        "tensor parallel, one fails to score": (lambda t: fails_to_score(t, **held_out), by_tensor),
        "tensor parallel, one can't read": (lambda t: search(t, **torn), by_tensor),
        "mixed": (search, lambda _: by_fsdp(small(), mp_policy=mixed)),
        "offload": (search, lambda model: by_fsdp(model, offload_policy=CPUOffloadPolicy(pin_memory=False))),
        "all fail forward": (partial(fails, "forward"), by_fsdp),
        "all fail backward": (partial(fails, "backward"), by_fsdp),
        "gathered": (gathered, by_fsdp),
        "keeps whole": (search, lambda model: by_fsdp(model, reshard_after_forward=False)),
        "tensor parallel": (search, by_tensor),
    }
    found = {}
    for name, (ask, wrap) in tried.items():
        found[name] = compared(lambda wrap=wrap: Training(wrap), ask, 3)
    return found


class Partly(nn.Module):
    """A layer that no batch goes through, which a weight decay must leave alone."""

    def __init__(self):
        super().__init__()
        self.net, self.unused = net(), nn.Linear(4, 4)

    def forward(self, x):
        return self.net(x)


def compared_of(model):
    """Its parameters; and on the first rank, from which the others take them, its running statistics."""
    return [*model.parameters(), *([] if dist.get_rank() else model.buffers())]


def like_the_wrapper(*_):
    """A search's steps lead where the wrapper's own lead: gradients, statistics, parameters that are not used."""
    found = {}
    for name, wrap, model in (("whole", by_ddp(), net), ("unused", by_ddp(find_unused_parameters=True), Partly)):
        own = Training(wrap, model=model)
        own.optimizer.param_groups[0] |= {"lr": 0.01, "weight_decay": 0.1}
        own.train(10)
        training, seen = Training(wrap, model=model), []
        training.optimizer.param_groups[0]["weight_decay"] = 0.1

        def look(step, training=training, seen=seen):
            if step.index == 9:
                seen.extend(tensor.clone() for tensor in compared_of(training.model))

        how = {"min_lr": 0.01, "max_lr": 0.0100001, "num_steps": 10, "on_step": look}
        told = outcome(lambda training=training, how=how: find_lr(*training.parts, **how))
        close = [torch.allclose(*pair, rtol=1e-4, atol=1e-6) for pair in zip(seen, compared_of(own.model), strict=True)]
        found[name] = {**told, "same": all(close) and bool(close)}
    return found


def apart(wrap):  # noqa: C901 - a list of them
    """The ranks are not asked the same, or don't do the same; each is put back, and says why."""

    def search(training, **how):
        return find_lr(*training.parts, **{**SWEEP, **how})

    def alone(training, is_first):
        calls._BEGIN_SECONDS = 1.0
        if is_first:
            return search(training)
        time.sleep(2)
        raise ValueError("elsewhere")

    def looked_at(training, is_first):
        """One has made a training of it before, and another one fails."""
        if is_first:
            TorchTrainable(*training.parts)
        FUSE.set(training, 1, "criterion", fail, 1e-6)
        return search(training)

    def loop(training, is_first):
        if not is_first:
            gone = torch.amp.GradScaler("cpu")
            gone.itself = gone  # so that it is there until Python collects its garbage
            del gone
        with RangeTest(training.model, training.optimizer, **SWEEP) as test:
            for step, (inputs, targets) in enumerate(test(training.loader)):
                training.optimizer.zero_grad()
                loss = training.criterion(training.model(inputs), targets)
                loss.backward()
                training.optimizer.step()
                test.record(loss)
                if step == 5 and not is_first:
                    break
        return test.finding

    tried = {
        "steps": lambda t, is_first: search(t, num_steps=24 if is_first else 28),
        "epoch": lambda t, is_first: search(t, num_steps=24 if is_first else "epoch"),
        "clip": lambda t, is_first: search(t, clip_grad_norm=None if is_first else 0.5),
        "length": lambda t, is_first: search(t, schedule="cosine", total_steps=400 + is_first),
        "validation": lambda t, is_first: search(t, validation_loader=t.loader if is_first else None),
        "snapshot": lambda t, is_first: search(t, snapshot="auto" if is_first else "disk"),
        "scaler": lambda t, is_first: search(t, scaler=None if is_first else torch.amp.GradScaler("cpu")),
        "alone": alone,
        "looked at": looked_at,
        **({"loop": loop} if wrap == "ddp" else {}),
    }

    def case(*_):
        found = {}
        for name, ask in tried.items():
            launch.begin()
            FUSE.rank = None
            training = Training(WRAPS[wrap]).train(3)
            before = training.state()
            told = outcome(lambda ask=ask, training=training: ask(training, dist.get_rank() == 0))
            FUSE.rank = None
            found[name] = {**told, "same": training.state() == before}
        return found

    return case


class AveragedByHand(torch.optim.SGD):
    """Averages the gradients of all ranks itself."""

    def step(self, closure=None):
        for group in self.param_groups:
            for parameter in group["params"]:
                dist.all_reduce(parameter.grad)
                parameter.grad /= dist.get_world_size()
        return super().step(closure)


def by_hand(*_):
    """No wrapper joins the ranks, but the steps do."""

    def made():
        training = Training(lambda model: model)
        training.optimizer = AveragedByHand(training.model.parameters(), lr=0.05, momentum=0.9)
        return training

    def loop(training, model):
        with RangeTest(model, training.optimizer, **SWEEP) as test:
            for inputs, targets in test(training.loader):
                training.optimizer.zero_grad()
                loss = training.criterion(training.model(inputs), targets)
                loss.backward()
                training.optimizer.step()
                test.record(loss)
        return test.finding

    def search(training, model):
        return find_lr(model, *training.parts[1:], **SWEEP)

    found = {}
    for name, ask in (("search", search), ("loop", loop)):
        found[name] = compared(made, lambda training, ask=ask: ask(training, training.model), 3)
        found[f"{name}, wrapped"] = compared(
            made, lambda t, ask=ask: ask(t, by_ddp(broadcast_buffers=False)(t.model)), 3
        )
    return found


def refused(*_):
    """What is refused in words, by the wrapper or the optimizer."""
    from torch.distributed.fsdp import FullyShardedDataParallel

    class Embedded(nn.Module):
        def __init__(self, sparse):
            super().__init__()
            self.table, self.head = nn.Embedding(16, 4, sparse=sparse), nn.Linear(4, 4)

        def forward(self, x):
            return self.head(self.table(x.abs().long()).mean(dim=1))

    def lbfgs(parameters):
        return torch.optim.LBFGS(parameters)

    def asked(wrap, optimizer="sgd", model=net):
        training = Training(wrap, model=model)
        if optimizer != "sgd":
            training.optimizer = optimizer(training.model.parameters())
        before = digest([p.tolist() for p in training.model.parameters()])
        found = outcome(lambda: find_lr(*training.parts, **SWEEP))
        return {**found, "same": before == digest([p.tolist() for p in training.model.parameters()])}

    return {
        "fsdp1": asked(lambda model: FullyShardedDataParallel(model, device_id=torch.device("cpu"))),
        "sparse": asked(by_ddp(), model=partial(Embedded, sparse=True)),
        "closure": asked(by_ddp(), lbfgs),
    }


ALL = [
    *(f"{n} exits({wrap!r}, {list(OPTIMIZERS)})" for wrap in ("fsdp", "ddp") for n in (2, 3, 4)),
    *(f"{n} places('ddp', (0, 9, 15), range({n}))" for n in (2, 3)),
    *(f"{n} places('fsdp', (9, 15), range({n}), ('draw', 'criterion'))" for n in (2, 3)),
    *(f"{n} {kind}" for n in (2, 3) for kind in ("ways", "sharded_ways", "by_hand")),
    *(
        f"{n} fault({wrap!r}, {place!r}, {act}, {step}, {rank})"
        for wrap in WRAPS
        for n in (2, 3)
        for rank in range(n)
        for place, act, step in (
            *(("forward", "kill", step) for step in (0, 7, 23)),
            ("backward", "kill", 12),
            ("forward", "fail", 7),
            ("backward", "fail", 12),
        )
    ),
]


def main(out, *asked):
    """Run the cases, each given as the number of ranks and an expression."""
    import torch._dynamo  # once, not in each fork: sharded models need both
    import torch.distributed.fsdp  # noqa: F401

    results = {}
    for each in ALL if asked == ("all",) else asked:
        world, expression = each.split(maxsplit=1)
        with tempfile.TemporaryDirectory() as folder, tempfile.TemporaryDirectory() as temporary:
            os.environ["TMPDIR"], tempfile.tempdir = temporary, None
            ranks = launch.run(eval(expression, globals()), int(world), folder)
            left = [path.name for path in Path(temporary).glob("findlr*")]
        results[each] = {"ranks": ranks, "left": left}
        sys.stdout.write("\n    ".join([each, *problems(each, **results[each])]) + "\n")
        sys.stdout.flush()
    Path(out).write_text(json.dumps(results))


def problems(name, ranks, left):
    """What is not as it should be, in words."""
    found = [f"left on disk: {left}"] if left else []
    killed = ", kill," in name
    lost = [rank for rank in ranks if isinstance(rank, str)]
    if lost != (["ended with -9"] if killed else []):
        return [*found, *map(str, ranks)]
    whole = [rank for rank in ranks if not isinstance(rank, str)]
    for case in whole[0]:
        seen = [rank[case] for rank in whole]
        wrong = [
            key
            for key, is_wrong in (
                ("not put back", not all(each["same"] for each in seen)),
                ("slow", max(each["seconds"] for each in seen) > 30),
                ("other stops", len({each["stop"] for each in seen}) > 1),
                ("other findings", not seen[0]["error"] and len({each["finding"] for each in seen}) > 1),
                ("other facts", len({str(each["facts"]) for each in seen}) > 1),
                ("one raised", len({each["error"] is None for each in seen}) > 1),
            )
            if is_wrong
        ]
        found += [f"{case}: {', '.join(wrong)}: {seen}"] if wrong else []
    return found


if __name__ == "__main__":
    main(*sys.argv[1:])
