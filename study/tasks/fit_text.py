"""Families over words and sequences; the second report half until 2026-11-27."""

from __future__ import annotations

from functools import partial

from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - its usual name

from study.tasks import data, data_of_kinds, grammar
from study.tasks.models import mlp
from study.tasks.models_of_kinds import Forecaster, Listener, WordRecurrent, WordTransformer, low_rank
from study.tasks.pretrained import pretrained, with_weights
from study.tasks.task import Task, sequence_cross_entropy

_cross_entropy = nn.functional.cross_entropy


def _of_each_sentence(outputs: Tensor, targets: Tensor) -> Tensor:
    """Cross entropy, summed over the words and averaged over the windows."""
    return F.cross_entropy(outputs.flatten(0, 1), targets.flatten(), reduction="sum") / len(targets)


def _spoken(outputs: Tensor, targets: Tensor, reduction: str = "mean") -> Tensor:
    """Connectionist temporal classification (Graves et al. 2006)."""
    batch, frames, _symbols = outputs.shape
    told, long = [frames] * batch, (targets > 0).sum(1)
    return F.ctc_loss(outputs.transpose(0, 1), targets, told, long.tolist(), reduction=reduction)


def _trained_words() -> nn.Module:
    """A recurrent model in the middle of its training, to go on with other text of the same kind."""
    build = partial(WordRecurrent, 64)
    weights = pretrained("grammar-recurrent", build, grammar.next_words, sequence_cross_entropy,
                         steps=800, lr=4e-3, decay=False)  # fmt: skip
    return with_weights(build(), weights)


def _adapted_words() -> nn.Module:
    """A transformer that knows one dialect, frozen, with low-rank layers for another."""
    weights = pretrained("grammar-transformer", WordTransformer, grammar.next_words, sequence_cross_entropy,
                         steps=2500, lr=3e-3)  # fmt: skip
    return low_rank(with_weights(WordTransformer(), weights), 4)


def _adapted_digits() -> nn.Module:
    """A network that knows digits, frozen, with low-rank layers for mirrored ones."""
    build = partial(mlp, (64, 96, 96, 10))
    weights = pretrained("digits-to-adapt", build, data.digits, _cross_entropy, steps=2500, lr=2e-3)
    return low_rank(with_weights(build(), weights), 4)


def _reader() -> nn.Module:
    """A transformer trained on masked words, with a fresh head for topics."""
    weights = pretrained("grammar-masked", partial(WordTransformer, causal=False), grammar.masked_words,
                         sequence_cross_entropy, steps=2500, lr=2e-3)  # fmt: skip
    model = WordTransformer(causal=False, classes=grammar.TOPICS)
    model.load_state_dict(weights, strict=False)
    return model


GRAMMAR = (
    Task("grammar-recurrent", "grammar", grammar.next_words, partial(WordRecurrent, 64), sequence_cross_entropy,
         "SGD", "linear", 500, 20),
    Task("grammar-recurrent-summed", "grammar", grammar.next_words, partial(WordRecurrent, 48), _of_each_sentence,
         "Adam", "constant", 400, 20),
    Task("grammar-transformer", "grammar", grammar.next_words, WordTransformer, sequence_cross_entropy,
         "AdamW", "wsd", 400, 16),
    Task("grammar-transformer-muon", "grammar", grammar.next_words, WordTransformer, sequence_cross_entropy,
         "Muon+AdamW", "wsd", 300, 16),
    Task("grammar-transformer-lion", "grammar", grammar.next_words, partial(WordTransformer, 32, 1),
         sequence_cross_entropy, "Lion", "cosine", 500, 16),
    Task("grammar-resumed", "grammar", partial(grammar.next_words, seed=182), _trained_words, sequence_cross_entropy,
         "Adam", "cosine", 300, 20),
)  # fmt: skip

MASKED = (
    Task("masked-words", "masked", grammar.masked_words, partial(WordTransformer, causal=False),
         sequence_cross_entropy, "AdamW", "one_cycle", 500, 32),
    Task("masked-words-adafactor", "masked", grammar.masked_words, partial(WordTransformer, 32, 2, causal=False),
         sequence_cross_entropy, "Adafactor", "constant", 400, 32),
    Task("masked-tuned", "masked", grammar.topics, _reader, _cross_entropy, "AdamW", "linear", 300, 16),
)  # fmt: skip

LOW_RANK = (
    Task("low_rank-words", "low_rank", partial(grammar.next_words, count=1500, seed=182, dialect=1), _adapted_words,
         sequence_cross_entropy, "AdamW", "linear", 400, 16),
    Task("low_rank-digits", "low_rank", data_of_kinds.turned_digits, _adapted_digits, _cross_entropy,
         "Adam", "constant", 1500, 24),
)  # fmt: skip

CTC = (
    Task("ctc-recurrent", "ctc", data_of_kinds.utterances, partial(Listener, 24, 8, recurrent=True), _spoken,
         "Adam", "one_cycle", 400, 32),
    Task("ctc-convolutions", "ctc", data_of_kinds.utterances, partial(Listener, 24, 8, recurrent=False),
         partial(_spoken, reduction="sum"), "SGD+momentum", "constant", 700, 16),
)  # fmt: skip

FORECAST = (
    Task("forecast-convolutions", "forecast", data_of_kinds.series, partial(Forecaster, 16, 8), nn.functional.mse_loss,
         "Adam", "cosine", 700, 64),
    Task("forecast-dense", "forecast", data_of_kinds.series, partial(mlp, (32, 64, 64, 8)), nn.functional.mse_loss,
         "SGD+momentum", "wsd", 3000, 32),
    Task("forecast-lion", "forecast", data_of_kinds.series, partial(mlp, (32, 64, 64, 8), activation=nn.GELU),
         nn.functional.l1_loss, "Lion", "constant", 2000, 64),
)  # fmt: skip

TASKS = GRAMMAR + MASKED + LOW_RANK + CTC + FORECAST
