"""A picture of a long line keeps its peaks."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from findlr.views.thinning import extremes

heights = st.lists(st.floats(width=32) | st.sampled_from([0.0, float("nan")]), max_size=200)


@given(heights, st.integers(1, 20))
def test_the_peaks_of_each_stretch_and_the_ends_are_kept(values, stretches):
    line = np.array(values, dtype=float)
    kept = extremes(line, stretches)
    assert len(kept) <= 2 * stretches + 2
    assert (np.diff(kept) > 0).all()
    if len(line):
        assert (kept[0], kept[-1]) == (0, len(line) - 1)
    width = -(-len(line) // stretches)
    for first in range(0, len(line), max(width, 1)):
        stretch = line[first : first + width]
        there = stretch[np.isfinite(stretch)]
        if len(there):
            assert {there.min(), there.max()} <= set(line[kept[(kept >= first) & (kept < first + width)]])
