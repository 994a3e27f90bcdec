"""What a file of samples is said to hold."""

from __future__ import annotations

import json

import numpy as np
import pytest

from tests.conftest import normal
from toolkit.cli.main import invoke
from toolkit.data import summary
from toolkit.data.summary import summarized


@pytest.mark.parametrize("at_once", [1, 1 << 20])
@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_arrays_and_members_with_their_values(tmp_path, monkeypatch, save, at_once):
    monkeypatch.setattr(summary, "_AT_ONCE", at_once)
    x = normal(12, 3, 4)
    x[2, 0, 1], x[5, 1, 1], x[6, 1, 1] = np.nan, np.inf, -np.inf
    ragged = {f"ids/{i:05}": np.arange(1 + i % 3) for i in range(6)}
    save(tmp_path / "data.npz", x=x, label=np.arange(12) % 5, words=np.array(["a", "b"]), one=np.float32(2.5),
         same=np.ones((4, 2), np.int8), **ragged)  # fmt: skip
    found = {one.name: one for one in summarized(tmp_path / "data.npz")}
    assert list(found) == ["x", "label", "words", "one", "same", "ids"]
    finite = x[np.isfinite(x)]
    one = found["x"]
    assert (one.samples, one.dtype, one.shapes) == (12, ["float32"], {(12, 3, 4): 1})
    assert (one.low, one.high, one.nan, one.infinite, one.alike) == (finite.min(), finite.max(), 1, 2, False)
    assert (found["label"].low, found["label"].high, found["label"].samples) == (0, 4, 12)
    assert found["words"].low is None and found["words"].samples == 2
    assert (found["one"].samples, found["one"].low, found["one"].alike) == (1, 2.5, False)
    assert found["same"].alike and found["same"].samples == 4
    assert (found["ids"].samples, found["ids"].shapes) == (6, {(1,): 2, (2,): 2, (3,): 2})
    assert (found["ids"].low, found["ids"].high) == (0, 2)


def test_inspect_shows_them_and_warns(tmp_path, capsys):
    x = np.repeat(normal(1, 3), 5, 0)
    np.save(tmp_path / "x.npy", x)
    assert invoke(["inspect", str(tmp_path / "x.npy")]) == 0
    said = capsys.readouterr().out
    assert "All 5 samples of 'x' are the same" in said and "5 samples, float32 [5, 3]" in said
    assert invoke(["inspect", str(tmp_path / "x.npy"), "--json"]) == 0
    (found,) = json.loads(capsys.readouterr().out)["arrays"]
    assert (found["name"], found["shapes"], found["nan"]) == ("x", [{"shape": [5, 3], "members": 1}], 0)
