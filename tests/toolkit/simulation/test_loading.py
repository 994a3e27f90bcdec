"""When the sessions of a state are loaded."""

from __future__ import annotations

from tests.toolkit.search.planted import chain, feeds, simulation
from toolkit.graph.sessions.session import Session
from toolkit.simulation import loaded


def test_a_state_that_is_run_stage_by_stage_loads_all_its_sessions_before_its_first_batch(monkeypatch):
    sim = simulation(chain(6, 8), feeds(8, 8), batch=2, threads=2)
    float_run, seen = sim.runner, []
    load, run = loaded.session, Session.run

    def loading(*given, **named):
        seen.append("load")
        return load(*given, **named)

    def running(own, *given):
        seen.append("run")
        return run(own, *given)

    monkeypatch.setattr(loaded, "session", loading)
    monkeypatch.setattr(Session, "run", running)
    sim.without(())
    assert float_run.joins and seen.count("load") > 1
    assert "load" not in seen[seen.index("run") :]
