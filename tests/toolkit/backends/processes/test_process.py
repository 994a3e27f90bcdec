"""The child process: what it answers, how it dies, and that it never outlives its parent."""

from __future__ import annotations

import os
import signal
import time
from types import SimpleNamespace

import pytest

from tests.toolkit.backends.stand_in_jobs import parent_of_sleeper, stand_in
from toolkit.backends.jobs import worker
from toolkit.backends.processes import process
from toolkit.base.errors import BackendError


@pytest.fixture
def job(tmp_path, monkeypatch):
    """Makes a function of the given body the job 'stand_in' of a worker."""

    def make(body):
        stand_in(tmp_path, monkeypatch, stand_in=body)

    return make


def test_result_log_and_progress_come_back(job):
    job("""
        talk.log("hello")
        talk.progress("half", 1, 2)
        print("noise"); os.system("echo native noise")
        return {"got": request["value"]}
    """)
    logs, steps = [], []
    assert process.run_job("stand_in", {"value": "ü"}, logs.append, lambda *e: steps.append(e)) == {"got": "ü"}
    assert logs == ["hello"] and steps == [("half", 1, 2)]


def test_an_error_keeps_place_and_remedy(job):
    job("""
        from toolkit.base.errors import BackendError
        raise BackendError("it broke", where="here", remedy="mend it")
    """)
    with pytest.raises(BackendError, match=r"here: it broke. Mend it"):
        process.run_job("stand_in", {})


def test_an_unexpected_error_is_still_an_error(job):
    job("raise ZeroDivisionError('oops')")
    with pytest.raises(BackendError, match=r"ZeroDivisionError: oops"):
        process.run_job("stand_in", {})


def test_a_crash_is_named_with_its_last_words(job):
    job("""
        os.write(2, b"assertion failed: x\\n")
        os.abort()
    """)
    with pytest.raises(
        BackendError,
        match=r"SIGABRT.*last words: assertion failed: x; it was at stand_in.py line \d+ in run.*crash inside",
    ):
        process.run_job("stand_in", {})


def test_no_room_for_what_is_written_beside_an_engine_is_told(job, monkeypatch):
    job("os.abort()")
    monkeypatch.setattr("shutil.disk_usage", lambda folder: SimpleNamespace(free=4096))
    with pytest.raises(BackendError, match=r"SIGABRT.*no room left in .*TMPDIR"):
        process.run_job("stand_in", {})


def test_killed_by_the_system_means_memory(job):
    job("os.kill(os.getpid(), signal.SIGKILL)")
    with pytest.raises(BackendError, match=r"SIGKILL.*out of memory"):
        process.run_job("stand_in", {})


def test_an_unknown_job():
    with pytest.raises(BackendError, match=r"KeyError"):
        process.run_job("no such job", {})


def test_interrupting_the_parent_ends_the_child(job, tmp_path):
    note = tmp_path / "pid"
    job(f"""
        open({str(note)!r}, "w").write(str(os.getpid()))
        talk.log("started")
        time.sleep(60)
    """)

    def stop(_):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        process.run_job("stand_in", {}, stop)
    with pytest.raises(ProcessLookupError):
        os.kill(int(note.read_text()), 0)


def test_the_child_ends_when_its_parent_is_killed(tmp_path):
    parent, child = parent_of_sleeper(tmp_path)
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    # left alone it sleeps for an hour
    with pytest.raises(ProcessLookupError):
        for _ in range(30_000):
            os.kill(child, 0)
            time.sleep(0.02)


def test_every_job_names_a_module_that_exists():
    import importlib.util

    for target in worker.JOBS.values():
        assert importlib.util.find_spec(target.partition(":")[0]) is not None
