"""Keras: a model goes on as if there had been no search, on torch and, in a process of its own, on JAX."""

import os
import re
import subprocess
import sys
import warnings
from dataclasses import replace
from pathlib import Path

import keras
import numpy as np
import pytest
from keras.src.backend.common import global_state

from findlr import ConfigurationError, Finding, LoaderError, LossError, OptimizerError, Plan, Stop, rewindable
from findlr import find_lr as plain
from findlr.analysis.usual import usual
from findlr.keras import FindLR, KerasTrainable, described, find_lr
from findlr.keras.data import batches_of
from findlr.testing import TrainableConformance, TrainingConformance

BACKEND = keras.backend.backend()
X = np.random.default_rng(0).normal(size=(45, 4))
Y = np.sin(X[:, :1])


def model_of(optimizer=None, *, rich=False, **how):
    """A small model, the same every time."""
    keras.utils.set_random_seed(0)
    layers = [keras.layers.BatchNormalization(), keras.layers.Dropout(0.2)] if rich else []
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(4, "tanh"), *layers, keras.layers.Dense(1)])
    model.compile(optimizer or keras.optimizers.Adam(0.01), **{"loss": "mse"} | how)
    return model


def state(model):
    """All variables, and what fit has told."""
    variables = [*model.variables, *model.optimizer.variables, *model.metrics_variables]
    if isinstance(model, Pooled):
        variables += model.pool.others()
    values = [np.array(keras.ops.convert_to_numpy(variable.value)) for variable in variables]
    return values, getattr(getattr(model, "history", None), "history", None)


def same(one, other):
    """That both are the same, bit for bit."""
    if isinstance(one, (list, tuple)):
        assert len(one) == len(other)
        for mine, theirs in zip(one, other, strict=True):
            same(mine, theirs)
    else:
        np.testing.assert_array_equal(one, other)


def fit(model, epochs=1, **how):
    return model.fit(X, Y, batch_size=10, epochs=epochs, verbose=0, **how)


class TestSuite(TrainableConformance):
    def trainable(self):
        model = model_of(rich=True, metrics=["mae"])
        validation = batches_of(X[:20], Y[:20], batch_size=10, shuffle=False)
        return KerasTrainable(model, batches_of(X, Y, batch_size=10), validation=validation, validation_every=2)

    def state(self, trainable):
        trainable._steps.sync()
        return [value.tolist() for value in state(trainable.model)[0][: -len(trainable.model.metrics_variables)]]


def accumulating(**how):
    optimizer = keras.optimizers.SGD(0.01, momentum=0.9, gradient_accumulation_steps=2, clipnorm=1.0, **how)
    return model_of(optimizer, rich=BACKEND == "torch", metrics=["mae"])  # on JAX each one is compiled


class Pool:
    """Outputs of earlier steps, and a number that says how many there were."""

    def __init__(self):
        self.count, self.images, self.rng = 1, [], np.random.default_rng(0)

    def loss(self, x, outputs):
        self.count += 1
        self.images = [*self.images[-2:], keras.ops.stop_gradient(outputs)]
        return self.rng.normal() * sum(map(keras.ops.mean, self.images)) * keras.ops.mean(outputs) / self.count


class Pooled(keras.Model):
    """Keeps a pool, and a mean that only a name stands for; its loss is of both, and of a generator's numbers."""

    def __init__(self, mean):
        super().__init__()
        self.dense, self.pool, self.moved = keras.layers.Dense(1), Pool(), lambda x: mean.assign(0.9 * mean + 0.1 * x)

    def call(self, x):
        return self.dense(x)

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        far = keras.ops.square(keras.ops.mean(y_pred - self.moved(keras.ops.stop_gradient(keras.ops.mean(y_pred)))))
        return super().compute_loss(x, y, y_pred, sample_weight, training) + far + self.pool.loss(x, y_pred)


def pooled():
    keras.utils.set_random_seed(0)
    noise, center = np.random.default_rng(0), keras.ops.zeros((1,))
    mean = keras.Variable(0.0, trainable=False)

    def loss(y, outputs):
        nonlocal center
        center = 0.9 * center + 0.1 * keras.ops.stop_gradient(keras.ops.mean(outputs))
        return keras.ops.mean(keras.ops.square(y - center - outputs)) + noise.normal() * keras.ops.mean(outputs)

    model = Pooled(mean)
    model(X[:1])
    model.compile(keras.optimizers.Adam(0.01), loss=loss)
    model.pool.others = lambda: [mean]
    return model


SETTINGS = {"momentum, accumulation": accumulating}
if BACKEND == "torch":  # where functions run at each step
    SETTINGS |= {"what functions and objects keep": pooled}
if BACKEND == "torch":  # on JAX a second fit with averaged weights fails, search or not
    SETTINGS |= {"adam": lambda: model_of(rich=True), "averaged": lambda: accumulating(use_ema=True)}


