"""Inputs that people reported or an attacker would write: each is refused in one clear paragraph, or works where it is sound."""

from __future__ import annotations

import hashlib
import io
import json
import os
import struct
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from tests.conftest import node, normal
from tests.fuzz import corpus
from tests.fuzz.campaign import peak_megabytes
from tests.toolkit.conftest import complain
from toolkit import Model, Recipe
from toolkit.base.errors import ModelError
from toolkit.cli.main import invoke
from toolkit.graph.sessions import endless_loops
from toolkit.graph.surgery.opset import convert_opset

Change = Callable[[Path], None]
CHECK, RUN, INSPECT = ("check", "r.toml"), ("run", "r.toml", "--out", "o"), ("inspect", "m.onnx")


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory, with the sound files of a small recipe."""
    monkeypatch.chdir(tmp_path)
    corpus.recipe_folder(tmp_path)
    return tmp_path


def recipe(old: str, new: str) -> Change:
    def change(folder: Path) -> None:
        text = (folder / "r.toml").read_text()
        assert old in text
        (folder / "r.toml").write_text(text.replace(old, new))

    return change


# ---------------------------------------------------------------- JSON, tables and collections


def ranges(change: Callable[[Any], None]) -> Change:
    """a.json: the ranges of a run, changed, and named by the recipe."""

    def make(folder: Path) -> None:
        content = json.loads(corpus.run_files()["ranges.json"])
        change(content)
        (folder / "a.json").write_text(json.dumps(content))
        use_ranges(folder)

    return make


def use_ranges(folder: Path) -> None:
    recipe('method = "minmax"', 'method = "minmax"\nranges = "a.json"')(folder)


def ranges_text(text: str) -> Change:
    def make(folder: Path) -> None:
        (folder / "a.json").write_text(text)
        use_ranges(folder)

    return make


def first(content: Any) -> Any:
    return next(iter(content["tensors"].values()))


RANGES: dict[str, tuple[Change, str]] = {
    "unknown field": (ranges(lambda c: first(c).update(evil=1)), "evil"),
    "samples a list": (ranges(lambda c: c.update(samples=[1])), "samples"),
    "profiles a list": (ranges(lambda c: first(c).update(per_profile=[1])), "per_profile"),
    "amax text": (ranges(lambda c: first(c).update(amax="1.0")), "amax"),
    "amax true": (ranges(lambda c: first(c).update(amax=True)), "amax"),
    "amax beyond float32": (ranges(lambda c: first(c).update(amax=1e300)), "amax"),
    "amax of 400 digits": (ranges(lambda c: first(c).update(amax=10**400)), "amax"),
    "observed short": (ranges(lambda c: c.update(observed={"x": [1.0]})), "observed"),
    "observed text": (ranges(lambda c: c.update(observed={"x": ["a", "b"]})), "observed"),
    "tensors a list": (ranges(lambda c: c.update(tensors=[])), "tensors"),
    "diagnosis a number": (ranges(lambda c: first(c).update(diagnosis={"amax": 3})), "diagnosis"),
    "no method": (ranges(lambda c: first(c).pop("method")), "method"),
    "deep": (ranges_text("[" * 50_000), "deep"),
    "1e400": (ranges_text('{"x": [0.0, 1e400]}'), "1e400"),
    "NaN": (ranges_text('{"x": [0.0, NaN]}'), "NaN"),
    "half a surrogate pair": (ranges_text('{"\\ud800": [0.0, 1.0]}'), "a.json"),
    "a table of lists": (ranges_text('{"x": [[1, 2], 3]}'), "'x'"),
    "a table upside down": (ranges_text('{"x": [3.0, 1.0]}'), "'x'"),
    "two bytes": (ranges_text("{}"), "a.json"),
}  # fmt: skip


@pytest.mark.parametrize("case", RANGES)
def test_broken_ranges_are_refused_by_inspect_and_run_with_their_file(
    here: Path, capsys: pytest.CaptureFixture[str], case: str
) -> None:
    make, word = RANGES[case]
    make(here)
    for command in (("inspect", "a.json"), RUN):
        said = complain(here, capsys, *command)
        assert "a.json" in said and word in said


def collection(change: Callable[[dict[str, Any]], None]) -> Change:
    """col.npz: what `qtool calibrate` wrote, its arrays and its head changed."""

    def make(folder: Path) -> None:
        with np.load(io.BytesIO(corpus.run_files()["col.npz"])) as archive:
            arrays: dict[str, Any] = dict(archive)
        arrays["head"] = json.loads(str(arrays["head"]))
        change(arrays)
        arrays["head"] = np.array(json.dumps(arrays["head"]))
        np.savez_compressed(folder / "col.npz", **arrays)
        recipe('method = "minmax"', 'method = "minmax"\ncollection = "col.npz"')(folder)

    return make


COLLECTIONS: dict[str, Change] = {
    "no observed": collection(lambda a: a["head"].pop("observed")),
    "shards of text": collection(lambda a: a["head"]["made_from"].update(shards=[["a", "b"]])),
    "a thousand million shards": collection(lambda a: a["head"]["made_from"].update(shards=[[1, 10**9]])),
    "shards a number": collection(lambda a: a["head"]["made_from"].update(shards=3)),
    "data a list": collection(lambda a: a["head"]["made_from"].update(data=[1])),
    "sum no number": collection(lambda a: a["head"]["made_from"].update(data={"samples": 1, "sum": "xyz"})),
    "groups a number": collection(lambda a: a["head"].update(groups=1)),
    "head a list": collection(lambda a: a.update(head=[1])),
    "no counts": collection(lambda a: a.pop("counts_0")),
    "counts of floats": collection(lambda a: a.update(counts_0=a["counts_0"].astype(np.float64))),
    "counts flat": collection(lambda a: a.update(counts_0=a["counts_0"].reshape(-1))),
    "counts below zero": collection(lambda a: a.update(counts_0=-a["counts_0"])),
    "an exponent of a million": collection(lambda a: a.update(whole_0=a["whole_0"] + 10**6)),
    "extremes of NaN": collection(lambda a: a.update(extremes_0=a["extremes_0"] * np.nan)),
    "fewer rows": collection(lambda a: a.update(extremes_0=a["extremes_0"][:1])),
}  # fmt: skip


@pytest.mark.parametrize("case", COLLECTIONS)
def test_broken_collections_are_refused_and_nothing_is_merged(
    here: Path, capsys: pytest.CaptureFixture[str], case: str
) -> None:
    COLLECTIONS[case](here)
    (here / "p.npz").write_bytes(corpus.run_files()["p.npz"])
    for command in (("inspect", "col.npz"), ("merge", "col.npz", "p.npz", "--out", "both.npz"), RUN):
        assert "col.npz" in complain(here, capsys, *command)
    assert not (here / "both.npz").exists()


def test_a_collection_of_the_run_folder_that_was_damaged_is_made_again(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert invoke(list(RUN)) == 0
    (kept,) = (here / "o" / ".qtool").glob("collection-*.npz")
    for content in (b"", b"PK\x03\x04", corpus.run_files()["col.npz"][:-40]):
        kept.write_bytes(content)
        (here / "o" / "ranges.json").unlink()
        assert invoke(list(RUN)) == 0
        assert (here / "o" / "ranges.json").is_file() and kept.read_bytes() != content
    capsys.readouterr()


JSON_FILES: dict[str, tuple[str, str]] = {
    "inspector without profiles": ("layers.json", '{"source": "inspector"}'),
    "network without names": ("layers.json", '{"source": "network", "layers": [{}]}'),
    "network of numbers": ("layers.json", '{"source": "network", "layers": 3}'),
    "report of another shape": ("report.json", '{"schema": "qtool-report-1", "layers": {}}'),
    "report deep": ("report.json", '{"schema": "qtool-report-1", "a": ' + "[" * 5000 + "]" * 5000 + "}"),
    "journal of lists": ("j.jsonl", "[1]\n"),
    "journal of unknown codes": ("j.jsonl", '{"kind": "noted", "by": "x", "rule": "nonsense"}\n'),
    "nothing": ("a.json", ""),
    "a number": ("a.json", "3"),
}  # fmt: skip


@pytest.mark.parametrize("case", JSON_FILES)
def test_broken_json_files_are_refused_with_their_name(
    here: Path, capsys: pytest.CaptureFixture[str], case: str
) -> None:
    name, text = JSON_FILES[case]
    (here / name).write_text(text)
    assert name in complain(here, capsys, "inspect", name)


@pytest.mark.parametrize("text", ["[]", "{}", "[3]", '[{"x": 3}]', '[{"x": {"array": "AAAA"}}]', '[{"x": {"values": {"values": {}}}}]', "[" * 9000,
                                  '[{"x": {"tensor": "AAAA", "polygraphy_class": "Tensor"}}]'])  # fmt: skip
def test_broken_inputs_of_polygraphy_are_refused_with_their_file(
    here: Path, capsys: pytest.CaptureFixture[str], text: str
) -> None:
    (here / "c.json").write_text(text)
    recipe("c.npz", "c.json")(here)
    assert "c.json" in complain(here, capsys, *CHECK)


def test_saved_inputs_that_are_sound(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (here / "c.json").write_bytes(corpus.saved_inputs())
    recipe("c.npz", "c.json")(here)
    assert invoke(list(CHECK)) == 0
    assert "calibration: 2 samples" in capsys.readouterr().out


# ---------------------------------------------------------------- archives of arrays


def member(folder: Path, content: bytes, name: str = "x.npy", method: int = zipfile.ZIP_STORED) -> None:
    with zipfile.ZipFile(folder / "c.npz", "w", method) as archive:
        archive.writestr(name, content)


def npy(shape: str, values: bytes = bytes(6 * 48 * 4), descr: str = "'<f4'") -> bytes:
    header = f"{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}, }}\n".encode("latin-1")
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header + values


def patched(offset: int, value: bytes, packed: bool = True) -> Change:
    """c.npz with other bytes in its central directory's first entry."""

    def change(folder: Path) -> None:
        stream = io.BytesIO()
        (np.savez_compressed if packed else np.savez)(stream, x=corpus.samples()["x"])
        data = bytearray(stream.getvalue())
        spot = data.rfind(b"PK\x01\x02") + offset
        data[spot : spot + len(value)] = value
        (folder / "c.npz").write_bytes(bytes(data))

    return change


