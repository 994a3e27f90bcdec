"""A step and its record, apart from any recipe's own: what is kept, what is found again, what is not."""

from __future__ import annotations

import json
import math
import os

import pytest

from tests.conftest import build, node, normal
from toolkit.base.errors import QtoolError
from toolkit.base.files import write_bytes
from toolkit.base.precision import Precision
from toolkit.contract.findings import Code
from toolkit.contract.journal import Journal
from toolkit.contract.plan import PrecisionPlan
from toolkit.run.folder.record_fields import JournalField, PlanField
from toolkit.run.folder.run_folder import RunFolder
from toolkit.run.inputs.inputs import Inputs
from toolkit.run.job import Job
from toolkit.run.keys.step import GraphRecord, Record, Step, relative
from toolkit.run.pipeline import Pipeline
from toolkit.run.recipe.recipe import Recipe


class Counted(Record):
    number: int
    failed: bool = False

    @property
    def final(self):
        return not self.failed


class Count(Step[Counted]):
    name = "count"
    kind = Counted

    def __init__(self, inputs, key="a", failed=False):
        super().__init__(inputs)
        self.says, self.failed, self.ran = key, failed, 0

    def key(self):
        return {"says": self.says}

    def run(self):
        self.ran += 1
        path = self.folder.path / "counted.bin"
        path.write_bytes(b"large")
        return Counted(number=7, failed=self.failed, files=relative(self.folder, path))


@pytest.fixture
def inputs(place):
    found = Inputs(Job(Recipe.load(place / "recipe.toml"), RunFolder(place / "out")))
    with found.job.folder:
        yield found


def done(inputs, step):
    """What the pipeline makes of one step: its record, whether it ran, and the status that is told."""
    pipeline = Pipeline(inputs)
    record = pipeline.do(step)
    return record, step.ran, pipeline.steps[0].status


def test_a_record_is_found_again_as_it_was(inputs):
    first, ran, status = done(inputs, Count(inputs))
    assert (first.number, ran, status) == (7, 1, "done")
    again, ran, status = done(inputs, Count(inputs))
    assert (ran, status) == (0, "reused") and again == first
    assert again.path("counted.bin").read_bytes() == b"large" and again.path("other.bin") is None


class Measured(Record):
    worst: float
    by_node: dict[str, float]


def test_figures_that_are_no_numbers_are_found_again_as_they_were(inputs):
    class Measure(Count):
        name = "measure"
        kind = Measured

        def run(self):
            self.ran += 1
            return Measured(worst=math.inf, by_node={"/a \u202e": -math.inf, "b": math.nan, "c": 1e-5})

    first, *_ = done(inputs, Measure(inputs))
    again, ran, _ = done(inputs, Measure(inputs))
    assert ran == 0 and again.worst == first.worst == math.inf
    assert again.by_node.keys() == first.by_node.keys() and again.by_node["/a \u202e"] == -math.inf
    assert math.isnan(again.by_node["b"]) and again.by_node["c"] == 1e-5


@pytest.mark.parametrize("name", ["counted.bin", ".qtool/count.json"])
@pytest.mark.parametrize("change", ["changed", "removed"])
def test_a_record_or_a_file_of_it_that_changed_is_not_used(inputs, name, change):
    done(inputs, Count(inputs))
    path = inputs.job.folder.path / name
    if change == "changed":
        path.write_text("{}")
    else:
        path.unlink()
    assert done(inputs, Count(inputs))[1:] == (1, "done")
    assert done(inputs, Count(inputs))[1:] == (0, "reused")


def test_another_key_is_done_again_and_the_old_files_stay_until_their_successors_are_there(inputs):
    done(inputs, Count(inputs))
    path = inputs.job.folder.path / "counted.bin"

    class Killed(Count):
        def run(self):
            assert path.read_bytes() == b"large" and self._file.exists()
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        done(inputs, Killed(inputs, "b"))
    # nothing was written: the old result is whole, the new one never finished
    assert path.exists() and done(inputs, Count(inputs))[1:] == (0, "reused")
    assert done(inputs, Count(inputs, "b"))[1:] == (1, "done")


def test_a_half_written_successor_is_not_taken_for_the_old_result(inputs):
    done(inputs, Count(inputs))

    class Killed(Count):
        def run(self):
            (self.folder.path / "counted.bin").write_bytes(b"other")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        done(inputs, Killed(inputs, "b"))
    assert done(inputs, Count(inputs))[1:] == (1, "done")


def test_what_the_new_record_does_not_name_is_gone_once_it_is_kept(inputs):
    done(inputs, Count(inputs))
    left = inputs.job.folder.path / "left.bin"
    left.write_bytes(b"of a run that was killed")

    class Without(Count):
        leaves = ("left.bin",)

        def run(self):
            return Counted(number=8)

    done(inputs, Without(inputs, "b"))
    assert not left.exists() and not (inputs.job.folder.path / "counted.bin").exists()


def test_a_failure_is_tried_again_and_then_kept(inputs):
    record, *_ = done(inputs, Count(inputs, failed=True))
    assert record.failed
    assert done(inputs, Count(inputs, failed=True))[1:] == (1, "done")
    assert done(inputs, Count(inputs))[1:] == (1, "done")
    assert done(inputs, Count(inputs))[1:] == (0, "reused")


def test_a_record_may_not_own_files_elsewhere(inputs, tmp_path):
    class Greedy(Count):
        def run(self):
            return Counted(number=1, files=relative(self.folder, tmp_path / "precious.txt"))

    with pytest.raises(QtoolError):
        done(inputs, Greedy(inputs))


def test_plans_and_journals_are_fields_that_read_back():
    class Said(Record):
        plan: PlanField
        journal: JournalField

    plan, journal = PrecisionPlan(), Journal()
    plan.by = journal.by = "somebody"
    plan.ask("a", Precision.FP16, "first")
    plan.ask("a", Precision.INT8, "then", free=True)
    journal.declined("b", Code.OWN_WORDS(text="not this one", rule="mine"))
    record = Said(plan=plan, journal=journal)
    again = Said.model_validate_json(json.dumps(record.content()))
    assert dict(again.plan.items()) == dict(plan.items()) and again.journal.events == journal.events
    # the record that was made is the one that will be read: only what counts of the plan
    assert record.plan.history == again.plan.history == list(plan.items())


class Drawn(GraphRecord):
    model_file = "graph.onnx"


def test_a_graph_that_was_just_written_is_read_again_only_where_its_weights_lie_apart(tmp_path, residual, monkeypatch):
    residual.settle().save(tmp_path / Drawn.model_file)
    record, read = (Drawn(files=[Drawn.model_file]).kept_in(tmp_path) for _ in range(2))
    assert record.holding(residual).model() is residual
    assert read.model().fingerprint() == residual.fingerprint()
    monkeypatch.setattr("toolkit.graph.proto.light.PROTOBUF_LIMIT", 100)
    assert Drawn().kept_in(tmp_path).holding(residual).model() is not residual


def test_a_graph_that_is_written_twice_within_a_tick_of_the_clock_has_two_keys(tmp_path):
    """Its size and time are the same, its inode is not."""
    path, keys = tmp_path / Drawn.model_file, []
    record = Drawn(files=[path.name]).kept_in(tmp_path)
    for seed in (1, 2):
        proto = build([node("MatMul", ["x", "w"], ["y"])], {"x": [1, 4]}, {"y": [1, 4]}, {"w": normal(4, 4, seed=seed)})
        write_bytes(path, proto.SerializeToString())
        os.utime(path, ns=(10**18, 10**18))
        keys.append(record.model_key())
    assert keys[0] != keys[1]
