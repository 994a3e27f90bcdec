"""Which modules are installed packages, wherever these lie, and which are the user's."""

from __future__ import annotations

import importlib
import sys

import pytest

from toolkit.base import cluster
from toolkit.base.cluster import _reach
from toolkit.base.modules import installed_at, installs, sources_of


@pytest.fixture
def places(tmp_path, monkeypatch):
    """A folder of the user's, and one that packages were installed in by ``pip install --target``; both are searched."""
    mine, target = tmp_path / "project", tmp_path / "site"
    for folder, name in ((mine, "users_metric"), (target, "packaged_metric")):
        folder.mkdir()
        (folder / f"{name}.py").write_text("def metric(outputs, labels): ...\n")
        monkeypatch.syspath_prepend(str(folder))
    note = target / "packaged_metric-1.0.dist-info"
    note.mkdir()
    (note / "RECORD").write_text("packaged_metric.py,sha256=AB,12\npackaged_metric-1.0.dist-info/RECORD,,\n")
    # the user's own may lie beside it
    (target / "beside.py").write_text("import helping\n")
    (target / "helping.py").write_text("")
    importlib.invalidate_caches()
    yield mine, target
    for name in ("users_metric", "packaged_metric", "beside", "helping"):
        sys.modules.pop(name, None)


def test_a_folder_that_pip_installed_into_holds_packages_by_any_name(places, tmp_path):
    mine, target = map(str, places)
    assert installs(target, "packaged_metric.py") and installs("/usr/lib/python3/dist-packages", "yaml")
    assert not installs(mine, "users_metric.py") and not installs(str(tmp_path / "missing"), "any.py")
    assert installed_at(f"{target}/packaged_metric.py") == "packaged_metric.py"
    assert installed_at("/env/lib/python3.11/site-packages/numpy/linalg/x.py") == "numpy/linalg/x.py"
    assert not installed_at(f"{mine}/users_metric.py")


def test_the_users_modules_beside_packages_are_the_users(places):
    _, target = places
    assert not installed_at(f"{target}/beside.py")
    assert set(sources_of("beside").files) == {"beside", "helping"}
    importlib.import_module("beside")
    _reach([str(place) for place in places])
    assert "beside" not in sys.modules


def test_a_folder_whose_name_goes_on_is_another_one(tmp_path, monkeypatch):
    """qtool's own folder is left alone, not those beside it that begin with its name."""
    (tmp_path / "qtool_mine").mkdir()
    (tmp_path / "qtool_mine" / "longer_named.py").write_text("")
    monkeypatch.setattr(cluster, "__file__", str(tmp_path / "qtool" / "toolkit" / "base" / "cluster.py"))
    monkeypatch.syspath_prepend(str(tmp_path / "qtool_mine"))
    importlib.import_module("longer_named")
    _reach([str(tmp_path / "qtool_mine")])
    assert "longer_named" not in sys.modules


def test_a_worker_reads_the_users_modules_anew_and_leaves_packages_alone(places):
    for name in ("users_metric", "packaged_metric"):
        importlib.import_module(name)
    _reach([str(place) for place in places])
    assert "packaged_metric" in sys.modules and "users_metric" not in sys.modules