def broken_stream(method: int) -> Change:
    def change(folder: Path) -> None:
        member(folder, npy("(6, 3, 4, 4)", np.random.default_rng(0).bytes(6 * 48 * 4)), method=method)
        data = bytearray((folder / "c.npz").read_bytes())
        data[150:400] = bytes(250)
        (folder / "c.npz").write_bytes(bytes(data))

    return change


def one_flipped(folder: Path) -> None:
    np.savez(folder / "c.npz", x=corpus.samples()["x"])
    data = bytearray((folder / "c.npz").read_bytes())
    data[600] ^= 1
    (folder / "c.npz").write_bytes(bytes(data))


def twice(folder: Path) -> None:
    with zipfile.ZipFile(folder / "c.npz", "w") as archive, pytest.warns(UserWarning, match="Duplicate"):
        for _ in range(2):
            archive.writestr("x.npy", npy("(6, 3, 4, 4)"))


ARCHIVES: dict[str, Change] = {
    "shape below zero": lambda f: member(f, npy("(-1, 3, 4, 4)")),
    "shape of booleans": lambda f: member(f, npy("(True, 3, 4, 4)")),
    "shape of 400 digits": lambda f: member(f, npy(f"({'9' * 400}, 3, 4, 4)")),
    "shape of floats": lambda f: member(f, npy("(6.0, 3, 4, 4)")),
    "more than there is": lambda f: member(f, npy("(10000000000, 3, 4, 4)")),
    "a header of parentheses": lambda f: member(f, npy("(6, 3, 4, 4)" + "(" * 120)),
    "objects": lambda f: member(f, npy("(6, 3, 4, 4)", descr="'|O'")),
    "records": lambda f: member(f, npy("(6, 3, 4, 4)", descr="[('a', '<f4')]")),
    "text of gigabytes": lambda f: member(f, npy("(6, 3, 4, 4)", descr="'<U1000000000'")),
    "a type of nothing": lambda f: member(f, npy("(6, 3, 4, 4)", descr="''")),
    "superscript digits": lambda f: member(f, npy("(1, 3, 4, 4)"), "x/\u00b2\u00b3.npy"),
    "two of a name": twice,
    "encrypted": patched(8, b"\x01\x00"),
    "another method": patched(10, b"\x63\x00"),
    "bad deflate": broken_stream(zipfile.ZIP_DEFLATED),
    "bad lzma": broken_stream(zipfile.ZIP_LZMA),
    "bad bzip2": broken_stream(zipfile.ZIP_BZIP2),
    "a checksum that is not looked at": one_flipped,
    "another checksum": patched(16, bytes(4), packed=False),
    "another size": patched(24, b"\xff\xff\xff\x7f", packed=False),
}  # fmt: skip