@pytest.mark.parametrize("make", SETTINGS.values(), ids=SETTINGS)
class TestTraining(TrainingConformance):
    before, after = 1, 2  # epochs

    @pytest.fixture(autouse=True)
    def _given(self, make):
        self.make = make

    def training(self):
        return self.make()

    def train(self, training, steps):
        fit(training, steps)

    def search(self, training, **how):
        return find_lr(training, X, Y, batch_size=10, **how)

    def state(self, training):
        return state(training)


def search(model, x=X, y=Y, **how):
    return find_lr(model, x, y, **{"batch_size": 10, "num_steps": 30, "progress": False} | how)


def test_the_rate_is_that_of_the_same_network_in_pytorch():
    torch = pytest.importorskip("torch")
    keras.utils.set_random_seed(0)
    x = np.random.default_rng(0).normal(size=(400, 4)).astype("float32")
    y = np.sin(x[:, :1] + x[:, 1:2])
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(16, "tanh"), keras.layers.Dense(1)])
    model.compile(keras.optimizers.Adam(epsilon=1e-8), loss="mse")
    net = torch.nn.Sequential(torch.nn.Linear(4, 16), torch.nn.Tanh(), torch.nn.Linear(16, 1))
    with torch.no_grad():
        for parameter, value in zip(net.parameters(), model.get_weights(), strict=True):
            parameter.copy_(torch.tensor(value.T))
    pairs = torch.utils.data.TensorDataset(torch.tensor(x), torch.tensor(y))
    loader = torch.utils.data.DataLoader(pairs, batch_size=20)
    optimizer = torch.optim.Adam(net.parameters())
    ours = find_lr(model, x, y, batch_size=20, epochs=10, shuffle=False, progress=False)
    theirs = plain(net, optimizer, torch.nn.MSELoss(), loader, total_steps="10 epochs", progress=False)
    assert ours.lr == pytest.approx(theirs.lr, rel=0.1)
    assert ours.plan == replace(theirs.plan, pretrained=None)
    np.testing.assert_allclose(ours.curve.loss[:60], theirs.curve.loss[:60], rtol=1e-3)
    np.testing.assert_allclose(ours.curve.baseline[:60], theirs.curve.baseline[:60], rtol=1e-3)


class Counts(keras.layers.Layer):
    """Counts how often it is traced for a step, or called in one."""

    def __init__(self):
        super().__init__()
        self.calls = 0

    def call(self, inputs, training=False):
        if training:
            counted.append("traced")
            self.calls += 1
        return inputs


counted = []


@pytest.mark.parametrize("eager", [False, True])
def test_a_step_is_traced_once_for_a_whole_search(eager):
    keras.utils.set_random_seed(0)
    layer = Counts()
    model = keras.Sequential([keras.Input((4,)), layer, keras.layers.Dense(1)])
    model.compile("sgd", loss="mse", run_eagerly=eager)
    before = layer.calls
    counted.clear()
    finding = search(model, X[:40], Y[:40], epochs=50, verify=True, budget=200, control_variate=False, max_lr=1.0)
    assert len(finding.race.runs) > 2
    assert (len(counted) == 1) is (BACKEND == "jax" and not eager)
    assert layer.calls == before
    counted.clear()
    search(model, X[:40], Y[:40])
    assert (len(counted) == 2) is (BACKEND == "jax" and not eager)  # and once for the loss under the first weights


class Remembers(keras.layers.Layer):
    """Keeps the mean of its inputs in an array, a queue of them, and a generator that it draws from."""

    def __init__(self):
        super().__init__()
        self.mean, self.queue, self.rng = np.zeros(4), [], np.random.default_rng(0)

    def call(self, inputs, training=False):
        if training and not isinstance(inputs, keras.KerasTensor):
            self.mean += 0.1 * (np.array(keras.ops.convert_to_numpy(inputs)).mean(0) - self.mean)
            self.queue.append(self.mean.sum())
        return inputs * (1 + 0.1 * self.rng.random())

    def kept(self):
        return self.mean.copy(), list(self.queue), self.rng.bit_generator.state["state"]["state"]


@pytest.mark.skipif(BACKEND == "jax", reason="a traced step has no numbers to keep there")
def test_arrays_queues_and_generators_of_a_layer_are_put_back():
    layer = Remembers()
    model = keras.Sequential([keras.Input((4,)), layer, keras.layers.Dense(1)])
    model.compile("sgd", loss="mse", run_eagerly=True)
    fit(model)
    before, mean, queue = layer.kept(), layer.mean, layer.queue
    search(model)
    same(layer.kept(), before)
    assert (layer.mean is mean, layer.queue is queue) == (True, True)


