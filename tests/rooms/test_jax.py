"""JAX: the user's state is never touched, a search is one trace, and the rate that acts is the one asked for."""

import dataclasses
import multiprocessing
import os
import random
import subprocess
import sys
import threading
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

import equinox as eqx
import jax
import numpy as np
import optax
import pytest
import torch
from flax import nnx
from flax.training.train_state import TrainState
from jax import numpy as jnp

from findlr import ConfigurationError, LoaderError, LossError, OptimizerError, Plan, find
from findlr import find_lr as plain
from findlr.jax import JaxTrainable, find_lr
from findlr.testing import TrainableConformance, TrainingConformance
from tests.at_home import HOME_ALONE

X = np.random.default_rng(0).normal(size=(200, 4)).astype("float32")
Y = np.sin(X.sum(axis=1, keepdims=True)).astype("float32")
SRC = Path(__file__).parents[2] / "src"

adamw = optax.inject_hyperparams(optax.adamw)(learning_rate=0.01, weight_decay=0.01)


class Shuffled:
    """Batches in another order at each pass, from a generator of the loader's own."""

    def __init__(self, size=20):
        self.rng, self.size = np.random.default_rng(0), size

    def __len__(self):
        return len(X) // self.size

    def __iter__(self):
        order = self.rng.permutation(len(X))
        for at in range(0, len(X), self.size):
            rows = order[at : at + self.size]
            yield X[rows], Y[rows]


def batches(size=20):
    return [(X[at : at + size], Y[at : at + size]) for at in range(0, len(X), size)]


class Traces:
    """How often a step was traced."""

    count = 0


# Training loops, each with a state that has begun: dropout draws, statistics, an optimizer


class EquinoxNet(eqx.Module):
    layers: list
    dropout: eqx.nn.Dropout

    def __init__(self, key):
        first, second = jax.random.split(key)
        self.layers = [eqx.nn.Linear(4, 16, key=first), eqx.nn.Linear(16, 1, key=second)]
        self.dropout = eqx.nn.Dropout(0.2)

    def __call__(self, x, key):
        return self.layers[1](self.dropout(jnp.tanh(self.layers[0](x)), key=key))


@partial(eqx.filter_jit, donate="all-except-first")
def equinox_donated(batch, state):
    return equinox_loss_and_step(state, batch)


@eqx.filter_jit
def equinox_step(state, batch):
    return equinox_loss_and_step(state, batch)


def equinox_loss_and_step(state, batch):
    Traces.count += 1
    net, memory, key = state
    key, now = jax.random.split(key)
    x, y = batch

    def loss_of(net):
        return jnp.mean((jax.vmap(net)(x, jax.random.split(now, len(x))) - y) ** 2)

    loss, gradients = eqx.filter_value_and_grad(loss_of)(net)
    updates, memory = adamw.update(gradients, memory, eqx.filter(net, eqx.is_inexact_array))
    return (eqx.apply_updates(net, updates), memory, key), loss


def equinox_state():
    net = EquinoxNet(jax.random.key(0))
    return net, adamw.init(eqx.filter(net, eqx.is_inexact_array)), jax.random.key(1)


class NnxNet(nnx.Module):
    def __init__(self, rngs):
        self.first, self.norm = nnx.Linear(4, 16, rngs=rngs), nnx.BatchNorm(16, rngs=rngs)
        self.dropout, self.second = nnx.Dropout(0.2, rngs=rngs), nnx.Linear(16, 1, rngs=rngs)

    def __call__(self, x):
        return self.second(self.dropout(jnp.tanh(self.norm(self.first(x)))))


@nnx.jit
def nnx_step(model, optimizer, batch):
    Traces.count += 1
    x, y = batch
    loss, gradients = nnx.value_and_grad(lambda model: jnp.mean((model(x) - y) ** 2))(model)
    optimizer.update(model, gradients)
    return loss


def nnx_state():
    model = NnxNet(nnx.Rngs(0))
    return model, nnx.Optimizer(model, adamw, wrt=nnx.Param)


def mlp(params, x):
    return jnp.tanh(x @ params["first"]) @ params["second"]


def mlp_params(dtype=jnp.float32):
    rng = np.random.default_rng(1)
    return {
        "first": jnp.asarray(rng.normal(size=(4, 16)) / 2, dtype),
        "second": jnp.asarray(rng.normal(size=(16, 1)) / 4, dtype),
    }


def mse(params, batch):
    x, y = batch
    return jnp.mean((mlp(params, x) - y) ** 2)


def step_of(optimizer, loss=mse):
    """The usual step, its buffers given away."""

    @partial(jax.jit, donate_argnums=0)
    def step(state, batch):
        Traces.count += 1
        params, memory = state
        value, gradients = jax.value_and_grad(loss)(params, batch)
        updates, memory = optimizer.update(gradients, memory, params)
        return (optax.apply_updates(params, updates), memory), value

    return step


def state_of(optimizer, dtype=jnp.float32):
    params = mlp_params(dtype)
    return params, optimizer.init(params)


donated_step = step_of(adamw)


@partial(jax.jit, donate_argnums=0)
def given_step(params, batch, lr):
    Traces.count += 1
    loss, gradients = jax.value_and_grad(mse)(params, batch)
    return jax.tree.map(lambda p, g: p - lr * g, params, gradients), loss


@jax.jit
def train_state_step(state, batch):
    Traces.count += 1
    loss, gradients = jax.value_and_grad(mse)(state.params, batch)
    return state.apply_gradients(grads=gradients), (loss, {"seen": state.step})


def train_state():
    return TrainState.create(apply_fn=mlp, params=mlp_params(), tx=adamw)


class HandWritten(eqx.Module):
    """A state with a rate of its own."""

    params: dict
    lr: jax.Array


@eqx.filter_jit
def hand_written_step(state, batch):
    params, loss = given_step.__wrapped__(state.params, batch, state.lr)
    return HandWritten(params, state.lr), loss


def hand_written():
    return HandWritten(mlp_params(), jnp.asarray(0.1, jnp.float32))


def set_lr(state, lr):
    return eqx.tree_at(lambda state: state.lr, state, lr)


@pytest.fixture(autouse=True, scope="module")
def _compiled_once(tmp_path_factory):
    """The same step is compiled for many searches: what XLA has made of it is kept in files."""
    kept = {
        "jax_compilation_cache_dir": str(tmp_path_factory.mktemp("xla")),
        "jax_persistent_cache_min_compile_time_secs": 0,
    }
    before = {name: getattr(jax.config, name) for name in kept}
    for name, value in kept.items():
        jax.config.update(name, value)
    yield
    for name, value in before.items():
        jax.config.update(name, value)


WAYS = {
    "equinox": (equinox_step, equinox_state, {}),
    "nnx": (nnx_step, nnx_state, {}),
    "donated": (donated_step, partial(state_of, adamw), {}),
    "train state": (train_state_step, train_state, {}),
    "argument": (given_step, mlp_params, {}),
    "set_lr": (hand_written_step, hand_written, {"set_lr": set_lr}),
}
ways = pytest.mark.parametrize(("step", "state", "how"), WAYS.values(), ids=WAYS)