@pytest.mark.parametrize("case", ARCHIVES)
def test_broken_archives_are_refused_with_their_file(here: Path, capsys: pytest.CaptureFixture[str], case: str) -> None:
    ARCHIVES[case](here)
    assert "c.npz" in complain(here, capsys, *CHECK)


def test_an_archive_that_claims_ten_gigabytes(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with zipfile.ZipFile(here / "c.npz", "w", zipfile.ZIP_DEFLATED) as archive, archive.open("x.npy", "w") as stream:
        stream.write(npy("(54000000, 3, 4, 4)", b""))
        stream.write(bytes(1 << 20))
    data = bytearray((here / "c.npz").read_bytes())
    spot = data.rfind(b"PK\x01\x02") + 24
    data[spot : spot + 4] = struct.pack("<I", 0xFFFFFFF0)
    (here / "c.npz").write_bytes(bytes(data))
    before = peak_megabytes()
    assert "c.npz" in complain(here, capsys, *CHECK)
    assert peak_megabytes() - before < 500


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_big_endian_arrays_are_taken(here: Path, capsys: pytest.CaptureFixture[str], save: Any) -> None:
    from toolkit import CalibrationData, Model

    values = corpus.samples()["x"]
    save(here / "c.npz", x=values.astype(">f4"))
    assert invoke(list(CHECK)) == 0
    read = CalibrationData.open(here / "c.npz", Model.load(here / "m.onnx"))
    assert np.array_equal(np.concatenate([sample.inputs["x"] for sample in read.samples()]), values)
    capsys.readouterr()


def test_large_packed_arrays_are_read_a_few_rows_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from toolkit.data.arrays import open_archive

    monkeypatch.setattr("toolkit.data.arrays._HELD", 100)
    values = normal(50, 3, 4, 4)
    np.savez_compressed(tmp_path / "a.npz", x=values)
    stored = open_archive(tmp_path / "a.npz")["x"]
    for start, stop in ((0, 2), (2, 7), (49, 50), (1, 3), (48, 60)):
        assert np.array_equal(stored.rows(start, stop), values[start:stop])
    assert stored._held is None


# ---------------------------------------------------------------- ONNX


def onnx_file(
    change: Callable[[onnx.ModelProto], None], make: Callable[[], onnx.ModelProto] = corpus.network
) -> Change:
    def write(folder: Path) -> None:
        proto = make()
        change(proto)
        (folder / "m.onnx").write_bytes(proto.SerializeToString().replace(b"BADUTF8", b"BAD\xff\xfe\xfd8"))

    return write


def weight(proto: onnx.ModelProto) -> TensorProto:
    return proto.graph.initializer[0]


def filled(value: float, index: int = 0) -> Callable[[onnx.ModelProto], None]:
    def change(proto: onnx.ModelProto) -> None:
        tensor = proto.graph.initializer[index]
        values = numpy_helper.to_array(tensor).copy()
        values.reshape(-1)[-1] = value
        tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))

    return change


def scaled(value: float) -> Callable[[onnx.ModelProto], None]:
    def change(proto: onnx.ModelProto) -> None:
        tensor = next(tensor for tensor in proto.graph.initializer if tensor.name == "s")
        tensor.CopyFrom(numpy_helper.from_array(np.float32(value).reshape(()), "s"))

    return change


def external(**entries: str) -> Change:
    def write(folder: Path) -> None:
        proto = corpus.with_external(folder)
        data = weight(proto).external_data
        kept = {entry.key: entry.value for entry in data}
        del data[:]
        for key, value in {**kept, **entries}.items():
            data.add(key=key, value=value)
        (folder / "m.onnx").write_bytes(proto.SerializeToString().replace(b"BADUTF8", b"BAD\xff\xfe\xfd8"))

    return write


CHECKSUM = hashlib.sha1(bytes(16) + weight(corpus.network()).raw_data).hexdigest().upper()
"""Of the file that ``external`` writes."""


def recursive(proto: onnx.ModelProto) -> None:
    proto.functions[0].node.append(helper.make_node("Shift", ["b"], ["bb"], domain="own"))


def bomb(proto: onnx.ModelProto) -> None:
    """Thirty functions, each of which calls the one before twice."""
    for number in range(30):
        inner = "Shift" if number == 0 else f"F{number - 1}"
        calls = [
            helper.make_node(inner, ["a"], ["t"], domain="own"),
            helper.make_node(inner, ["t"], ["b"], domain="own"),
        ]
        opsets = [helper.make_opsetid("", 17), helper.make_opsetid("own", 1)]
        proto.functions.append(helper.make_function("own", f"F{number}", ["a"], ["b"], calls, opsets))
    proto.graph.node[1].op_type = "F29"


def sparse_index(proto: onnx.ModelProto) -> None:
    indices = np.array([0, 7, 10**6], np.int64)
    proto.graph.sparse_initializer[0].indices.CopyFrom(numpy_helper.from_array(indices, "w1_indices"))


def sparse_count(proto: onnx.ModelProto) -> None:
    indices = np.array([0, 7], np.int64)
    proto.graph.sparse_initializer[0].indices.CopyFrom(numpy_helper.from_array(indices, "w1_indices"))


def sparse_strings(proto: onnx.ModelProto) -> None:
    values = numpy_helper.from_array(np.array(["a", "b", "c"], object), "w1")
    proto.graph.sparse_initializer[0].values.CopyFrom(values)


def one_dim() -> onnx.TensorShapeProto.Dimension:
    return onnx.TensorShapeProto.Dimension(dim_value=1)


def without_type(proto: onnx.ModelProto) -> None:
    proto.graph.input[0].ClearField("type")


