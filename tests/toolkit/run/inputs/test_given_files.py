"""Given ranges and collections are looked at before they are read as a whole: a wrong path may name a huge file."""

from __future__ import annotations

import os

import pytest

from tests.conftest import digits_recipe
from toolkit import run
from toolkit.base.errors import RangesError
from toolkit.base.versions import path_fingerprint
from toolkit.run.inputs import fingerprints

HUGE = 20 << 30


@pytest.fixture
def hashed(monkeypatch):
    """The names of the files of which a fingerprint is computed."""
    names = []

    def computed(path):
        names.append(path.name)
        return path_fingerprint(path)

    monkeypatch.setattr(fingerprints, "path_fingerprint", computed)
    return names


@pytest.mark.parametrize(
    ("key", "name", "message"),
    [
        ("ranges", "huge.json", "cannot be read as ranges: it has 21,474,836,480 bytes"),
        ("ranges", "huge.npz", "cannot be read as ranges: it has 21,474,836,480 bytes"),
        ("ranges", "digits_test.npz", "cannot be read as ranges: it is no text"),
        ("collection", "huge.npz", "cannot be read as a collection: File is not a zip file"),
        ("collection", "digits_test.npz", "not a collection of statistics but holds arrays"),
    ],
)
def test_a_file_that_is_no_such_file_is_refused_before_its_fingerprint(tmp_path, hashed, key, name, message):
    text = digits_recipe(tmp_path).replace('"auto"', '"none"')
    data = 'data = "digits_calibration.npz"'
    assert data in text
    (tmp_path / "r.toml").write_text(text.replace(data, f'{key} = "{name}"'))
    path = tmp_path / name
    if not path.exists():
        path.touch()
        # a sparse file, which takes no space on the disk
        os.truncate(path, HUGE)
    with pytest.raises(RangesError, match=message) as refused:
        run(tmp_path / "r.toml", tmp_path / "out")
    assert refused.value.where == str(path)
    assert "digits.onnx" in hashed and not any(one.startswith("huge") for one in hashed)
