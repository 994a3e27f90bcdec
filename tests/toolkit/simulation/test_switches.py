"""Placements of a simulation's states: those that follow flips equal those made from scratch."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.toolkit.search.cost.test_cost_model import MODELS
from toolkit import place
from toolkit.simulation.switches import Switches, wanted_tensors


@pytest.fixture(scope="module", params=MODELS)
def switches(request) -> Switches:
    model = MODELS[request.param]()
    model.raise_opset(13)
    facts = model.facts()
    return Switches(model, facts, dict.fromkeys(wanted_tensors(model, facts), 1.0))


@settings(max_examples=20, deadline=None)
@given(st.lists(st.sets(st.integers(0, 40), max_size=9), min_size=8, max_size=8))
def test_placements_that_follow_flips_are_those_made_from_scratch(switches, states):
    for state in states:
        kept = frozenset(switches.names[i % len(switches.names)] for i in state)
        found, scratch = switches.placement(kept), switches._place(kept)
        assert found == scratch
        assert [list(found.pairs), list(found.layers), list(found.groups)] == [
            list(scratch.pairs), list(scratch.layers), list(scratch.groups)
        ]  # fmt: skip


def test_the_states_of_single_layers_need_few_placements_from_scratch():
    model = MODELS["digits_cnn"]()
    model.raise_opset(13)
    facts, asked = model.facts(), []

    def counted(*given):
        asked.append(given)
        return place(*given)

    one = Switches(model, facts, dict.fromkeys(wanted_tensors(model, facts), 1.0), placer=counted)
    some = [frozenset(one.names) - {name} for name in one.names] + [frozenset({name}) for name in one.names]
    for kept in some:
        one.placement(kept)
    # one for all layers, four until flips are followed, and three to prepare and check these
    assert len(some) > 8 and len(asked) <= 8


def test_a_state_that_needs_a_pair_without_a_range_is_placed_from_scratch():
    model = MODELS["branches"]()
    model.raise_opset(13)
    facts = model.facts()
    amax = dict.fromkeys(wanted_tensors(model, facts), 1.0)
    # the Add's other branch is quantized only if a convolution before it stays float
    del amax["b"]
    one = Switches(model, facts, amax)
    for name in one.names * 2:
        found = one.placement({name})
        assert found == one._place(frozenset({name})) and "b" not in found.activations