@pytest.mark.skipif(BACKEND == "torch", reason="it is")
def test_torch_is_not_imported_where_the_backend_is_jax():
    code = """import sys
import numpy as np, keras
from findlr.keras import find_lr
model = keras.Sequential([keras.Input((4,)), keras.layers.Dropout(0.1), keras.layers.Dense(1)])
model.compile("adam", loss="mse")
print(len(find_lr(model, np.ones((40, 4)), np.ones((40, 1)), num_steps=5).curve), "torch" in sys.modules)"""
    how = {**os.environ, "KERAS_BACKEND": "jax"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=how)
    assert done.stdout.split() == ["5", "False"]


# Data


class Pairs(keras.utils.PyDataset):
    """Batches of ten in a new order after each epoch, as people write it."""

    def __init__(self, as_list=False):
        super().__init__()
        self.order, self.rng, self.epochs, self.as_list = np.arange(len(X)), np.random.default_rng(5), 0, as_list

    @property
    def num_batches(self):
        return 4

    def __getitem__(self, i):
        at = self.order[10 * i : 10 * i + 10]
        return [X[at], Y[at]] if self.as_list else (X[at], Y[at])

    def on_epoch_end(self):
        self.rng.shuffle(self.order)
        self.epochs += 1


def test_a_pydataset_goes_on_where_it_was():
    def trained(searched):
        model, data = model_of(), Pairs()
        model.fit(data, verbose=0)
        if searched:
            assert len(find_lr(model, data, num_steps=30, progress=False).curve) > 10
            assert len(find_lr(model, data, epochs=20, num_steps=20, verify=True, max_lr=1.0).race.runs) > 2
        model.fit(data, epochs=2, verbose=0)
        return state(model), data.order.tolist(), data.epochs, data.rng.bit_generator.state

    same(trained(True), trained(False))


class Sampler:
    """What a PyDataset draws by."""

    def __init__(self):
        self.rng, self.places, self.times = np.random.default_rng(5), {"train": np.arange(len(X))}, {}


class Sampled(keras.utils.PyDataset):
    """Batches of ten, whose order, counts and noise are in an object of its own."""

    num_batches = 4

    def __init__(self):
        super().__init__()
        self.sampler = Sampler()

    def __getitem__(self, i):
        at, times = self.sampler.places["train"][10 * i : 10 * i + 10], self.sampler.times
        times[i] = times.get(i, 0) + 1
        return X[at] + self.sampler.rng.normal(0, 0.1 / times[i], (10, 1)), Y[at]

    def on_epoch_end(self):
        np.random.shuffle(self.sampler.places["train"])


def test_what_an_object_in_a_pydataset_holds_is_put_back():
    def trained(searched):
        keras.utils.set_random_seed(1)
        model, data = model_of(), Sampled()
        model.fit(data, verbose=0, shuffle=False)
        if searched:
            find_lr(model, data, epochs=20, num_steps=20, verify=True, max_lr=1.0, progress=False)
        model.fit(data, epochs=2, verbose=0, shuffle=False)
        return state(model), data.sampler.times

    same(trained(True), trained(False))


def examples_in(batches):
    return {float(x) for batch in batches for x in np.asarray(batch[0])[:, 0]}


class Few(Pairs):
    """Two batches, the first of ten."""

    num_batches = 2


@pytest.mark.parametrize(
    ("given", "aside"),
    [
        ((X, Y), 9),
        ((X,), 9),
        ((X[:8], Y[:8]), 1),
        ((X[:4], Y[:4]), 4),
        ((Pairs,), 8),
        ((Few,), 4),
    ],
    ids=["arrays", "inputs alone", "few", "too few", "a PyDataset", "of two batches"],
)
@pytest.mark.parametrize("shuffle", [False, True])
def test_few_batches_give_a_fifth_of_their_examples_to_score_a_race_on(given, aside, shuffle):
    given = [part() if isinstance(part, type) else part for part in given]
    data = batches_of(*given, batch_size=20, shuffle=shuffle)
    fits = {len(batch[0] if isinstance(batch, tuple) else batch) for batch in data.whole()}
    held = [(batch[0] if isinstance(batch, tuple) else batch,) for batch in data.hold_out(8, 100, 0.3)]
    drawn = [data.next() for _ in range(40)]
    seen = [(batch[0] if isinstance(batch, tuple) else batch,) for batch in drawn]
    assert len(examples_in(held)) == aside
    assert {len(batch) for (batch,) in seen} == {max(fits)}  # no shape is new, for which a step is compiled
    assert data.unseen() is not bool(examples_in(held) & examples_in(seen))
    assert data.unseen() is (aside != 4 or isinstance(given[0], Few))


@pytest.mark.parametrize("kind", ["of four", "on every begin", "of ten"])
def test_a_pydataset_that_shuffles_its_examples_gives_those_that_score_to_no_run(kind):
    class Shuffles(Pairs):
        num_batches = 4 if kind == "of four" else 9

        def __getitem__(self, i):
            at = self.order[5 * i : 5 * i + 5]
            return X[at], Y[at]

        def on_epoch_begin(self):
            if kind == "on every begin":
                self.rng.shuffle(self.order)

    data = batches_of(Shuffles())
    held = data.hold_out(1, 100, 0.7)
    seen = [data.next() for _ in range(40)]
    assert examples_in(held)
    assert not examples_in(held) & examples_in(seen)
    assert data.unseen()


