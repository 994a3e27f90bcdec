"""Pydantic field types for plans and journals, which serialize themselves as JSON."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import PlainSerializer, PlainValidator

from toolkit.contract.journal import Event, Journal
from toolkit.contract.plan import PrecisionPlan


def _plan(value: Any) -> PrecisionPlan:
    # a plan that was read back has no history of replaced requests, so neither has this copy
    return PrecisionPlan(dict(value.items())) if isinstance(value, PrecisionPlan) else PrecisionPlan.from_json(value)


def _journal(value: Any) -> Journal:
    return value if isinstance(value, Journal) else Journal(map(Event.from_json, value))


def _events(journal: Journal) -> list[Any]:
    return [event.to_json() for event in journal]


PlanField = Annotated[PrecisionPlan, PlainValidator(_plan), PlainSerializer(PrecisionPlan.to_json)]
JournalField = Annotated[Journal, PlainValidator(_journal), PlainSerializer(_events)]
