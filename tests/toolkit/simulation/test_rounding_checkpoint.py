"""A run that was interrupted goes on with the roundings that it found: the same ones that it would have found again."""

from __future__ import annotations

import numpy as np
import pytest

from passes.insert_qdq import InsertQDQ
from tests.conftest import MODELS, build, node, normal
from tests.toolkit.simulation.test_output_rounding import WIDTH, mixed
from toolkit import Context, Model, run
from toolkit.base.files import sha256_json
from toolkit.calibration.provider import Calibrator
from toolkit.data.dataset import CalibrationData
from toolkit.simulation import output_rounding, rounding_checkpoint
from toolkit.simulation.rounding_checkpoint import PATTERN

RECIPE = f"""\
[model]
path = "{MODELS.as_posix()}/digits_uneven.onnx"
[calibration]
data = "{MODELS.as_posix()}/digits_calibration.npz"
samples = 32
[[pass]]
use = "insert_qdq"
weights = "output"
[engine]
backend = "none"
"""


@pytest.fixture
def layers():
    """Four layers, one of them as good when rounded to the nearest, and the samples that they see."""
    nodes = [node("Gemm", [f"h{i}", f"w{i}"], [f"h{i + 1}"]) for i in range(4)]
    weights = {f"w{i}": normal(WIDTH, WIDTH, seed=i) for i in range(3)} | {"w3": np.eye(WIDTH, dtype=np.float32)}
    model = Model.from_proto(build(nodes, {"h0": ["n", WIDTH]}, {"h4": ["n", WIDTH]}, weights))
    return model, CalibrationData.open([{"h0": row[None]} for row in mixed([WIDTH], 24)], model)


@pytest.fixture
def find(layers, tmp_path):
    """Finds the roundings as a run does that keeps what it collects; a new context knows nothing of earlier ones."""
    model, data = layers

    def keep(of, taps, scalars):
        return tmp_path / f"collection-{sha256_json([of.fingerprint(), taps, scalars, data.fingerprint()])[:20]}.npz"

    def find(**given):
        context = Context(provider=Calibrator(data, method="minmax", keep=keep))
        return InsertQDQ(weights="output", **given).rounder(model.copy(), context)

    return find


@pytest.fixture
def looked_at(monkeypatch):
    """The weights that were looked at."""
    found, plain = [], output_rounding._round

    def one(layer, *given):
        found.append(layer.inputs[1].name)
        return plain(layer, *given)

    monkeypatch.setattr(output_rounding, "_round", one)
    return found


def same(one, other):
    assert one.chosen.keys() == other.chosen.keys() and one.errors == other.errors
    for key, weight in one.chosen.items():
        np.testing.assert_array_equal(weight.values, other.chosen[key].values)
        np.testing.assert_array_equal(weight.scale, other.chosen[key].scale)
        assert (weight.before_db, weight.after_db) == (other.chosen[key].before_db, other.chosen[key].after_db)


def test_what_was_found_is_not_found_again(find, looked_at):
    first = find()
    assert first.chosen and len(first.errors) == 4 and sorted(looked_at) == ["w0", "w1", "w2", "w3"]
    same(first, find())
    assert len(looked_at) == 4
    # of another type everything is another
    find(dtype="fp8")
    assert len(looked_at) == 8


def test_an_interrupt_loses_no_layer_that_was_done(find, looked_at, tmp_path, monkeypatch):
    whole = find()
    (file,) = tmp_path.glob(PATTERN)
    file.unlink()
    looked_at.clear()
    plain = rounding_checkpoint.RoundingCheckpoint.add

    def interrupted(self, key, *given):
        plain(self, key, *given)
        if len(self.done) == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(rounding_checkpoint.RoundingCheckpoint, "add", interrupted)
    with pytest.raises(KeyboardInterrupt):
        find()
    monkeypatch.setattr(rounding_checkpoint.RoundingCheckpoint, "add", plain)
    looked_at.clear()
    same(find(), whole)
    assert len(looked_at) == 2


@pytest.mark.parametrize("damage", [b"", b"PK", b"not an archive at all"])
def test_a_damaged_file_is_no_loss(find, looked_at, tmp_path, damage):
    first = find()
    (file,) = tmp_path.glob(PATTERN)
    file.write_bytes(damage)
    same(first, find())
    assert len(looked_at) == 8


def test_a_file_of_other_weights_is_not_taken(find, looked_at, tmp_path):
    first = find()
    (file,) = tmp_path.glob(PATTERN)
    with np.load(file) as there:
        arrays = {name: there[name][:3] if name == "values_0" else there[name] for name in there}
    np.savez(file, **arrays)
    same(first, find())
    assert len(looked_at) == 8


def test_nothing_is_left_of_them_after_a_run(tmp_path, looked_at):
    (tmp_path / "recipe.toml").write_text(RECIPE)
    hidden = run(tmp_path / "recipe.toml", tmp_path / "run").folder / ".qtool"
    assert looked_at and list(hidden.glob("collection-*.npz")) and not list(hidden.glob(PATTERN))