def test_a_generator_gives_its_batches_again():
    def batches():
        rng = np.random.default_rng(3)
        while True:
            at = rng.integers(0, len(X), 10)
            yield X[at], Y[at]

    stream, model = rewindable(batches()), model_of()
    first = find_lr(model, stream, progress=False, num_steps=30)
    assert first == find_lr(model, stream, progress=False, num_steps=30)
    np.testing.assert_array_equal(next(stream)[0], next(batches())[0])
    with pytest.raises(LoaderError, match=r"give arrays or a PyDataset; or findlr\.rewindable"):
        find_lr(model, batches())
    assert len(find_lr(model, batches(), consume=True, num_steps=5).curve) == 5


def test_a_torch_loader_goes_on_where_it_was():
    torch = pytest.importorskip("torch")
    pairs = torch.utils.data.TensorDataset(torch.tensor(X).float(), torch.tensor(Y).float())

    def trained(searched):
        model = model_of()
        loader = torch.utils.data.DataLoader(pairs, 10, shuffle=True, generator=torch.Generator().manual_seed(7))
        if searched:
            finding = find_lr(model, loader, epochs=20, num_steps=20, verify=True, max_lr=1.0, progress=False)
            assert len(finding.race.runs) > 2
        model.fit(loader, epochs=2, verbose=0, shuffle=False)
        return state(model)

    same(trained(True), trained(False))


def test_weights_of_classes_and_of_examples():
    labels = (Y[:, 0] > 0).astype(int)
    weights = np.where(labels == 1, 3.0, 1.0)

    def curve(**how):
        return search(model_of(), X, labels, **how).curve.loss

    np.testing.assert_array_equal(curve(class_weight={1: 3.0}), curve(sample_weight=weights))
    assert curve()[0] != curve(sample_weight=weights)[0]
    with pytest.raises(ConfigurationError, match="without sample weights"):
        curve(class_weight={1: 3.0}, sample_weight=weights)
    with pytest.raises(ConfigurationError, match="class_weight goes with one output"):
        search(model_of(), X, [labels, labels], class_weight={1: 3.0})


def test_a_sparse_matrix_is_the_array_that_it_stands_for():
    sparse = pytest.importorskip("scipy.sparse")
    x = np.where(X > 0, X, 0)
    curves = [search(model_of(), given, num_steps=5).curve.loss for given in (x, sparse.coo_matrix(x))]
    np.testing.assert_array_equal(*curves)


def test_inputs_by_name_and_several_outputs():
    keras.utils.set_random_seed(0)
    inputs = {"a": keras.Input((2,), name="a"), "b": keras.Input((2,), name="b")}
    joined = keras.layers.Concatenate()([inputs["a"], inputs["b"]])
    model = keras.Model(inputs, [keras.layers.Dense(1)(joined), keras.layers.Dense(1)(joined)])
    model.compile("adam", loss=["mse", "mae"])
    x = {"a": X[:, :2], "b": X[:, 2:]}
    before = state(model)
    assert search(model, x, [Y, Y]).curve.baseline is not None
    same(state(model), before)


# What a model is made of


class OwnStep(keras.Model):
    """A step of the user's own, as Keras's guides write it."""

    def __init__(self):
        super().__init__()
        self.dense = keras.layers.Dense(1)
        self.seen = 0

    def call(self, inputs):
        return self.dense(inputs)

    def train_step(self, *args):
        self.seen += 1
        result = super().train_step(*args)
        logs, *rest = result if isinstance(result, tuple) else (result,)
        logs = {"loss": logs["loss"] * self.factor} if self.factor else {"other": logs["loss"]}
        return (logs, *rest) if rest else logs

    factor = 1


def own_step(factor=1):
    keras.utils.set_random_seed(0)
    model = OwnStep()
    model.factor = factor
    model(X)
    model.compile("adam", loss="mse")
    return model


def test_a_train_step_of_the_users_own():
    model = own_step()
    finding = search(model)
    assert model.seen == 0
    np.testing.assert_allclose(finding.curve.loss, search(own_step(2)).curve.loss / 2, rtol=1e-5)
    assert finding.curve.baseline is not None
    assert search(own_step(2)).curve.baseline is None  # because its loss is another one than compute_loss gives
    with pytest.raises(LossError, match="must return a dict with the 'loss' of its batch in it, got 'other'"):
        search(own_step(0))


class Looks(OwnStep):
    """Notes how many parts the batches have that its steps are given, 0 for an array alone."""

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        return keras.ops.mean(keras.ops.square(y_pred - 1))

    def train_step(self, *args):
        parts.append(("train", len(args[-1]) if isinstance(args[-1], (tuple, list)) else 0))
        return super().train_step(*args)

    def test_step(self, *args):
        parts.append(("test", len(args[-1]) if isinstance(args[-1], (tuple, list)) else 0))
        return super().test_step(*args)


