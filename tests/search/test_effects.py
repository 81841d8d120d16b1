"""What a call changes in functions, containers and objects is undone after it, and nothing else is touched."""

from collections import OrderedDict, defaultdict, deque
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest

from findlr.search.effects import Effects
from findlr.search.kept import AttributesOf

counted = 0


class Slotted:
    __slots__ = ("count",)

    def __init__(self):
        self.count = 0


class Half(Slotted):
    """Has a dict, too."""


def raised_count():
    global counted  # noqa: PLW0603 - which is what is undone
    counted += 1


def dropped_count():
    global counted  # noqa: PLW0603
    del counted


def closed_over(count=0):
    def of_closure():
        nonlocal count
        count += 1
        return count

    return of_closure


mine, inner = ModuleType("mine"), ModuleType("mine.inner")
mine.inner, mine.calls, inner.calls = inner, 0, 0


def of_module():
    mine.calls += 1


def of_inner_module():
    mine.inner.calls += 1


def of_attribute():
    of_attribute.calls = getattr(of_attribute, "calls", 0) + 1


class Plain:
    def __init__(self):
        self.count = 0


def attributes(holder):
    return dict(vars(holder))


class Counts:
    total = 0


def of_class():
    Counts.total += 1


def half():
    made = Half()
    made.other = 0
    return made


def replaced(holder):
    holder.__dict__ = {"count": 5}


CASES = {  # what is given, what changes it, and what it has
    "an attribute": (lambda: SimpleNamespace(count=0), lambda x: setattr(x, "count", 1), attributes),
    "a new attribute": (lambda: SimpleNamespace(count=0), lambda x: setattr(x, "more", None), attributes),
    "one that goes": (lambda: SimpleNamespace(a=1, b=2), lambda x: delattr(x, "a"), attributes),
    "all attributes": (Plain, replaced, attributes),
    "a slot": (Slotted, lambda x: setattr(x, "count", 1), lambda x: x.count),
    "a slot beside a dict": (half, lambda x: setattr(x, "count", 1), lambda x: (x.count, x.other)),
    "a dict beside a slot": (half, lambda x: setattr(x, "other", 1), lambda x: (x.count, x.other)),
    "a list": (lambda: [1.5, None], lambda x: x.append(2), list),
    "a list's order": (lambda: [3, 1, 2], list.sort, list),
    "an empty list in another's place": (lambda: {"log": []}, lambda x: x.update(log=[]), lambda x: id(x["log"])),
    "a deque": (lambda: deque([1, 2], maxlen=2), lambda x: x.append(3), list),
    "a set": (lambda: {1, 2}, lambda x: x.add(3), set),
    "bytes": (lambda: bytearray(b"ab"), lambda x: x.extend(b"c"), bytes),
    "a dict": (lambda: {"a": 0}, lambda x: x.update(a=1, b=2), dict),
    "a dict's order": (lambda: OrderedDict(a=1, b=2), lambda x: x.move_to_end("a"), lambda x: list(x.items())),
    "what is missing": (lambda: defaultdict(int), lambda x: x["new"], dict),
    "an array's name": (lambda: {"a": np.zeros(2)}, lambda x: x.update(a=np.ones(2)), lambda x: x["a"].tolist()),
    "a global": (lambda: raised_count, lambda x: x(), lambda _: counted),
    "a global that goes": (lambda: dropped_count, lambda x: x(), lambda _: globals().get("counted")),
    "a closure": (closed_over, lambda x: x(), lambda x: x.__closure__[0].cell_contents),
    "a module": (lambda: of_module, lambda x: x(), lambda _: mine.calls),
    "a module in a module": (lambda: of_inner_module, lambda x: x(), lambda _: inner.calls),
    "a function's attribute": (lambda: AttributesOf(of_attribute), lambda _: of_attribute(), attributes),
    "a class": (lambda: Counts, lambda _: of_class(), lambda x: x.total),
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("error", [None, ValueError, KeyboardInterrupt])
def test_what_a_call_changes_is_undone(case, error):
    make, change, content = CASES[case]
    given, other = make(), make()
    before, effects = content(given), Effects([other, given])
    seen = []

    def measure():
        change(given)
        seen.append(content(given))
        if error is not None:
            raise error
        return 7

    for _ in range(2):
        if error is None:
            assert effects.undone(measure) == 7
        else:
            with pytest.raises(error):
                effects.undone(measure)
        assert content(given) == before
    assert seen[0] != before


def test_what_changes_between_two_calls_stays():
    counts, log = SimpleNamespace(calls=0), []
    effects = Effects([counts, log])
    for calls in (1, 2):
        counts.calls = calls
        log.append(calls)
        effects.undone(lambda: (setattr(counts, "calls", 9), log.clear()))
        assert (counts.calls, log) == (calls, [1, 2][:calls])


def test_a_name_that_stood_for_nothing_stays():
    last: int

    def loss_fn():
        nonlocal last
        last = 1

    Effects([loss_fn]).undone(loss_fn)
    assert last == 1
