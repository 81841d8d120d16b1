"""Every term of the default rule, and the breaks that prove it tested: ``make prove`` takes them in turn.

A break is one replacement in the source, and the test that it turns red.
"""

from tests.restored import Break

FILE, TESTS = "analysis/dip.py", "analysis/test_dip.py"
FORMULA = "test_the_centre_is_what_the_formula_says_point_by_point"
NO_DIP = "test_what_has_no_dip_is_an_error_that_says_so"
TWO = "test_of_two_dips_the_first_that_goes_deep_is_taken_and_alone"
PLAINEST = "test_the_plainest_plans_rate_is_the_centre_and_the_level"
MOMENTUM = "test_a_momentum_lowers_the_rate"
INTERVAL = "test_the_interval_around_the_rate"
DELAY = "test_how_late_a_momentum_shows_that_a_rate_is_too_high"
PLANNED = "test_what_the_schedule_and_the_length_ask_for"
USUAL = "test_the_usual_rate_of_an_adaptive_optimizer"
DRAWN = "test_an_answer_is_drawn_to_the_usual_one_and_less_so_from_far"
ADAPTIVE = "test_the_answer_of_an_adaptive_optimizer_is_drawn_to_its_usual_rate"
UNIT = "test_the_losses_unit_and_level_change_nothing"
LEFT_OUT = "test_the_point_that_diverged_or_is_not_finite_is_left_out"
EVEN = "test_a_dip_that_is_swept_with_linear_spacing_has_the_same_centre"
EXPLOSION = "test_an_explosion_hardly_moves_the_centre_and_its_height_not_at_all"
BATCHES = "test_the_baseline_takes_out_how_batches_differ"
WILD = "test_one_wild_batch_moves_nothing"
START = "test_without_a_baseline_low_losses_among_the_first_tenth_are_the_start_and_no_dip"
TENTH = "first = 0 if usable.baseline is not None else max(5, n // 10)"
GAP = "_BELIEF * gap / (1 + (gap / _REACH) ** 2)"
IF_MEASURED, MEAN = "usable.baseline if usable.baseline is not None else ", "np.full(n, usable.loss[:first].mean())"
ENOUGH = "if n < 3 or x[-1] <= x[0]:"