class Alone(Looks):
    """Has a loss in its train_step alone."""

    inside = False

    def compute_loss(self, *given, **how):
        if not self.inside:
            raise ValueError("No loss to compute.")
        return super().compute_loss(*given, **how)

    def train_step(self, *args):
        self.inside = True
        result = super().train_step(*args)
        self.inside = False
        return result


parts = []


def eager(kind):
    keras.utils.set_random_seed(0)
    model = kind()
    model(X)
    model.compile("adam", run_eagerly=True)
    return model


@pytest.mark.parametrize(
    ("given", "how"),
    [((X, Y), {}), ((X,), {}), ((X, Y), {"sample_weight": np.ones(45)}), ((Pairs(as_list=True),), {})],
    ids=["arrays", "inputs alone", "weights", "a PyDataset of lists"],
)
def test_a_step_is_given_its_batch_in_the_form_that_fit_gives_it(given, how):
    seen = []
    for train in ("fit", "find_lr"):
        parts.clear()
        if train == "fit":
            eager(Looks).fit(*given, **how, verbose=0, validation_data=(X, Y))
        else:
            validated = {"validation_data": (X, Y), "validation_every": 1, "control_variate": False, "num_steps": 3}
            find_lr(eager(Looks), *given, **how, **validated, progress=False)
        seen.append(set(parts))
    assert len(seen[0]) == 2
    assert seen[0] == seen[1]


def test_a_step_without_compute_loss_has_no_control_variate_and_is_raced_on_its_training_losses(caplog):
    model = eager(Alone)
    before = state(model)
    with caplog.at_level("INFO", "findlr"):
        finding = search(model, epochs=20, verify=True, max_lr=1.0)
    same(state(model), before)
    assert finding.curve.baseline is None
    assert finding.race.runs
    assert "no control variate: the model's compute_loss can't tell the loss of a batch (ValueError" in caplog.text
    assert "scored on their training losses: test_step tells no loss (ValueError" in caplog.text
    with pytest.raises(ValueError, match="No loss to compute"):
        search(model, epochs=20, verify=True, max_lr=1.0, validation_data=(X, Y))


@pytest.mark.skipif(BACKEND != "torch", reason="torch's warning")
@pytest.mark.skipif(BACKEND == "jax", reason="what is compiled keeps nothing")
def test_what_functions_keep_is_not_changed_by_a_control_variate(caplog):
    caplog.set_level("INFO")
    assert search(pooled()).curve.baseline is None
    assert "no control variate: a function or an object of the model's keeps something, and changes" in caplog.text


def test_a_layers_own_loss_makes_torch_not_warn():
    model = keras.Sequential(
        [keras.Input((4,)), keras.layers.Dense(4, activity_regularizer="l1"), keras.layers.Dense(1)]
    )
    model.compile("adam", loss="mse")
    fit(model)
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message="The .grad attribute of a Tensor")
        search(model)


def test_a_scaled_loss_and_steps_that_are_skipped():
    def scaled(scale):
        optimizer = keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD(0.01), initial_scale=scale)
        return model_of(optimizer)

    model = scaled(2.0**10)
    before = state(model)
    finding = search(model)
    same(state(model), before)
    np.testing.assert_allclose(finding.curve.loss, search(model_of("sgd")).curve.loss, rtol=1e-4)
    skipped = search(scaled(2.0**127), control_variate=False)  # some steps, until the scale has come down
    assert len(skipped.curve) < 30 + 1
    assert skipped.cost.backwards > len(skipped.curve)
    fit(model)


def test_an_average_of_the_weights():
    def trained(searched):
        model = model_of(keras.optimizers.SGD(0.01, use_ema=True, ema_momentum=0.5))
        if searched:
            search(model)
        fit(model)
        return state(model)

    same(trained(True), trained(False))


def test_a_schedule_is_the_plan_and_is_put_back():
    schedule = keras.optimizers.schedules.CosineDecay(0.01, decay_steps=200)

    def trained(searched, before=0):
        model = model_of(keras.optimizers.Adam(schedule))
        fit(model, before)
        if searched:
            found.append(search(model))
        fit(model, 2)
        assert len(model.optimizer.variables) == 9
        return state(model)

    found = []
    for before in (0, 1):
        same(trained(True, before), trained(False, before))
    plan = found[0].plan
    assert (plan.total_steps, plan.share(0.0), round(plan.share(0.5), 2)) == (200, 1.0, 0.5)
    assert found[0].code().startswith("optimizer = keras.optimizers.Adam(learning_rate=")
    assert found[0].code().endswith("# the peak of the planned schedule")
    steps = keras.optimizers.schedules.PiecewiseConstantDecay([10], [0.01, 0.001])
    with pytest.raises(ConfigurationError, match="does not say how long the training is: give epochs="):
        search(model_of(keras.optimizers.Adam(steps)))
    assert search(model_of(keras.optimizers.Adam(steps)), epochs=4).plan.share(0.9) == pytest.approx(0.1)
    assert search(model_of(), schedule=schedule).plan == search(model_of(keras.optimizers.Adam(schedule))).plan


