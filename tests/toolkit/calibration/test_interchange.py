"""Reading and writing other tools' files of ranges."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.conftest import OLD_ONNXRUNTIME
from toolkit.base.errors import RangesError
from toolkit.calibration.collection import Collection
from toolkit.calibration.given import given_ranges
from toolkit.calibration.interchange import cache_text, parse_cache, read_ranges, write_ranges
from toolkit.contract.ranges import Range, Ranges

DATA = Path(__file__).parent / "data"
CACHES = ["EntropyCalibrator", "EntropyCalibrator2", "LegacyCalibrator", "MinMaxCalibrator"]


@pytest.mark.parametrize("kind", CACHES)
def test_recorded_caches_come_back_byte_by_byte(kind: str, tmp_path: Path) -> None:
    source = DATA / f"IInt8{kind}.cache"
    ranges = read_ranges(source)
    made_from = ranges.made_from
    write_ranges(ranges, tmp_path / "c", "tensorrt", made_from["algorithm"], made_from.get("version", 0))
    assert (tmp_path / "c").read_text() == source.read_text()
    assert ranges.amax("y") == pytest.approx(1.0, rel=1e-3)
    if kind == "LegacyCalibrator":
        assert (made_from["quantile"], made_from["cutoff"]) == (0.999, 1.0)


def test_odd_lines_of_a_calibration_cache_are_read_as_tensorrt_does() -> None:
    ranges = parse_cache("TRT-100500-EntropyCalibration2\na: b :c: 3c010204\n\nzero: 0\nshort: 1\n# x: 3f800000\r\n")
    assert list(ranges.tensors) == ["a: b :c", "zero", "short", "# x"]
    assert ranges.amax("zero") == 0
    assert ranges.amax("short") == pytest.approx(2.0**-149 * 127)
    assert ranges.amax("# x") == 127
    assert ranges.made_from == {"kind": "tensorrt", "version": "100500", "algorithm": "EntropyCalibration2"}


NAMES = st.text(st.characters(exclude_characters="\n\r", exclude_categories=["Cs"]), min_size=1, max_size=12)
AMAXES = st.floats(0, 2.0**99, width=32)


@settings(max_examples=100, deadline=None)
@given(st.dictionaries(NAMES.filter(lambda n: n.strip() == n), AMAXES, min_size=1, max_size=5))
def test_caches_and_text_round_trip(amaxes: dict[str, float]) -> None:
    ranges = Ranges({name: Range(amax, "mse") for name, amax in amaxes.items()})
    back = parse_cache(cache_text(ranges))
    assert list(back.tensors) == list(amaxes)
    for name, amax in amaxes.items():
        assert back.amax(name) == pytest.approx(amax, rel=1e-6, abs=1e-42)
    assert cache_text(back) == cache_text(ranges)


@pytest.mark.parametrize("kind", ["ranges", "tensorrt", "text", "onnxruntime"])
def test_every_kind_is_recognised(kind: str, tmp_path: Path) -> None:
    ranges = Ranges({"a: b": Range(2.5, "mse"), "/c/d 1": Range(0.1, "mse"), "e": Range(0.0, "mse")})
    back = read_ranges(write_ranges(ranges, tmp_path / "r", kind))
    assert back.made_from["kind"] == kind
    assert {n: r.amax for n, r in back.tensors.items()} == pytest.approx({n: r.amax for n, r in ranges.tensors.items()})


@pytest.mark.skipif(OLD_ONNXRUNTIME, reason="onnxruntime before 1.24 cannot read its own tables back")
def test_onnxruntime_reads_and_writes_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from onnxruntime.quantization.calibrate import TensorData
    from onnxruntime.quantization.quant_utils import write_calibration_table

    table = {
        name: TensorData(lowest=np.array(low, np.float32), highest=np.array(high, np.float32))
        for name, (low, high) in {"a: b": (-3.5, 2.0), "c d": (0.0, 3.25)}.items()
    }
    write_calibration_table(table, str(tmp_path))
    whole = read_ranges(tmp_path / "calibration.json")
    assert whole.tensors["a: b"].observed == (-3.5, 2.0)
    assert (whole.amax("a: b"), whole.amax("c d")) == (3.5, 3.25)
    text = read_ranges(tmp_path / "calibration.cache")
    assert (text.amax("a: b"), text.amax("c d")) == (2.0, 3.25)
    written = json.loads(write_ranges(whole, tmp_path / "out.json", "onnxruntime").read_text())
    assert float(TensorData.from_dict(written["a: b"]).highest) == 3.5
    (tmp_path / "old.json").write_text('{"a": [-1.0, 4.0]}')
    assert read_ranges(tmp_path / "old.json").amax("a") == 4


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "the file is empty"),
        (b"\xff\xfe\x00", "cannot be read as ranges: byte 0 is not UTF-8"),
        (b"TRT-8600-EntropyCalibration2\nx 3c010204\n", "line 2: 'x 3c010204' is not 'tensor name: scale in hex'"),
        (b"TRT-8600-EntropyCalibration2\nx: 3c01020g\n", "line 2"),
        (b"TRT-8600-EntropyCalibration2\nx: 7f800000\n", "tensor 'x' has the range inf"),
        (b"TRT-8600-EntropyCalibration2\nx: bf800000\n", "tensor 'x' has the range -127"),
        (
            b"TRT-8600-EntropyCalibration2\nx: 3c010a14\nx: 3d010a14\n",
            "line 3: tensor 'x' has the range 4.0009.* here and 1.0002.* above",
        ),
        (b"a: 1.0\na: 1.0\na: 2.0\n", "line 3: tensor 'a'"),
        (b"a: 1.0\nb = x\n", "line 2: 'b = x' is not 'tensor: range'"),
        (b"a: nan\n", "tensor 'a' has the range nan"),
        (b"{", "broken JSON"),
        (b"{}", "it holds no ranges"),
        (b"[1.0]", "line 1: '.1.0.' is not 'tensor: range'. Give ranges.json"),
        (b'[model]\npath = "m.onnx"\n', "line 1: '.model.' is not 'tensor: range'. Give ranges.json"),
        (b'{"schema": "other"}', "schema is 'other'"),
        (
            b'{"schema": "qtool-ranges-1", "tensors": {"a": {"amax": 5, "method": "minmax", "observed": [5, -5]}}}',
            "'tensors.a.observed' is .*: expected the smallest value before the largest",
        ),
        (b'{"a": {"highest": 1}}', "tensor 'a' has no lowest and highest"),
        (b'{"a": 1.0, "b": 2.0, "a": 3.0}', "two entries are named 'a'"),
        (b'{"a": -1.0}', "tensor 'a' has the range -1"),
        (b"a: -1.0\n", "tensor 'a' has the range -1"),
        (b"TRT-8600-EntropyCalibration2\n", "it holds no ranges"),
    ],
)
def test_broken_files_of_ranges_are_refused_with_their_path(content: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / "r").write_bytes(content)
    with pytest.raises(RangesError, match=message) as caught:
        read_ranges(tmp_path / "r")
    assert str(tmp_path / "r") in str(caught.value)


def test_the_name_of_the_first_tensor_may_begin_with_a_bracket(tmp_path: Path) -> None:
    (tmp_path / "r").write_text("[x]: 0.5\n(Unnamed Layer* 2): 1.5\n", encoding="utf-8")
    read = read_ranges(tmp_path / "r")
    assert {name: one.amax for name, one in read.tensors.items()} == {"[x]": 0.5, "(Unnamed Layer* 2)": 1.5}


def test_what_cannot_be_written(tmp_path: Path) -> None:
    ranges = Ranges({"a\nb": Range(1.0, "mse")})
    for kind in ("tensorrt", "text"):
        with pytest.raises(RangesError, match=r"cannot be written in a line"):
            write_ranges(ranges, tmp_path / "r", kind)
    with pytest.raises(RangesError, match=r"outside the range of float32"):
        cache_text(Ranges({"a": Range(1e300, "mse")}))
    with pytest.raises(RangesError, match=r"Did you mean 'EntropyCalibration'"):
        cache_text(ranges, "EntropyCalibration3")
    with pytest.raises(RangesError, match=r"there is no kind of file 'cache'"):
        write_ranges(ranges, tmp_path / "r", "cache")
    assert not (tmp_path / "r").exists()
    assert math.isfinite(parse_cache(cache_text(Ranges({"a": Range(3e38, "mse")}))).amax("a"))


@pytest.mark.parametrize(("amax", "right"), [(0.0, True), (1e-30, True), (9e-31, False), (1e-320, False)])
def test_a_range_that_no_scale_holds_is_refused_where_it_is_taken(amax: float, right: bool) -> None:
    """A cut hexadecimal number of a cache is such a range, and so is one of a table that lost its exponent."""
    given = Ranges({"x": Range(amax, "table"), "other": Range(1e-320, "table")})
    if right:
        assert given_ranges(given, ["x"])[0]["x"].amax == amax
        return
    with pytest.raises(RangesError, match=r"the range given for tensor 'x' is .*0 or between 1e-30 and") as caught:
        given_ranges(given, ["x"])
    assert caught.value.value == "ranges"


def test_a_collection_is_told_from_ranges(tmp_path):
    Collection().save(tmp_path / "c.npz")
    with pytest.raises(RangesError, match=r"c\.npz: it is a collection of statistics.* \[calibration\] collection"):
        read_ranges(tmp_path / "c.npz")
    np.savez(tmp_path / "samples.npz", x=np.zeros(3))
    with pytest.raises(RangesError, match=r"it is no text"):
        read_ranges(tmp_path / "samples.npz")
