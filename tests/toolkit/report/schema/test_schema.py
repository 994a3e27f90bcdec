"""The schema: what it refuses, strict JSON, and reading back what was written."""

import json
import math

import pytest
from pydantic import Field, ValidationError

from tests.toolkit.report.samples import sample
from toolkit.base.errors import QtoolError
from toolkit.base.files import json_parts
from toolkit.report.schema.part import Part, streamed
from toolkit.report.schema.report import Accuracy, LayerError, Report, schema


def test_round_trip_is_strict_json(tmp_path):
    report = sample()
    report.save(tmp_path / "report.json")
    text = (tmp_path / "report.json").read_text()
    assert "NaN" not in text and "Infinity" not in text
    assert json.loads(text)["schema"] == "qtool-report-1"
    assert Report.load(tmp_path / "report.json") == report


def test_a_report_with_the_former_key_of_the_squashing_operator_is_read():
    content = sample().to_json()
    output = next(iter(content["accuracy"]["outputs"].values()))
    del output["squashed_by"]
    output["behind"] = "Softmax"
    read = Report.from_json(content).to_json()
    output = next(iter(read["accuracy"]["outputs"].values()))
    assert output["squashed_by"] == "Softmax" and "behind" not in output


def test_long_lists_are_written_a_few_entries_at_a_time(tmp_path, monkeypatch):
    report, made = sample(), []
    monkeypatch.setattr("toolkit.report.schema.part.AT_ONCE", 2)
    plain = Report.model_dump

    def dumped(self, **how):
        made.append(len(getattr(self, "layers", ())))
        return plain(self, **how)

    monkeypatch.setattr(Report, "model_dump", dumped)
    report.save(tmp_path / "report.json")
    lists = [part for part in made[1:] if part]
    assert len(report.layers) > 2 and sum(lists) == len(report.layers) and max(lists) == 2
    monkeypatch.undo()
    assert (tmp_path / "report.json").read_text() == "".join(json_parts(report.to_json())) + "\n"


def test_entries_of_long_lists_have_their_own_names_in_json(monkeypatch):
    class Entry(Part):
        before: float = Field(alias="float")

    class Whole(Part):
        entries: list[Entry] = Field(alias="all")
        last: int = 1

    monkeypatch.setattr("toolkit.report.schema.part.AT_ONCE", 2)
    whole = Whole(entries=[Entry(before=one) for one in (1.0, 2.0, 3.0)])
    whole_json = whole.model_dump(mode="json", by_alias=True)
    assert list(json_parts(streamed(whole))) == list(json_parts(whole_json))


def test_design_names_are_all_there():
    content = sample().to_json()
    top = {"schema", "tool", "recipe", "model", "profiles", "backend", "summary", "accuracy", "latency", "layers",
           "declined", "ranges", "steps", "device", "payoff", "prediction", "search", "weak_spots",
           "tensors", "sensitivity", "bisection"}  # fmt: skip
    assert set(content) == top
    layer = {"node", "op", "asked", "actual", "status", "reason", "engine_layers", "error", "time_ms"}
    assert layer <= set(content["layers"][0])
    assert set(content["layers"][0]["actual"]) == {"precision", "input_types", "output_types", "source", "opened"}
    assert {"metric", "float", "quantized", "drop", "budget", "met"} <= set(content["accuracy"])


def test_published_schema_names_every_field_of_a_report():
    published = schema()
    assert set(published["properties"]) == set(sample().to_json())
    assert "float" in published["$defs"]["Accuracy"]["properties"]
    assert published["additionalProperties"] is False


def _twice(c):
    c["layers"].append(c["layers"][0])


def _count(c):
    c["summary"]["by_actual"]["int8"] += 1


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda c: c.update(schema="qtool-report-9"), "qtool-report-9"),
        (lambda c: c.pop("schema"), "schema is None"),
        (lambda c: c.update(extra=1), "extra"),
        (_twice, "appears more than once"),
        (_count, "summary.by_actual"),
        (lambda c: c["layers"].pop(), "summary.nodes"),
        (lambda c: c["layers"][0].update(status="great"), "layers.0.status"),
        (lambda c: c["layers"][2]["asked"].update(precision="int7"), "precision"),
        (lambda c: c["declined"][0].pop("rule"), "declined.0.rule"),
        (lambda c: c["summary"].update(verdict="fine"), "verdict"),
    ],
)
def test_a_spoilt_report_is_refused_with_its_file(spoil, message):
    content = sample().to_json()
    spoil(content)
    with pytest.raises(QtoolError, match=message) as caught:
        Report.from_json(content, "r.json")
    assert caught.value.where == "r.json" and caught.value.remedy


@pytest.mark.parametrize("content", ["", "[1]", "{", '{"schema": NaN}', '{"schema": "qtool-report-1"}'])
def test_load_says_what_is_wrong(tmp_path, content):
    path = tmp_path / "report.json"
    path.write_text(content)
    with pytest.raises(QtoolError, match=r"report\.json"):
        Report.load(path)
    with pytest.raises(QtoolError, match="cannot be read"):
        Report.load(tmp_path / "none.json")


def test_errors_that_are_no_numbers_become_null_and_stay_apart():
    identical, broken = LayerError(sqnr_db=math.inf, max_abs=0.0), LayerError(sqnr_db=math.nan, max_abs=math.inf)
    assert identical.identical and not identical.incomparable
    assert broken.incomparable and not broken.identical
    assert broken.model_dump() == {"sqnr_db": None, "max_abs": None, "drop_db": None}


def test_other_numbers_must_be_finite():
    with pytest.raises(ValidationError):
        Accuracy(budget=math.nan)
