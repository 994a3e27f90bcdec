"""What a trial's calibration collected of a part of the samples: found again by a run that goes on, then removed."""

from __future__ import annotations

import numpy as np

from tests.toolkit.search.planted import chain, feeds
from toolkit import run
from toolkit.calibration import collect as collecting
from toolkit.calibration.provider import KEPT_OF_PART, Calibrator
from toolkit.data.dataset import CalibrationData
from toolkit.run.folder.run_folder import RunFolder
from toolkit.run.recipe.recipe import Recipe


def test_statistics_of_a_part_are_found_again_and_never_taken_for_those_of_all(tmp_path, monkeypatch):
    model, counted, collect = chain(3).settle(), [], collecting.collect

    def counting(of, taps, data, *rest, **more):
        counted.append(len(data))
        return collect(of, taps, data, *rest, **more)

    monkeypatch.setattr(collecting, "collect", counting)

    def whole():
        data = CalibrationData.open(feeds(64), model)
        return Calibrator(data, keep=lambda of, *_: tmp_path / f"{of.fingerprint()[:20]}.npz")

    first, again = whole().on_subset(), whole().on_subset()
    ranges = first(model, None)
    assert counted == [16] and len(list(tmp_path.glob(KEPT_OF_PART))) == 1
    assert again(model, None).tensors == ranges.tensors and counted == [16]
    assert whole()(model, None).tensors != ranges.tensors and counted == [16, 64]
    assert len(list(tmp_path.iterdir())) == 2 and len(list(tmp_path.glob(KEPT_OF_PART))) == 1


def test_what_keeps_nothing_keeps_nothing_of_a_part(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    model = chain(3).settle()
    assert Calibrator(CalibrationData.open(feeds(64), model)).on_subset()(model, None).tensors
    assert list(tmp_path.iterdir()) == []


def test_the_passes_leave_nothing_of_a_part(tmp_path):
    model = chain(3)
    model.save(tmp_path / "model.onnx")
    (name,) = (tensor.name for tensor in model.graph.inputs)
    np.savez(tmp_path / "data.npz", **{name: np.concatenate([one[name] for one in feeds(16)])})
    recipe = Recipe.build(
        "part", model={"path": tmp_path / "model.onnx"}, calibration={"data": str(tmp_path / "data.npz")},
        passes=[{"use": "insert_qdq"}], engine={"backend": "none"},
    )  # fmt: skip
    hidden = RunFolder(tmp_path / "out").hidden
    hidden.mkdir(parents=True)
    (hidden / "collection-1-part.npz").write_bytes(b"")
    run(recipe, tmp_path / "out")
    assert len(list(hidden.glob("collection-*"))) == 1 and list(hidden.glob(KEPT_OF_PART)) == []