class Kept:
    """A step that keeps some of what it needs outside of its state."""

    def __init__(self):
        self.key, self.steps, self.rng, self.noises = jax.random.key(0), 0, np.random.default_rng(0), np.zeros(3)
        self.rngs, self.last = nnx.Rngs(0), None

    def step(self, state, batch):
        self.steps += 1
        self.key, key = jax.random.split(self.key)
        self.noises[self.steps % 3] = self.rng.normal()
        scale = 1 + self.noises.mean() * jax.random.normal(jax.random.fold_in(key, self.steps))
        scale += jax.random.uniform(self.rngs()) - (0 if self.last is None else self.last)
        state, self.last = donated_step(state, (batch[0] * scale.astype("float32"), batch[1]))
        return state, self.last


def kept_by_name():
    key = jax.random.key(0)

    def step(state, batch):
        nonlocal key
        key, now = jax.random.split(key)
        return donated_step(state, (batch[0] + jax.random.normal(now, batch[0].shape), batch[1]))

    return step


@dataclasses.dataclass(frozen=True)
class Draws:
    key: jax.Array
    count: int = 0


def kept_in_a_dataclass():
    draws = Draws(jax.random.key(0))

    def step(state, batch):
        nonlocal draws
        key, now = jax.random.split(draws.key)
        draws = Draws(key, draws.count + 1)
        return donated_step(state, (batch[0] + jax.random.normal(now, batch[0].shape), batch[1]))

    return step


KEPT = {
    "an object": lambda: Kept().step,
    "a name": kept_by_name,
    "a dataclass": kept_in_a_dataclass,
}


def values(state):
    """What ``==`` and the suites can compare, of any state."""
    if not isinstance(state, list):
        state = jax.tree.leaves(
            nnx.split(state)[1] if isinstance(state[0] if isinstance(state, tuple) else state, nnx.Pytree) else state
        )
    return [
        np.asarray(leaf if not is_key(leaf) else jax.random.key_data(leaf)).tolist()
        for leaf in state
        if not callable(leaf)
    ]


def is_key(leaf):
    return isinstance(leaf, jax.Array) and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


SUITES = {name: WAYS[name] for name in ("equinox", "nnx", "donated")}


@pytest.mark.parametrize(("step", "start", "how"), SUITES.values(), ids=SUITES)
class TestTrainable(TrainableConformance):
    steps = 12  # a pass is 10

    @pytest.fixture(autouse=True)
    def _given(self, step, start, how):
        self.step, self.start, self.how = step, start, how

    def trainable(self):
        return JaxTrainable(self.step, self.start(), Shuffled(), **self.how)

    def state(self, trainable):
        return values(trainable.leaves()), str(trainable.batches.loader.rng.bit_generator.state)


class Loop:
    """A training: its state, its data, the pass that is open."""

    def __init__(self, step, state):
        self.step, self.state, self.loader, self.losses = step, state, Shuffled(), []
        self.open = iter(self.loader)

    def train(self, steps):
        for _ in range(steps):
            batch = next(self.open, None)
            if batch is None:
                self.open = iter(self.loader)
                batch = next(self.open)
            if self.step is nnx_step:
                loss = self.step(*self.state, batch)
            else:
                self.state, loss = self.step(self.state, batch)
            self.losses.append(float(loss))


@pytest.mark.parametrize(("step", "start", "how"), SUITES.values(), ids=SUITES)
class TestTraining(TrainingConformance):
    @pytest.fixture(autouse=True)
    def _given(self, step, start, how):
        self.step, self.start, self.how = step, start, how

    def training(self):
        return Loop(self.step, self.start())

    def train(self, training, steps):
        training.train(steps)

    def search(self, training, **how):
        return find_lr(training.step, training.state, training.loader, **self.how, **how)

    def state(self, training):
        return values(training.state), training.losses, str(training.loader.rng.bit_generator.state)


@pytest.mark.parametrize("kept", KEPT.values(), ids=KEPT)
class TestTrainingWithWhatAStepKeeps(TrainingConformance):
    too_high = 1e8

    @pytest.fixture(autouse=True)
    def _given(self, kept):
        self.kept = kept

    def training(self):
        return Loop(self.kept(), state_of(adamw))

    def train(self, training, steps):
        training.train(steps)

    def search(self, training, **how):
        return find_lr(training.step, training.state, training.loader, **how)

    def state(self, training):
        return values(training.state), training.losses


@pytest.mark.parametrize("kept", KEPT.values(), ids=KEPT)
def test_a_step_that_changes_what_it_keeps_is_traced_for_nothing(kept, caplog):
    caplog.set_level("INFO")
    finding = find_lr(kept(), state_of(adamw), batches(), verify=True, total_steps=200, one_pass=True)
    assert finding.curve.baseline is None
    assert (finding.race.path, finding.race.held_out) == ("sequential", False)
    assert "no control variate: the step can't be traced" in caplog.text


# The user's state, and the traces


@ways
def test_a_search_traces_a_step_once_and_does_not_touch_the_state(step, state, how):
    Traces.count = 0
    jax.clear_caches()
    mine = state()
    before, kept = values(mine), jax.tree.leaves(mine)
    finding = find_lr(step, mine, batches(), **how, num_steps=60, verify=True, total_steps=200, one_pass=True)
    assert Traces.count == 1
    assert finding.race.path == "one pass"
    assert finding.curve.baseline is not None
    assert values(mine) == before
    assert all(one is other for one, other in zip(jax.tree.leaves(mine), kept, strict=True))
    assert not any(leaf.is_deleted() for leaf in kept if isinstance(leaf, jax.Array))


@nnx.jit
def changed_step(state, batch):
    return nnx_step(*state, batch)


@nnx.jit
def handed_back_step(state, batch):
    return state, nnx_step(*state, batch)


@partial(jax.jit, donate_argnums=0)
def returned_step(state, batch):
    loss = nnx_step(*state, batch)
    return state, (loss, {"seen": loss})


@nnx.jit
def with_rate_step(state, batch, lr):
    state[1].opt_state.hyperparams["learning_rate"][...] = lr
    return nnx_step(*state, batch)


@pytest.mark.parametrize("step", [changed_step, handed_back_step, returned_step, with_rate_step])
@pytest.mark.parametrize("kind", [tuple, list])
def test_objects_of_nnx_may_be_one_state_and_be_returned(step, kind):
    how = {"num_steps": 60, "verify": True, "total_steps": 200, "one_pass": True}
    mine = kind(nnx_state())
    before = values(tuple(mine))
    finding = find_lr(step, mine, batches(), **how)
    apart = find_lr(nnx_step, nnx_state(), batches(), **how)
    assert finding.race.path == "one pass"
    np.testing.assert_allclose(finding.curve.loss, apart.curve.loss, rtol=1e-6)
    np.testing.assert_allclose(finding.curve.baseline, apart.curve.baseline, rtol=1e-6)
    assert finding.lr == pytest.approx(apart.lr, rel=1e-4)
    assert values(tuple(mine)) == before


