"""How many CPUs there are for a process that is given less than the machine has."""

from __future__ import annotations

import math
import os

import onnx
import pytest
from threadpoolctl import threadpool_info, threadpool_limits

from tests.conftest import build, node
from toolkit import Recipe
from toolkit.base import cpu
from toolkit.graph.sessions.session import session
from toolkit.run.checks.preflight import reachable
from toolkit.run.folder.run_folder import RunFolder
from toolkit.run.job import Job


def group(folder, **files):
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (folder / name.replace("__", ".")).write_text(text + "\n")


def own(tmp_path, *lines):
    path = tmp_path / "cgroup"
    path.write_text("".join(f"{line}\n" for line in lines))
    return path


@pytest.mark.parametrize(
    ("files", "paid"),
    [
        ({"": "max 100000", "a": "max 100000", "a/b": "250000 100000"}, 2.5),
        # the tightest of all groups that a process is in
        ({"": "max 100000", "a": "150000 100000", "a/b": "400000 100000"}, 1.5),
        ({"": "max 100000", "a": "max 100000", "a/b": "max 100000"}, math.inf),
        # a container sees its own group as the root, under a name of the host
        ({"": "800000 100000"}, 8.0),
        ({"a/b": "nonsense"}, math.inf),
        ({"a/b": "100000 0"}, math.inf),
        ({}, math.inf),
    ],
)
def test_the_quota_of_a_control_group_of_version_2(tmp_path, files, paid):
    root = tmp_path / "mounted"
    for place, text in files.items():
        group(root / place, cpu__max=text)
    assert cpu.quota(own(tmp_path, "0::/a/b"), root) == paid


@pytest.mark.parametrize(("time", "paid"), [("300000", 3.0), ("-1", math.inf)])
def test_the_quota_of_a_control_group_of_version_1(tmp_path, time, paid):
    root = tmp_path / "mounted"
    group(root / "cpu" / "a", cpu__cfs_quota_us=time, cpu__cfs_period_us="100000")
    lines = ("5:memory:/a", "4:cpu,cpuacct:/a", "0::/a")
    assert cpu.quota(own(tmp_path, *lines), root) == paid


def test_the_name_of_a_control_group_may_be_no_text(tmp_path):
    root, path = tmp_path / "mounted", tmp_path / "cgroup"
    group(root, cpu__max="200000 100000")
    path.write_bytes(b"0::/caf\xe9\n")
    assert cpu.quota(path, root) == 2.0


def test_without_control_groups_there_is_no_quota(tmp_path):
    assert cpu.quota(tmp_path / "missing", tmp_path) == math.inf


@pytest.mark.parametrize(
    ("allowed", "paid", "found", "threads"), [(4, 2.5, 3, 3), (4, 0.5, 1, 1), (64, math.inf, 64, 16)]
)
def test_threads_are_no_more_than_cpus_that_are_paid_for(monkeypatch, allowed, paid, found, threads):
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(allowed)), raising=False)
    monkeypatch.setattr(cpu, "quota", lambda groups, root: paid)
    monkeypatch.setattr(cpu, "cores", cpu.cores.__wrapped__)
    assert (cpu.cores(), cpu.session_threads()) == (found, threads)
    monkeypatch.setattr("toolkit.graph.sessions.session.session_threads", cpu.session_threads)
    model = build([node("Relu", ["x"], ["y"])], {"x": [2]}, {"y": [2]}, {})
    opened = {given: session(model, threads=given)._inner.get_session_options() for given in (None, 2)}
    assert {given: one.intra_op_num_threads for given, one in opened.items()} == {None: threads, 2: 2}


@pytest.mark.parametrize(
    ("version", "setting", "value"), [("1.26.0", "allow_spinning", "0"), ("1.27.0", "spin_duration_us", "10")]
)
def test_threads_of_sessions_hardly_wait_busily(monkeypatch, version, setting, value):
    monkeypatch.setattr("onnxruntime.__version__", version)
    model = build([node("Relu", ["x"], ["y"])], {"x": [2]}, {"y": [2]}, {})
    options = session(model)._inner.get_session_options()
    assert options.get_session_config_entry(f"session.intra_op.{setting}") == value


def blas_now():
    return {pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas"}


@pytest.mark.parametrize(("own", "inside"), [(3, 2), (1, 1)])
def test_linear_algebra_waits_for_no_more_threads_than_a_session_and_a_lower_limit_stays(monkeypatch, own, inside):
    monkeypatch.setattr(cpu, "session_threads", lambda: 2)
    with threadpool_limits(own, user_api="blas"):
        if blas_now() != {own}:
            pytest.skip(f"the BLAS here does not take {own} threads: {threadpool_info()}")
        with cpu.blas_threads():
            assert blas_now() == {inside}
        assert blas_now() == {own}


def test_a_run_limits_the_threads_of_linear_algebra(monkeypatch, tmp_path):
    onnx.save(build([node("Relu", ["x"], ["y"])], {"x": (1, 4)}, {"y": (1, 4)}), tmp_path / "model.onnx")
    recipe = tmp_path / "recipe.toml"
    recipe.write_text('[model]\npath = "model.onnx"\n')
    monkeypatch.setattr(cpu, "session_threads", lambda: 1)
    job = Job(Recipe.load(recipe), RunFolder(tmp_path / "run"))
    with threadpool_limits(2, user_api="blas"), reachable(job):
        assert blas_now() == {1}
