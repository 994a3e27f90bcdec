"""Data that does not fit: every message names the place, the value and the remedy."""

from __future__ import annotations

import struct
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.conftest import build, node, normal
from tests.toolkit.calibration.networks import chain, fixed, model, sentences
from toolkit.base.errors import DataError, NotAllowedError, QtoolError, RecipeError
from toolkit.base.types import Array
from toolkit.data.arrays import open_archive
from toolkit.data.dataset import CalibrationData
from toolkit.data.sample import input_specs
from toolkit.graph.model import Model

GOOD = np.zeros((4, 3, 5), np.float32)


def one_bad(value: float) -> Array:
    array = np.zeros((4, 3, 5), np.float32)
    array[2, 1, 3] = value
    return array


ARCHIVES: list[tuple[str, dict[str, Array], str]] = [
    ("a long name", {"z" * 5000: GOOD}, r"'z+ \.\.\. z+' is neither an input of the model"),
    ("near miss", {"z": GOOD}, r"'z' is neither an input of the model \('x'\) nor a label"),
    ("stranger", {"x": GOOD, "extra": GOOD}, "Leave it out, or store it under 'label' if it holds the labels"),
    ("beside labels", {"x": GOOD, "label": np.zeros(4), "target": GOOD}, r"nor a label\. Leave it out$"),
    ("numpy's name", {"arr_0": GOOD}, r"'arr_0' is .*\. Store it under the name of input 'x', which has no values"),
    ("nothing", {"label": np.zeros(4)}, "no values for input 'x'"),
    ("nan", {"x": one_bad(np.nan)}, r"sample 2, input 'x': the value at \[0, 1, 3\] is nan \(1 value is not finite\)"),
    ("inf", {"x": one_bad(np.inf)}, r"sample 2, input 'x': the value at \[0, 1, 3\] is inf .*remove this one$"),
    (
        "mask",
        {"x": one_bad(-np.inf)},
        r"the value at \[0, 1, 3\] is -inf .*for a mask .* give -65504, .* in place of -inf",
    ),
    ("dtype", {"x": GOOD.astype(np.int32)}, "dtype is int32, the model expects float32. Save it as float32"),
    ("pixels", {"x": GOOD.astype(np.uint8)}, "Save it as float32, scaled as in training, such as by 1 / 255"),
    (
        "channels last",
        {"x": np.zeros((4, 5, 3), np.float32)},
        r"samples have dimensions 1 and 2 swapped: transpose them, as array\.transpose\(0, 2, 1\) does",
    ),
    ("overflow", {"x": one_bad(1).astype(np.float64) * 1e300}, "float64, the model expects float32, which cannot hold"),
    ("rank", {"x": np.zeros((4, 3), np.float32)}, r"shape \[4, 3\] has rank 2, the model declares \['batch', 3"),
    ("dimension", {"x": np.zeros((4, 2, 5), np.float32)}, r"shape \[1, 2, 5\] has 2 in dimension 1"),
    ("empty", {"x": np.zeros((0, 3, 5), np.float32)}, "there are no samples"),
    ("empty sample", {"x": np.zeros((4, 3, 0), np.float32)}, "holds no values"),
    ("counts", {"x": GOOD, "label": np.zeros(3)}, "numbers of samples differ: 'x' 4, 'label' 3"),
    ("both forms", {"x": GOOD, "x/00000": GOOD[:1]}, "both 'x' and 'x/...'"),
    ("objects", {"x": np.array([None, {}], dtype=object)}, "holds Python objects, which qtool never unpickles"),
    ("hole", {"x/00000": GOOD[:1], "x/00001": GOOD[:1], "label/00000": np.zeros(1)}, "'label/00001' is missing"),
]


@pytest.mark.parametrize(("arrays", "message"), [a[1:] for a in ARCHIVES], ids=[a[0] for a in ARCHIVES])
def test_archives_that_do_not_fit_the_model_are_refused(tmp_path: Path, arrays: dict[str, Array], message: str) -> None:
    np.savez(tmp_path / "data.npz", **arrays)
    with pytest.raises(DataError, match=message) as caught:
        list(CalibrationData.open("data.npz", chain(), base=tmp_path, labels="label" in arrays).samples())
    assert "data.npz" in str(caught.value), "the message names the file"
    assert "\n" not in str(caught.value)