def test_functions_are_given_objects_of_nnx_as_the_step_is():
    def set_lr(state, lr):
        state[1].opt_state.hyperparams["learning_rate"][...] = lr
        return state

    def evaluate(state):
        return jnp.mean((state[0](X) - Y) ** 2)

    finding = find_lr(
        changed_step, nnx_state(), batches(), set_lr=set_lr, evaluate=evaluate, verify=True, total_steps=200
    )
    assert finding.suggestion is not None


def test_batches_that_a_step_uses_up_are_still_there():
    @partial(jax.jit, donate_argnums=(0, 1))
    def step(state, batch):
        state, loss = donated_step.__wrapped__(state, batch)
        return state, (loss, jax.tree.map(lambda array: array + 1, batch))  # for which the batch's memory is used

    once = jnp.asarray(X[:20])
    step(state_of(adamw), (once, jnp.asarray(Y[:20])))
    assert once.is_deleted()
    loader = [jax.tree.map(jnp.asarray, batch) for batch in batches()]
    find_lr(step, state_of(adamw), loader, num_steps=30, verify=True, total_steps=400)
    assert not any(leaf.is_deleted() for leaf in jax.tree.leaves(loader))


def test_losses_are_read_ten_at_a_time():
    class Counted(JaxTrainable):
        reads = 0

        def read(self, losses):
            type(self).reads += 1
            return super().read(losses)

    find(Counted(donated_step, state_of(adamw), batches()), num_steps=100, control_variate=False, max_lr=0.1)
    assert Counted.reads == 10


SHARDED = """
import jax, numpy as np, optax, sys
from jax import numpy as jnp
from jax.sharding import Mesh, NamedSharding, PartitionSpec as P
from findlr.jax import JaxTrainable, find_lr
assert len(jax.devices()) == 4
mesh = Mesh(jax.devices(), ("x",))
split, whole = NamedSharding(mesh, P("x")), NamedSharding(mesh, P())
rng = np.random.default_rng(0)
X = rng.normal(size=(160, 8)).astype("float32")
batches = [(X[i : i + 16], X[i : i + 16].sum(axis=1)) for i in range(0, 160, 16)]
optimizer = optax.inject_hyperparams(optax.adam)(learning_rate=0.1)
params = {"w": jax.device_put(np.ones((8, 4), "float32") / 8, split), "v": jax.device_put(np.ones(4, "float32"), whole)}
state = params, jax.device_put(optimizer.init(params), jax.tree.map(lambda _: whole, optimizer.init(params)))
traces = compiled = 0
def step(state, batch):
    global traces
    traces += 1
    params, memory = state
    loss, gradients = jax.value_and_grad(lambda p: jnp.mean((batch[0] @ p["w"] @ p["v"] - batch[1]) ** 2))(params)
    updates, memory = optimizer.update(gradients, memory)
    return (optax.apply_updates(params, updates), memory), loss
shardings = jax.tree.map(lambda leaf: leaf.sharding, state)
step = jax.jit(step, donate_argnums=0, out_shardings=(shardings, whole))
place = lambda batch: jax.device_put(batch, split)
before = jax.device_get(state)
found = find_lr(step, state, batches, place=place, verify=True, total_steps=200, one_pass=True, progress=False)
assert traces == 1 and step._cache_size() == 1, (traces, step._cache_size())
assert found.race.path == "sequential" and found.curve.baseline is not None
assert jax.tree.all(jax.tree.map(np.array_equal, before, jax.device_get(state)))
assert jax.tree.map(lambda leaf: leaf.sharding, state) == shardings
training = JaxTrainable(step, state, batches, place=place)
training.step(0.01)
assert [leaf.sharding for leaf in training.leaves()] == jax.tree.leaves(shardings)
state, _ = step(state, place(batches[0]))
assert traces == 1 and step._cache_size() == 1
"""


def in_a_process(code, **env):
    environment = {**os.environ, "PYTHONPATH": str(SRC), "JAX_PLATFORMS": "cpu", **env}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_sharded_state_goes_through_unchanged():
    in_a_process(SHARDED, XLA_FLAGS="--xla_force_host_platform_device_count=4")


WITHOUT_TORCH = """
import sys
sys.modules["torch"] = None
import jax, optax
from jax import numpy as jnp
from findlr.jax import find_lr
optimizer = optax.inject_hyperparams(optax.sgd)(learning_rate=0.1)
@jax.jit
def step(state, batch):
    loss, gradients = jax.value_and_grad(lambda w: jnp.mean((batch @ w - batch[:, 0]) ** 2))(state[0])
    updates, memory = optimizer.update(gradients, state[1])
    return (optax.apply_updates(state[0], updates), memory), loss
batches = [jax.random.normal(jax.random.key(i), (8, 4)) for i in range(20)]
finding = find_lr(step, (jnp.zeros(4), optimizer.init(jnp.zeros(4))), batches, verify=True, total_steps=200)
print(finding.verdict, finding.code())
"""


def test_nothing_asks_for_torch():
    assert "learning_rate = " in in_a_process(WITHOUT_TORCH)


def test_without_jax_one_error_says_what_to_install():
    code = "import sys; sys.modules['jax'] = None; import findlr.jax"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "MissingExtraError: jax is not installed; run: pip install 'findlr[jax]'" in done.stderr


# The control variate, and runs in one pass


@pytest.mark.parametrize("name", ["equinox", "nnx", "argument", "set_lr"])
def test_the_control_variate_is_a_run_at_rate_zero(name):
    step, state, how = WAYS[name]
    training = JaxTrainable(step, state(), batches(), **how)
    snapshot = training.snapshot()
    still = training.read([training.step(0.0) for _ in range(15)])
    training.restore(snapshot)
    assert training.prepare_baseline(snapshot) is None
    pairs = [(training.step(0.05), training.baseline()) for _ in range(15)]
    moved, under_start = (training.read(list(column)) for column in zip(*pairs, strict=True))
    np.testing.assert_allclose(under_start, still, rtol=1e-5)
    assert abs(moved[-1] - still[-1]) > 1e-2


@pytest.mark.parametrize("injected", [True, False], ids=["injected", "argument"])
def test_the_control_variate_of_a_step_that_scans_several_batches_is_a_run_at_rate_zero(injected):
    def injected_step(state, batch):
        state, losses = jax.lax.scan(donated_step.__wrapped__, state, batch)
        return state, losses.mean()

    def given_one(params, batch, lr):
        params, losses = jax.lax.scan(lambda params, each: given_step.__wrapped__(params, each, lr), params, batch)
        return params, losses.mean()

    step = jax.jit(injected_step if injected else given_one)
    stacked = [
        (X[:100].reshape(5, 20, 4), Y[:100].reshape(5, 20, 1)),
        (X[100:].reshape(5, 20, 4), Y[100:].reshape(5, 20, 1)),
    ]
    state = state_of(adamw) if injected else mlp_params()
    finding = find_lr(step, state, stacked, num_steps=30)
    ends = [np.mean([mse(mlp_params(), batch) for batch in batches()[at : at + 5]]) for at in (0, 5)]
    np.testing.assert_allclose(finding.curve.baseline[:6], ends * 3, rtol=1e-4)
    np.testing.assert_allclose(
        finding.curve.baseline[-2:], [ends[(len(finding.curve) - 2 + i) % 2] for i in range(2)], rtol=1e-4
    )


