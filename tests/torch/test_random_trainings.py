"""Random models, optimizers, loops and faults: all is put back, and training goes on the same.

``FINDLR_EXAMPLES=5000`` draws more of them.
"""

import os

from hypothesis import HealthCheck, given, settings

from findlr import Stop
from tests.strategies import ERRORS, drawn
from tests.torch.training import check

EXAMPLES = int(os.environ.get("FINDLR_EXAMPLES", "300"))


@settings(
    max_examples=EXAMPLES,
    derandomize=True,
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.too_slow],
)
@given(drawn())
def test_any_training_and_any_fault(one):
    finding, error = check(one.build, one.before, 4, lambda training: training.find(**one.settings()))
    assert finding.stop is not None
    if error is not None:
        assert type(error) is ERRORS[one.fault[1]]
        assert finding.stop is Stop.INTERRUPTED
        assert any("put back" in note for note in error.__notes__)