def test_the_finding_speaks_of_keras():
    model = model_of(keras.optimizers.AdamW(0.01, beta_1=0.8))
    finding = search(model, epochs=10)
    assert finding.code() == f"model.optimizer.learning_rate = {finding.lr:.2g}"
    assert finding.code() in str(finding)
    with pytest.raises(OptimizerError, match=r"write this instead: model.optimizer.learning_rate = "):
        finding.apply(model.optimizer)
    exec(finding.code())
    assert float(model.optimizer.learning_rate) == pytest.approx(finding.lr, rel=0.05)
    plan = finding.plan
    assert (plan.optimizer, plan.momentum, plan.parameters, plan.epochs) == ("AdamW", 0.8, 25, 10)
    assert plan.total_steps == 50
    assert finding.facts["optimizer"]["arguments"] == {"beta_1": 0.8}
    assert finding.facts["batch_size"] == 10
    assert Finding.from_dict(finding.to_dict()) == finding


@pytest.mark.parametrize(
    ("name", "family"), [("nadam", "NAdam"), ("lion", "Lion"), ("muon", "AdamW"), ("rmsprop", "RMSprop")]
)
def test_what_is_usual_is_known_of_keras_optimizers(name, family):
    plan = described.planned(Plan(), model_of(name))
    assert plan.optimizer == family
    assert usual(plan, 1.0) is not None


def test_a_rate_that_is_capped_ends_the_sweep():
    finding = search(model_of(keras.optimizers.Adafactor()), num_steps=60)
    assert finding.stop is Stop.CAPPED
    assert finding.curve.lr[-1] <= 1 / np.sqrt(len(finding.curve))


def test_a_rate_that_float16_can_not_hold_is_refused_before_the_first_step():
    keras.config.set_floatx("float16")
    try:
        model, seen = model_of("sgd"), []
        with pytest.raises(OptimizerError, match=r"float16, whose smallest number above 0 is 6.1e-05.*set_floatx"):
            search(model, on_step=seen.append)
        assert not seen
        assert len(search(model, min_lr=1e-4).curve) > 5
    finally:
        keras.config.set_floatx("float32")


def test_a_race_is_scored_on_the_validation_data():
    how = dict(epochs=40, verify=True, max_lr=1.0)
    ours, other = (
        search(model_of(rich=True), validation_data=(X[:10], y), **how).race.runs for y in (Y[:10], Y[:10] + 5)
    )
    assert min(run.loss for run in other) > 10 * min(run.loss for run in ours)
    assert search(model_of(), validation_data=(X, Y)).curve.validation is None
    curve = search(model_of(), validation_data=(X, Y), validation_every=5).curve
    assert np.isfinite(curve.validation).sum() == len(curve) // 5


def test_a_race_goes_on_with_the_checkpoint_of_the_same_code_that_ran_before(tmp_path):
    class OwnAdam(keras.optimizers.Adam):
        pass

    def ran(optimizer):
        return search(model_of(optimizer), epochs=20, verify=True, max_lr=1.0, checkpoint=tmp_path / "race.json")

    for make in ("adam", lambda: keras.optimizers.Adam(0.01), OwnAdam):
        first, again = (ran(make if isinstance(make, str) else make()) for _ in range(2))
        assert again.race == first.race
        (tmp_path / "race.json").unlink()
    ran(keras.optimizers.Adam(0.01, name="mine"))
    with pytest.raises(ConfigurationError, match="another search"):
        ran(keras.optimizers.Adam(0.01, name="yours"))


# Among the callbacks of a fit


def test_a_callback_searches_once_and_the_fit_goes_on():
    def fitted(*callbacks):
        model = model_of(rich=True, metrics=["mae"])
        fit(model, 2, callbacks=list(callbacks))
        fit(model, 1, callbacks=list(callbacks))
        return state(model)

    callback = FindLR(X, Y, batch_size=10, num_steps=20, progress=False)
    same(fitted(callback), fitted())
    assert callback.finding.plan.epochs == 2
    applied = FindLR(X, Y, batch_size=10, num_steps=40, apply=True, progress=False)
    model = model_of()
    fit(model, 1, callbacks=[applied])
    assert float(model.optimizer.learning_rate) == pytest.approx(applied.finding.lr)