@pytest.mark.parametrize("name", ["adamw", "momentum"])
def test_runs_in_one_pass_end_where_they_end_one_by_one(name):
    optimizers = {
        "adamw": optax.inject_hyperparams(optax.adamw)(learning_rate=0.1),
        "momentum": optax.inject_hyperparams(optax.sgd)(learning_rate=0.1, momentum=0.9),
    }
    with jax.enable_x64(True):
        optimizer = optimizers[name]
        training = JaxTrainable(step_of(optimizer), state_of(optimizer, jnp.float64), batches())
        assert all(leaf.dtype == jnp.float64 for leaf in training.leaves() if jnp.issubdtype(leaf.dtype, jnp.inexact))
        training.hold_out(2, 30, 30)
        training.keep_batches(30)
        snapshot = training.snapshot()
        rates = [[lr * (1 - i / 60) for i in range(30)] for lr in (1e-3, 1e-2, 3e-2, 1e-1)]
        together = training.run_together(snapshot, rates)
        singly = []
        for row in rates:
            training.restore(snapshot)
            for lr in row:
                training.step(lr)
            singly.append(training.evaluate())
        np.testing.assert_allclose(together, singly, rtol=1e-12)
        assert len(set(singly)) == 4


def test_a_run_that_diverges_leaves_the_others_alone_and_all_are_seen():
    seen = []
    training = JaxTrainable(given_step, mlp_params(), batches())
    training.hold_out(2, 40, 40)
    training.keep_batches(40)
    training.see_together = lambda first, rows: seen.extend(rows)
    fine, exploded = training.run_together(training.snapshot(), [[0.01] * 40, [1e9] * 40])
    assert fine < 1
    assert exploded == float("inf")
    assert len(seen) == 40


def test_what_cannot_be_traced_is_searched_without_and_says_so(caplog):
    def step(state, batch):
        assert not isinstance(state["first"], jax.core.Tracer)
        params, loss = given_step(jax.tree.map(jnp.copy, state), batch, lr_now[0])
        return params, float(loss)

    lr_now = [0.0]

    def written(state, lr):
        lr_now[0] = lr
        return {**state, "lr": lr}

    def looked(state, batch):
        assert not isinstance(state["lr"], jax.core.Tracer)
        params = {name: state[name] for name in ("first", "second")}
        params, loss = given_step(jax.tree.map(jnp.copy, params), batch, state["lr"])
        return {**params, "lr": state["lr"]}, float(loss)

    with caplog.at_level("INFO", "findlr"):
        state = {**mlp_params(), "lr": jnp.asarray(0.1)}
        finding = find_lr(looked, state, batches(), set_lr=written, verify=True, total_steps=300, one_pass=True)
    assert finding.curve.baseline is None
    assert finding.race.path == "sequential"
    said = " ".join(caplog.messages)
    assert "no control variate: the step can't be traced (AssertionError" in said
    assert "scored on their training losses" in said


# The rate


def test_a_schedule_inside_the_optimizer_is_refused():
    optimizer = optax.inject_hyperparams(optax.adam)(learning_rate=optax.constant_schedule(1e-3))
    with pytest.raises(OptimizerError, match=r"asked for the rate \[.*\] and took \[0.001.*\]: a schedule inside"):
        find_lr(step_of(optimizer), state_of(optimizer), batches())


@pytest.mark.parametrize(
    ("scales", "said"),
    [
        (
            optax.scale_by_schedule(optax.cosine_decay_schedule(1.0, 100)),
            "a schedule inside the optimizer scales the rate",
        ),
        (optax.contrib.reduce_on_plateau(patience=5), "reduce_on_plateau inside the optimizer scales the rate"),
        (optax.scale_by_backtracking_linesearch(5), "a line search inside the optimizer scales the rate"),
        (optax.scale_by_zoom_linesearch(5), "a line search inside the optimizer scales the rate"),
    ],
    ids=["schedule", "plateau", "backtracking", "zoom"],
)
def test_an_optimizer_that_scales_the_rate_by_something_of_its_own_is_refused(scales, said):
    optimizer = optax.chain(adamw, scales)
    with pytest.raises(OptimizerError, match=said):
        find_lr(step_of(optimizer), state_of(optimizer), batches())


@pytest.mark.parametrize("optimizer", [optax.rprop, optax.contrib.cocob])
def test_an_optimizer_whose_steps_have_a_size_of_their_own_is_refused(optimizer):
    optimizer = optax.inject_hyperparams(optimizer)(learning_rate=0.1)
    with pytest.raises(OptimizerError, match="cannot be swept: its steps have a size of their own"):
        find_lr(step_of(optimizer), state_of(optimizer), batches())


def test_a_rate_that_set_lr_writes_in_vain_is_refused():
    def restless(state, batch):
        state, loss = hand_written_step(state, batch)
        return set_lr(state, jnp.asarray(0.5, jnp.float32)), loss

    with pytest.raises(OptimizerError, match=r"and took 0\.5"):
        find_lr(restless, hand_written(), batches(), set_lr=set_lr)
    with pytest.raises(OptimizerError, match="set_lr changes nothing"):
        find_lr(hand_written_step, hand_written(), batches(), set_lr=lambda state, lr: state)
    with pytest.raises(ConfigurationError, match="set_lr must return a state of the structure"):
        find_lr(hand_written_step, hand_written(), batches(), set_lr=lambda state, lr: None)


def test_a_step_that_takes_the_rate_needs_no_set_lr():
    def step(state, batch, lr):
        return hand_written_step(set_lr(state, lr), batch)

    with pytest.raises(ConfigurationError, match="step takes the rate itself, as 'lr': leave set_lr out"):
        find_lr(step, hand_written(), batches(), set_lr=set_lr)