def test_one_name_of_two_dimensions_is_told_what_to_rename(tmp_path: Path) -> None:
    """N images, and N words in a text: the exporter's name does not hold for the samples."""
    towers = Model.from_proto(build(
        [node("MatMul", ["image", "w"], ["a"]), node("ReduceMean", ["text"], ["b"], axes=[1], keepdims=0),
         node("Add", ["a", "b"], ["y"])],
        {"image": ["N", 4], "text": ["B", "N", 3]}, {"y": ["N", 3]}, {"w": normal(4, 3)},
    ))  # fmt: skip
    np.savez(tmp_path / "data.npz", image=normal(5, 4), text=normal(5, 7, 3))
    with pytest.raises(DataError, match=r"'N' is 1 in input 'image' and 7 in input 'text'\. The model declares them equal: "
                       r"give samples in which they are, or rename one of the dimensions in the model"):  # fmt: skip
        list(CalibrationData.open("data.npz", towers, base=tmp_path).samples())


def test_rows_that_are_no_samples_are_told_where_to_go(tmp_path: Path) -> None:
    """Two towers: some queries, held against other documents."""
    towers = Model.from_proto(build(
        [node("Gemm", ["query", "document"], ["y"], transB=1)], {"query": ["queries", 4], "document": ["documents", 4]},
        {"y": ["queries", "documents"]},
    ))  # fmt: skip
    arrays = {"query": np.zeros((3, 4), np.float32), "document": np.zeros((7, 4), np.float32)}
    np.savez(tmp_path / "data.npz", **{f"{name}/00000": value for name, value in arrays.items()})
    (sample,) = CalibrationData.open("data.npz", towers, base=tmp_path).samples()
    assert sample.inputs["query"].shape == (3, 4)
    np.savez(tmp_path / "data.npz", **arrays)
    with pytest.raises(DataError, match="where a sample holds several rows of 'document', store each sample by itself: "
                       "'query/00000', 'document/00000' and so on"):  # fmt: skip
        list(CalibrationData.open("data.npz", towers, base=tmp_path).samples())


def test_an_input_that_no_node_reads_is_said_to_be_so(tmp_path: Path) -> None:
    """One that a node reads comes first, and one that only a branch reads is read."""
    made = Model.from_proto(build([node("Relu", ["x"], ["y"])], {"idle": ["n", 2], "x": ["n", 4]}, {"y": ["n", 4]}))
    np.savez(tmp_path / "data.npz", x=np.zeros((3, 4), np.float32))
    with pytest.raises(DataError, match=r"values for input 'idle', which no node of the model reads\. Remove it from the "
                       r"model, or store any values for it, such as float32 zeros \[n, 2\]$"):  # fmt: skip
        list(CalibrationData.open("data.npz", made, base=tmp_path).samples())
    np.savez(tmp_path / "data.npz", idle=np.zeros((3, 2), np.float32))
    with pytest.raises(DataError, match=r"no values for input 'x'\. Give every input of the model: 'idle', 'x'"):
        list(CalibrationData.open("data.npz", made, base=tmp_path).samples())
    branch = model("""g (bool[1] c, float[1] x) => (float[1] y) {
        y = If (c) <then_branch = t () => (float[1] a) { a = Relu(x) }, else_branch = e () => (float[1] b) { b = Neg(x) }>
    }""")
    assert [one.used for one in input_specs(branch).values()] == [True, True]


