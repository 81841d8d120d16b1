"""Keras: a model goes on as if there had been no search, on torch and, in a process of its own, on JAX."""

import os
import subprocess
import sys

import keras
import numpy as np
import pytest

from findlr.keras import KerasTrainable, find_lr
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
    values = [np.array(keras.ops.convert_to_numpy(variable.value)) for variable in variables]
    return values, getattr(getattr(model, "history", None), "history", None)


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


SETTINGS = {
    "adam": lambda: model_of(rich=True, metrics=["mae"]),
    "momentum, accumulation": lambda: model_of(
        # On JAX a second fit with an average fails, search or not.
        keras.optimizers.SGD(0.01, momentum=0.9, gradient_accumulation_steps=2, use_ema=BACKEND == "torch", clipnorm=1)
    ),
}


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


@pytest.mark.skipif(BACKEND != "torch", reason="starts the other one")
def test_all_of_this_on_jax(tmp_path):
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", __file__]
    how = {**os.environ, "KERAS_BACKEND": "jax", "OMP_NUM_THREADS": "1"}
    how |= {"JAX_COMPILATION_CACHE_DIR": str(tmp_path), "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}
    done = subprocess.run(command, check=False, env=how, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