@pytest.mark.parametrize(
    ("how", "steps"),
    [({}, 20), ({"steps_per_epoch": 1}, 4), ({"validation_split": 0.4}, 12)],
)
def test_a_callbacks_plan_has_the_steps_that_the_fit_takes(how, steps):
    for accumulated in (None, 3):
        callback = FindLR(X, Y, batch_size=10, num_steps=20, progress=False)
        model = model_of(keras.optimizers.Adam(0.01, gradient_accumulation_steps=accumulated))
        fit(model, 4, callbacks=[callback], **how)
        assert int(model.optimizer.iterations) == callback.finding.plan.total_steps == steps // (accumulated or 1)
    shorter = FindLR(X, Y, batch_size=10, num_steps=20, total_steps=7, progress=False)
    fit(model_of(), 4, callbacks=[shorter], **how)
    assert shorter.finding.plan.total_steps == 7


def test_a_callback_that_finds_none_says_so(caplog):
    flat = FindLR(X, np.zeros_like(Y), batch_size=10, num_steps=20, max_lr=1e-7, apply=True, progress=False)
    model = model_of()
    fit(model, 1, callbacks=[flat])
    assert "no rate was found" in caplog.text
    assert float(model.optimizer.learning_rate) == pytest.approx(0.01)
    broken = FindLR(X, Y, batch_size=10, on_step=lambda _: 1 / 0, progress=False)
    with pytest.raises(ZeroDivisionError):
        fit(model, 1, callbacks=[broken])
    assert len(broken.finding.curve) == 1


def test_a_callback_that_could_not_write_its_rate_is_refused_before_it_searches():
    schedule = keras.optimizers.schedules.CosineDecay(0.01, decay_steps=200)
    seen, model = [], model_of(keras.optimizers.Adam(schedule))
    search = FindLR(X, Y, batch_size=10, apply=True, on_step=seen.append, progress=False)
    with pytest.raises(ConfigurationError, match=r"a CosineDecay sets it.*Adam\(learning_rate=0.001\)"):
        fit(model, 1, callbacks=[search])
    assert not seen
    told = FindLR(X, Y, batch_size=10, num_steps=20, progress=False)
    fit(model, 1, callbacks=[told])
    assert told.finding.plan.total_steps == 5


# What is refused


def test_bad_input_is_one_clear_error_and_nothing_has_changed():
    model = model_of(metrics=["mae"])
    before, attributes = state(model), dict(vars(model))
    for error, how, said in (
        (ConfigurationError, {"max_lr": 0}, "max_lr"),
        (ConfigurationError, {"steps": 9}, "it is called 'num_steps' here"),
        (ConfigurationError, {"validaton_data": (X, Y)}, "it is called 'validation_data' here"),
        (ConfigurationError, {"validation_split": 0.2}, "leave it out, and give those examples as validation_data"),
        (ConfigurationError, {"callbacks": []}, "leave it out, no callback takes part in a search"),
        (ConfigurationError, {"verbose": 0}, "it is called 'progress' here"),
        (ConfigurationError, {"batch_size": 0.5}, "batch_size must be a whole number"),
        (ConfigurationError, {"batch_size": 0}, "batch_size must be a whole number of at least 1, got 0"),
        (
            ConfigurationError,
            {"validation_data": (X, Y), "validation_every": 5, "validation_batch_size": 0},
            "batch_size must be a whole number of at least 1, got 0",
        ),
        (ConfigurationError, {"class_weight": [1, 2]}, r"class_weight must be a dict .*got \[1, 2\]"),
        (ConfigurationError, {"class_weight": {0: "a"}}, "class_weight must be a dict with a number for each class"),
        (ConfigurationError, {"epochs": 2, "total_steps": 5}, "give one of them"),
        (ConfigurationError, {"epochs": "soon"}, "total_steps"),
        (ConfigurationError, {"validation_data": (X, Y), "validation_every": 0}, "validation_every"),
        (LoaderError, {"validation_data": (X[:0], Y[:0]), "validation_every": 5}, "validation_data is empty"),
        (LoaderError, {"validation_data": (X[:0], Y[:0]), "verify": True, "epochs": 20}, "validation_data is empty"),
        (LoaderError, {"y": Y[:7]}, r"as many examples each, got \[7, 45\]"),
        (LoaderError, {"y": Y.ravel().tolist()}, r"y must be an array .*got a list of float: give np.asarray\(y\)"),
        (LoaderError, {"y": np.float32(1)}, "y must be an array .*got one float32: give an array"),
        (LoaderError, {"sample_weight": 1.0}, "sample_weight must be an array .*got one float: give an array"),
        (LoaderError, {"x": [1, 2]}, "x must be arrays"),
        (LoaderError, {"x": None, "y": None}, "x must be arrays"),
        (LoaderError, {"x": Pairs()}, "leave y and sample_weight out"),
        (LoaderError, {"x": X[:0], "y": Y[:0]}, "empty"),
    ):
        with pytest.raises(error, match=said):
            search(model, **{"x": X, "y": Y} | how)
    with pytest.raises(ConfigurationError, match=r"model must be a keras.Model, got ndarray"):
        search(X)
    same(state(model), before)
    assert vars(model) == attributes


