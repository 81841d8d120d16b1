"""Searches of several threads: none waits for ever, and none that could go on is refused."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor, as_completed
from concurrent.futures import wait as wait_for
from multiprocessing.pool import ThreadPool

import pytest

from findlr import ConfigurationError, find
from findlr.testing import Quadratic


class Calls(Quadratic):
    """Does something else in its fifth step."""

    def __init__(self, action):
        super().__init__()
        self.action, self.steps = action, 0

    def step(self, lr):
        self.steps += 1
        if self.steps == 5:
            self.action()
        return super().step(lr)


def joined(work):
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()


def in_an_executor(take):
    def wait(work):
        with ThreadPoolExecutor(2) as pool:
            take(pool, work)

    return wait


def in_a_pool(take):
    def wait(work):
        with ThreadPool(2) as pool:
            take(pool, work)

    return wait


WAITS = {
    "join": joined,
    "a thread that joins another": lambda work: joined(lambda: joined(work)),
    "result": in_an_executor(lambda pool, work: pool.submit(work).result()),
    "exception": in_an_executor(lambda pool, work: pool.submit(work).exception()),
    "shutdown": in_an_executor(lambda pool, work: pool.submit(work)),
    "map": in_an_executor(lambda pool, work: list(pool.map(lambda _: work(), range(3)))),
    "wait": in_an_executor(lambda pool, work: wait_for([pool.submit(work)])),
    "as_completed": in_an_executor(lambda pool, work: [each.result() for each in as_completed([pool.submit(work)])]),
    "a pool's apply": in_a_pool(lambda pool, work: pool.apply(work)),
    "a pool's map": in_a_pool(lambda pool, work: pool.map(lambda _: work(), range(3))),
    "a pool's imap": in_a_pool(lambda pool, work: list(pool.imap(lambda _: work(), range(3)))),
}


@pytest.mark.parametrize("how", WAITS)
def test_a_search_that_a_step_of_another_thread_waits_for_is_refused(how):
    said, untold = [], find(Quadratic())

    def work():
        try:
            said.append(find(Quadratic()))
        except ConfigurationError as error:
            said.append(error)

    training = Calls(lambda: WAITS[how](work))
    before = time.monotonic()
    assert find(training) == untold
    assert time.monotonic() - before < 10
    assert said
    assert all("so neither could go on: call it where that waits" in str(each) for each in said)
    assert find(Quadratic()) == untold


def test_the_refusal_reaches_a_step_that_asks_for_the_result():
    def step():
        with ThreadPoolExecutor(1) as pool:
            pool.submit(find, Quadratic()).result()

    training = Calls(step)
    before = training.snapshot()
    with pytest.raises(ConfigurationError, match="so neither could go on") as caught:
        find(training)
    assert training.snapshot() == before
    assert len(caught.value.finding.curve) == 4


def other(work, seconds=0.5):
    """A step that waits for a thread of its own for so long, while another search waits."""
    thread = threading.Thread(target=work)
    helper = threading.Thread(target=lambda: time.sleep(seconds))

    def step():
        thread.start()
        helper.start()
        helper.join()

    return thread, step


def limited(work):
    thread = threading.Thread(target=work)

    def step():
        thread.start()
        thread.join(timeout=0.5)

    return thread, step


def elsewhere(work):
    """The step waits for a pool's task, which is not the search."""
    thread = threading.Thread(target=work)

    def step():
        thread.start()
        with ThreadPoolExecutor(1) as pool:
            pool.submit(time.sleep, 0.5).result()

    return thread, step


@pytest.mark.parametrize("make", [other, limited, elsewhere])
def test_a_search_that_only_waits_its_turn_gets_it(make):
    found = []
    thread, step = make(lambda: found.append(find(Quadratic())))
    first = find(Calls(step))
    thread.join()
    assert found == [first]