def test_groups_keep_the_ratio_of_their_rates():
    rates = {"first": 0.1, "second": 0.01}
    made = {name: optax.inject_hyperparams(optax.sgd)(learning_rate=lr) for name, lr in rates.items()}
    optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.multi_transform(made, {name: name for name in made}))
    step = step_of(optimizer)
    training = JaxTrainable(step, state_of(optimizer), batches())
    finding = find(training, max_lr=10.0)
    assert finding.ratios == pytest.approx((1.0, 0.1))
    assert finding.code() == "learning_rates = [{:.2g}, {:.2g}]".format(*finding.lrs)
    twin = optax.multi_transform({"first": optax.sgd(0.5), "second": optax.sgd(0.05)}, {name: name for name in made})
    by_hand, _ = step_of(optax.chain(optax.clip_by_global_norm(1.0), twin))(
        (mlp_params(), optax.chain(optax.clip_by_global_norm(1.0), twin).init(mlp_params())), batches()[0]
    )
    training = JaxTrainable(step, state_of(optimizer), batches())
    training.step(0.5)
    np.testing.assert_allclose(training.leaves()[0], by_hand[0]["first"], rtol=1e-6)
    np.testing.assert_allclose(training.leaves()[1], by_hand[0]["second"], rtol=1e-6)


@pytest.mark.parametrize(
    ("other", "said"),
    [(optax.sgd(0.1), True), (optax.adam(0.1), True), (optax.set_to_zero(), False), (adamw, False)],
    ids=["sgd", "adam", "frozen", "injected"],
)
def test_a_group_whose_rate_is_not_swept_is_named(other, said, caplog):
    optimizer = optax.multi_transform({"head": adamw, "body": other}, {"first": "body", "second": "head"})
    find_lr(step_of(optimizer), state_of(optimizer), batches(), num_steps=5)
    assert ("the rate of 'body' in optax.multi_transform is fixed" in caplog.text) is said


def test_accumulated_gradients_are_one_step():
    def accumulated(every):
        return optax.MultiSteps(adamw, every_k_schedule=every)

    step, state = step_of(accumulated(4)), state_of(accumulated(4))
    for calls in range(4):  # in the midst of a step, too, where the next call may end one
        with pytest.raises(ConfigurationError, match=r"accumulation_steps is 1, and optax.MultiSteps did not make one"):
            find_lr(step, state, batches(5))
        state, _ = step(state, batches(5)[calls])
    step, state = step_of(accumulated(lambda _: 4)), state_of(accumulated(lambda _: 4))
    with pytest.raises(ConfigurationError, match="in place of a function if it was built with one"):
        find_lr(step, state, batches(5))
    step, state = step_of(accumulated(4)), state_of(accumulated(4))
    finding = find_lr(step, state, batches(5), accumulation_steps=4, total_steps="3 epochs")
    assert finding.plan.total_steps == 30
    assert finding.cost.backwards == 100
    whole = find_lr(donated_step, state_of(adamw), batches(20))
    np.testing.assert_allclose(finding.curve.loss, whole.curve.loss, rtol=1e-3)


def test_the_rates_of_a_replicated_state_are_one_rate():
    copies = jax.tree.map(lambda leaf: jnp.stack([leaf] * 3), state_of(adamw))
    one = step_of(adamw)

    @jax.jit
    def step(state, batch):
        Traces.count += 1
        state, losses = jax.vmap(one, in_axes=(0, None))(state, batch)
        return state, losses.mean()

    finding = find_lr(step, copies, batches(), num_steps=50)
    alone = find_lr(one, state_of(adamw), batches(), num_steps=50)
    np.testing.assert_allclose(finding.curve.loss, alone.curve.loss, rtol=1e-3)
    assert finding.plan == alone.plan
    assert finding.facts["parameters"] == 80
    assert finding.facts["optimizer"] == alone.facts["optimizer"]
    copies[1].hyperparams["learning_rate"] = jnp.array([0.1, 0.2, 0.3])
    with pytest.raises(OptimizerError, match=r"learning_rate is not one finite number: \[Array\(\[0.1, 0.2, 0.3\]"):
        find_lr(step, copies, batches())


def test_a_search_of_a_replicated_state_is_one_trace():
    one = step_of(adamw)
    step = jax.pmap(one)
    copies = jax.tree.map(lambda leaf: jnp.stack([leaf]), state_of(adamw))
    copies, _ = step(copies, jax.tree.map(lambda array: array[None], batches()[0]))
    Traces.count = 0

    def reduced(state, batch):
        state, losses = step(state, jax.tree.map(lambda array: array[None], batch))
        return state, losses.mean()

    find_lr(reduced, copies, batches(), num_steps=20, control_variate=False)
    assert Traces.count == 0


def test_a_rate_of_bfloat16_is_recorded_as_it_acts():
    params = mlp_params(jnp.bfloat16)
    finding = find_lr(donated_step, (params, adamw.init(params)), batches(), num_steps=30, max_lr=1.0)
    assert finding.curve.lr[1] == np.asarray(finding.curve.lr[1], jnp.bfloat16)


def with_rate(rate):
    """A state whose rate is kept as this."""
    params, memory = state_of(adamw)
    memory.hyperparams["learning_rate"] = rate
    return params, memory


@pytest.mark.parametrize(
    ("rate", "said"),
    [
        (jnp.asarray(1), "int32, which holds whole numbers alone: write 1.0 in place of 1"),
        (np.int64(1), "int64, which holds whole numbers alone: write 1.0 in place of 1"),
        (jnp.asarray(0.01, jnp.float16), r"float16, whose smallest number above 0 is 6.1e-05.* keep it in float32"),
        (jnp.asarray(0.01 + 1j), "not one finite number"),
        ("0.01", "not one finite number"),
        (jnp.asarray([0.1, 0.2]), "not one finite number"),
        (jnp.asarray(jnp.nan), "not one finite number"),
    ],
    ids=str,
)
def test_a_rate_that_can_not_be_swept_where_it_is_kept_is_refused_before_the_first_step(rate, said):
    Traces.count = 0
    with pytest.raises(OptimizerError, match=said):
        find_lr(step_of(adamw), with_rate(rate), batches(), num_steps=30)
    assert Traces.count == 0


@pytest.mark.parametrize(("dtype", "said"), [(jnp.int32, "int32"), (jnp.float16, "float16")])
def test_a_rate_that_set_lr_writes_where_none_can_be_kept_is_refused(dtype, said):
    def step(state, batch):
        raise AssertionError

    state = HandWritten(mlp_params(), jnp.asarray(1, dtype))
    with pytest.raises(OptimizerError, match=f"the learning rate is kept in {said}"):
        find_lr(step, state, batches(), set_lr=set_lr)


def test_a_rate_of_float16_is_swept_from_where_it_is_held():
    finding = find_lr(donated_step, with_rate(jnp.asarray(0.01, jnp.float16)), batches(), min_lr=1e-4, num_steps=30)
    assert len(finding.curve) > 10


def test_a_rate_in_a_list_of_one_is_that_rate():
    how = dict(verify=True, total_steps=200, max_lr=1.0, one_pass=True)
    one = find_lr(donated_step, with_rate(jnp.asarray([0.01])), batches(), **how)
    other = find_lr(donated_step, with_rate(jnp.asarray(0.01)), batches(), **how)
    assert one.race.path == "one pass"
    assert one.lr == pytest.approx(other.lr, rel=1e-3)


# The Finding


