"""Fields of records whose classes write themselves as JSON."""

from __future__ import annotations

import json
from typing import Annotated, Any

from pydantic import PlainSerializer, PlainValidator

from toolkit.contract.journal import Journal
from toolkit.contract.plan import PrecisionPlan


def _plan(value: Any) -> PrecisionPlan:
    # a copy as it is read back: the requests that were replaced are not kept
    return PrecisionPlan.from_json(value.to_json() if isinstance(value, PrecisionPlan) else value)


def _journal(value: Any) -> Journal:
    return value if isinstance(value, Journal) else Journal.from_jsonl("\n".join(map(json.dumps, value)))


def _events(journal: Journal) -> list[Any]:
    return [json.loads(line) for line in journal.to_jsonl().splitlines()]


PlanField = Annotated[PrecisionPlan, PlainValidator(_plan), PlainSerializer(PrecisionPlan.to_json)]
JournalField = Annotated[Journal, PlainValidator(_journal), PlainSerializer(_events)]
