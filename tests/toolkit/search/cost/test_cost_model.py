from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.conftest import build, node, normal
from tests.toolkit.search.planted import trained
from toolkit import Model, place
from toolkit.placement.flips import Flips
from toolkit.search.cost.cost_model import CostModel
from toolkit.search.cost.gpus import gpu_spec
from toolkit.search.cost.layer_times import LayerTimes
from toolkit.simulation.switches import Switches, wanted_tensors


def branches() -> Model:
    """Residual sums, a Concat beside a MaxPool, and pools: all that hangs on more than one layer."""
    weights = {f"w{i}": normal(8, 16 if i == 6 else 8, 3, 3, seed=i) for i in range(8)}
    pads, pool = {"pads": [1, 1, 1, 1]}, {"kernel_shape": [2, 2], "strides": [2, 2]}
    nodes = [
        node("Conv", ["x", "w0"], ["a"], "c0", **pads), node("Relu", ["a"], ["r"]),
        node("Conv", ["r", "w1"], ["b"], "c1", **pads), node("Conv", ["r", "w2"], ["c"], "c2", **pads),
        node("Add", ["b", "c"], ["s"], "s0"), node("Relu", ["s"], ["t"]),
        node("MaxPool", ["t"], ["p"], "max", **pool), node("Conv", ["p", "w3"], ["d"], "c3", **pads),
        node("Conv", ["d", "w4"], ["e"], "c4", **pads), node("Add", ["e", "p"], ["f"], "s1"),
        node("Resize", ["f", "", "scales"], ["u"], "up"), node("Concat", ["u", "t"], ["g"], "cat", axis=1),
        node("Conv", ["g", "w6"], ["h"], "c6", **pads), node("AveragePool", ["h"], ["m"], "mean", **pool),
        node("Conv", ["m", "w7"], ["y"], "c7", **pads),
    ]  # fmt: skip
    weights["scales"] = normal(4)[:4] * 0 + [1, 1, 2, 2]
    shape = {"x": [1, 8, 16, 16]}, {"y": [1, 8, 8, 8]}
    return Model.from_proto(build(nodes, *shape, {k: v.astype("float32") for k, v in weights.items()}))


MODELS = {"branches": branches, "digits_cnn": lambda: trained("digits_cnn"), "strip": lambda: trained("strip_reader")}


@pytest.fixture(scope="module", params=MODELS)
def costs(request) -> tuple[CostModel, CostModel]:
    """One that follows flips, and one that places everything anew."""
    model = MODELS[request.param]()
    model.raise_opset(13)
    facts = model.facts()
    amax = dict.fromkeys(wanted_tensors(model, facts), 1.0)
    made = []
    for _ in range(2):
        switches = Switches(model, facts, amax)
        times = LayerTimes(rest=1e-5, borders=True)
        times.seconds = {(name, on): 1e-5 + on * 3e-6 for name in switches.names[::3] for on in (True, False)}
        made.append(CostModel(switches, facts, gpu_spec("A10"), times=times))
    assert made[0].switches.flips is not None
    made[1].switches.flips = None
    return made[0], made[1]


@settings(max_examples=20, deadline=None)
@given(st.lists(st.sets(st.integers(0, 40), max_size=3), min_size=4, max_size=4))
def test_a_flip_is_predicted_exactly_as_the_whole_plan_is(costs, flips):
    quick, full = costs
    names, kept = full.switches.names, set()
    for flip in flips:
        kept = kept ^ {names[i % len(names)] for i in flip}
        assert quick.time(kept) == full.time(kept)
        assert quick.time(kept, launch=0.0) == full.time(kept, launch=0.0)
        assert quick.measured_share(kept) == full.measured_share(kept)


def test_a_rule_that_changes_what_place_decides_is_asked_for_every_plan():
    model = branches()
    facts = model.facts()

    def without_sums(model, facts, judge):
        found = place(model, facts, judge)
        found.layers.pop("s0", None)
        return found

    names = ["c0", "c1"]
    asked = model, facts, lambda node: None, names, lambda tensor: None
    assert Flips.of(place, *asked) is not None and Flips.of(without_sums, *asked) is None


def test_the_least_time_is_no_more_than_that_of_any_plan_a_flip_from_an_end(costs):
    quick, full = costs
    names, least = quick.switches.names, quick.least_time()
    near = [{*end} ^ flip for end in ((), names) for flip in (set(), *({name} for name in names))]
    assert least is not None and least <= min(full.time(kept) for kept in near)
    # where every flip places all pairs anew it is not looked for
    assert full.least_time() is None
