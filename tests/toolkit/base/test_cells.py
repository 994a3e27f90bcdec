from __future__ import annotations

import gc
import weakref

from hypothesis import given
from hypothesis import strategies as st

from toolkit.base.cells import Input, Network


@given(
    st.lists(st.tuples(st.integers(0, 3), st.integers(0, 5)), max_size=12),
    st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), min_size=6, max_size=6),
)
def test_cells_are_what_they_would_be_if_all_were_made_anew(changes, reads):
    inputs = [Input(i) for i in range(4)]
    network, made = Network(), []
    for number, read in enumerate(reads):
        parts = [[*inputs, *made][i % (4 + number)] for i in read]
        # what is read hangs on what was read before
        made.append(network.add(lambda parts=parts: parts[0]() + (parts[-1]() if parts[0]() % 2 else 1)))
    for which, value in changes:
        inputs[which].set(value)
        network.settle()
        assert [cell() for cell in made] == [cell._make() for cell in made]


def test_what_a_change_does_not_reach_is_not_made_again():
    first, second, network, runs = Input(1), Input(5), Network(), []
    sign = network.add(lambda: first() > 0)
    network.add(lambda: runs.append("sign") or sign())
    network.add(lambda: runs.append("second") or second())
    runs.clear()
    first.set(3)
    network.settle()
    assert runs == []
    first.set(-3)
    network.settle()
    assert runs == ["sign"]


def test_a_network_that_is_closed_holds_nothing_any_more():
    class Held:
        pass

    def closed() -> weakref.ref[Held]:
        network, held = Network(), Held()
        first = network.add(lambda: (held, network))
        network.add(lambda: first()[0])
        network.close()
        return weakref.ref(held)

    gc.disable()
    try:
        assert closed()() is None
    finally:
        gc.enable()