def optional_input(proto: onnx.ModelProto) -> None:
    inner = helper.make_tensor_type_proto(TensorProto.FLOAT, ["n", 3, 4, 4])
    proto.graph.input[0].type.CopyFrom(helper.make_optional_type_proto(inner))


def map_input(proto: onnx.ModelProto) -> None:
    proto.graph.input[0].type.map_type.key_type = TensorProto.INT64


def text_file(content: bytes) -> Change:
    return lambda folder: (folder / "m.onnx").write_bytes(content) and None


def feeds_itself(proto: onnx.ModelProto) -> None:
    """The Relu after the conv reads what an Add makes of its own result."""
    proto.graph.node[1].input[0] = "a"
    proto.graph.node.insert(2, node("Add", ["m", "c"], ["a"]))


def reads_nothing(proto: onnx.ModelProto) -> None:
    """A branch of an If reads a tensor that its graph, and those around it, do not have."""
    proto.graph.node[1].attribute[0].g.node[0].input[0] = "nowhere"


def two_opsets(proto: onnx.ModelProto) -> None:
    proto.opset_import.append(helper.make_opsetid("ai.onnx", 13))


def of_another_opset(proto: onnx.ModelProto) -> None:
    """A function whose Softmax means another thing than the model's opset does."""
    function = proto.functions[0]
    function.node.append(helper.make_node("Softmax", ["b"], ["s"]))
    function.output[0], function.opset_import[0].version = "s", 12


def pointer_to_weights(folder: Path) -> None:
    external()(folder)
    place = next(entry.value for entry in weight(onnx.load(folder / "m.onnx", load_external_data=False)).external_data)
    (folder / place).write_text("version https://git-lfs.github.com/spec/v1\noid sha256:a\n")


PROTOS: dict[str, tuple[Change, str]] = {
    "a pointer of Git LFS": (text_file(b"version https://git-lfs.github.com/spec/v1\noid sha256:a\n"), "git lfs pull"),
    "a web page": (text_file(b"\n<!DOCTYPE html><html>404</html>"), "web page"),
    "packed": (text_file(b"\x1f\x8b\x08\x00" + bytes(30)), "gzip"),
    "a cycle": (onnx_file(feeds_itself), "node 'a' (Add) -> node 'm' (Relu) -> node 'a' (Add)"),
    "a node that reads itself": (onnx_file(lambda p: p.graph.node[1].input.__setitem__(0, "m")), "'m' (Relu)"),
    "a weight that is not there": (onnx_file(lambda p: p.graph.initializer.pop()), "'w1'"),
    "a branch that reads nothing": (onnx_file(reads_nothing, corpus.with_branches), "'nowhere'"),
    "a later format": (onnx_file(lambda p: setattr(p, "ir_version", 99)), "IR version 99"),
    "two opsets": (onnx_file(two_opsets), "17 and 13"),
    "an output of text": (
        onnx_file(lambda p: setattr(p.graph.output[0].type.tensor_type, "elem_type", TensorProto.STRING)), "'y'"
    ),
    "a function of another opset": (onnx_file(of_another_opset, corpus.with_function), "own::Shift"),
    "dtype 0": (onnx_file(lambda p: setattr(weight(p), "data_type", 0)), "'w0'"),
    "dtype 99": (onnx_file(lambda p: setattr(weight(p), "data_type", 99)), "'w0'"),
    "input of dtype 99": (onnx_file(lambda p: setattr(p.graph.input[0].type.tensor_type, "elem_type", 99)), "'x'"),
    "a name that is no text": (onnx_file(lambda p: setattr(p.graph.node[0], "name", "BADUTF8")), "UTF-8"),
    "an operator that is no text": (onnx_file(lambda p: setattr(p.graph.node[0], "op_type", "BADUTF8")), "UTF-8"),
    "a tensor's name that is no text": (onnx_file(lambda p: p.graph.node[0].output.__setitem__(0, "BADUTF8")), "UTF-8"),
    "a name of NUL": (onnx_file(lambda p: setattr(p.graph.node[0], "name", "a\0b")), "NUL"),
    "dims of 2^40": (onnx_file(lambda p: weight(p).dims.__setitem__(0, 2**40)), "'w0'"),
    "dims below zero": (onnx_file(lambda p: weight(p).dims.__setitem__(0, -4)), "'w0'"),
    "dims beyond the values": (onnx_file(lambda p: weight(p).dims.__setitem__(0, 5)), "'w0'"),
    "an input of 2^40": (onnx_file(lambda p: setattr(p.graph.input[0].type.tensor_type.shape.dim[1], "dim_value", 2**40)), "'x'"),
    "input without a type": (onnx_file(without_type), "'x'"),
    "optional input": (onnx_file(optional_input), "'x'"),
    "map input": (onnx_file(map_input), "'x'"),
    "a node without operator": (onnx_file(lambda p: setattr(p.graph.node[0], "op_type", "")), "operator"),
    "a node without inputs": (onnx_file(lambda p: p.graph.node[0].ClearField("input")), "input"),
    "a node of too many inputs": (onnx_file(lambda p: p.graph.node[1].input.append("x")), "input"),
    "an attribute of another type": (onnx_file(lambda p: setattr(p.graph.node[0].attribute[0], "type", 2)), "pads"),
    "an output twice": (onnx_file(lambda p: p.graph.output.append(p.graph.output[0])), "'y'"),
    "an input twice": (onnx_file(lambda p: p.graph.input.append(p.graph.input[0])), "'x'"),
    "a value made twice": (onnx_file(lambda p: p.graph.node.append(p.graph.node[0])), "'c'"),
    "recursive function": (onnx_file(recursive, corpus.with_function), "'Shift'"),
    "function twice": (onnx_file(lambda p: p.functions.append(p.functions[0]), corpus.with_function), "Shift"),
    "function bomb": (onnx_file(bomb, corpus.with_function), "functions"),
    "sparse index outside": (onnx_file(sparse_index, corpus.with_sparse), "'w1'"),
    "sparse of 6 GB": (onnx_file(lambda p: p.graph.sparse_initializer[0].dims.__setitem__(0, 400_000_000), corpus.with_sparse), "'w1'"),
    "sparse with an index too few": (onnx_file(sparse_count, corpus.with_sparse), "'w1'"),
    "sparse strings": (onnx_file(sparse_strings, corpus.with_sparse), "'w1'"),
    "sparse without indices": (
        onnx_file(lambda p: p.graph.sparse_initializer[0].ClearField("indices"), corpus.with_sparse), "'w1'",
    ),
    "dims of rank 1,000": (onnx_file(lambda p: weight(p).dims.extend([1] * 1000)), "1004 dimensions"),
    "an input of rank 1,000": (
        onnx_file(lambda p: p.graph.input[0].type.tensor_type.shape.dim.extend([one_dim()] * 1000)), "'x'",
    ),
    "another checksum": (external(checksum="0" * 40), "'w.bin'"),
    "offset a word": (external(offset="abc"), "'abc'"),
    "weights that are a pointer": (pointer_to_weights, "git lfs pull"),
    "offset endless": (external(offset="9" * 400), "offset"),
    "length below zero": (external(length="-1"), "'-1'"),
    "length NUL": (external(length="1\0"), "NUL"),
    "length beyond the file": (external(length="999999"), "'w0'"),
    "length of another tensor": (external(length="16"), "'w0'"),
    "location no text": (external(location="BADUTF8"), "UTF-8"),
    "location a NUL": (external(location="a\0b"), "NUL"),
    "location too long": (external(location="a" * 5000), "'w0'"),
    "location outside": (external(location="../w.bin"), "outside"),
    "location absolute": (external(location="/etc/passwd"), "outside"),
    "location a device": (external(location="/dev/zero"), "outside"),
    "location the folder": (external(location="."), "outside"),
    "NaN weight": (onnx_file(filled(float("nan"))), "'w0'"),
    "infinite weight": (onnx_file(filled(float("inf"))), "'w0'"),
    "scale NaN": (onnx_file(scaled(float("nan")), corpus.with_pair), "'s'"),
    "scale inf": (onnx_file(scaled(float("inf")), corpus.with_pair), "'s'"),
    "scale zero": (onnx_file(scaled(0.0), corpus.with_pair), "'s'"),
    "scale below zero": (onnx_file(scaled(-1.0), corpus.with_pair), "'s'"),
}  # fmt: skip


