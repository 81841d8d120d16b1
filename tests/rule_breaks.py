"""Every term of the default rule, and the breaks that prove it tested: ``make prove`` takes them in turn.

A break is one replacement in the source, and the test that it turns red.
"""

from tests.restored import Break

DIP, USUAL, BELIEF, ANSWER, CURVE = (f"analysis/{name}.py" for name in ("dip", "usual", "belief", "answer", "curve"))
FORMULA = "test_the_centre_is_what_the_formula_says_point_by_point"
NO_DIP = "test_what_has_no_dip_is_an_error_that_says_so"
TWO = "test_of_two_dips_the_first_that_goes_deep_is_taken_and_alone"
UNIT = "test_the_losses_unit_and_level_change_nothing"
LEFT_OUT = "test_the_point_that_diverged_or_is_not_finite_is_left_out"
EVEN = "test_a_dip_that_is_swept_with_linear_spacing_has_the_same_centre"
EXPLOSION = "test_an_explosion_hardly_moves_the_centre_and_its_height_not_at_all"
BATCHES = "test_the_baseline_takes_out_how_batches_differ"
WILD = "test_one_wild_batch_moves_nothing"
START = "test_without_a_baseline_low_losses_among_the_first_tenth_are_the_start_and_no_dip"
NOISE = "test_the_noise_is_what_the_fall_lacks_beside_how_batches_differ"
DENSITY = "test_the_density_is_how_many_points_a_decade_has_beside_eleven"
EDGE = "test_the_density_of_a_dip_at_the_edge_is_that_of_the_part_that_was_swept"
LOCAL = "test_the_density_is_that_around_the_dip"
DELAY = "test_how_late_a_momentum_shows_that_a_rate_is_too_high"
PLANNED = "test_what_the_schedule_and_the_length_ask_for"
RATE = "test_the_usual_rate"
MOVED = "test_what_is_planned_moves_it"
SCALED = "test_a_loss_that_is_scaled_scales_the_rate_of_an_sgd_and_of_no_other"
UNSCALED = "test_a_start_without_a_scale_leaves_an_sgd_without_a_usual_rate"
OPEN = "test_what_a_plan_leaves_open_counts_as_the_usual"
UNKNOWN = "test_of_no_other_optimizer_a_usual_rate_is_known"
ALONE = "test_where_nothing_is_usual_the_dip_stands_alone_less_a_level"
WEIGHED = "test_the_two_are_weighed_by_the_noise_and_by_how_far_apart_they_are"
CALM = "test_a_calm_dip_near_what_is_usual_weighs_as_much_and_more_with_some_optimizers"
MOMENTUM = "test_a_momentum_lowers_the_rate"
ALL = "test_what_is_planned_moves_all_of_it"
AGAIN = "test_a_dip_of_few_data_that_are_seen_often_is_read_lower"
OVERFITS = "test_few_data_that_are_seen_often_are_overfitted"
DENSE = "test_a_dip_of_more_steps_is_read_higher_but_an_adagrads_lower"
WITHOUT = "test_without_a_dip_it_is_what_is_usual"
NO_EDGE = "test_a_batch_that_is_not_finite_by_itself_bounds_no_rate"
DIVERGED = "test_no_answer_is_near_where_the_sweep_diverged"
SWEPT = "test_what_is_usual_leads_to_no_rate_that_was_not_swept"
INTERVAL = "test_the_interval_around_the_rate"
COST = "test_what_each_doubt_costs"
STILL = "test_a_loss_that_still_falls_speaks_for_its_dip_at_least"
BY_ITSELF = "test_a_loss_that_may_fall_by_itself_speaks_with_its_weight_alone"
LAST = "test_a_loss_that_still_falls_gives_no_rate_next_to_the_last"
NO_MORE = "test_what_is_usual_is_raised_by_nothing_else"
NOTHING = "test_where_nothing_is_usual_a_loss_that_still_falls_speaks_for_its_dip"
FROM = "test_a_race_on_a_loss_that_still_falls_starts_where_it_falls"
STARTS = "test_the_start_is_the_mean_over_all_batches_where_it_was_measured"
DOUBTED = "test_a_clear_curve_is_doubted_where_what_it_cant_show_may_cost_more"
NARROW = "test_a_curve_whose_dip_is_narrow_is_noisy_sooner"
CURVE_ALONE = "test_a_rule_that_reads_the_curve_alone_is_not_doubted"
NOT_THE_START = "first = 0 if usable.baseline is not None else len(at_start)"
MEAN = "np.full(n, at_start.mean())"
TENTH = "max(5, len(points) // 10)"
AROUND = "np.clip([place - 0.5, place + 0.5], x[0], x[-1])"
AN_EPOCH, SCALE = "max(epochs, _LEAST_EPOCHS)", "if not (start > 0 and math.isfinite(start)):"
KNOWN, OR_NOT = (
    "if plan.optimizer not in _USUAL_RATES:\n        return ",
    '-DECAY if plan.optimizer == "Adagrad" else _DENSITY',
)
ENOUGH = "if n < 3 or x[-1] <= x[0]:"

