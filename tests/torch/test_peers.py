"""Where Lightning, fastai or all of the other finders break (``docs/peers.md``), with the right outcome."""

import numpy as np
import pytest

from findlr import Curve, Stop, Verdict, find, find_lr, rules
from findlr.analysis.smoothing import bias_corrected, centred_gaussian
from findlr.testing import Quadratic
from tests.torch.training import Training, cnn

DECADES = np.linspace(-6, 1, 141)


def falling(centre=-3.0, noise=0.0, seed=0):
    """A loss that falls from 2 to 1, most steeply at ``centre``, and explodes above a rate of 1."""
    loss = 2 - 1 / (1 + np.exp(-4 * (DECADES - centre))) + 10.0 ** (4 * (DECADES - 1))
    return loss + noise * np.random.default_rng(seed).normal(size=len(DECADES))


# All of them


def test_a_loss_that_is_negative_from_the_first_batch_on_is_swept_to_the_end():
    training = Training()
    outputs = []

    def gain(model, batch):  # as in a Wasserstein critic, or reinforcement learning
        outputs.append(-model(batch[0]).softmax(1).gather(1, batch[1][:, None]).mean())
        return outputs[-1]

    finding = find_lr(training.model, training.optimizer, loader=training.loader, loss_fn=gain, max_lr=1e-2)
    assert max(finding.curve.loss) < 0
    assert finding.stop is Stop.FINISHED


def test_the_steepest_point_does_not_lag():
    def steepest(loss):
        return DECADES[np.argmin(np.gradient(loss))]

    loss = falling(-2.96)
    assert steepest(bias_corrected(loss, 0.9)) > -2.7
    assert steepest(centred_gaussian(loss, 5.0)) == pytest.approx(-2.96, abs=0.05)


# Lightning


@pytest.mark.parametrize("noise", [0.02, 0.05])
def test_noise_does_not_move_the_suggestion_by_decades(noise):
    lrs = 10.0**DECADES
    bare = rules.quick(Curve(lrs, falling())).lr
    suggestions = [rules.quick(Curve(lrs, falling(noise=noise, seed=seed))).lr for seed in range(30)]
    moved = np.abs(np.log10(suggestions) - np.log10(bare))
    assert np.median(moved) < 0.15
    assert max(moved) < 0.7


def test_a_training_under_way_does_not_diverge_at_its_first_batch():
    training = Training().train(60)
    finding, _ = training.find(max_lr=1e-4, num_steps=100)
    assert finding.stop is Stop.FINISHED


def test_the_first_smoothed_loss_is_the_first_loss():
    curve = Curve([0.1, 0.2], [3.0, 1.0])
    assert curve.smoothed().loss[0] == 3.0


def test_nothing_is_evaluated_unless_that_is_asked_for():
    training, modes = Training(cnn), []
    with training.model.register_forward_pre_hook(lambda model, _: modes.append(model.training)):
        training.find()
    assert len(modes) == 12
    assert all(modes)


# fastai


def test_valleys_fault_on_a_sawtooth_is_not_the_default_rules():
    lrs, smooth = 10.0**DECADES, falling()
    teeth = smooth + 0.02 * (np.arange(len(smooth)) % 2)
    valley, ours = (
        abs(np.log10(rule(Curve(lrs, teeth)).lr / rule(Curve(lrs, smooth)).lr)) for rule in (rules.valley, rules.quick)
    )
    assert ours < 0.1
    assert ours < valley


class Breaking(Quadratic):
    """Its loss becomes ``bad`` at the ``at``-th step."""

    taken, at, bad = 0, 0, 0.0

    def step(self, lr):
        loss = super().step(lr)
        self.taken += 1
        return self.bad if self.taken > self.at else loss


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), 1e9])
@pytest.mark.parametrize("at", range(15))
def test_a_sweep_that_breaks_early_is_a_verdict(at, bad):
    training = Breaking()
    training.at, training.bad = at, bad
    finding = find(training, smoothing=0.5)
    assert finding.suggestion is None
    assert finding.verdict in (Verdict.NOT_FINITE, Verdict.TOO_SHORT, Verdict.FLAT)
    assert finding.why
    assert len(finding.curve) <= at + 1 or (at == 0 and bad == 1e9)
