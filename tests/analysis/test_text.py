"""How numbers and strangers' texts are written."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from findlr.analysis.text import duration, interval_text, printable, rate_text, told


@given(st.floats(1e-12, 99))
def test_a_rate_is_written_as_people_write_it_with_two_digits(lr):
    assert rate_text(lr) == f"{lr:.2g}"


@pytest.mark.parametrize(
    ("lr", "text"),
    [(0.29871, "0.3"), (0.00047, "0.00047"), (4.7e-5, "4.7e-05"), (10.0, "10"), (123.0, "120"), (1e7, "1e+07")],
)
def test_a_rate_reads_like_this(lr, text):
    assert rate_text(lr) == text


def test_an_interval_has_the_format_of_its_rates():
    assert interval_text((0.1571, 4.71e-5)) == "0.16 to 4.7e-05"


@given(st.text())
def test_a_strangers_text_is_one_printable_line(text):
    assert printable(text).isprintable()
    assert len(printable(text, 20)) <= 20


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("on\nfire\r\n", "on fire"),
        ("\x1b[1;31mred\x1b[0m", "red"),
        ("\x1b]0;owned\x07title", "title"),
        ("\x1b]8;;http://x\x1b\\link", "link"),
        ("a\0b\u202ec\ud800", "a?b?c?"),
        ("x" * 30, "x" * 17 + "..."),
    ],
)
def test_what_a_terminal_obeys_is_left_out(text, line):
    assert printable(text, 20) == line


def test_a_time_of_any_length_is_short():
    assert [duration(seconds) for seconds in (0.0, 99.0, 100.0, 7500.0, 1e300)] == [
        *("0 s", "99 s", "1 min 40 s", "2 h 5 min", "1e+300 s")
    ]


class Unprintable(Exception):
    def __str__(self):
        raise RuntimeError

    __repr__ = __str__


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (ValueError("a\n  b"), "ValueError: a b"),
        (AssertionError(), "AssertionError"),
        (ValueError("x" * 10_000), f"ValueError: {'x' * 197}..."),
        (Unprintable(), "Unprintable: (its message cannot be read)"),
    ],
)
def test_an_exception_in_a_line(error, line):
    assert told(error) == line
