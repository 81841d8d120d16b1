"""Whether a learned model would read more off a sweep than the default rule does: families left out.

    python -m study.record --name variate   # the sweeps, once
    python -m study.learned

Each model sees what the rule sees (what the dip says, what is usual, the dip's noise, the plan) and what it does not
see (the batch size; how deep the loss falls and how much batches differ, as shares of the loss), and learns how far the
best rate of the grid lies from the rule's answer. The rule's own constants are fitted with families left out, too.
"""

from __future__ import annotations

import argparse
import math
from typing import Any

import numpy as np
from sklearn.ensemble import GradientBoostingRegressor, RandomForestRegressor
from sklearn.linear_model import HuberRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from findlr.analysis import usual
from findlr.analysis.belief import Belief
from findlr.analysis.dip import reading_of
from study import tasks
from study.fit_rule import HEADER, Array, Case, Sample, cases

MODELS: dict[str, Any] = {
    "a linear model": lambda: make_pipeline(StandardScaler(), HuberRegressor(alpha=1.0, max_iter=1000)),
    "a random forest": lambda: RandomForestRegressor(300, min_samples_leaf=6, random_state=0),
    "boosted trees": lambda: GradientBoostingRegressor(
        loss="huber", n_estimators=150, learning_rate=0.05, subsample=0.7, random_state=0
    ),
}


def features(case: Case, found: Belief | None) -> list[float]:
    """What a model sees of one sweep and its plan; 0 where there is none."""
    plan, curve = case.plan, case.curve
    if found is None or found.dip is None or found.usual is None:
        return [0.0] * 14
    reading = reading_of(curve)
    scale = max(abs(reading.start), 1e-9)
    dip, known = math.log10(found.dip), math.log10(found.usual)
    return [
        dip,
        known,
        dip - known,
        found.doubts["noise"],
        math.log10(plan.parameters or 1e4),
        math.log10(plan.epochs or 10.0),
        math.log10(plan.total_steps or 1000),
        math.log10(tasks.task(case.truth.name).batch_size),
        plan.pretrained or 0.0,
        math.log10(float(reading.fall.max()) / scale + 1e-6),
        math.log10(curve.spread() / scale + 1e-6),
        usual.delay(plan),
        usual.planned(plan),
        float(plan.optimizer in usual._OF_THE_LOSS),
    ]


def corrected(sample: Sample, seen: Array, ruled: Array, model: Any) -> Array:
    """The rule's answers, each moved by what a model has learned from the other families."""
    moved = ruled.copy()
    for family in dict.fromkeys(sample.family):
        mine = sample.family == family
        fitted = model().fit(seen[~mine], (sample.best - ruled)[~mine])
        moved[mine] += fitted.predict(seen[mine])
    return moved


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description="Learned models beside the default rule.")
    parser.add_argument("--name", default="variate", help="the recorded sweeps, with the control variate")
    sample = Sample(cases(parser.parse_args().name, "fit", baseline=True))
    found = sample.left_out()
    ruled = sample.places(found)
    seen = np.array([features(case, one) for case, one in zip(sample.cases, found, strict=True)])
    print(HEADER)
    print(sample.row("the rule", ruled))
    for title, model in MODELS.items():
        print(sample.row(title, corrected(sample, seen, ruled, model)))


if __name__ == "__main__":
    main()
