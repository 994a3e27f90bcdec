"""Weights that lie in files: onnxruntime maps them itself, and what is too much for memory is spilled."""

from __future__ import annotations

import gc
import shutil
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

from tests.large_models import block_samples, hold_to_limit, residual_blocks
from toolkit.base import mapped
from toolkit.base.mapped import FilePlace, place_of
from toolkit.graph.model import Model
from toolkit.graph.proto import on_disk
from toolkit.graph.proto.on_disk import spilled, spilled_as
from toolkit.graph.sessions import ort_session
from toolkit.graph.sessions.session import session
from toolkit.graph.surgery.tensors import make_constant, values_of

WIDTH = 64


@pytest.fixture
def no_room(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Everything is spilled, into a folder in this one."""
    monkeypatch.setattr(on_disk, "SPILL_BYTES", 0)
    monkeypatch.setattr(on_disk, "ROOM", 0)
    monkeypatch.setattr(on_disk, "_store", on_disk._Store())
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    return tmp_path


@pytest.fixture
def given(monkeypatch: pytest.MonkeyPatch) -> list[set[str]]:
    """For every session the weights that it maps from files."""
    seen: list[set[str]] = []
    places = ort_session._places

    def told(model):
        seen.append(set(found := places(model)))
        return found

    monkeypatch.setattr(ort_session, "_places", told)
    return seen


def expected(path: Path, x: np.ndarray) -> np.ndarray:
    weights = np.fromfile(path.with_suffix(".bin"), np.float32).reshape(-1, WIDTH, WIDTH)
    for wide, back in zip(weights[::2], weights[1::2]):
        x = x + np.maximum(x @ wide, 0) @ back
    return x


def test_mapped_weights_are_given_to_onnxruntime_as_places_in_their_file(tmp_path, given, monkeypatch):
    hold_to_limit(monkeypatch, 20_000)
    path = residual_blocks(tmp_path / "blocks.onnx", WIDTH, 2)
    x = np.load(block_samples(tmp_path / "x.npz", WIDTH))["x0"]
    model = Model.load(path)
    light = model.to_light()
    assert light.shares
    found = place_of(light.weights["w0b"])
    assert isinstance(found, FilePlace)
    assert (found.path, found.offset) == (path.with_suffix(".bin").resolve(), 4 * WIDTH**2)
    assert place_of(light.weights["w0b"].T) is None and place_of(np.zeros(3)) is None
    before = light.proto.SerializeToString()
    assert session(light).run({"x0": x})["y"] == pytest.approx(expected(path, x), rel=1e-4)
    assert light.proto.SerializeToString() == before
    assert given == [{"w0a", "w0b", "w1a", "w1b"}]


def test_a_file_that_was_replaced_is_not_read(tmp_path, given):
    path = residual_blocks(tmp_path / "blocks.onnx", WIDTH, 2)
    x = np.load(block_samples(tmp_path / "x.npz", WIDTH))["x0"]
    wanted = expected(path, x)
    model = Model.load(path)
    data = path.with_suffix(".bin")
    shutil.copy(data, tmp_path / "other.bin")
    (tmp_path / "other.bin").replace(data)
    assert session(model).run({"x0": x})["y"] == pytest.approx(wanted, rel=1e-4)
    data.unlink()
    assert session(model).run({"x0": x})["y"] == pytest.approx(wanted, rel=1e-4)
    assert given == [set(), set()]


def test_a_folder_whose_name_is_no_utf8_costs_a_copy(tmp_path, given):
    path = residual_blocks(tmp_path / "blocks.onnx", WIDTH, 2)
    x = np.load(block_samples(tmp_path / "x.npz", WIDTH))["x0"]
    wanted = expected(path, x)
    folder = tmp_path / "caf\udce9"
    folder.mkdir()
    for suffix in (".onnx", ".bin"):
        shutil.move(path.with_suffix(suffix), folder)
    found = session(Model.load(folder / "blocks.onnx")).run({"x0": x})["y"]
    np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-4)
    assert given == [set()]


@pytest.mark.parametrize("dtype", ["float32", "float16", "int8", "bool"])
def test_a_spilled_array_is_the_same_and_its_file_goes_with_it(no_room, dtype):
    values = np.random.default_rng(0).integers(0, 2, (3, 5)).astype(dtype)
    found, other = spilled(values), spilled(values.T)
    assert found.dtype == values.dtype and np.array_equal(found, values) and np.array_equal(other, values.T)
    assert not found.flags.writeable
    place = place_of(found)
    assert place is not None and place.path.is_file() and spilled(found[1:]) is not None
    view = found[1:]
    del found
    gc.collect()
    assert place.path.is_file() and np.array_equal(view, values[1:])
    del view, other
    gc.collect()
    assert not list(no_room.iterdir())


@pytest.mark.parametrize("dtype", ["float16", "float32", "int8", "bfloat16"])
@pytest.mark.parametrize("shape", [(), (40, 3), (1, 120)])
def test_what_is_spilled_in_another_type_is_converted_part_by_part(no_room, monkeypatch, dtype, shape):
    monkeypatch.setattr("toolkit.base.parts.PART_BYTES", 64)
    kind = np.dtype(getattr(ml_dtypes, dtype, dtype))
    values = np.random.default_rng(0).uniform(-100, 100, shape).astype(np.float32)
    for given in (values, values.T):
        found = spilled_as(given, kind)
        assert place_of(found) is not None and found.dtype == kind and found.shape == given.shape
        np.testing.assert_array_equal(found, given.astype(kind))
    words = np.array(["a", "b"], object)
    assert spilled_as(words, words.dtype).tolist() == ["a", "b"]
    # whoever has a copy may change what it came from
    held = values.copy()
    copy = spilled_as(held, held.dtype)
    held += 1
    np.testing.assert_array_equal(copy, values)
    on_disk.set_array_memory(10**6)
    assert place_of(spilled_as(values, kind)) is None


def test_a_conversion_that_the_disk_has_no_room_for_stays_in_memory(no_room, monkeypatch):
    values = np.arange(200, dtype=np.float32)

    def full(*given):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("toolkit.graph.proto.on_disk.map_file", full)
    found = spilled_as(values, np.dtype(np.float16))
    np.testing.assert_array_equal(found, values.astype(np.float16))
    assert place_of(found) is None and not list(no_room.iterdir())


def test_what_fits_stays_in_memory(no_room):
    on_disk.set_array_memory(1000)
    first, second = np.zeros(600, np.uint8), np.zeros(600, np.uint8)
    assert spilled(first) is first and spilled(first[:10]).base is first
    assert place_of(spilled(second)) is not None
    del first
    assert spilled(second) is second


def test_without_room_on_the_disk_it_stays_in_memory(no_room, monkeypatch):
    def full(purpose):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(on_disk, "temporary_folder", full)
    values = np.zeros(10)
    assert spilled(values) is values
    assert on_disk._store._count == 0


def test_a_spilled_constant_can_be_changed_as_any_other(no_room, given):
    constant = make_constant("w", np.arange(6000, dtype=np.float32).reshape(60, 100), None)
    assert place_of(values_of(constant)) is not None and constant.dtype == np.float32
    constant.values[0, 0] = 7
    assert values_of(constant)[0, 0] == 7


def test_spilled_weights_are_mapped_by_onnxruntime_as_well(no_room, given, tmp_path):
    folder = tmp_path / "model"
    folder.mkdir()
    path = residual_blocks(folder / "blocks.onnx", WIDTH, 2)
    x = np.load(block_samples(folder / "x.npz", WIDTH))["x0"]
    model = Model.load(path)
    for node in model.nodes:
        if node.op == "MatMul":
            node.inputs[1] = make_constant(f"own {node.inputs[1].name}", values_of(node.inputs[1]).copy())
    assert np.array_equal(session(model).run({"x0": x})["y"], session(path).run({"x0": x})["y"])
    assert given == [{"own w0a", "own w0b", "own w1a", "own w1b"}, {"w0a", "w0b", "w1a", "w1b"}]


def test_pages_of_what_was_looked_at_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = Model.load(residual_blocks(tmp_path / "blocks.onnx", WIDTH, 3))
    weights = [tensor for tensor in model.graph.tensors().values() if model.constant(tensor) is not None]
    size = model.constant(weights[0]).nbytes
    released = []
    monkeypatch.setattr(mapped, "pages_read", mapped.PagesRead())
    mapped.hold_pages(2 * size)
    monkeypatch.setattr(mapped, "release_pages", lambda: released.append(True))
    for tensor in weights:
        values_of(tensor)
    assert len(weights) == 6 and len(released) == 2