def test_the_line_to_paste_and_what_is_usual():
    finding = find_lr(donated_step, state_of(adamw), batches())
    assert (finding.plan.optimizer, finding.plan.momentum, finding.plan.parameters) == ("AdamW", 0.9, 80)
    assert finding.code() == f"learning_rate = {finding.lr:.2g}"
    assert finding.belief.usual is not None
    with pytest.raises(OptimizerError, match=r"tuple has no param_groups .*; write this instead: learning_rate = "):
        finding.apply(state_of(adamw))
    named = find_lr(donated_step, state_of(adamw), batches(), optimizer="adamw")
    assert named.code() == f"optimizer = optax.adamw(learning_rate={named.lr:.2g}, weight_decay=0.01)"
    exec(named.code(), {"optax": optax})
    assert named.lr == finding.lr
    shouted = find_lr(donated_step, state_of(adamw), batches(), optimizer="AdamW")
    assert (shouted.plan.optimizer, shouted.lr) == ("AdamW", finding.lr)
    assert shouted.code() == named.code()
    assert find_lr(given_step, mlp_params(), batches()).code().startswith("lr = ")
    in_epochs = find_lr(donated_step, state_of(adamw), batches(), total_steps="5 epochs", schedule="cosine")
    assert (in_epochs.plan.total_steps, in_epochs.plan.epochs, in_epochs.plan.schedule) == (50, 5.0, "cosine")


@pytest.mark.parametrize(
    ("optimizer", "family", "momentum"),
    [
        (optax.adam, "Adam", 0.9),
        (optax.lion, "Lion", 0.9),
        (optax.sgd, "SGD", None),
        (partial(optax.sgd, momentum=0.8), "SGD", 0.8),
        (optax.rmsprop, "RMSprop", None),
        (optax.adagrad, "Adagrad", None),
        (optax.amsgrad, "Adam", 0.9),
        (partial(optax.rmsprop, bias_correction=True), "RMSprop", None),
        (optax.adamw, "AdamW", 0.9),
        (optax.lamb, "lamb", 0.9),
        (partial(optax.lamb, mask={"first": True, "second": False}), "lamb", 0.9),
        (optax.lars, "lars", 0.9),
        (optax.fromage, "fromage", None),
        (optax.contrib.muon, "Muon", 0.95),
        (optax.contrib.prodigy, "Prodigy", None),
        (optax.contrib.dadapt_adamw, "DAdaptation", None),
        (optax.contrib.dog, "DoG", None),
        (optax.contrib.dowg, "DoG", None),
        (optax.contrib.sophia, "Sophia", 0.965),
        (optax.contrib.schedule_free_adamw, "AdamWScheduleFree", 0.9),
        (optax.contrib.schedule_free_sgd, "SGDScheduleFree", 0.9),
    ],
    ids=[
        "adam",
        "lion",
        "sgd",
        "momentum",
        "rmsprop",
        "adagrad",
        "amsgrad",
        "rmsprop unbiased",
        "adamw",
        "lamb",
        "masked lamb",
        "lars",
        "fromage",
        "muon",
        "prodigy",
        "dadapt",
        "dog",
        "dowg",
        "sophia",
        "free adamw",
        "free sgd",
    ],
)
def test_the_optimizer_is_told_by_what_it_keeps(optimizer, family, momentum):
    how = getattr(optimizer, "keywords", {})
    injected = optax.inject_hyperparams(getattr(optimizer, "func", optimizer))(learning_rate=0.1, **how)
    plan = JaxTrainable(step_of(injected), state_of(injected), batches()).planned(Plan())
    assert (plan.optimizer, plan.momentum) == (family, momentum)


@pytest.mark.parametrize(
    "wraps",
    [
        lambda inner: optax.apply_if_finite(inner, 5),
        lambda inner: optax.MultiSteps(inner, 2),
        lambda inner: optax.chain(optax.add_noise(0.1, 0.5, 0), inner),
        lambda inner: optax.chain(inner, optax.ema(0.9)),
        lambda inner: optax.multi_transform({"a": inner}, {"first": "a", "second": "a"}),
        lambda inner: optax.chain(optax.zero_nans(), inner),
        lambda inner: optax.conditionally_mask(inner, lambda step: step >= 0),
    ],
    ids=["apply_if_finite", "MultiSteps", "add_noise", "ema", "multi_transform", "zero_nans", "conditionally_mask"],
)
def test_plain_sgd_is_told_through_what_is_around_it(wraps):
    optimizer = wraps(optax.inject_hyperparams(optax.sgd)(learning_rate=0.1))
    assert JaxTrainable(step_of(optimizer), state_of(optimizer), batches()).planned(Plan()).optimizer == "SGD"


@pytest.mark.parametrize("name", ["equinox", "nnx", "train state", "argument"])
def test_the_numbers_that_are_trained_are_the_networks(name):
    step, state, how = WAYS[name]
    facts = JaxTrainable(step, state(), batches(), **how).facts()
    expected = {"equinox": (97, "EquinoxNet, ArrayImpl"), "nnx": (129, "NnxNet"), "train state": (80, "TrainState")}
    parameters, model = expected.get(name, (80, ""))
    assert facts["parameters"] == parameters
    assert facts["model"].startswith(model.partition(",")[0])


FROZEN = optax.multi_transform({"trained": adamw, "not": optax.set_to_zero()}, {"first": "not", "second": "trained"})


def apart():
    first, second = ({name: array} for name, array in mlp_params().items())
    return first, second, adamw.init(second)


def lookahead():
    params = optax.LookaheadParams.init_synced(mlp_params())
    return params, optax.lookahead(adamw, 5, 0.5).init(params)


def equinox_head():
    net = EquinoxNet(jax.random.key(0))
    trained = eqx.tree_at(lambda tree: tree.layers[1].weight, jax.tree.map(lambda _: False, net), replace=True)
    return net, adamw.init(eqx.filter(net, trained))


def nnx_head():
    model = NnxNet(nnx.Rngs(0))
    return model, nnx.Optimizer(model, adamw, wrt=nnx.All(nnx.Param, nnx.PathContains("second")))


@pytest.mark.parametrize(
    ("state", "parameters"),
    [
        (lambda: state_of(FROZEN), 16),
        (lambda: state_of(optax.MultiSteps(FROZEN, 2)), 16),
        (lambda: state_of(optax.multi_transform({"all": adamw}, dict.fromkeys(mlp_params(), "all"))), 80),
        (lambda: TrainState.create(apply_fn=mlp, params=mlp_params(), tx=FROZEN), 16),
        (apart, 16),
        (lookahead, 80),
        (equinox_head, 16),
        (nnx_head, 17),
    ],
    ids=["multi_transform", "accumulated", "one group", "TrainState", "apart", "lookahead", "equinox", "nnx"],
)
def test_what_is_frozen_is_not_counted(state, parameters):
    assert JaxTrainable(donated_step, state(), batches()).facts()["parameters"] == parameters


def test_a_model_that_its_optimizer_holds_too_is_counted_once():
    model = NnxNet(nnx.Rngs(0))
    state = model, nnx.ModelAndOptimizer(model, adamw)
    assert JaxTrainable(nnx_step, state, batches()).facts()["parameters"] == 129


