"""Trained networks that tasks of several families begin with."""

from __future__ import annotations

from functools import partial

from torch import nn

from study.tasks import data, text
from study.tasks.models import Transformer, conv1d
from study.tasks.pretrained import pretrained, with_weights
from study.tasks.task import sequence_cross_entropy

_letters = len(text.ALPHABET)


def signals() -> nn.Module:
    """A network for signals, to be tuned on rougher ones."""
    build, plenty = partial(conv1d, 16), partial(data.mnist1d, 20_000)
    weights = pretrained("signals", build, plenty, nn.functional.cross_entropy, steps=3000, lr=3e-3)
    return with_weights(build(), weights)


def fresh_text() -> nn.Module:
    """A small transformer over characters, untrained."""
    return Transformer(_letters, _letters, 24)


def invented_text() -> nn.Module:
    """The same as a model of an invented language, to be tuned on a dialect or on program text."""
    weights = pretrained("text", fresh_text, text.invented_text, sequence_cross_entropy, steps=2500, lr=5e-3)
    return with_weights(fresh_text(), weights)
