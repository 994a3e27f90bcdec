"""Of tensors that hold the same values in another form of a model nothing is collected again."""

from __future__ import annotations

import warnings
from dataclasses import replace

import numpy as np
import pytest

from tests.conftest import build, node
from tests.toolkit.search.planted import chain, feeds
from toolkit.base.profiles import Extent, Profiles, ShapeProfile
from toolkit.calibration import collect as collecting
from toolkit.calibration import same_values
from toolkit.calibration.provider import Calibrator
from toolkit.data.dataset import CalibrationData
from toolkit.graph.model import Model
from toolkit.graph.surgery.tensors import make_constant


@pytest.fixture
def collected(monkeypatch):
    """The tensors of each run over the samples."""
    runs = []
    own = collecting.collect

    def watched(model, taps, *given, scalars=(), **more):
        runs.append({*taps, *scalars})
        return own(model, taps, *given, scalars=scalars, **more)

    monkeypatch.setattr(collecting, "collect", watched)
    return runs


def times(model, layer, reader, factor):
    """The layer's weights by output channel times a factor, and its reader's by it: the same function."""
    weight, read = (model.node(name).inputs[1] for name in (layer, reader))
    for place, tensor, by in ((layer, weight, factor), (reader, read, 1 / factor[:, None])):
        value = model.constant(tensor) * by
        model.node(place).inputs[1] = make_constant(f"{tensor.name}_scaled", value.astype(np.float32))


def calibrator(model, samples=64):
    return Calibrator(CalibrationData.open(feeds(samples), model), method="mse", reuses=True)


def test_a_form_that_holds_other_values_in_one_tensor_is_run_for_that_one_alone(collected):
    model = chain(4)
    own = calibrator(model)
    own.collect(model)
    form = model.copy()
    changed = form.node("layer1").inputs[0].name
    times(form, "layer0", "layer1", np.linspace(0.5, 2, form.constant(form.node("layer0").inputs[1]).shape[1]))
    found, anew = own.collect(form), calibrator(model).collect(form)
    between = {tensor.name for node in form.nodes for tensor in node.outputs if "0" in node.name}
    assert changed in collected[1] <= between | {changed}
    assert collected[2] == {*anew.tensors, *anew.observed}
    assert found.tensors == anew.tensors and found.made_from == anew.made_from
    assert found.samples == anew.samples and found.same == anew.same and found.infinite == anew.infinite
    for name, (low, high) in anew.extremes().items():
        assert found.extremes()[name] == pytest.approx((low, high), rel=1e-4)


def test_a_form_that_holds_all_values_is_not_run_over_the_samples(collected):
    model = chain(4)
    own = calibrator(model)
    first = own.collect(model)
    form = model.copy()
    form.node("layer1").name = "another"
    again = own.collect(form)
    assert len(collected) == 1 and again.extremes() == first.extremes()
    assert again.made_from["model"] == form.fingerprint() != first.made_from["model"]


def test_the_smallest_samples_tell_whether_two_forms_hold_the_same_values():
    model = Model.from_proto(build([node("Relu", ["x"], ["y"])], {"x": ["n", 1, "w"]}, {"y": ["n", 1, "w"]}))
    widths = [9, 4, 9, 0, 9, 7, 9, 9]
    stored = [{"x": np.ones((1, 1, width), np.float32)} for width in widths]
    profile = ShapeProfile("wide", {"x": Extent((1, 1, 0), (1, 1, 4), (1, 1, 9))})
    data = CalibrationData.open(stored, model, Profiles((profile,)))
    few = same_values._smallest(data)
    assert [sample.inputs["x"].shape[2] for sample in few.all_samples()] == [4, 7]
    alike = CalibrationData.open(stored[2:5:2] * 4, model, Profiles((profile,)))
    assert [sample.index for sample in same_values._smallest(alike).all_samples()] == [0, 4]


def test_a_part_of_the_samples_has_what_it_showed_itself(collected):
    model = chain(4)
    own = calibrator(model)
    own.collect(model)
    part = own.on_subset()
    form = model.copy()
    form.node("layer1").name = "another"
    for asked in (model, form):
        assert sum(part.collect(asked).samples.values()) == 16
    assert collected[1] == collected[2]


def test_nothing_is_taken_from_another_form_unless_that_is_wanted(collected):
    model = chain(4)
    own = replace(calibrator(model), reuses=False)
    own.collect(model)
    form = model.copy()
    form.node("layer1").name = "another"
    own.collect(form)
    assert collected[0] == collected[1]


