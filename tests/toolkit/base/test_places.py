"""Work that is shared out: the answers are those of one process, in order, wherever they are computed."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.works import Closed, Ends, Held, Powers
from toolkit.base import processes
from toolkit.base.cluster import cluster
from toolkit.base.errors import DataError, QtoolError
from toolkit.base.mapped import map_file
from toolkit.base.matching_versions import refuse_unlike, stamp
from toolkit.base.places import elsewhere, in_order, working_at
from toolkit.base.processes import Processes
from toolkit.cli.main import invoke


@dataclass
class _Late:
    """Workers that answer only when asked, and count what is under way."""

    window: int
    waiting: int = 0
    most: int = 0
    asked: list[int] = field(default_factory=list)

    def submit(self, item: int) -> _PoolAnswer:
        self.asked.append(item)
        self.waiting += 1
        self.most = max(self.most, self.waiting)
        return _PoolAnswer(self, item)


@dataclass
class _PoolAnswer:
    workers: _Late
    item: int

    def result(self) -> int:
        self.workers.waiting -= 1
        return self.item * 3


@given(st.integers(0, 30), st.integers(1, 8))
def test_answers_come_in_order_and_no_more_is_under_way_than_the_window(count: int, window: int) -> None:
    workers = _Late(window)
    assert list(in_order(workers, range(count))) == [3 * item for item in range(count)]
    assert workers.asked == list(range(count)) and workers.most == min(window, count)


def test_processes_answer_as_one_does_and_are_the_place_of_a_block_alone() -> None:
    assert elsewhere() is None
    with working_at(Processes(2)):
        place = elsewhere()
        assert place is not None
        with place.workers(Powers(7)) as workers:
            assert list(in_order(workers, range(9))) == [7**item for item in range(9)]
    assert elsewhere() is None


def test_processes_map_the_file_that_an_array_lies_in_and_share_one_of_all_others(tmp_path: Path) -> None:
    values = np.arange(3000, dtype=np.float32)
    (tmp_path / "weights").write_bytes(values.tobytes())
    with (tmp_path / "weights").open("rb") as stream:
        mapped = np.frombuffer(map_file(stream, tmp_path / "weights"), np.float32)
    arrays = [mapped[1000:2000], values * 2, values.reshape(2, -1).T]
    with Processes(2).workers(Held(arrays)) as workers:
        found = list(in_order(workers, [0, 1, 2]))
    assert [total for _, total in found] == [array.sum() for array in arrays]
    assert found[0][0] is not None and (found[0][0].path, found[0][0].offset) == (tmp_path / "weights", 4000)
    assert found[1][0] is not None and found[1][0].path != tmp_path / "weights"


def test_a_file_that_another_takes_the_place_of_is_not_read_for_it(tmp_path: Path) -> None:
    path, work = tmp_path / "weights", tmp_path / "work"
    path.write_bytes(np.ones(3000, np.float32).tobytes())
    with path.open("rb") as stream:
        mapped = np.frombuffer(map_file(stream, path), np.float32)
    processes._store(Held([mapped]), work)
    assert processes._stored(work).open()(0)[1] == 3000
    (tmp_path / "other").write_bytes(np.zeros(3000, np.float32).tobytes())
    (tmp_path / "other").replace(path)
    with pytest.raises(DataError, match="replaced by another file") as refused:
        processes._stored(work)
    assert refused.value.where == str(path) and refused.value.remedy


def test_a_process_that_is_lost_is_told_of_by_what_is_asked_next_too() -> None:
    with Processes(1).workers(Ends()) as workers:
        first = workers.submit(0)
        with pytest.raises(QtoolError, match="ended from outside"):
            first.result()
        with pytest.raises(QtoolError, match="ended from outside"):
            workers.submit(1)


def test_why_work_cannot_be_opened_in_a_process_is_told() -> None:
    with Processes(1).workers(Closed()) as workers, pytest.raises(FileNotFoundError, match=r"labels\.npz"):
        workers.submit(0).result()


def test_work_that_cannot_be_sent_is_refused() -> None:
    class Local(Powers):
        pass

    with pytest.raises(QtoolError) as refused, Processes(2).workers(Local(2)):
        pass
    assert refused.value.remedy


def test_without_ray_the_remedy_is_named_and_nothing_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from tests.conftest import MODELS

    real = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *more: None if name == "ray" else real(name, *more))
    with pytest.raises(QtoolError) as refused, cluster():
        pass
    assert refused.value.remedy == "run pip install 'qtool[ray]'"
    recipe = MODELS.parent / "recipes" / "digits_int8.toml"
    assert invoke(["run", str(recipe), "--on", "ray", "--out", str(tmp_path / "out")]) == 2
    assert "qtool[ray]" in capsys.readouterr().err
    assert not (tmp_path / "out" / "report.json").exists()


@pytest.mark.parametrize("on", ["rays", "ray://", "ray://head", "ray:// head:1", "RAY"])
def test_a_place_that_is_none_is_refused(on: str, capsys: pytest.CaptureFixture[str]) -> None:
    from tests.conftest import MODELS

    assert invoke(["run", str(MODELS.parent / "recipes" / "digits_int8.toml"), "--on", on]) == 2
    assert "run.on" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["python", "qtool", "code", "onnxruntime"])
def test_a_machine_with_another_version_is_named(name: str) -> None:
    ours = dict(stamp())
    refuse_unlike(ours, ours, "10.0.0.7")
    with pytest.raises(QtoolError) as refused:
        refuse_unlike(ours, {**ours, name: "0.0.1"}, "10.0.0.7")
    assert refused.value.where == "10.0.0.7" and "0.0.1" in refused.value.what
    with pytest.raises(QtoolError, match="No module"):
        refuse_unlike(ours, {"lacks": "ModuleNotFoundError: No module named 'toolkit'"}, "10.0.0.7")