@pytest.mark.parametrize("case", PROTOS)
def test_broken_models_are_refused_in_words_and_within_memory(
    here: Path, capsys: pytest.CaptureFixture[str], case: str
) -> None:
    make, word = PROTOS[case]
    make(here)
    before = peak_megabytes()
    for command in (INSPECT, CHECK, ("new", "m.onnx", "--out", "n.toml", "--force")):
        said = complain(here, capsys, *command)
        assert "m.onnx" in said and word in said
    assert peak_megabytes() - before < 500


def nameless(proto: onnx.ModelProto) -> None:
    proto.graph.name = ""


def masked(proto: onnx.ModelProto) -> None:
    """An infinite constant that is no weight: a mask."""
    proto.graph.initializer.append(numpy_helper.from_array(np.array([-np.inf, 0.0], np.float32), "mask"))
    proto.graph.node.append(node("Abs", ["mask"], ["a"]))
    proto.graph.node.append(node("ReduceSum", ["a"], ["b"], keepdims=0))


def long_domain(proto: onnx.ModelProto) -> None:
    proto.opset_import[0].domain = "ai.onnx"
    for one in proto.graph.node:
        one.domain = "ai.onnx"


def group_norm(proto: onnx.ModelProto) -> None:
    """GroupNormalization as opset 18 had it, which ONNX took back."""
    proto.opset_import[0].version, two = 18, np.ones(2, np.float32)
    proto.graph.node[1].CopyFrom(node("GroupNormalization", ["c", "one", "two"], ["m"], num_groups=2))
    proto.graph.initializer.extend(numpy_helper.from_array(two, name) for name in ("one", "two"))


SOUND: dict[str, Change] = {
    "a GroupNormalization of opset 18": onnx_file(group_norm),
    "ONNX's domain by its long name": onnx_file(long_domain),
    "a function of an older opset": onnx_file(
        lambda p: setattr(p.functions[0].opset_import[0], "version", 15), corpus.with_function
    ),
    "a graph without a name": onnx_file(nameless),
    "a description that is no text": onnx_file(lambda p: setattr(p.graph, "doc_string", "BADUTF8")),
    "a function": onnx_file(lambda p: None, corpus.with_function),
    "a sparse weight": onnx_file(lambda p: None, corpus.with_sparse),
    "external data": external(),
    "external data without a length": external(length=""),
    "external data with its checksum": external(checksum=CHECKSUM),
    "a Loop that ends": onnx_file(lambda p: None, corpus.with_loop),
    "an If": onnx_file(lambda p: None, corpus.with_branches),
    "an infinite mask": onnx_file(masked),
}  # fmt: skip


@pytest.mark.parametrize("case", SOUND)
def test_sound_models_still_work(here: Path, capsys: pytest.CaptureFixture[str], case: str) -> None:
    SOUND[case](here)
    assert invoke(list(CHECK)) == 0, capsys.readouterr().err
    capsys.readouterr()