def test_models_that_can_not_be_searched():
    layers = [keras.Input((4,)), keras.layers.Dense(1)]
    with pytest.raises(ConfigurationError, match="not compiled"):
        search(keras.Sequential(layers))
    unbuilt = keras.Sequential([keras.layers.Dense(1)])
    unbuilt.compile("adam", loss="mse")
    with pytest.raises(ConfigurationError, match="not built"):
        search(unbuilt)
    frozen = model_of()
    frozen.trainable = False
    with pytest.raises(OptimizerError, match="nothing to train"):
        search(frozen)
    none = model_of()
    none.optimizer = None
    with pytest.raises(OptimizerError, match="no optimizer"):
        search(none)
    zero = model_of(keras.optimizers.Adam(keras.optimizers.schedules.ExponentialDecay(0.0, 10, 0.9)))
    with pytest.raises(ConfigurationError, match="this ExponentialDecay never gives a rate above 0"):
        search(zero)


def test_data_without_a_length_have_no_epoch():
    class Endless(Pairs):
        @property
        def num_batches(self):
            return None

    with pytest.raises(LoaderError, match="the length of a pass over x is not known: give a number of steps, or"):
        find_lr(model_of(), Endless(), num_steps="epoch", progress=False)
    assert len(find_lr(model_of(), Endless(), num_steps=4, progress=False).curve) == 4


def test_a_step_that_does_not_use_the_optimizer_is_refused():
    class Idle(OwnStep):
        def train_step(self, *args):
            logs = {"loss": keras.ops.zeros(())}
            return (logs, args[0]) if len(args) > 1 else logs

    model = Idle()
    model(X)
    model.compile("adam", loss="mse")
    with pytest.raises(OptimizerError, match=r"does not step model.optimizer"):
        search(model)


def test_what_a_step_raises_is_raised_and_all_is_put_back():
    model = model_of()
    before = state(model)
    with pytest.raises(Exception, match=r"shape|incompatible"):
        search(model, X[:, :3])
    same(state(model), before)


def test_a_block_that_ctrl_c_breaks_off_as_it_ends_leaves_nothing_behind():
    def broken_off(y, outputs):
        nonlocal calls
        calls += 1
        if calls == 7:
            names.append("open")
            keras.StatelessScope().__enter__()
            if BACKEND == "torch":
                sys.modules["torch"].set_grad_enabled(False)
            raise KeyboardInterrupt
        return keras.ops.mean(keras.ops.square(y - outputs))

    def training():
        model = model_of(loss=broken_off, run_eagerly=True)
        fit(model)
        return model

    calls = 8
    expected = training()
    fit(expected)
    model = training()
    names = global_state.get_global_attribute("name_scope_stack")
    stack, calls = list(names), 0
    with pytest.raises(KeyboardInterrupt):
        search(model)
    assert calls == 7
    assert global_state.get_global_attribute("stateless_scope") is None
    assert names == stack
    fit(model)
    same(state(model), state(expected))


def test_a_backend_that_was_not_tried_is_refused(monkeypatch):
    monkeypatch.setattr(keras.backend, "backend", lambda: "tensorflow")
    with pytest.raises(ConfigurationError, match="'tensorflow' was not tried"):
        described.check_model(model_of())


def test_without_keras_one_error_says_what_to_install():
    code = "import sys; sys.modules['keras'] = None; import findlr.keras"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "MissingExtraError: keras is not installed; run: pip install 'findlr[keras]'" in done.stderr


@pytest.mark.skipif(BACKEND == "torch", reason="tests/rooms/test_pages.py runs it there")
def test_the_code_on_the_page_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    page = (Path(__file__).parents[2] / "docs" / "keras.md").read_text()
    exec("\n".join(re.findall(r"^```python\n(.*?)^```$", page, flags=re.MULTILINE | re.DOTALL)), {})


@pytest.mark.timeout(900)
@pytest.mark.skipif(BACKEND != "torch", reason="starts the other one")
def test_all_of_this_on_jax(tmp_path):
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", __file__]
    how = {**os.environ, "KERAS_BACKEND": "jax", "OMP_NUM_THREADS": "1"}
    how |= {"JAX_COMPILATION_CACHE_DIR": str(tmp_path), "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}
    done = subprocess.run(command, check=False, env=how, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("how", [{"num_it": 9}, {"max_lr": 0}, {"budget": 0.5}, {"apply": "no"}])
def test_a_callback_is_told_at_once_of_a_setting_that_cannot_work(how):
    with pytest.raises(ConfigurationError):
        FindLR(X, Y, **how)
    assert FindLR(X, Y, batch_size=10, verify=True, budget=0.5).finding is None


@pytest.mark.parametrize("name", ["shuffle", "consume"])
def test_a_flag_is_true_or_false(name):
    with pytest.raises(ConfigurationError, match=f"{name} must be True or False, got 'no'"):
        find_lr(model_of(), X, Y, **{name: "no"})