def test_forms_are_kept_only_where_others_are_to_be_looked_at(collected):
    model = chain(4)
    form = model.copy()
    form.node("layer1").name = "another"
    own = replace(calibrator(model), reuses=False)
    watching = replace(calibrator(model), reuses=False, watches=True)
    runs = []
    for one in (own, watching):
        one.collect(model)
        one.reuses = True
        one.collect(form)
        runs.append(len(collected))
    # the form that was not kept is run in full again
    assert runs == [2, 3] and collected[1] == collected[0]


def test_values_that_moved_are_others_though_their_extremes_are_the_same(collected):
    model = chain(4)
    own = calibrator(model)
    own.collect(model)
    form = model.copy()
    for name, axis in (("layer0", 1), ("layer1", 0)):
        weight = form.node(name).inputs[1]
        form.node(name).inputs[1] = make_constant(f"{weight.name}_turned", np.roll(form.constant(weight), 1, axis))
    own.collect(form)
    assert form.node("layer1").inputs[0].name in collected[1]


def test_a_histogram_is_collected_where_extremes_alone_are_known(collected):
    model = chain(4)
    own = calibrator(model)
    own.collect(model)
    form = model.copy()
    form.node("layer1").name = "another"
    scalar = next(name for name in own.taps(model)[1])
    assert own.collect(form, [scalar]).total(scalar).count > 0 and collected[1:] == [{scalar}]


def test_what_is_joined_is_kept_apart_from_what_was_collected(collected, tmp_path):
    """A recipe whose passes make the same form themselves found the statistics of a search, with other last bits."""
    model = chain(4)
    form = model.copy()
    times(form, "layer0", "layer1", np.linspace(0.5, 2, form.constant(form.node("layer0").inputs[1]).shape[1]))

    def kept(reuses):
        def keep(model, taps, scalars):
            return tmp_path / f"{model.fingerprint()[:20]}.npz"

        own = replace(calibrator(model), keep=keep, reuses=reuses)
        own.collect(model)
        return own.collect(form)

    joined, again = kept(True), kept(True)
    # the model, and what differs
    assert len(collected) == 2 and again.extremes() == joined.extremes()
    alone = kept(False)
    assert len(collected) == 3 and collected[2] == {*alone.tensors, *alone.observed}
    assert kept(True).extremes() == alone.extremes() and len(collected) == 3


def test_no_more_tensors_are_looked_at_at_a_time_than_the_memory_allows(monkeypatch):
    model, asked = chain(4), []
    run = same_values.run_side_by_side
    monkeypatch.setattr(same_values, "run_side_by_side", lambda *given: (asked.append(given[1]), run(*given))[1])
    found = []
    for memory in (None, 1):
        asked.clear()
        own = replace(calibrator(model), memory=memory)
        own.collect(model)
        form = model.copy()
        form.node("layer1").name = "another"
        found.append(own.collect(form).extremes())
        assert max(map(len, asked)) == 1 if memory else len(asked) == 2
    assert found[0] == found[1]


def test_each_form_is_looked_at_once(monkeypatch):
    model, looked = chain(4), []
    run = same_values.run_side_by_side
    monkeypatch.setattr(
        same_values, "run_side_by_side", lambda *given: (looked.append(given[0].fingerprint()), run(*given))[1]
    )
    own = calibrator(model)
    forms = [model]
    for layer, reader in (("layer0", "layer1"), ("layer1", "layer2")):
        form = forms[-1].copy()
        times(form, layer, reader, np.linspace(0.5, 2, form.constant(form.node(layer).inputs[1]).shape[1]))
        forms.append(form)
    found = [own.collect(form) for form in forms]
    assert len(looked) == len(set(looked)) == 3
    anew = calibrator(model).collect(forms[-1])
    for name, (low, high) in anew.extremes().items():
        assert found[-1].extremes()[name] == pytest.approx((low, high), rel=1e-4)


def test_infinite_values_of_a_mask_are_compared_without_a_warning():
    mask = np.where(np.triu(np.ones((6, 6)), 1) > 0, -np.inf, 0).astype(np.float32)
    model = Model.from_proto(
        build([node("Add", ["x", "mask"], ["s"]), node("Softmax", ["s"], ["y"])], {"x": ["n", 6, 6]}, {"y": ["n", 6, 6]},
              {"mask": mask})
    )  # fmt: skip
    random = np.random.default_rng(0)
    given = [{"x": random.standard_normal((1, 6, 6)).astype(np.float32)} for _ in range(4)]
    own = Calibrator(CalibrationData.open(given, model), method="mse", reuses=True)
    form = model.copy()
    form.nodes[-1].name = "another"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        first, second = own.collect(model), own.collect(form)
    assert first.extremes() == second.extremes()
