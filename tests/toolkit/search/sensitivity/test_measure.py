from __future__ import annotations

import json
from dataclasses import replace

import pytest

from tests.conftest import MODELS
from tests.toolkit.search.planted import chain, damage, feeds, simulation, trained
from toolkit.base.errors import QtoolError
from toolkit.base.places import working_at
from toolkit.base.processes import Processes
from toolkit.contract.findings import Code
from toolkit.search.sensitivity.measure import Sensitivity, exact, fast, spearman


def test_a_planted_layer_is_blamed():
    model = chain()
    damage(model, "layer3")
    found = exact(simulation(model, feeds()))
    assert found.ranked()[0].name == "layer3"
    by_name = {group.name: group for group in found.groups}
    assert by_name["layer3"].without.sqnr_db > found.full.sqnr_db + 10
    assert by_name["layer3"].alone.sqnr_db < by_name["layer1"].alone.sqnr_db - 10


def test_a_harm_that_another_hides_is_seen_by_leaving_one_in():
    model = chain()
    damage(model, "layer1", factor=30_000)
    damage(model, "layer4", channel=3)
    found = exact(simulation(model, feeds()))
    assert {group.name for group in found.ranked()[:2]} == {"layer1", "layer4"}


def test_the_result_is_read_back_and_the_log_resumes(tmp_path):
    sim = simulation(chain(), feeds())
    log = tmp_path / "log.jsonl"
    first = exact(sim, log=log)
    first.save(tmp_path / "found.json")
    assert Sensitivity.load(tmp_path / "found.json").to_json() == first.to_json()
    lines = log.read_text().splitlines()
    assert len(lines) == 1 + 2 * len(sim.names)
    # killed in the middle of a line
    log.write_text("\n".join(lines[:5]) + "\n" + lines[5][:20])
    again = exact(sim, log=log)
    assert again.groups == first.groups
    assert again.inferences < first.inferences or again.inferences > 0
    assert len(log.read_text().splitlines()) == len(lines)
    # another simulation never uses it
    other = exact(simulation(chain(), feeds(10)), log=log)
    assert other.groups != first.groups
    assert json.loads(log.read_text().splitlines()[0])["fingerprint"] == other.fingerprint


def test_nothing_is_measured_again(tmp_path):
    sim = simulation(chain(), feeds())
    exact(sim, log=tmp_path / "log.jsonl")
    spent = sim.runner.spent
    exact(sim, log=tmp_path / "log.jsonl")
    assert sim.runner.spent == spent


def test_processes_give_the_same_numbers():
    sim = simulation(chain(3), feeds(8), batch=4)
    with working_at(Processes(2)):
        shared = exact(sim)
    assert shared.groups == exact(sim).groups


def test_fast_agrees_and_says_when_it_cannot_be_trusted():
    sim = simulation(trained("digits_cnn"), str(MODELS / "digits_calibration.npz"))
    right, guess = exact(sim, modes=("alone",)), fast(sim)
    order = [[g.alone.noise for g in found.groups] for found in (right, guess)]
    assert spearman(*order) >= 0.9
    assert guess.trusted and guess.method == "fast"
    few = fast(simulation(chain(), feeds(1)))
    assert not few.trusted and few.notes[-1].code is Code.SENSITIVITY_UNTRUSTED


def test_an_unknown_mode_is_refused():
    with pytest.raises(QtoolError, match="'both'"):
        exact(simulation(chain(2), feeds(2)), modes=("both",))


def test_layers_that_are_measured_side_by_side_are_what_they_are_one_by_one():
    found = []
    for threads in (1, 4):
        sim = simulation(chain(6), feeds(64), batch=8)
        sim = sim.on(replace(sim.settings, threads=threads))
        part = exact(sim, modes=("alone",), batches=1)
        assert [group.name for group in part.groups] == sim.names
        found.append([(group.name, group.alone) for group in part.groups])
    assert found[0] == found[1]


def test_layers_stay_unmeasured_once_the_time_is_over():
    sim, asked = simulation(chain(6), feeds(2)), iter([False, False, True])
    found = exact(sim, modes=("alone",), over=lambda: next(asked, True))
    assert [group.alone is not None for group in found.groups] == [True, True, False, False, False, False]
    assert found.groups[:2] == exact(sim, modes=("alone",)).groups[:2]


def test_nothing_but_all_layers_together_is_run_if_the_time_is_over_before():
    found = exact(sim := simulation(chain(3), feeds(2)), over=lambda: True)
    assert found.full == sim.runner.full_outcome
    assert not any(group.alone or group.without for group in found.groups)