FEEDS: list[tuple[str, Callable[[], Model], Any, str]] = [
    ("not a dictionary", chain, [np.zeros(3)], "sample 0: a sample is of type ndarray. Give dictionaries"),
    ("missing", sentences, [{"ids": np.zeros((1, 3), np.int64)}], "sample 0: there are no values for input 'mask'"),
    (
        "unlike",
        sentences,
        [{"ids": np.zeros((1, 3), np.int64), "mask": np.zeros((1, 4), np.int64)}],
        "dimension 'length' is 3 in input 'ids' and 4 in input 'mask'",
    ),
    (
        "too large an integer",
        lambda: model("g (int32[n] x) => (int32[n] y) { y = Neg(x) }"),
        [{"x": np.array([1, 1 << 40])}],
        "int64, the model expects int32, which cannot hold",
    ),
    ("not iterable", chain, 3, "of type int, which cannot be iterated"),
    ("no inputs", lambda: model("g () => (float[1] y) { y = Constant <value_floats=[1.0]> () }"), [], "has no inputs"),
    ("wrong batch", lambda: fixed(4), [{"x": np.zeros((3, 2), np.float32)}], "has 3 in dimension 0"),
]


@pytest.mark.parametrize(("make", "feeds", "message"), [f[1:] for f in FEEDS], ids=[f[0] for f in FEEDS])
def test_bad_dictionaries_are_refused(make: Callable[[], Model], feeds: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        list(CalibrationData.open(feeds, make()).samples())


class Loader:
    """Samples whose third cannot be made."""

    def __iter__(self) -> Iterator[dict[str, Any]]:
        for number in range(4):
            if number == 2:
                raise RuntimeError("disk gone")
            yield {"x": np.zeros((1, 3, 5), np.float32)}


class Sized(Loader):
    """A length that cannot be told."""

    def __iter__(self) -> Iterator[dict[str, Any]]:
        # more than are read before they are counted
        return iter([{"x": np.zeros((1, 3, 4), np.float32)}] * 32)

    def __len__(self) -> int:
        raise FileNotFoundError("index.txt")


def refused() -> Any:
    raise FileNotFoundError("samples.bin")


OF_OTHERS: list[tuple[str, Any, str]] = [
    (
        "iterable",
        Loader(),
        r"the iterable failed at sample 2: RuntimeError: disk gone \(test_data_bad\.py, line \d+\)\. Fix the code",
    ),
    ("class", Loader, "the iterable failed at sample 2: RuntimeError: disk gone"),
    ("iterator", lambda: iter(Loader()), "the iterable failed at sample 2: RuntimeError: disk gone"),
    ("function", refused, "the iterable failed when called: FileNotFoundError: samples.bin"),
    ("ragged", [{"x": [[1.0], [1.0, 2.0]]}], "sample 0, 'x' failed to become an array: ValueError"),
    ("length", Sized(), r"the iterable failed in len\(\): FileNotFoundError: index.txt"),
    ("module", f"{__name__}:Loader", f"{__name__}:Loader failed at sample 2: RuntimeError: disk gone"),
]


@pytest.mark.parametrize(("source", "message"), [o[1:] for o in OF_OTHERS], ids=[o[0] for o in OF_OTHERS])
def test_what_fails_in_the_code_of_others_is_said_to_be_theirs(source: Any, message: str) -> None:
    with pytest.raises(DataError, match=message) as caught:
        data = CalibrationData.open(source, chain(), allow_code=True)
        len(data)
        list(data.samples())
    assert isinstance(caught.value.__cause__, (RuntimeError, FileNotFoundError, ValueError))


def test_an_iterator_is_read_when_it_is_opened() -> None:
    with pytest.raises(DataError, match="the iterable failed at sample 2"):
        CalibrationData.open(iter(Loader()), chain())


def test_a_module_that_fails_while_it_is_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "fails_xyz.py").write_text("open('no such file')\n")
    (tmp_path / "good_xyz.py").write_text("def samples(): return []\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(RecipeError, match=r"'fails_xyz' .* fails while it is imported: FileNotFoundError"):
        CalibrationData.open("fails_xyz:samples", chain(), allow_code=True)
    with pytest.raises(RecipeError, match=r"has no 'sample'\. Did you mean 'samples'"):
        CalibrationData.open("good_xyz:sample", chain(), allow_code=True)


def broken(path: Path) -> Path:
    path.write_bytes(b"PK\x03\x04 this is no archive")
    return path


def wrong_kind(path: Path) -> Path:
    path.write_text("a,b\n1,2\n")
    return path


def no_file(path: Path) -> Path:
    return path


def folder(path: Path) -> Path:
    path.mkdir()
    return path


def mixed(path: Path) -> Path:
    path.mkdir()
    np.save(path / "x.npy", GOOD)
    np.savez(path / "x.npz", x=GOOD)
    return path


def unnamed(path: Path) -> Path:
    path.mkdir()
    np.save(path / "idz.npy", GOOD)
    return path


def lonely(path: Path) -> Path:
    path.mkdir()
    np.save(path / "ids.a.npy", np.zeros((1, 3), np.int64))
    np.save(path / "mask.b.npy", np.zeros((1, 3), np.int64))
    return path


def not_saved_inputs(path: Path) -> Path:
    path.write_text('{"a": 1}')
    return path


@pytest.mark.parametrize(
    ("make", "name", "message"),
    [
        (broken, "a.npz", "cannot be read"),
        (wrong_kind, "a.csv", "a '.csv' file is not supported: .npz"),
        (wrong_kind, "a.npz", "cannot be read|Python objects"),
        (no_file, "a.npz", "no such file or folder"),
        (folder, "a", "no .npz, .npy or image files"),
        (mixed, "a", "both .npz"),
        (unnamed, "a", "does not say which input it is for.*'ids'"),
        (lonely, "a", "sample 'a' has no file for input 'mask'"),
        (not_saved_inputs, "a.json", "no inputs saved by Polygraphy"),
        (wrong_kind, "b.json", "no inputs saved by Polygraphy"),
    ],
)
def test_a_bad_file_is_named(tmp_path: Path, make: Callable[[Path], Path], name: str, message: str) -> None:
    path = make(tmp_path / name)
    with pytest.raises(DataError, match=message) as caught:
        list(CalibrationData.open(path, sentences()).samples())
    assert str(path) in str(caught.value)


@pytest.mark.parametrize(
    ("settings", "kind", "message"),
    [
        ({"source": None}, DataError, "no source is given"),
        ({"source": [], "random": {"seed": 1}}, DataError, "both a source and random data"),
        ({"source": None, "random": {"samples": 3}}, DataError, "Write random ="),
        ({"source": None, "random": {"seed": 1, "sample": 3}}, DataError, "Write random ="),
        ({"source": None, "random": {"seed": 1}}, DataError, "dimension 2 of input 'x' is dynamic and no profile"),
        ({"source": [], "outside": "drop"}, DataError, "outside is 'drop'. One of error"),
        ({"source": "os:environ"}, NotAllowedError, "--allow-code"),
        ({"source": "nomodule_xyz:data", "allow_code": True}, RecipeError, "nomodule_xyz"),
        ({"source": [], "labels": True}, None, ""),
        ({"source": [{"x": np.zeros((1, 3, 4), np.float32)}], "labels": True}, DataError, "there are no labels"),
    ],
)
def test_sources_and_settings_that_do_not_go_together_are_refused(
    settings: dict[str, Any], kind: type[QtoolError] | None, message: str
) -> None:
    if kind is None:
        assert list(CalibrationData.open(model=chain(), **settings).samples()) == []
        return
    with pytest.raises(kind, match=message):
        list(CalibrationData.open(model=chain(), **settings).samples())


@pytest.mark.parametrize(
    ("header", "version", "said"),
    [
        ("{'descr': '<f4', 'fortran_order': False, 'shape': (2, 3), }", (9, 0), "its header is of version 9.0"),
        ("{'descr': open('x'), 'fortran_order': False, 'shape': (2, 3), }", (1, 0), "its header does not describe"),
    ],
)
def test_a_header_that_numpy_does_not_have_is_refused(tmp_path, header, version, said):
    text = header.encode() + b"\n"
    size = struct.pack("<H" if version == (1, 0) else "<I", len(text))
    with zipfile.ZipFile(tmp_path / "x.npz", "w") as archive:
        archive.writestr("x.npy", b"\x93NUMPY" + bytes(version) + size + text + bytes(24))
    with pytest.raises(DataError, match=said) as caught:
        open_archive(tmp_path / "x.npz")
    assert "x.npz" in str(caught.value) and "at 0x" not in str(caught.value)