def test_a_schedule_of_optax_is_a_plan():
    schedule = optax.warmup_cosine_decay_schedule(0.0, 0.3, 10, 100)
    plan = find_lr(donated_step, state_of(adamw), batches(), schedule=schedule, total_steps=100).plan
    assert plan.share(0.0) == 0
    assert plan.share(10 / 99) == pytest.approx(1.0)
    assert plan.share(1.0) < 0.01
    with pytest.raises(ConfigurationError, match="does not say how long the training is"):
        find_lr(donated_step, state_of(adamw), batches(), schedule=schedule)
    with pytest.raises(ConfigurationError, match="never gives a rate above 0"):
        find_lr(donated_step, state_of(adamw), batches(), schedule=optax.constant_schedule(0.0), total_steps=100)


def test_a_race_is_scored_by_evaluate_or_by_the_loss_that_is_given():
    held_out = (X[:40], Y[:40])

    def evaluate(state):
        return mse(state[0], held_out)

    how = dict(verify=True, total_steps=400, max_lr=1.0)
    own = find_lr(donated_step, state_of(adamw), batches()[2:], evaluate=evaluate, **how).race
    assert own.start == pytest.approx(float(mse(mlp_params(), held_out)))
    assert len(own.runs) == 3
    doubled = find_lr(donated_step, state_of(adamw), batches(), loss=lambda state, b: 2 * mse(state[0], b), **how)
    single = find_lr(donated_step, state_of(adamw), batches(), **how, control_variate=False)
    assert doubled.race.start == pytest.approx(2 * single.race.start)
    assert doubled.curve.baseline is None  # it is not the step's loss


def test_the_same_network_in_pytorch_has_the_same_rate():
    params = mlp_params()
    layers = torch.nn.Sequential(
        torch.nn.Linear(4, 16, bias=False), torch.nn.Tanh(), torch.nn.Linear(16, 1, bias=False)
    )
    with torch.no_grad():
        layers[0].weight.copy_(torch.tensor(np.asarray(params["first"]).T))
        layers[2].weight.copy_(torch.tensor(np.asarray(params["second"]).T))
    loader = [(torch.tensor(x), torch.tensor(y)) for x, y in batches()]
    theirs = plain(layers, torch.optim.AdamW(layers.parameters(), weight_decay=0.01), torch.nn.MSELoss(), loader)
    ours = find_lr(donated_step, state_of(adamw), batches())
    assert ours.lr == pytest.approx(theirs.lr, rel=0.1)
    assert len(ours.curve) == pytest.approx(len(theirs.curve), abs=10)
    np.testing.assert_allclose(ours.curve.loss[:60], theirs.curve.loss[:60], rtol=1e-3)


# Workers


def pool_of(method):
    return ProcessPoolExecutor(2, mp_context=multiprocessing.get_context(method))


def test_the_runs_that_workers_make_are_the_same():
    how = dict(verify=True, total_steps=200, max_lr=1.0, progress=False)
    alone = find_lr(donated_step, state_of(adamw), Shuffled(), **how, executor=HOME_ALONE)
    with pool_of("spawn") as pool:
        there = find_lr(donated_step, state_of(adamw), Shuffled(), **how, executor=pool)
    assert there.race.path == "parallel"
    assert there.race.runs == alone.race.runs


@pytest.mark.parametrize(
    ("method", "how", "said"),
    [
        ("fork", {}, r"a forked process hangs.*get_context\('spawn'\)"),
        ("spawn", {"place": threading.Lock().locked}, "can't be pickled.*lock"),
    ],
)
def test_what_workers_can_not_have_is_refused_before_the_first_step(method, how, said):
    Traces.count = 0
    step = step_of(adamw)
    with pool_of(method) as pool, pytest.raises(ConfigurationError, match=said):
        find_lr(step, state_of(adamw), batches(), verify=True, total_steps=200, executor=pool, **how)
    assert Traces.count == 0


# Loaders


def test_a_loader_of_torchs_goes_on_where_it_was():
    def loader():
        generator = torch.Generator().manual_seed(0)
        data = torch.utils.data.TensorDataset(torch.tensor(X), torch.tensor(Y))
        return torch.utils.data.DataLoader(data, 20, shuffle=True, generator=generator)

    mine = loader()
    mid_pass = iter(mine)
    next(mid_pass)
    finding = find_lr(donated_step, state_of(adamw), mine, verify=True, total_steps="20 epochs")
    assert finding.facts["batch_size"] == 20
    never = loader()
    untouched = iter(never)
    next(untouched)
    for one, other in zip([*mid_pass, *mine], [*untouched, *never], strict=True):
        assert torch.equal(one[0], other[0])


class Counting:
    """A one-shot iterator that tells its place, as grain's do."""

    def __init__(self):
        self.at = 0

    def __iter__(self):
        return self

    def __next__(self):
        self.at += 1
        return batches()[self.at % 10]

    def get_state(self):
        return {"at": self.at}

    def set_state(self, state):
        self.at = state["at"]


def test_a_function_an_iterator_with_a_place_and_a_list_give_the_same():
    def opened():
        yield from [*batches()[1:], batches()[0]]

    place = Counting()
    findings = [find_lr(donated_step, state_of(adamw), loader, max_lr=1.0) for loader in (opened, place, opened)]
    assert place.at == 0
    assert findings[0] == findings[1] == findings[2]


class Reorders:
    """Batches in an order that is shuffled in place at each pass."""

    def __init__(self, order):
        self.order = order

    def __len__(self):
        return 10

    def __iter__(self):
        random.shuffle(self.order)
        for at in range(0, 200, 20):
            rows = [i % 200 for i in self.order[at : at + 20]]
            yield X[rows], Y[rows]


@pytest.mark.parametrize("order", [list(range(200)), list(range(2000)), np.arange(200)], ids=["list", "long", "array"])
@pytest.mark.parametrize("kind", ["a class", "nested", "a function"])
def test_a_loader_that_shuffles_an_order_in_place_goes_on_where_it_was(order, kind):
    def trained(search):
        random.seed(0)
        data = Reorders(order.copy())
        loader = {"a class": data, "nested": Repeated(data), "a function": lambda: iter(data)}[kind]
        if search:
            find_lr(donated_step, state_of(adamw), loader, num_steps=25)
        return [next(iter(batches))[0] for batches in [loader() if kind == "a function" else loader] * 2]

    np.testing.assert_array_equal(trained(True), trained(False))


class InPlace:
    """Batches of examples that are shuffled in place at each pass."""

    def __init__(self):
        self.x, self.y = X.copy(), Y.copy()

    def __iter__(self):
        rows = np.random.permutation(len(self.x))
        self.x[:], self.y[:] = self.x[rows], self.y[rows]
        for at in range(0, 200, 20):
            yield self.x[at : at + 20], self.y[at : at + 20]


