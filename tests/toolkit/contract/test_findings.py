"""Findings and the journal: values are plain, equal and hashable, and JSON gives them back."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

from toolkit import Code, Finding, Journal, Precision, PrecisionPlan


def test_values_are_made_plain():
    made = Code.OVERFLOW(
        tensor="x", value=np.float32(0.5), limit=math.inf, precision=Precision.FP16, constant=np.bool_(True)
    )
    assert made.values == {"tensor": "x", "value": 0.5, "limit": "inf", "precision": "fp16", "constant": True}
    assert type(made.values["precision"]) is str and type(made.values["value"]) is float
    assert Code.BIAS_SHAPE(layer="a", shape=[1, 2]).values["shape"] == (1, 2)


def test_equal_findings_are_one_in_a_set():
    one, other = (Code.DEAD_NODES(nodes=["a", "b"]) for _ in range(2))
    assert one == other and len({one, other, Code.DEAD_NODES(nodes=["a"])}) == 2


def test_json_gives_findings_back_those_inside_too():
    inner = Code.LAYERS_SLOWER(quantized="int8", plain="fp16", layers=1, profiles=["p"], ms=[1.5], without_ms=[1.0])
    outer = Code.NOT_FASTER(why=inner)
    assert Finding.from_json(json.loads(json.dumps(outer.to_json(), allow_nan=False))) == outer
    with pytest.raises(ValueError, match="unheard-of"):
        Finding.from_json({"code": "unheard-of", "values": {}})


def test_the_journal_keeps_code_and_values_and_gives_people_sentences():
    journal = Journal()
    journal.by = "mine"
    journal.changed("a", Code.STAYS(precision="fp16"), Code.CHOSEN(pattern="a*"))
    journal.declined("b", Code.EXCLUDED(pattern="b"))
    journal.noted(Code.DEAD(tensor="t"), node="c")
    assert list(Journal.from_jsonl(journal.to_jsonl())) == list(journal)
    told = [json.loads(line) for line in journal.to_jsonl(lambda finding: f"<{finding.code}>").splitlines()]
    assert [(one.get("what"), one["reason"], one["rule"]) for one in told] == [
        ("<stays>", "<chosen>", "chosen"), (None, "<excluded>", "excluded"), (None, "<dead>", "dead"),
    ]  # fmt: skip
    assert told[1]["values"] == {"pattern": "b"}
    assert list(Journal.from_jsonl(journal.to_jsonl(lambda finding: "nonsense"))) == list(journal)


def test_a_pass_from_elsewhere_may_use_its_own_words():
    journal = Journal()
    journal.changed("a", "scaled", "it was small")
    journal.declined("b", "its number is odd")
    journal.declined("c", Code.OWN_WORDS(rule="odd", text="its number is odd"))
    assert [event.rule for event in journal] == ["own-words", "own-words", "odd"]
    assert journal.events[0].what == Code.OWN_WORDS(text="scaled")
    assert list(Journal.from_jsonl(journal.to_jsonl())) == list(journal)
    for wrong in ('{"kind": "noted"}', "[1]", "no JSON", '{"kind": "noted", "by": "x", "rule": "unheard-of"}'):
        with pytest.raises(ValueError):
            Journal.from_jsonl(wrong)


def test_the_plan_keeps_its_reasons():
    plan = PrecisionPlan()
    plan.ask("a", "fp16", Code.CHOSEN(pattern="a*"))
    plan.ask("b", Precision.INT8, "it is large", free=True)
    again = PrecisionPlan.from_json(json.loads(json.dumps(plan.to_json())))
    assert dict(again.items()) == dict(plan.items())
    assert again.get("b").reason == Code.OWN_WORDS(text="it is large")