# Each row: what is broken, the test, the text, and what takes its place.
_CENTRE = [
    ("unusable points", LEFT_OUT, "usable = curve.paired()", "usable = curve"),
    ("fewest points", NO_DIP, ENOUGH, "if x[-1] <= x[0]:"),
    ("rates that do not rise", NO_DIP, ENOUGH, "if n < 3:"),
    ("start: none with a baseline", FORMULA, TENTH, "first = max(5, n // 10)"),
    ("start: a tenth of the points", FORMULA, TENTH, TENTH.replace("10", "5")),
    ("start: at least 5 points", FORMULA, TENTH, TENTH.replace("max(5, n // 10)", "n // 10")),
    ("start: the baseline", BATCHES, f"{IF_MEASURED}{MEAN}", MEAN.replace("first", "5")),
    ("start: the mean of its points", FORMULA, "usable.loss[:first].mean()", "usable.loss[:first].min()"),
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
    ("weight: in the mean", FORMULA, "weights=weight[low:high]", "weights=None"),
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
_ANSWER = [
    ("constants with a baseline", PLAINEST, "WITHOUT if curve.baseline is None else WITH_BASELINE", "WITHOUT"),
    ("constants without", PLAINEST, "WITHOUT if curve.baseline is None else WITH_BASELINE", "WITH_BASELINE"),
    ("level", PLAINEST, " + constants.level", ""),
    ("level: its sign", PLAINEST, "+ constants.level", "- constants.level"),
    ("level with a baseline", PLAINEST, "level=-0.08", "level=-0.1"),
    ("level without", PLAINEST, "level=-0.14", "level=-0.12"),
    ("momentum", MOMENTUM, " + constants.momentum * delay(plan)", ""),
    ("momentum: its sign", MOMENTUM, "+ constants.momentum", "- constants.momentum"),
    ("momentum with a baseline", MOMENTUM, "momentum=0.6,", "momentum=0.65,"),
    ("momentum without", MOMENTUM, "momentum=0.65,", "momentum=0.6,"),
    (
        "planned: the schedule",
        "test_a_schedule_that_falls_raises_the_rate",
        "delay(plan) + planned(plan)",
        "delay(plan)",
    ),
    ("planned: the length", "test_a_longer_training_lowers_the_rate", "delay(plan) + planned", "delay(plan) - planned"),
    ("drawn to the usual rate", ADAPTIVE, "answer if to is None else drawn(answer, to)", "answer"),
    ("interval: shallow", INTERVAL, "constants.if_shallow if curve.is_shallow(fall) else ", ""),
    ("interval: not shallow", INTERVAL, "if curve.is_shallow(fall) else constants.interval", ""),
    ("interval: how deep", INTERVAL, "weights=weight[low:high])), deepest", "weights=weight[low:high])), 0.0"),
    ("interval: its low end", INTERVAL, "lr * 10**low", "lr"),
    ("interval: its high end", INTERVAL, "lr * 10**high", "lr"),
    ("interval: around the rate", INTERVAL, "lr * 10**low, lr * 10**high", "10 ** (place + low), 10 ** (place + high)"),
    *(
        (f"interval: the end {end}", INTERVAL, end, f"{float(end) + 0.01:.2f}")
        for end in ("-0.28", "0.43", "-0.26", "0.89", "-0.31", "0.47", "-0.78", "1.11")
    ),
    ("centre: the rate that is told", FORMULA, "return Dip(10**place, lr, lr", "return Dip(lr, lr, lr"),
]
_DELAY = [
    ("delay: the plan's momentum", DELAY, "    if momentum is None:\n", "    if True:\n"),
    ("delay: no momentum by default", DELAY, "0.0 if plan.optimizer in _NO_MOMENTUM else 0.9", "0.9"),
    ("delay: a momentum by default", DELAY, "0.0 if plan.optimizer in _NO_MOMENTUM else 0.9", "0.0"),
    ("delay: the default momentum", DELAY, "in _NO_MOMENTUM else 0.9", "in _NO_MOMENTUM else 0.95"),
    *(
        (f"delay: no momentum in {name}", DELAY, f'"{name}", {after}', after)
        for name, after in [
            ("SGD", '"ASGD"'),
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
    ("schedule: the peak's share", PLANNED, "-np.log10(peak) - _SCHEDULE", "-_SCHEDULE"),
    ("schedule: the peak's sign", PLANNED, "-np.log10(peak) -", "np.log10(peak) -"),
    ("schedule: shares of the peak", PLANNED, "float(shares.mean()) / peak", "float(shares.mean())"),
    ("schedule: the mean share", PLANNED, " - _SCHEDULE * np.log10(max(float(shares.mean()) / peak, 0.25))", ""),
    ("schedule: its sign", PLANNED, "- _SCHEDULE *", "+ _SCHEDULE *"),
    ("schedule: its power", PLANNED, "_SCHEDULE = 1.3", "_SCHEDULE = 1.25"),
    ("schedule: the floor", PLANNED, "max(float(shares.mean()) / peak, 0.25)", "float(shares.mean()) / peak"),
    ("schedule: the floor's height", PLANNED, "/ peak, 0.25)", "/ peak, 0.2)"),
    ("length", PLANNED, " - _HORIZON * np.log10(steps / _USUAL_STEPS)", ""),
    ("length: its sign", PLANNED, "- _HORIZON", "+ _HORIZON"),
    ("length: its power", PLANNED, "_HORIZON = 0.2", "_HORIZON = 0.25"),
    ("length: 1000 steps by default", PLANNED, "plan.total_steps or _USUAL_STEPS", "plan.total_steps or 2000"),
    ("length: where it asks for nothing", PLANNED, "_USUAL_STEPS = 1000.0", "_USUAL_STEPS = 2000.0"),
    ("length: at least 100 steps", PLANNED, "100.0, 100_000.0", "1.0, 100_000.0"),
    ("length: at most 100,000 steps", PLANNED, "100.0, 100_000.0", "100.0, 1e9"),
    ("Adagrad's decay", PLANNED, "schedule + decay", "schedule"),
    ("Adagrad's decay: its sign", PLANNED, "schedule + decay", "schedule - decay"),
    ("Adagrad's decay: no one else's", PLANNED, ' if plan.optimizer == "Adagrad" else 0.0', ""),
    ("Adagrad's decay: the root", PLANNED, "_DECAY = 0.5", "_DECAY = 0.4"),
    ("Adagrad's decay: the sweep's steps", PLANNED, "_SWEPT = 100.0", "_SWEPT = 200.0"),
]
_USUAL = [
    ("usual: for adaptive ones alone", "test_no_other_optimizer_has_a_usual_rate", "return None", "return -2.0"),
    *(
        (f"usual: for {name}", ADAPTIVE, f'    "{name}": (10', f'    "not {name}": (10')
        for name in ("RMSprop", "Adagrad")
    ),
    *(
        (f"usual: for {name}", USUAL, old, new)
        for name, old, new in [
            ("Adam", '("Adam", "AdamW", "NAdam"', '("AdamW", "NAdam"'),
            ("AdamW", '"AdamW", "NAdam"', '"NAdam"'),
            ("NAdam", '"NAdam", ', ""),
            ("RAdam", '"RAdam", ', ""),
            ("Adamax", ', "Adamax"', ""),
        ]
    ),
    ("usual: Adam's rate", USUAL, "10**-2.27", "10**-2.3"),
    ("usual: RMSprop's rate", USUAL, "10**-2.6", "10**-2.5"),
    ("usual: Adagrad's rate", USUAL, "10**-1.66", "10**-1.7"),
    ("usual: Adam's fall with parameters", USUAL, "(10**-2.27, 0.25)", "(10**-2.27, 0.2)"),
    ("usual: RMSprop's fall with parameters", USUAL, "(10**-2.6, 0.25)", "(10**-2.6, 0.2)"),
    ("usual: Adagrad's, which does not fall", USUAL, "(10**-1.66, 0.0)", "(10**-1.66, 0.25)"),
    ("usual: the parameters", USUAL, " - falls * larger", ""),
    ("usual: the parameters' sign", USUAL, "- falls * larger", "+ falls * larger"),
    ("usual: the parameters by default", USUAL, "plan.parameters or 10_000", "plan.parameters or 20_000"),
    ("usual: at least 1000 parameters", USUAL, "max(plan.parameters or 10_000, 1000)", "(plan.parameters or 10_000)"),
    ("usual: where they ask for nothing", USUAL, "1000) / 10_000", "1000) / 20_000"),
    ("usual: what is planned", USUAL, " - falls * larger) + planned(plan)", " - falls * larger)"),
    ("usual: the sign of what is planned", USUAL, "larger) + planned(plan)", "larger) - planned(plan)"),
]
_DRAWN = [
    ("drawn: not at all", DRAWN, "return place + _BELIEF", "return place + 0 * _BELIEF"),
    ("drawn: the gap's sign", DRAWN, "gap = to - place", "gap = place - to"),
    ("drawn: how far", DRAWN, "_BELIEF, _REACH = 0.6,", "_BELIEF, _REACH = 0.5,"),
    ("drawn: the reach", DRAWN, "_BELIEF, _REACH = 0.6, 1.5", "_BELIEF, _REACH = 0.6, 2.0"),
    ("drawn: less so from far", DRAWN, GAP, "_BELIEF * gap"),
    ("drawn: the square", DRAWN, GAP, GAP.replace("(gap / _REACH) ** 2", "abs(gap / _REACH)")),
]
BREAKS = [
    Break(thing, f"{TESTS}::{test}", FILE, old, new)
    for rows in (_CENTRE, _ANSWER, _DELAY, _PLANNED, _USUAL, _DRAWN)
    for thing, test, old, new in rows
]