def test_a_model_of_twenty_gigabytes_is_refused_before_it_is_read_for_its_fingerprint(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with open(here / "m.onnx", "r+b") as stream:
        stream.truncate(20 << 30)
    for command in (CHECK, RUN, ("calibrate", "r.toml"), ("sensitivity", "r.toml"), INSPECT):
        before = time.process_time()
        assert "21,474,836,480 bytes" in complain(here, capsys, *command)
        assert time.process_time() - before < 5


@pytest.mark.parametrize("name", ["c.npz", "c.npy", "c.bin", "t.npz"])
def test_samples_of_twenty_gigabytes_without_headers_are_refused_before_they_are_read_for_their_fingerprint(
    here: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    if name.startswith("c."):
        recipe('"c.npz"', f'"{name}"')(here)
    with open(here / name, "wb") as stream:
        stream.truncate(20 << 30)
    for command in (CHECK, RUN):
        before = time.process_time()
        assert name in complain(here, capsys, *command)
        assert time.process_time() - before < 5


def test_external_data_of_twenty_gigabytes_is_read_as_far_as_it_is_needed(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    external(length="")(here)
    with open(here / "w.bin", "r+b") as stream:
        stream.truncate(20 << 30)
    before = peak_megabytes()
    assert invoke(list(INSPECT)) == 0
    assert peak_megabytes() - before < 500
    capsys.readouterr()


def test_a_loop_without_an_end_is_stopped(
    here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("toolkit.graph.sessions.endless_loops._SECONDS", 0.5)
    for trips in (None, 2**62):
        onnx_file(lambda p: None, lambda: corpus.with_loop(trips=trips))(here)  # noqa: B023
        assert "'loop'" in complain(here, capsys, *CHECK)


@pytest.fixture
def stopped(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The loops that were stopped, each after 0.3 s."""
    monkeypatch.setattr("toolkit.graph.sessions.endless_loops._SECONDS", 0.3)
    stopped: list[str] = []
    real = endless_loops.EndlessLoopError.__init__

    def count(self: endless_loops.EndlessLoopError, node: str, why: str, where: str) -> None:
        stopped.append(node)
        real(self, node, why, where)

    monkeypatch.setattr(endless_loops.EndlessLoopError, "__init__", count)
    return stopped


@pytest.mark.parametrize("command", ["check", "run", "calibrate"])
def test_a_model_that_does_not_end_is_run_once(
    here: Path, capsys: pytest.CaptureFixture[str], stopped: list[str], command: str
) -> None:
    onnx_file(lambda p: None, lambda: corpus.with_loop(trips=None))(here)
    assert "'loop'" in complain(here, capsys, command, "r.toml")
    assert stopped == ["loop"]


def test_a_model_that_does_not_end_is_run_once_by_new(
    here: Path, capsys: pytest.CaptureFixture[str], stopped: list[str]
) -> None:
    onnx_file(lambda p: None, lambda: corpus.with_loop(trips=None))(here)
    assert "'loop'" in complain(here, capsys, "new", "m.onnx", "--data", "c.npz", "--out", "n.toml")
    assert stopped == ["loop"] and not (here / "n.toml").exists()
    # random samples prove nothing
    assert invoke(["new", "m.onnx", "--out", "n.toml"]) == 0
    assert stopped == ["loop"] * 2
    capsys.readouterr()


def test_a_loop_that_collects_without_an_end_is_stopped_before_memory_is_full(
    here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("toolkit.graph.sessions.endless_loops._BYTES", 64 << 20)
    proto = corpus.with_loop(trips=None)
    body = next(n for n in proto.graph.node if n.op_type == "Loop").attribute[0].g
    proto.graph.initializer.append(numpy_helper.from_array(np.zeros((1000, 4, 4, 4), np.float32), "more"))
    body.node.append(helper.make_node("Concat", ["vi", "more"], ["longer"], axis=0))
    body.node[1].input[0] = "longer"
    body.node.append(body.node[1])
    del body.node[1]
    (here / "m.onnx").write_bytes(proto.SerializeToString())
    before = peak_megabytes()
    assert "'loop'" in complain(here, capsys, *CHECK)
    assert peak_megabytes() - before < 1000


# ---------------------------------------------------------------- settings and the command line


SETTINGS: dict[str, tuple[Change, str]] = {
    "NUL in a path": (recipe('"c.npz"', '"a\\u0000b"'), "NUL"),
    "nobody's home": (recipe('"c.npz"', '"~nosuchuser/c.npz"'), "nosuchuser"),
    "a path too long": (recipe('"c.npz"', f'"{"a" * 5000}"'), "calibration.data"),
    "an empty path": (recipe('"m.onnx"', '""'), "model.path"),
    "a path of numbers": (recipe('"c.npz"', "[1]"), "calibration.data"),
    "a metric of numbers": (recipe('"top1"', "5"), "evaluation.metric"),
    "a metric of 5,000 letters": (recipe('"top1"', f'"{"x" * 5000}"'), "metric"),
    "budget inf": (recipe("max_drop = 1.0", "min_sqnr_db = inf"), "min_sqnr_db"),
    "budget nan": (recipe("max_drop = 1.0", "max_drop = nan"), "max_drop"),
    "budget below zero": (recipe("max_drop = 1.0", "min_sqnr_db = -3"), "min_sqnr_db"),
    "budget of thousands of dB": (recipe("max_drop = 1.0", "min_sqnr_db = 5000"), "min_sqnr_db"),
    "batch of 2^63": (recipe('metric = "top1"', 'metric = "top1"\nbatch = 9223372036854775808'), "batch"),
    "unlike inf": (recipe('method = "minmax"', 'method = "minmax"\nunlike = inf'), "unlike"),
    "unlike nan": (recipe('method = "minmax"', 'method = "minmax"\nunlike = nan'), "unlike"),
    "memory below zero": (recipe('method = "minmax"', 'method = "minmax"\nmemory = "-1GB"'), "memory"),
    "memory nan": (recipe('method = "minmax"', 'method = "minmax"\nmemory = "nanGB"'), "memory"),
    "memory of nothing": (recipe('method = "minmax"', 'method = "minmax"\nmemory = "0"'), "memory"),
    "manual 1e300": (recipe('method = "minmax"', 'method = "minmax"\nmanual = { c = 1e300 }'), "manual.c"),
    "manual 1e-320": (recipe('method = "minmax"', 'method = "minmax"\nmanual = { c = 1e-320 }'), "manual.c"),
    "manual nan": (recipe('method = "minmax"', 'method = "minmax"\nmanual = { c = nan }'), "manual.c"),
    "weights inf": (recipe('method = "minmax"', 'method = "minmax"\nweights = { p = inf }'), "weights.p"),
    "images.scale nan": (recipe('method = "minmax"', 'method = "minmax"\nimages = { scale = nan }'), "scale"),
    "images.scale zero": (recipe('method = "minmax"', 'method = "minmax"\nimages = { scale = 0.0 }'), "scale"),
    "images.size endless": (recipe('method = "minmax"', 'method = "minmax"\nimages = { size = [999999, 4] }'), "size"),
    "a number of 5,000 digits": (recipe("max_drop = 1.0", f"max_drop = {'9' * 5000}"), "r.toml"),
    "a number of 400 digits": (recipe("max_drop = 1.0", f"max_drop = {'9' * 400}"), "max_drop"),
    "a key of 20,000 parts": (recipe("[model]", f"{'a.' * 20_000}b = 1\n[model]"), "parts"),
    "a table of 20,000 parts": (recipe("[model]", f"[{'a . ' * 20_000}b]\n[model]"), "parts"),
    "a key of 20,000 quoted parts": (recipe("[model]", '"a b".' * 20_000 + "b = 1\n[model]"), "parts"),
    "an inline table of 20,000 parts": (recipe("max_drop = 1.0", f"{'a.' * 20_000}b = 1"), "parts"),
    "deep": (recipe("[model]", f"a = {'[' * 3000}{']' * 3000}\n[model]"), "deep"),
    "a profile of 2^40": (recipe("max = [8, 3, 4, 4]", "max = [1099511627776, 3, 4, 4]"), "shapes"),
    "a pass's setting of another type": (recipe('use = "insert_qdq"', 'use = "insert_qdq"\nexclude = 3'), "qtool passes insert_qdq"),
    "true for a number": (recipe('metric = "top1"', 'metric = "top1"\nbatch = true'), "batch"),
    "text for a number": (recipe('metric = "top1"', 'metric = "top1"\nbatch = "5"'), "batch"),
    "true for a side": (recipe("min = [1, 3, 4, 4]", "min = [true, 3, 4, 4]"), "shapes.x.min.0"),
    "a pass's setting true for a number": (recipe('"insert_qdq"', '"smooth"\nstrength = true'), "strength"),
    "weights of a profile that is not there": (recipe('"insert_qdq"', '"insert_qdq"\nprofile_weights = { q = 1.0 }'), "'q'"),
    "settings of no pass": (recipe('"insert_qdq"', '"search_precision"\nquantizer_settings = { a = 1 }'), "quantizer_settings"),
    "a pass's setting nan": (recipe('use = "insert_qdq"', 'use = "smooth"\nstrength = nan'), "strength"),
}  # fmt: skip


@pytest.mark.parametrize("case", SETTINGS)
def test_broken_recipes_are_refused_with_their_file(here: Path, capsys: pytest.CaptureFixture[str], case: str) -> None:
    change, word = SETTINGS[case]
    change(here)
    for command in (CHECK, RUN):
        said = complain(here, capsys, *command)
        assert "r.toml" in said and word in said


COMMANDS: dict[str, tuple[tuple[str, ...], str]] = {
    "bisect nan": (("bisect", "r.toml", "--out", "o", "--min-sqnr-db", "nan"), "--min-sqnr-db"),
    "bisect inf": (("bisect", "r.toml", "--out", "o", "--max-drop", "inf"), "--max-drop"),
    "bisect agreement of 7": (("bisect", "r.toml", "--out", "o", "--min-agreement", "7"), "--min-agreement"),
    "bisect quote": (("bisect", "r.toml", "--out", "o", "--command", "'unclosed", "--allow-code"), "--command"),
    "bisect empty": (("bisect", "r.toml", "--out", "o", "--command", "", "--allow-code"), "--command"),
    "sensitivity data": (("sensitivity", "r.toml", "--out", "o", "--data", "nonsense"), "'nonsense'"),
    "bisect data": (("bisect", "r.toml", "--out", "o", "--data", "nonsense"), "'nonsense'"),
    "new metric": (("new", "m.onnx", "--test", "t.npz", "--metric", "nonsense", "--out", "n.toml"), "'nonsense'"),
    "shard of 5,000 digits": (("calibrate", "r.toml", "--shard", f"1/{'9' * 5000}"), "--shard"),
    "shard of a thousand million": (("calibrate", "r.toml", "--shard", "1/1000000000"), "--shard"),
    "shard superscript": (("calibrate", "r.toml", "--shard", "\u00b9/\u00b2"), "--shard"),
    "release of 5,000 digits": (
        ("migrate", "m.onnx", "--to", "implicit", "--tensorrt", f"8.{'9' * 5000}", "--out", "g"), "--tensorrt",
    ),
    "release arabic": (("migrate", "m.onnx", "--to", "implicit", "--tensorrt", "\u0668.\u0666", "--out", "g"), "--tensorrt"),
    "samples of 5,000 digits": (("sensitivity", "r.toml", "--samples", "9" * 5000), "--samples is '999"),
    "samples none": (("sensitivity", "r.toml", "--samples=0"), "--samples is '0': expected a whole number of at least 1"),
    "batch hexadecimal": (("bisect", "r.toml", "--batch", "0x10"), "--batch is '0x10'"),
    "rounds below zero": (("time", "o", "--rounds", "-1"), "at least 1 and at most 1000"),
    "drop superscript": (("bisect", "r.toml", "--max-drop", "\u00b2"), "--max-drop is '\u00b2': expected a number"),
    "no such option": (("run", "r.toml", "--jsn"), "'--json'"),
    "no such command": (("rum", "r.toml"), "'run'"),
    "no value": (("run", "r.toml", "--out"), "--out"),
    "no argument": (("run",), "recipe"),
    "no argument but a value of its name": (("run", "--out", "recipe", "--dry-run"), "missing argument"),
    "one argument more": (("run", "r.toml", "x"), "qtool run --help"),
    "set 5,000 digits": (("check", "r.toml", "--set", f"evaluation.batch={'9' * 5000}"), "evaluation.batch"),
    "set of 20,000 parts": (("check", "r.toml", "--set", f"calibration.{'a.' * 20_000}b=1"), "calibration"),
    "set to 20,000 parts": (("check", "r.toml", "--set", f"evaluation.budget={{{'a.' * 20_000}b=1}}"), "evaluation.budget"),
    "set of a pass of 5,000 digits": (("check", "r.toml", "--set", f"pass.{'9' * 5000}.dtype=int8"), "'insert_qdq'"),
    "out too long": (("run", "r.toml", "--out", "a" * 300), "long"),
    "new out too long": (("new", "m.onnx", "--out", "a" * 300), "long"),
    "inspect too long": (("inspect", "a" * 5000), "long"),
    "compare too long": (("compare", "a" * 5000, "m.onnx"), "long"),
}  # fmt: skip


@pytest.mark.parametrize("case", COMMANDS)
def test_wrong_command_lines_are_refused_and_write_nothing(
    here: Path, capsys: pytest.CaptureFixture[str], case: str
) -> None:
    command, word = COMMANDS[case]
    assert word in complain(here, capsys, *command)
    assert not (here / "n.toml").exists()


# ---------------------------------------------------------------- pipes and devices


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="the system has no pipes")
@pytest.mark.parametrize("name", ["f.json", "f.onnx", "f.npz", "f.jsonl", "f.engine", "f.cache", "layers.json"])
def test_pipes_are_refused_unopened(here: Path, capsys: pytest.CaptureFixture[str], name: str) -> None:
    os.mkfifo(here / name)
    assert name in complain(here, capsys, "inspect", name)
    assert name in complain(here, capsys, "compare", name, name)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="the system has no pipes")
@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('"m.onnx"', '"f.onnx"'), ('"c.npz"', '"f.npz"'), ('"c.npz"', '"f.npy"'), ('"c.npz"', '"f.json"'), ('"t.npz"', '"f.npz"'),
        ('method = "minmax"', 'ranges = "f.json"'), ('method = "minmax"', 'collection = "f.npz"'),
    ],
)  # fmt: skip
def test_a_recipe_that_names_a_pipe(here: Path, capsys: pytest.CaptureFixture[str], old: str, new: str) -> None:
    recipe(old, new)(here)
    os.mkfifo(here / new.split('"')[-2])
    for command in (CHECK, RUN):
        complain(here, capsys, *command)


@pytest.mark.parametrize("device", ["/dev/zero", "/dev/null", "/dev/stdin"])
def test_devices_are_refused_where_a_file_is_wanted(
    here: Path, capsys: pytest.CaptureFixture[str], device: str
) -> None:
    complain(here, capsys, "inspect", device)
    (here / "m.onnx").unlink()
    (here / "m.onnx").symlink_to(device)
    complain(here, capsys, *INSPECT)
    complain(here, capsys, *CHECK)


def test_a_folder_of_pipes_named_like_images(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (here / "images").mkdir()
    os.mkfifo(here / "images" / "a.png")
    recipe('"c.npz"', '"images"')(here)
    assert "a.png" in complain(here, capsys, *CHECK)


@pytest.mark.parametrize("op", ["Sqrt", "Log"])
def test_a_float_model_that_gives_no_number_is_no_reference(
    here: Path, capsys: pytest.CaptureFixture[str], op: str
) -> None:
    nodes = [node("Abs", ["c"], ["a"]), node("Neg", ["a"], ["b"]), node(op, ["b"], ["m"])]
    onnx_file(lambda p: None, lambda: corpus.network(nodes))(here)
    for command in (
        CHECK,
        RUN,
        ("sensitivity", "r.toml", "--out", "s"),
        ("bisect", "r.toml", "--out", "b", "--min-sqnr-db", "10"),
    ):
        assert "'y'" in complain(here, capsys, *command)


@pytest.mark.parametrize(
    "source", ["raise SystemExit(0)\n", "def samples():\n    yield {'x': one}\n    raise SystemExit(3)\n"]
)
def test_code_that_ends_the_program_is_told(here: Path, capsys: pytest.CaptureFixture[str], source: str) -> None:
    (here / "own.py").write_text(f"import numpy as np\none = np.ones((1, 3, 4, 4), np.float32)\n{source}")
    recipe('data = "c.npz"', 'data = "own:samples"')(here)
    assert "SystemExit" in complain(here, capsys, *CHECK, "--allow-code")


OWN = "import numpy as np\n\n\ndef samples():\n    rng = np.random.default_rng(0)\n    print('hello')\n    for _ in range(4):\n        yield {'x': rng.standard_normal((1, 3, 4, 4)).astype('f')}\n"


@pytest.mark.parametrize("command", [(*CHECK, "--allow-code"), (*RUN, "--allow-code")])
def test_what_a_users_code_prints_is_no_part_of_the_json(
    here: Path, capsys: pytest.CaptureFixture[str], command: tuple[str, ...]
) -> None:
    (here / "own.py").write_text(OWN)
    recipe('data = "c.npz"', 'data = "own:samples"')(here)
    assert invoke([*command, "--json"]) == 0
    said = capsys.readouterr()
    assert json.loads(said.out) and "hello" in said.err


METRIC = """class Own:
    higher_is_better = {rising}

    def update(self, outputs, labels):
        pass

    def value(self):
        return 1.0
"""


def test_a_metric_that_does_not_say_which_values_are_better_is_refused(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (here / "own.py").write_text(METRIC.format(rising="'yes'"))
    recipe('metric = "top1"', 'metric = "own:Own"')(here)
    for command in (CHECK, RUN):
        assert "higher_is_better of the metric 'own:Own' is 'yes'" in complain(here, capsys, *command, "--allow-code")


def test_check_refuses_a_file_of_a_users_pass_that_is_not_there(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (here / "own.py").write_text(
        "from toolkit import Pass\n\n\nclass Reads(Pass):\n    def input_files(self, base):\n"
        "        return [base / 'none.txt']\n\n    def apply(self, model, context):\n        pass\n"
    )
    recipe('use = "insert_qdq"', 'use = "own:Reads"')(here)
    for command in (CHECK, RUN):
        assert "none.txt" in complain(here, capsys, *command, "--allow-code")


def test_one_profile_and_one_pass_may_have_single_brackets(here: Path) -> None:
    recipe("[[profile]]", "[profile]")(here)
    recipe("[[pass]]", "[pass]")(here)
    read = Recipe.load(here / "r.toml", ["profile.p.name=q", "pass.insert_qdq.dtype=fp8"])
    assert read.profile[0].name == "q" and read.passes == [{"use": "insert_qdq", "dtype": "fp8"}]


def test_a_scale_a_group_is_not_converted_to_one_a_channel(here: Path) -> None:
    onnx_file(group_norm)(here)
    model = Model.load(here / "m.onnx")
    assert convert_opset(model.graph, 20, "m.onnx").opset == 20
    with pytest.raises(ModelError, match=r"'m' \(GroupNormalization\)"):
        convert_opset(model.graph, 21, "m.onnx")


def test_labels_that_are_no_numbers_fit_nothing(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recipe('metric = "top1"\nbudget = { max_drop = 1.0 }\n', "")(here)
    stored = dict(np.load(here / "t.npz"))
    np.savez(here / "t.npz", **{**stored, "label": np.full(len(stored["x"]), np.nan)})
    assert invoke([*CHECK, "--json"]) == 0
    assert any("sample 0 is nan" in told for told in json.loads(capsys.readouterr().out)["warnings"])