# Each row: what is broken, the test, the text, and what takes its place.
_CENTRE = [
    ("unusable points", LEFT_OUT, "usable = curve.paired()", "usable = curve"),
    ("fewest points", NO_DIP, ENOUGH, "if x[-1] <= x[0]:"),
    ("rates that do not rise", NO_DIP, ENOUGH, "if n < 3:"),
    ("start: none with a baseline", FORMULA, NOT_THE_START, "first = max(5, n // 10)"),
    ("start: the baseline", BATCHES, f"at_start if usable.baseline is not None else {MEAN}", MEAN),
    ("start: the mean of its points", FORMULA, "at_start.mean()", "at_start.min()"),
    ("start: no dip", START, "change[:first] = 0.0", "pass"),
    ("even places", EVEN, "places = np.linspace(x[0], x[-1], n)", "places = x"),
    ("fall under the start", UNIT, "usable.loss - start)", "usable.loss)"),
    ("fall: its sign", FORMULA, "fall = -centred_gaussian", "fall = centred_gaussian"),
    ("median", WILD, "start), 3)", "start), 1)"),
    ("median: its width", FORMULA, "start), 3)", "start), 5)"),
    ("ceiling", EXPLOSION, "change = np.minimum(change, ", "change = np.maximum(change, -np.inf + 0 * "),
    ("ceiling: its height", FORMULA, "_CEILING = 0.3", "_CEILING = 0.4"),
    ("ceiling: never below the start", NO_DIP, "max(-float(change.min()), 0.0)", "-float(change.min())"),
    ("Gaussian: its width", FORMULA, "_BANDWIDTH = 0.5", "_BANDWIDTH = 0.45"),
    ("Gaussian: its width in decades", FORMULA, "(n - 1) / (x[-1] - x[0])", "(n - 1) / 8.5"),
    ("Gaussian: at least half a point", FORMULA, "(x[-1] - x[0]), 0.5)", "(x[-1] - x[0]), 0.1)"),
    ("rounding", NO_DIP, "usable.rounding() *", "0.0 *"),
    (
        "rounding: no larger",
        "test_a_change_above_rounding_has_a_centre",
        "usable.rounding() *",
        "10 * usable.rounding() *",
    ),
    (
        "rounding: of a negative loss",
        NO_DIP,
        "usable.rounding() * abs(float(median(start)))",
        "usable.rounding() * float(median(start))",
    ),
    ("weight: less the share", FORMULA, "fall / deepest - constants.share, 0.0", "fall / deepest, constants.share"),
    ("weight: of the deepest", UNIT, "fall / deepest - constants.share", "fall - constants.share"),
    ("weight: never below 0", FORMULA, "np.maximum(fall / deepest - constants.share, 0.0)", "fall / deepest"),
    ("weight: in the mean", FORMULA, "weights=reading.weight[dip]", "weights=None"),
    ("first deep dip", TWO, "np.argmax(fall >= constants.deep * deepest)", "np.argmax(fall)"),
    ("first deep dip: deep", TWO, "np.argmax(fall >= constants.deep * deepest)", "np.argmax(weight > 0)"),
    ("one dip: its low end", TWO, "low = int(ends[ends < deep].max(initial=-1)) + 1", "low = 0"),
    ("one dip: its high end", TWO, "high = int(ends[ends > deep].min(initial=n))", "high = n"),
    ("share with a baseline", FORMULA, "Constants(0.1,", "Constants(0.12,"),
    ("share without", FORMULA, "Constants(0.5,", "Constants(0.45,"),
    ("deep with a baseline: no less", TWO, "Constants(0.1, 0.7", "Constants(0.1, 0.5"),
    ("deep with a baseline: no more", TWO, "Constants(0.1, 0.7", "Constants(0.1, 0.9"),
    ("deep without", TWO, "Constants(0.5, 1.0", "Constants(0.5, 0.7"),
]
_START = [
    ("start: a tenth of the points", FORMULA, TENTH, "max(5, len(points) // 5)"),
    ("start: at least 5 points", FORMULA, TENTH, "len(points) // 10"),
]
_NOISE = [
    ("noise: how calm is calm", NOISE, "_CALM = 0.8", "_CALM = 0.9"),
    ("noise: its most", NOISE, "_NOISIEST = -1.0", "_NOISIEST = -2.0"),
    ("noise: its sign", NOISE, "_CALM - max(calm", "_CALM + max(calm"),
    ("noise: none below 0", NOISE, "max(0.0, _CALM - max(calm, _NOISIEST))", "_CALM - max(calm, _NOISIEST)"),
    ("noise: beside the batches", NOISE, "deepest / spread)", "deepest)"),
    ("density: eleven", DENSITY, "_USUAL_DENSITY = 11.0", "_USUAL_DENSITY = 10.0"),
    ("density: around the dip", LOCAL, "np.clip([place - 0.5, place + 0.5], x[0], x[-1])", "x[[0, -1]]"),
    (
        "density: at the edge",
        EDGE,
        "np.clip([place - 0.5, place + 0.5], x[0], x[-1])",
        "np.array([place - 0.5, place + 0.5])",
    ),
]
_DELAY = [
    ("delay: the plan's momentum", DELAY, "    if momentum is None:\n", "    if True:\n"),
    ("delay: no momentum by default", DELAY, "0.0 if plan.optimizer in _NO_MOMENTUM else 0.9", "0.9"),
    ("delay: a momentum by default", DELAY, "0.0 if plan.optimizer in _NO_MOMENTUM else 0.9", "0.0"),
    ("delay: the default momentum", DELAY, "in _NO_MOMENTUM else 0.9", "in _NO_MOMENTUM else 0.95"),
    *(
        (f"delay: no momentum in {name}", DELAY, f'"{name}", {after}', after)
        for name, after in [
            ("SGD", '"ASGD", "Adagrad"'),
            ("ASGD", '"Adagrad", "Adadelta"'),
            ("Adagrad", '"Adadelta"'),
            ("Adadelta", '"RMSprop"'),
            ("RMSprop", '"Rprop"'),
        ]
    ),
    ("delay: no momentum in Rprop", DELAY, ', "Rprop")', ")"),
    ("delay: at most .99", DELAY, "min(momentum, 0.99)", "momentum"),
    ("delay: less the momentum", DELAY, "1.0 - min(", "1.0 + min("),
]
_PLANNED = [
    ("schedule: the peak's share", PLANNED, "-math.log10(peak) - SCHEDULE", "-SCHEDULE"),
    ("schedule: the peak's sign", PLANNED, "-math.log10(peak) -", "math.log10(peak) -"),
    ("schedule: shares of the peak", PLANNED, "float(shares.mean()) / peak", "float(shares.mean())"),
    ("schedule: the mean share", PLANNED, " - SCHEDULE * math.log10(max(float(shares.mean()) / peak, 0.25))", ""),
    ("schedule: its sign", PLANNED, "- SCHEDULE *", "+ SCHEDULE *"),
    ("schedule: its power", PLANNED, "SCHEDULE = 1.3", "SCHEDULE = 1.25"),
    ("schedule: the floor", PLANNED, "max(float(shares.mean()) / peak, 0.25)", "float(shares.mean()) / peak"),
    ("schedule: the floor's height", PLANNED, "/ peak, 0.25)", "/ peak, 0.2)"),
    ("length", PLANNED, " - HORIZON * math.log10(steps / _USUAL_STEPS)", ""),
    ("length: its sign", PLANNED, "- HORIZON *", "+ HORIZON *"),
    ("length: its power", PLANNED, "HORIZON = 0.2", "HORIZON = 0.25"),
    ("length: 1000 steps by default", PLANNED, "plan.total_steps or _USUAL_STEPS", "plan.total_steps or 2000"),
    ("length: where it asks for nothing", PLANNED, "_USUAL_STEPS = 1000.0", "_USUAL_STEPS = 2000.0"),
    ("length: at least 100 steps", PLANNED, "100.0, 100_000.0", "1.0, 100_000.0"),
    ("length: at most 100,000 steps", PLANNED, "100.0, 100_000.0", "100.0, 1e9"),
    ("Adagrad's decay", PLANNED, "schedule + decay", "schedule"),
    ("Adagrad's decay: its sign", PLANNED, "schedule + decay", "schedule - decay"),
    ("Adagrad's decay: no one else's", PLANNED, ' if plan.optimizer == "Adagrad" else 0.0', ""),
    ("Adagrad's decay: the root", PLANNED, "DECAY = 0.5", "DECAY = 0.4"),
    ("Adagrad's decay: the sweep's steps", PLANNED, "_SWEPT = 100.0", "_SWEPT = 200.0"),
]
_USUAL = [
    (
        "usual: of known optimizers alone",
        UNKNOWN,
        "if plan.optimizer not in _USUAL_RATES:\n        return None",
        "if plan.optimizer not in _USUAL_RATES:\n        return -2.0",
    ),
    ("usual: Adam's rate", RATE, "_ADAM = (-2.36", "_ADAM = (-2.3"),
    ("usual: RMSprop's rate", RATE, "(-2.75, 0.25)", "(-2.5, 0.25)"),
    ("usual: Adagrad's rate", RATE, "(-2.04, 0.25)", "(-1.9, 0.25)"),
    ("usual: SGD's rate", RATE, "(-0.68, 0.0)", "(-0.6, 0.0)"),
    ("usual: Lion's rate", RATE, "(-3.08, 0.25)", "(-3.0, 0.25)"),
    ("usual: Muon's rate, of every size", RATE, "(-2.04, 0.0)", "(-2.04, 0.25)"),
    ("usual: Adam's fall with parameters", RATE, "_ADAM = (-2.36, 0.25)", "_ADAM = (-2.36, 0.2)"),
    ("usual: RMSprop's fall with parameters", RATE, "(-2.75, 0.25)", "(-2.75, 0.2)"),
    ("usual: Adagrad's fall with parameters", RATE, "(-2.04, 0.25)", "(-2.04, 0.0)"),
    ("usual: SGD's rate, of every size", RATE, "(-0.68, 0.0)", "(-0.68, 0.25)"),
    ("usual: the parameters", RATE, "base - falls * larger", "base"),
    ("usual: the parameters' sign", RATE, "base - falls", "base + falls"),
    ("usual: the parameters by default", OPEN, "plan.parameters or 10_000", "plan.parameters or 20_000"),
    ("usual: at least 1000 parameters", RATE, "max(plan.parameters or 10_000, 1000)", "(plan.parameters or 10_000)"),
    ("usual: where they ask for nothing", RATE, "1000) / 10_000", "1000) / 20_000"),
    ("usual: what is planned", MOVED, "larger + planned(plan)", "larger"),
    ("usual: the sign of what is planned", MOVED, "larger + planned(plan)", "larger - planned(plan)"),
    ("usual: the epochs", RATE, " - EPOCHS * _again(plan)", ""),
    ("usual: the epochs' sign", RATE, "- EPOCHS * _again", "+ EPOCHS * _again"),
    ("usual: the epochs' power", RATE, "\nEPOCHS = 0.4", "\nEPOCHS = 0.2"),
    ("usual: the epochs by default", OPEN, "plan.epochs or _USUAL_EPOCHS", "plan.epochs or 1.0"),
    ("usual: where the epochs ask for nothing", RATE, "_USUAL_EPOCHS = 10.0", "_USUAL_EPOCHS = 1.0"),
    ("usual: at least 0.8 of an epoch", RATE, "_LEAST_EPOCHS, _MOST_EPOCHS = 0.8", "_LEAST_EPOCHS, _MOST_EPOCHS = 0.1"),
    ("overfits: of few epochs", OVERFITS, "return max(0.0, min(", "return max(-9.0, min("),
    ("overfits: of much data", OVERFITS, "min(_again(plan), few)", "_again(plan)"),
    ("overfits: how few data", OVERFITS, "_FEW_STEPS = 100.0", "_FEW_STEPS = 300.0"),
    ("overfits: of unknown data", OVERFITS, "if not (plan.epochs and plan.total_steps):", "if not plan.total_steps:"),
    ("usual: at most 1000 epochs", RATE, "_MOST_EPOCHS = 0.8, 1000.0", "_MOST_EPOCHS = 0.8, 1e9"),
    ("usual: a trained start", RATE, "before = _PRETRAINED if plan.pretrained else 0.0", "before = 0.0"),
    ("usual: a large one", RATE, "_FINE_TUNED = 0.3", "_FINE_TUNED = 0.2"),
    ("usual: a small one", RATE, "_FINE_TUNED * max(larger, 0.0)", "_FINE_TUNED * larger"),
    ("usual: an adapter", RATE, "(plan.pretrained or 0.0) >= _WHOLE", "plan.pretrained"),
    ("usual: how much less it takes", RATE, "_PRETRAINED = 0.5", "_PRETRAINED = 0.4"),
    ("usual: SGD's by the loss", SCALED, " - math.log10(start)", ""),
    ("usual: SGD's alone by the loss", SCALED, "if plan.optimizer in _OF_THE_LOSS:", "if start > 0:"),
    ("usual: SGD's momentum", RATE, "base += MOMENTUM * delay(plan)", "base += 0.0"),
    (
        "usual: SGD's, of a loss without a scale",
        UNSCALED,
        "if not _SMALLEST < start < 1 / _SMALLEST:",
        "if start <= 0:",
    ),
    ("usual: a rate that is found alone", RATE, "if plan.optimizer in RATE_FREE:", "if False:"),
]
_LESS_USUAL = [
    ("usual: how much less it counts", CALM, "_LESS = 0.4", "_LESS = 0.6"),
    ("usual: for whom it counts less", CALM, "if plan.optimizer in _LESS_USUAL ", "if plan.optimizer in _OF_THE_LOSS "),
]
_BELIEF = [
    ("level", ALONE, "answer += 0.0 if plan.optimizer in RATE_FREE else _LEVEL", "pass"),
    ("level: its size", ALONE, "_LEVEL = -0.12", "_LEVEL = -0.2"),
    ("level: of an answer without a dip", WITHOUT, "_LEVEL = -0.12", "_LEVEL = -0.1"),
    ("momentum", MOMENTUM, " + MOMENTUM * delay(plan)", ""),
    ("momentum: its sign", MOMENTUM, "+ MOMENTUM * delay", "- MOMENTUM * delay"),
    ("planned: with the dip", ALL, " + planned(plan) + density", " + density"),
    ("overfits: not at all", AGAIN, " - EPOCHS * overfits(plan)", ""),
    ("overfits: its sign", AGAIN, "- EPOCHS * overfits(plan)", "+ EPOCHS * overfits(plan)"),
    ("density: not at all", DENSE, " + density * dip.density", ""),
    ("density: its power", DENSE, "_DENSITY = 0.33", "_DENSITY = 0.2"),
    (
        "density: Adagrad's",
        DENSE,
        'density = -DECAY if plan.optimizer == "Adagrad" else _DENSITY',
        "density = _DENSITY",
    ),
    ("weight: the noise", WEIGHED, "math.exp(-_TRUST * dip.noise)", "1.0"),
    ("weight: how fast it falls", WEIGHED, "_TRUST, _TRUST_IN_GAP = 3.0", "_TRUST, _TRUST_IN_GAP = 2.4"),
    ("weight: the gap", WEIGHED, "trust *= 1 + ", "trust *= 1 + 0 * "),
    ("weight: the gap's noise", WEIGHED, "_TRUST_IN_GAP = 3.0, 1.2", "_TRUST_IN_GAP = 3.0, 0.0"),
    ("weight: what is usual counts less for some", CALM, "(trust + counts(plan))", "(trust + 1.0)"),
    ("weight: the reach", WEIGHED, "_REACH = 1.5", "_REACH = 1.0"),
    ("weight: the square", WEIGHED, "/ _REACH) ** 2", "/ _REACH)"),
    (
        "weight: which is which",
        WEIGHED,
        "weight * by_dip + (1 - weight) * by_usual",
        "weight * by_usual + (1 - weight) * by_dip",
    ),
    ("edge: not at all", DIVERGED, "if curve.diverged and len(curve) and", "if False and"),
    ("edge: only where it diverged", DIVERGED, "if curve.diverged and len(curve) and", "if True and"),
    ("edge: not of a batch", NO_EDGE, " and not batch_is_at_fault(curve):", ":"),
    ("edge: how near", DIVERGED, "_FROM_EDGE = 0.3", "_FROM_EDGE = 0.2"),
    ("swept: not beyond", SWEPT, "lr = float(np.clip(lr, curve.lr[0], curve.lr[-1]))", "pass"),
    ("swept: by what is usual alone", SWEPT, "curve.lr[0] <= 10**by_dip <= curve.lr[-1] and ", ""),
    ("interval: noisy", INTERVAL, "_NOISY_INTERVAL if dip.noise else _INTERVAL", "_INTERVAL"),
    ("interval: calm", INTERVAL, "_NOISY_INTERVAL if dip.noise else _INTERVAL", "_NOISY_INTERVAL"),
    ("interval: its low end", INTERVAL, "lr * 10**low", "lr"),
    ("interval: its high end", INTERVAL, "lr * 10**high", "lr"),
    ("interval: of what is usual", WITHOUT, "(-0.6, 0.8)", "(-0.5, 0.8)"),
    ("still falling: the dip", STILL, "    if by_dip <= by_usual:", "    if True:"),
    (
        "still falling: a lower dip",
        NO_MORE,
        "    if by_dip <= by_usual:\n        return alone\n",
        "",
    ),
    (
        "still falling: by itself",
        BY_ITSELF,
        "weight = 1.0 if curve.baseline is not None else both.weight",
        "weight = 1.0",
    ),
    (
        "still falling: next to the last",
        LAST,
        "answer = min(by_usual + weight * (by_dip - by_usual), last)",
        "answer = by_usual + weight * (by_dip - by_usual)",
    ),
    (
        "still falling: rate-free",
        NO_MORE,
        "    if plan.optimizer in RATE_FREE:\n        return alone\n",
        "",
    ),
    (
        "still falling: where nothing is usual",
        NOTHING,
        "is_sure = curve.baseline is not None",
        "is_sure = True",
    ),
    ("doubt: noise", COST, "_NOISE_COSTS * noise", "0.0 * noise"),
    ("doubt: epochs", COST, "math.log10(plan.epochs or 1.0) - _FEW_EPOCHS", "-_FEW_EPOCHS"),
    ("doubt: few epochs", COST, "_FEW_EPOCHS = 0.5", "_FEW_EPOCHS = 0.3"),
    ("doubt: pretrained", COST, "_PRETRAINED_COSTS * bool(plan.pretrained)", "0.0"),
    ("doubt: the gap", COST, "_GAP_COSTS * apart", "0.0"),
    ("doubt: the gap's most", COST, "min(abs(by_usual - by_dip), 2.0)", "abs(by_usual - by_dip)"),
    ("expected regret: all doubts", COST, "sum(self.doubts.values())", "max(self.doubts.values())"),
]
_ALL_BATCHES = [("start: all batches", STARTS, " if points.baseline is None else points.baseline", "")]
_DOUBTED = [
    ("start of a race: where it falls", FROM, "judge(curve).verdict is Verdict.STILL_FALLING", "False"),
    ("verdict: not doubted", DOUBTED, "judgement = _doubted(judgement, belief, curve, plan)", "pass"),
    ("verdict: the curve's rules", CURVE_ALONE, "by_belief = rule in (None, quick) and ", "by_belief = "),
    ("verdict: how sure is sure", DOUBTED, "_SURE = 0.05", "_SURE = 0.03"),
    ("verdict: far apart", DOUBTED, "_APART = 1.5", "_APART = 9.0"),
    ("verdict: pretrained", DOUBTED, "elif plan.pretrained:", "elif False:"),
    ("verdict: many epochs or noise", NARROW, 'elif worst == "epochs":', "else:\n        pass\n    if True:"),
]
BREAKS = [
    Break(thing, f"analysis/test_{tests}.py::{test}", file, old, new)
    for file, tests, rows in (
        (DIP, "dip", _CENTRE + _NOISE),
        (CURVE, "dip", _START),
        (CURVE, "belief", _ALL_BATCHES),
        (USUAL, "usual", _DELAY + _PLANNED + _USUAL),
        (USUAL, "belief", _LESS_USUAL),
        (BELIEF, "belief", _BELIEF),
        (ANSWER, "belief", _DOUBTED),
    )
    for thing, test, old, new in rows
]
