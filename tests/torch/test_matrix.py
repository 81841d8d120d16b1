"""Every way to train x every exit x every place for the snapshot: all is put back, and training goes on the same."""

from functools import partial

import pytest
import torch
from torch import nn

from findlr import Stop
from tests.torch.training import (
    DIVERGING,
    OPTIMIZERS,
    SWEEP,
    Bomb,
    Gan,
    OwnLoop,
    Training,
    check,
    cnn,
    copied,
    differing,
    ema,
    scheduler,
)


def compiled():
    torch.compiler.reset()
    return torch.compile(
        nn.Sequential(nn.Linear(16, 8), nn.BatchNorm1d(8), nn.Tanh(), nn.Linear(8, 4)), backend="eager"
    )


KINDS = {
    "plain": partial(Training, cnn),
    "bf16": partial(Training, cnn, autocast=torch.bfloat16),
    "fp16-scaler": partial(Training, cnn, autocast=torch.float16, scaled=True),
    "accumulation": partial(Training, cnn, accumulation=4),
    "clip": partial(Training, cnn, clip=0.1),
    "compiled": partial(Training, compiled),
    "scheduler": partial(Training, cnn, extra=scheduler),
    "ema": partial(Training, cnn, extra=ema),
    "gan": Gan,
    "own-loop": partial(OwnLoop, cnn),
    "own-loop-fp16-scaler": partial(OwnLoop, cnn, autocast=torch.float16, scaled=True),
    "mid-training": partial(Training, cnn, OPTIMIZERS["adam"]),
}
EXITS = {
    "finish": (SWEEP, Bomb),
    "diverge": (DIVERGING, Bomb),
    "raise": (SWEEP, partial(Bomb, "criterion", 5)),
    "interrupt": (SWEEP, partial(Bomb, "optimizer", 5, KeyboardInterrupt)),
}


@pytest.mark.parametrize("snapshot", ["device", "cpu", "disk"])
@pytest.mark.parametrize("leave", EXITS)
@pytest.mark.parametrize("kind", KINDS)
def test_every_training_with_every_exit_and_snapshot(kind, leave, snapshot):
    settings, bomb = EXITS[leave]
    before = 4 if kind == "mid-training" else 1  # an epoch is open, either way
    finding, error = check(
        partial(KINDS[kind], bomb=bomb), before, call=lambda training: training.find(**settings, snapshot=snapshot)
    )
    expected = {"finish": {Stop.FINISHED}, "diverge": {Stop.DIVERGED, Stop.NOT_FINITE}}
    assert finding.stop in expected.get(leave, {Stop.INTERRUPTED})
    assert type(error) is {"raise": RuntimeError, "interrupt": KeyboardInterrupt}.get(leave, type(None))
    if leave == "finish":
        assert len(finding.curve) == SWEEP["num_steps"]


@pytest.mark.parametrize("kind", KINDS)
def test_a_call_before_every_step_of_a_training(kind):
    without, called = KINDS[kind]().train(13), KINDS[kind]()
    findings = []
    for _ in range(13):
        findings.append(called.find()[0])
        called.train(1)
    assert differing(without.seen, called.seen) == []
    assert differing(copied(without.things()), copied(called.things())) == []
    assert all(len(finding.curve) > 5 for finding in findings)
    assert findings[0].curve != findings[-1].curve  # each looks at the training as it is
