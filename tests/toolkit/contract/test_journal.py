"""The journal takes nodes and names of nodes."""

from __future__ import annotations

import onnx_graphsurgeon as gs

from toolkit.contract.journal import Journal
from toolkit.search.codes import TrialCode


def test_a_node_stands_for_its_name():
    journal, node = Journal(), gs.Node("Relu", "r")
    journal.declined(node, "why")
    journal.changed(node, "what", "why")
    journal.noted("why", node)
    assert [event.node for event in journal.events] == ["r", "r", "r"]
    assert [event.node for event in Journal.from_jsonl(journal.to_jsonl(str))] == ["r", "r", "r"]


def test_a_note_is_made_once_where_that_is_asked():
    journal = Journal()
    for seconds in (70.0, 70.0, 80.0):
        journal.noted_once(TrialCode.COMPARED(seconds=seconds))
    assert [event.why.values["seconds"] for event in journal.of("noted")] == [70.0, 80.0]
