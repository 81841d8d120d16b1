"""Presses Ctrl-C, a real one, at chosen places of a call: where CPython looks for signals, it may come.

CPython looks at the entry of each function, after each call of a function in C, and as a loop goes round. The places
are the entries of functions of findlr's, contextlib's and of torch's modes, and the lines of findlr's own.
"""

import contextlib
import dis
import linecache
import os
import signal
import sys
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import findlr
from findlr import RangeTest

EVERY = os.environ.get("FINDLR_PLACES") == "all"
"""Press at every place, however often it is passed; else at some, drawn from a seed or spread evenly."""

SOURCE = str(Path(findlr.__file__).parent)
OTHERS = frozenset(
    (contextlib.__file__, *(find_spec(f"torch.{name}").origin for name in (
        "autograd.grad_mode", "amp.autocast_mode", "_dynamo.decorators", "_dynamo.eval_frame")))
)  # fmt: skip


@cache
def ends_a_with(code, at):
    """Whether a ``with`` is about to call ``__exit__``: no signal is looked for there, before that function's entry."""
    if code.co_code[at] == dis.opmap.get("SWAP"):  # with what the block returns
        at += 2
    following = code.co_code[at : at + 6]
    return following == bytes([dis.opmap["LOAD_CONST"], following[1]]) * 3 and code.co_consts[following[1]] is None


class Interrupter:
    """Presses at the ``first``-th place of a call; and again, ``second`` places later.

    With no ``first`` it presses nowhere, and only writes down the places.
    """

    def __init__(self, first=None, second=None):
        self.first, self.second = first, second
        self.places, self.passed, self.pressed = [], 0, []

    def call(self, function):
        """Call ``function``; return what it gives, or the KeyboardInterrupt that ends it."""
        usual = sys.gettrace()
        sys.setprofile(self.again if self.second is not None else None)
        sys.settrace(self.enters)
        try:
            return function()
        except KeyboardInterrupt as error:
            return error
        finally:
            sys.settrace(usual)
            sys.setprofile(None)

    def enters(self, frame, event, arg):
        """Called at the entry of each function."""
        file = frame.f_code.co_filename
        if frame.f_code is RangeTest.finding.fget.__code__:  # which is asked for once all is over
            return None
        if file.startswith(SOURCE):
            if frame.f_code.co_name != "<genexpr>":  # its end looks like an entry, and is none
                self.at(frame, "entry")
            return None if frame.f_code.co_name == "<listcomp>" else self.goes_on  # of each object there is, say
        if file in OTHERS:
            self.at(frame, "entry")
        return None

    def goes_on(self, frame, event, arg):
        """Called at each line of findlr's, because a function in C may have been called on the one before."""
        if event == "line" and not ends_a_with(frame.f_code, frame.f_lasti):
            self.at(frame, "line")
        return self.goes_on

    def at(self, frame, kind):
        """Count a place, and press if it is the one."""
        if self.first is None:
            self.places.append((frame.f_code.co_filename, frame.f_lineno, kind))
            return
        if self.passed == self.first:
            self.passed += 1
            sys.settrace(None)
            self.press(frame, kind)
        self.passed += 1

    def again(self, frame, event, arg):
        """Called at entries, and after each call in C, because an exception in a trace function ends the trace."""
        if not self.pressed or event not in ("call", "c_return"):
            return
        file = frame.f_code.co_filename
        if (file.startswith(SOURCE) or file in OTHERS) and frame.f_code.co_name != "<genexpr>":
            if self.second == 0:
                sys.setprofile(None)
                self.press(frame, event)
            self.second -= 1

    def press(self, frame, kind):
        """Ctrl-C."""
        file, line = frame.f_code.co_filename, frame.f_lineno
        self.pressed.append(f"{Path(file).name}:{line} {kind}: {linecache.getline(file, line).strip()}")
        signal.raise_signal(signal.SIGINT)
