"""Spares that have loaded their library, builds that stand still while engines are measured, and that none outlives."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from functools import partial
from pathlib import Path

import pytest

from tests.conftest import HANG
from tests.toolkit.backends.stand_in_jobs import parent_of_sleeper, stand_in
from toolkit.backends.layers.layer import Build
from toolkit.backends.processes import children, process
from toolkit.backends.processes.children import spare_children
from toolkit.backends.trials.background_build import BackgroundBuild
from toolkit.base.errors import BackendError
from toolkit.base.progress import silent

needs_stop = pytest.mark.skipif(not children.CAN_STOP, reason="children are stopped on Linux alone")


@pytest.fixture
def jobs(tmp_path, monkeypatch):
    """Makes functions of the given bodies jobs of a worker; they lie in a module that spares may load."""

    return partial(stand_in, tmp_path, monkeypatch)


def gone(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return Path(f"/proc/{pid}/stat").exists() and state(pid) == "Z"


def state(pid):
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


def until(done):
    # a wait without an end would be ended by the suite's own limit
    while not done():
        time.sleep(0.01)


WHO = "return {'pid': os.getpid(), 'loaded': 'stand_in' in sys.modules and hasattr(sys.modules['stand_in'], 'early')}"


def test_a_job_finds_a_child_that_has_loaded_its_library(jobs, monkeypatch):
    jobs("if __name__ == 'stand_in' and len(sys.argv) > 1: early = True\n", who=WHO)
    monkeypatch.setitem(process._NEXT, "who", 1)
    with spare_children():
        first = process.run_job("who", {"backend": "stand_in"})
        (spare,) = children.spares()._found
        assert spare.library == "stand_in"
        second = process.run_job("who", {"backend": "stand_in"})
        assert (second["pid"], second["loaded"]) == (spare.process.pid, True) and first["pid"] != second["pid"]
        # each job ends its child, another library gets none of these
        assert gone(second["pid"]) and process.run_job("who", {"backend": "other"})["pid"] != second["pid"]
        left = [one.process.pid for one in children.spares()._found]
    assert left and all(map(gone, left)) and children.spares() is None


def test_a_child_that_dies_of_its_library_costs_no_job(jobs, tmp_path):
    jobs(f"died = pathlib.Path({str(tmp_path / 'died')!r})\nif not died.exists(): died.touch(); os.abort()\n", who=WHO)
    with spare_children():
        children.spares().fill("stand_in", 1)
        (spare,) = children.spares()._found
        assert process.run_job("who", {"backend": "stand_in"})["pid"] != spare.process.pid
        assert gone(spare.process.pid)


def test_a_library_that_does_not_load_is_told_by_the_job(jobs):
    jobs(who="import no_such_library")
    with spare_children():
        children.spares().fill("no_such_library", 1)
        with pytest.raises(BackendError, match="No module named 'no_such_library'"):
            process.run_job("who", {"backend": "no_such_library"})


def interrupted(child):
    raise KeyboardInterrupt
    yield


def test_an_interrupt_while_a_spare_loads_leaves_no_word_of_it_to_a_job(jobs, monkeypatch):
    jobs(who=WHO)
    with spare_children():
        found = children.spares()
        found.fill("stand_in", 1)
        pid = found._found[0].process.pid
        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(children.Child, "events", interrupted)
            found.settle()
        assert process.run_job("who", {"backend": "stand_in"})["pid"] == pid


def test_a_spare_that_is_taken_when_an_interrupt_comes_ends(jobs, monkeypatch):
    jobs(who=WHO)
    with spare_children():
        found = children.spares()
        found.fill("stand_in", 1)
        (spare,) = found._found
        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(children.Child, "events", interrupted)
            found.take("stand_in")
        assert gone(spare.process.pid) and spare.noise.closed


def test_a_job_counts_although_no_spare_can_be_started_after_it(jobs, monkeypatch):
    jobs(who=WHO)
    monkeypatch.setitem(process._NEXT, "who", 3)
    start, started = subprocess.Popen, []

    def two(*arguments, **settings):
        if len(started) == 2:
            raise BlockingIOError(11, "Resource temporarily unavailable")
        started.append(start(*arguments, **settings))
        return started[-1]

    monkeypatch.setattr(children.subprocess, "Popen", two)
    with spare_children():
        # the first is the job's own
        assert process.run_job("who", {"backend": "stand_in"})["pid"] == started[0].pid
        assert [one.process for one in children.spares()._found] == started[1:]
    assert all(gone(one.pid) for one in started)


@needs_stop
@pytest.mark.parametrize("timed", [True, False])
def test_all_other_jobs_stand_still_while_engines_are_measured(jobs, monkeypatch, tmp_path, timed):
    """Whether they build an engine, and say what it took, or parse, probe, and run one: all of them use the GPU."""
    jobs(
        build="""
            started = time.monotonic()
            pathlib.Path(request['note']).write_text(str(os.getpid()))
            while not pathlib.Path(request['go']).exists():
                time.sleep(0.01)
            took = {'started': started, 'seconds': time.monotonic() - started}
            return {'pid': os.getpid(), **(took if request['timed'] else {})}
        """,
        measure="""
            while (state := pathlib.Path(f"/proc/{request['pid']}/stat").read_text().rpartition(')')[2].split()[0]) != 'T':
                time.sleep(0.01)
            time.sleep(0.3)
            return {'state': state}
        """,
    )  # fmt: skip
    monkeypatch.setattr(process, "_MEASURES", {"measure"})
    note, go, found = tmp_path / "pid", tmp_path / "go", []
    began = time.monotonic()
    thread = threading.Thread(
        target=lambda: found.append(process.run_job("build", {"note": str(note), "go": str(go), "timed": timed}))
    )  # fmt: skip
    thread.start()
    until(lambda: note.exists() and note.read_text())
    pid = int(note.read_text())
    assert process.run_job("measure", {"pid": pid}) == {"state": "T"}
    assert state(pid) != "T"
    go.touch()
    thread.join()
    # what it stood still is no part of what it took
    assert found[0]["pid"] == pid
    assert not timed or found[0]["seconds"] < time.monotonic() - began - 0.3


@needs_stop
def test_no_job_begins_while_engines_are_measured(jobs, tmp_path):
    begun = tmp_path / "begun"
    jobs(parse=f"pathlib.Path({str(begun)!r}).touch()\nreturn {{}}")
    thread = threading.Thread(target=lambda: process.run_job("parse", {}))
    with children.exclusive_measurement():
        thread.start()
        # time for it to begin if nothing held it back
        time.sleep(1.0)
        during = begun.exists()
    thread.join()
    assert (during, begun.exists()) == (False, True)


@needs_stop
def test_only_what_it_stood_still_while_it_built_is_taken_off(jobs, monkeypatch, tmp_path):
    jobs(
        build="""
            pathlib.Path(request['note']).write_text(str(os.getpid()))
            while not pathlib.Path(request['go']).exists():
                time.sleep(0.01)
            return {'started': time.monotonic(), 'seconds': 2.0}
        """,
    )  # fmt: skip
    note, go, found = tmp_path / "pid", tmp_path / "go", []
    thread = threading.Thread(
        target=lambda: found.append(process.run_job("build", {"note": str(note), "go": str(go)}))
    )  # fmt: skip
    thread.start()
    until(lambda: note.exists() and note.read_text())
    # it is still loading
    with children.exclusive_measurement():
        until(lambda: state(int(note.read_text())) == "T")
    go.touch()
    thread.join()
    assert found[0]["seconds"] == 2.0


def test_no_spare_is_started_while_engines_are_measured(jobs):
    jobs(who=WHO)
    inside, over = threading.Event(), threading.Event()

    def measure():
        with children.exclusive_measurement():
            inside.set()
            assert over.wait(HANG)

    with spare_children():
        found = children.spares()
        thread = threading.Thread(target=measure)
        thread.start()
        assert inside.wait(HANG)
        found.fill("stand_in", 1)
        during = len(found._found)
        over.set()
        thread.join()
        found.fill("stand_in", 1)
        assert (during, len(found._found)) == (0, 1)


def test_nothing_is_measured_while_a_spare_that_was_taken_still_loads(jobs, tmp_path):
    go, loaded = tmp_path / "go", tmp_path / "loaded"
    jobs(
        f"while not pathlib.Path({str(go)!r}).exists(): time.sleep(0.01)\npathlib.Path({str(loaded)!r}).touch()\n", who=WHO
    )  # fmt: skip
    seen, taken = [], []

    def measure():
        with children.exclusive_measurement():
            seen.append(loaded.exists())

    with spare_children():
        found = children.spares()
        found.fill("stand_in", 1)
        threads = [
            threading.Thread(target=lambda: taken.append(found.take("stand_in"))),
            threading.Thread(target=measure),
        ]
        threads[0].start()
        until(lambda: not found._found)
        threads[1].start()
        # time for it to measure if nothing held it back
        time.sleep(0.2)
        go.touch()
        for thread in threads:
            thread.join()
        taken[0].end()
        taken[0].noise.close()
    assert seen == [True]


@needs_stop
def test_a_stopped_child_ends_with_its_parent(tmp_path):
    parent, child = parent_of_sleeper(tmp_path)
    os.kill(child, signal.SIGSTOP)
    until(lambda: state(child) == "T")
    parent.kill()
    parent.wait()
    until(lambda: gone(child))


def test_spares_end_with_a_killed_parent(tmp_path):
    script = (
        "import time\nfrom toolkit.backends.processes import children\n"
        "with children.spare_children():\n"
        "    children.spares().fill('json', 1)\n"
        "    (one,) = children.spares()._found\n"
        "    assert one.ready()\n"
        "    print(one.process.pid, flush=True)\n    time.sleep(3600)\n"
    )
    parent = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    spare = int(parent.stdout.readline())
    parent.kill()
    parent.wait()
    parent.stdout.close()
    until(lambda: gone(spare))


def built(seconds=3.0):
    return Build("tensorrt", "8.6.0", b"plan", [], "none", None, [], seconds, {})


def test_an_engine_beside_is_given_up_with_its_child(jobs, tmp_path):
    note = tmp_path / "pid"
    jobs(sleep="pathlib.Path(request['note']).write_text(str(os.getpid()))\ntime.sleep(3600)\n")

    def build():
        for _ in range(2):
            # a backend may try again where a process died
            try:
                process.run_job("sleep", {"note": str(note)})
            except process.ProcessDiedError:
                continue
        return built()

    beside = BackgroundBuild("name", build)
    until(lambda: note.exists() and note.read_text())
    assert not beside.done and beside.seconds() is None and "one without pairs is built in parallel" in beside.aside
    beside.give_up()
    assert gone(int(note.read_text())) and beside.result(silent) == "its engine was abandoned" and beside.aside == ""


def test_an_engine_beside_tells_what_it_took_or_why_it_failed():
    told = []
    beside = BackgroundBuild("name", built)
    assert beside.result(lambda *entry: told.append(entry)).engine == b"plan" and beside.seconds() == 3.0

    def fail():
        raise BackendError("no memory is left")

    assert BackgroundBuild("name", fail).result(silent) == "no memory is left"
    assert "ZeroDivisionError" in BackgroundBuild("name", lambda: 1 / 0).result(silent)