def test_few_examples_that_a_loader_shuffles_in_place_are_where_they_were():
    loader = InPlace()
    find_lr(donated_step, state_of(adamw), loader, num_steps=25)
    np.testing.assert_array_equal(loader.x, X)
    np.testing.assert_array_equal(loader.y, Y)


class Repeated:
    """Batches of another loader."""

    def __init__(self, loader):
        self.loader = loader

    def __iter__(self):
        return iter(self.loader)


def test_the_held_out_batches_of_a_list_are_trained_on_by_no_run():
    training = JaxTrainable(donated_step, state_of(adamw), batches())
    assert training.hold_out(8, 30, 30) == 2  # at most a fifth
    aside = {batch[0].tobytes() for batch in training._held_out.aside}
    assert aside == {batch[0].tobytes() for batch in batches()[8:]}
    assert not aside & {training.batches.next()[0].tobytes() for _ in range(30)}


def opens():
    yield (X, Y)


@pytest.mark.parametrize("loader", [[(X, Y)], [(jnp.asarray(X), jnp.asarray(Y))], Shuffled(200), opens, batches(50)])
def test_few_batches_give_a_fifth_of_their_rows_to_score_a_race_on(loader):
    Traces.count = 0
    jax.clear_caches()
    training = JaxTrainable(donated_step, state_of(adamw), loader)
    size = 50 if loader is not None and isinstance(loader, list) and len(loader) == 4 else 200
    training.step(0.0)
    assert training.hold_out(8, 30, 30) == len(training._held_out.aside)
    drawn = [training.batches.next() for _ in range(30)]
    assert {len(x) for x, _ in [*drawn, *training._held_out.aside]} == {size}
    rows = [{row.tobytes() for x, _ in each for row in np.asarray(x)} for each in (training._held_out.aside, drawn)]
    assert (len(rows[0]), len(rows[1])) == (40, 160)
    assert not rows[0] & rows[1]
    assert training.evaluate() > 0
    training.step(0.0)
    assert training.unseen()
    assert Traces.count == 1


def test_a_race_that_is_scored_on_what_it_trained_on_says_so():
    how = dict(verify=True, total_steps=60, max_lr=1.0, progress=False)

    def raced(loader, **more):
        return find_lr(given_step, mlp_params(), loader, **how, **more)

    again, whole = raced(Shuffled()), raced([(X[:4], Y[:4])])
    assert (again.race.held_out, whole.race.held_out) == (False, False)
    assert "They were scored on what they trained on: held-out data tell more." in again.suggestion.why
    assert raced(Shuffled(), evaluate=lambda params: mse(params, (X, Y))).race.held_out
    assert raced(Shuffled(4)).race.held_out  # a pass of 50 is longer than a run


def test_bad_loaders_are_one_clear_error():
    for loader, said in (
        ([], "loader is empty"),
        ((batch for batch in batches()), "one-shot iterator .*the function that makes the generator"),
        (3, "must be an iterable"),
        (lambda: None, "must return or yield batches, and it returned None"),
    ):
        with pytest.raises(LoaderError, match=said):
            find_lr(donated_step, state_of(adamw), loader)
    finding = find_lr(donated_step, state_of(adamw), (batch for batch in batches()), consume=True)
    assert len(finding.curve) == 10


# Bad input


async def later(state, batch):
    """What never runs unless somebody waits for it."""


def test_bad_input_is_one_clear_error():
    state = state_of(adamw)
    for arguments, how, said in (
        ((None, state), {}, "step must be a function"),
        ((donated_step, {"a": "b"}), {}, "pytree with arrays to train"),
        ((donated_step, state_of(optax.adam(0.1))), {}, "no learning rate was found in the state"),
        ((donated_step, state), {"set_lr": 0.1}, "set_lr must be a function"),
        ((donated_step, state), {"evaluate": 0.1}, "evaluate must be a function"),
        ((lambda state: (state, 0.0), state), {}, r"called as step\(state, batch\), and this one takes \(state\)"),
        ((jax.jit(lambda state: (state, 0.0)), state), {}, r"called as step\(state, batch\)"),
        ((later, state), {}, "step is an async function"),
        ((donated_step, state), {"set_lr": lambda state: state}, r"called as set_lr\(state, lr\)"),
        ((donated_step, state), {"evaluate": lambda: 0.0}, r"called as evaluate\(state\), and this one takes \(\)"),
        ((donated_step, state), {"loss": lambda state: 0.0}, r"called as loss\(state, batch\)"),
        ((donated_step, state), {"place": lambda: 0.0}, r"called as place\(batch\)"),
        ((donated_step, state), {"consume": "no"}, "consume must be True or False, got 'no'"),
        ((donated_step, state), {"accumulation_steps": 0}, "accumulation_steps must be a whole number above 0"),
        ((donated_step, state), {"optimizer": optax.adam}, "optimizer must be a name"),
        ((donated_step, state), {"optimizer": "contrib"}, "optax.contrib is a module"),
        ((donated_step, state), {"steps": 9}, "it is called 'num_steps' here"),
        ((donated_step, state), {"epochs": 9}, "there is no argument 'epochs'; give total_steps='5 epochs', say"),
        ((donated_step, state), {"evalute": mse}, "it is called 'evaluate' here"),
        ((donated_step, state), {"val_loader": []}, "there is no argument 'val_loader'; there are step, state, loader"),
        ((donated_step, state), {"total_steps": "soon"}, "total_steps"),
        ((donated_step, state), {"verify": True}, "needs total_steps"),
        (
            (lambda params, opt_state, batch: state, state),
            {},
            r"'batch' would stay empty: let it take and return one state, such as",
        ),
        ((lambda state, batch, *, key: state, state), {}, "'key' would stay empty"),
        ((lambda state, batch, *, lr: state, state), {}, r"rate, 'lr', by keyword alone: .* step\(state, batch, lr\)"),
        ((lambda state, batch: mse(state[0], batch), state), {}, r"step must return \(state, loss\)"),
        ((lambda state, batch: (mse(state[0], batch), state), state), {}, "with a state of the structure"),
        ((lambda state, batch: (state, state), state), {}, "one real number"),
        ((lambda state, batch: (state, batch[0]), state), {}, r"one number, got shape \(20, 4\)"),
        ((lambda state, batch: (state, None), state), {}, "one real number"),
    ):
        with pytest.raises((ConfigurationError, LossError), match=said):
            find_lr(*arguments, batches(), **how)


def test_a_state_that_was_given_away_is_refused():
    state = state_of(adamw)
    donated_step(state, batches()[0])
    with pytest.raises(ConfigurationError, match=r"given away to a step .*the state that the last step returned"):
        find_lr(donated_step, state, batches())


def test_a_batch_of_nan_is_told_from_the_rate():
    bad = batches()
    bad[3] = (bad[3][0] * np.nan, bad[3][1])
    finding = find_lr(donated_step, state_of(adamw), bad)
    assert finding.verdict.name == "NOT_FINITE"
    assert len(finding.curve) == 4
