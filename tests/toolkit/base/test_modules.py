"""Which modules are installed packages, wherever these lie, and which are the user's."""

from __future__ import annotations

import importlib
import sys

import pytest

from toolkit.base.cluster import _reach
from toolkit.base.modules import installed_at, installs


@pytest.fixture
def places(tmp_path, monkeypatch):
    """A folder of the user's, and one that packages were installed in by ``pip install --target``; both are searched."""
    mine, target = tmp_path / "project", tmp_path / "site"
    for folder, name in ((mine, "users_metric"), (target, "packaged_metric")):
        folder.mkdir()
        (folder / f"{name}.py").write_text("def metric(outputs, labels): ...\n")
        monkeypatch.syspath_prepend(str(folder))
    (target / "packaged_metric-1.0.dist-info").mkdir()
    importlib.invalidate_caches()
    yield mine, target
    for name in ("users_metric", "packaged_metric"):
        sys.modules.pop(name, None)


def test_a_folder_that_pip_installed_into_holds_packages_by_any_name(places, tmp_path):
    mine, target = map(str, places)
    assert (installs(mine), installs(target), installs("/usr/lib/python3/dist-packages")) == (False, True, True)
    assert not installs(str(tmp_path / "missing"))
    assert installed_at(f"{target}/packaged_metric.py") == "packaged_metric.py"
    assert installed_at("/env/lib/python3.11/site-packages/numpy/linalg/x.py") == "numpy/linalg/x.py"
    assert not installed_at(f"{mine}/users_metric.py")


def test_a_worker_reads_the_users_modules_anew_and_leaves_packages_alone(places):
    for name in ("users_metric", "packaged_metric"):
        importlib.import_module(name)
    _reach([str(place) for place in places])
    assert "packaged_metric" in sys.modules and "users_metric" not in sys.modules
