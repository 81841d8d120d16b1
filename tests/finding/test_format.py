"""What is saved: each format that was released is read by every later version, and a schema describes it."""

import copy
import io
import json
import math
from dataclasses import replace
from pathlib import Path

import jsonschema
import pytest
from matplotlib.figure import Figure
from rich.console import Console

from findlr import FileFormatError, Finding, Stop, Verdict
from findlr.analysis.plan import SCHEDULES
from findlr.views.console import show
from findlr.views.notebook import html
from findlr.views.report import page

HOME = Path(__file__).parents[2]
RELEASED = sorted(Path(__file__).parent.glob("format-*/*.json"))  # never changed: what a user may have on disk
SCHEMA = json.loads((HOME / "docs" / "finding.schema.json").read_text())
VALIDATOR = jsonschema.Draft202012Validator(SCHEMA)
RACED, OWN_SCHEDULE, REFUSED = (
    json.loads((Path(__file__).parent / "format-1" / f"{name}.json").read_text())
    for name in ("raced", "own_schedule", "refused")
)


def required(schema, path=()):
    """Each place that the schema asks for."""
    if "$ref" in schema:
        schema = SCHEMA["$defs"][schema["$ref"].rpartition("/")[2]]
    for name, part in schema.get("properties", {}).items():
        if name in schema.get("required", ()):
            yield (*path, name)
        for option in part.get("oneOf", [part]):
            yield from required(option, (*path, name))
    if schema.get("type") == "array":
        yield from required(schema["items"], (*path, "0"))


def inner(data, path):
    """The container of a place."""
    for name in path[:-1]:
        data = data[int(name)] if isinstance(data, list) else data[name]
    return data


@pytest.mark.parametrize("path", RELEASED, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_every_released_file_is_loaded_and_shown(path):
    finding = Finding.load(path)
    show(finding, Console(file=io.StringIO()))
    finding.plot(Figure().subplots())
    assert finding.why in page([finding])
    assert finding.verdict.name in html(finding)
    assert json.loads(json.dumps(finding.to_dict())) == json.loads(path.read_text())


def test_a_race_is_as_it_was():
    finding = Finding.from_dict(RACED)
    assert (finding.verdict, finding.stop) == (Verdict.CLEAR, Stop.DIVERGED)
    assert finding.lr == RACED["suggestion"]["lr"] == 0.2863524314015212
    assert finding.lrs == pytest.approx((finding.lr / 10, finding.lr))
    assert (finding.plan.schedule, finding.plan.total_steps, finding.plan.optimizer) == ("one_cycle", 160, "AdamW")
    assert len(finding.curve) == len(finding.curve.baseline) == 39
    assert math.isnan(finding.curve.validation[0])
    assert [run.loss for run in finding.race.runs][3] == math.inf
    assert finding.race.bracketed


def test_a_schedule_of_ones_own_and_odd_facts_are_as_they_were():
    finding = Finding.from_dict(OWN_SCHEDULE)
    assert finding.plan.shares(5).tolist() == pytest.approx([1, 0.875, 0.75, 0.625, 0.5])
    note = finding.facts["note"]
    assert math.isnan(note["a"])
    assert note["b"] == [math.inf, 1, None, True, "nan"]
    assert finding.code().startswith("optimizer = torch.optim.SGD(model.parameters(), lr=0.092, momentum=0.9)")


def test_a_refusal_is_as_it_was():
    finding = Finding.from_dict(REFUSED)
    assert (finding.suggestion, finding.race, finding.verdict) == (None, None, Verdict.STILL_FALLING)
    assert finding.curve.num_steps == 30


def test_what_a_later_version_may_add_is_left_alone():
    more = {**RACED, "new": 1, "plan": {**RACED["plan"], "new": [1]}, "curve": {**RACED["curve"], "new": None}}
    VALIDATOR.validate(more)
    assert Finding.from_dict(more) == Finding.from_dict(RACED)


def test_a_later_format_asks_for_a_later_findlr():
    with pytest.raises(FileFormatError, match="has format 2, and this findlr reads 1: update findlr"):
        Finding.from_dict({**RACED, "format": 2})


class TestSchema:
    """docs/finding.schema.json."""

    def test_it_is_a_schema_and_knows_all_names(self):
        jsonschema.Draft202012Validator.check_schema(SCHEMA)
        assert SCHEMA["properties"]["verdict"]["enum"] == [verdict.name for verdict in Verdict]
        assert SCHEMA["properties"]["stop"]["enum"] == [stop.name for stop in Stop]
        assert SCHEMA["$defs"]["plan"]["properties"]["schedule"]["oneOf"][0]["enum"] == [*SCHEDULES]

    @pytest.mark.parametrize("data", [RACED, OWN_SCHEDULE, REFUSED], ids=["raced", "own schedule", "refused"])
    def test_what_is_saved_fits_it(self, data):
        finding = Finding.from_dict(data)
        VALIDATOR.validate(finding.to_dict())
        plan = replace(finding.plan, schedule="cosine", warmup=0.1, epochs=3.0, pretrained=True, momentum=1.0)
        VALIDATOR.validate(replace(finding, plan=plan).to_dict())

    @pytest.mark.parametrize("path", list(required(SCHEMA)), ids=".".join)
    def test_what_must_be_there_must_be_there_for_findlr_too(self, path):
        bad = copy.deepcopy(RACED)
        del inner(bad, path)[path[-1]]
        assert not VALIDATOR.is_valid(bad)
        with pytest.raises(FileFormatError, match=f"lacks {path[-1]}|no format"):
            Finding.from_dict(bad)

    @pytest.mark.parametrize("path", list(required(SCHEMA)), ids=".".join)
    def test_a_wrong_kind_of_value_fits_neither(self, path):
        bad = copy.deepcopy(RACED)
        inner(bad, path)[path[-1]] = {"another": ["kind"]}
        if path == ("facts",) or path[-1] == "arguments":
            return  # which may hold anything
        assert not VALIDATOR.is_valid(bad)
        with pytest.raises(FileFormatError):
            Finding.from_dict(bad)
