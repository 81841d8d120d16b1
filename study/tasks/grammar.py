"""Text of an invented grammar, word by word, for the report half."""

from __future__ import annotations

from functools import cache

import numpy as np
import torch

from study.tasks.task import Data

_SIZES = {"other": 5, "preposition": 8, "adverb": 20, "adjective": 80, "noun": 120, "verb": 60}
_STARTS = dict(zip(_SIZES, np.cumsum([0, *_SIZES.values()]).tolist(), strict=False))
_PLURAL = sum(_SIZES.values())  # the plural of a noun or verb is so many words further on
STOP, THE, SOME, THAT, MASK = range(5)
WORDS = _PLURAL + sum(_SIZES.values())
TOPICS = 6


class _Writer:
    """Sentences with topics, agreement in number over a distance, and Zipf's law."""

    def __init__(self, seed: int, dialect: int) -> None:
        self.rng = np.random.default_rng(seed)
        wording = np.random.default_rng(179 + dialect)
        self.chances = {
            (kind, topic): (wording.permutation(1 / (2.0 + np.arange(size)) ** 1.2)).cumsum()
            for kind, size in _SIZES.items()
            for topic in range(TOPICS)
        }
        self.topic = 0

    def word(self, kind: str, plural: bool = False) -> int:
        """A word of that kind, as the topic has it."""
        sums = self.chances[kind, self.topic]
        return _STARTS[kind] + int(np.searchsorted(sums, self.rng.random() * sums[-1])) + _PLURAL * plural

    def noun_phrase(self, plural: bool) -> list[int]:
        """An article, perhaps an adjective, and a noun."""
        adjective = [self.word("adjective")] if self.rng.random() < 0.4 else []
        return [SOME if plural else THE, *adjective, self.word("noun", plural)]

    def verb_phrase(self, plural: bool) -> list[int]:
        """A verb, perhaps with an object and an adverb."""
        words = [self.word("verb", plural)]
        if self.rng.random() < 0.7:
            words += self.noun_phrase(self.rng.random() < 0.4)
        if self.rng.random() < 0.2:
            words.append(self.word("adverb"))
        return words

    def sentence(self) -> list[int]:
        """One sentence; the topic changes now and then."""
        if self.rng.random() < 0.2:
            self.topic = int(self.rng.integers(TOPICS))
        plural = bool(self.rng.random() < 0.4)
        words = self.noun_phrase(plural)
        if self.rng.random() < 0.2:
            words += [THAT, *self.verb_phrase(plural)]
        words += self.verb_phrase(plural)
        if self.rng.random() < 0.3:
            words += [self.word("preposition"), *self.noun_phrase(self.rng.random() < 0.4)]
        return [*words, STOP]


@cache
def text(seed: int = 181, sentences: int = 12_000, dialect: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """The words of so many sentences, and the topic of each."""
    writer = _Writer(seed, dialect)
    words: list[int] = []
    topics: list[int] = []
    for _ in range(sentences):
        sentence = writer.sentence()
        words += sentence
        topics += [writer.topic] * len(sentence)
    return np.array(words), np.array(topics)


@cache
def next_words(length: int = 16, count: int = 6000, seed: int = 181, dialect: int = 0) -> Data:
    """Windows of words, to predict word by word; the held-out ones are of the last tenth."""
    words, _topics = text(seed, dialect=dialect)
    rng = np.random.default_rng(191)
    border = len(words) * 9 // 10
    train = rng.integers(0, border - length - 1, count)
    held = rng.integers(border, len(words) - length - 1, 300)
    x, y = (torch.tensor(words[s[:, None] + np.arange(length + 1)]) for s in (train, held))
    return Data(x[:, :-1], x[:, 1:], y[:, :-1], y[:, 1:])


@cache
def masked_words(length: int = 16, count: int = 6000) -> Data:
    """Windows with a fifth of the words masked, to be told; the others are not scored."""
    whole = next_words(length, count)
    generator = torch.Generator().manual_seed(193)
    parts = []
    for x in (whole.inputs, whole.validation_inputs):
        hidden = torch.rand(x.shape, generator=generator) < 0.2
        hidden[:, 0] = True
        parts += [torch.where(hidden, MASK, x), torch.where(hidden, x, -100)]
    return Data(*parts)


@cache
def topics(length: int = 16, count: int = 600) -> Data:
    """Few windows of words, to tell the topic of the middle one."""
    words, of_topic = text()
    starts = np.random.default_rng(197).integers(0, len(words) - length, count + 600)
    x = torch.tensor(words[starts[:, None] + np.arange(length)])
    y = torch.tensor(of_topic[starts + length // 2])
    return Data(x[:count], y[:count], x[count:], y[count:])
