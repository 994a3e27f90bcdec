"""What the audit hook takes for read by code of the user's, and what not."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import threading
from importlib.machinery import ModuleSpec
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import numpy as np
import pytest

from tests.conftest import ROOT
from tests.toolkit.conftest import model as network
from toolkit import Model
from toolkit.base import reads
from toolkit.base.needs import ABSENT, Needs, digest_of
from toolkit.base.owners import owner_of_frame
from toolkit.base.reads import Reads, aside, current, following, needs_now
from toolkit.base.source_needs import source_needs
from toolkit.base.versions import TOOLS, versions
from toolkit.contract.passes import Pass

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib


real_stat = os.stat


def called(work):
    """A pass of the user's that does this."""

    class Mine(Pass):
        def apply(self, model, context):
            work()

    return Mine()


def read_in(folder, work):
    """The files in ``folder`` that were read by ``work``, which qtool calls, and why nothing is known."""
    with following(Reads(folder / "run")) as reads:
        called(work)(Model.from_proto(network()))
    found = reads.needs()
    return {os.path.relpath(path, folder) for path in found.files if path.startswith(str(folder))}, found.unknown


@pytest.fixture
def place(tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "a.txt").write_text("a")
    np.save(tmp_path / "b.npy", np.zeros(3))
    return tmp_path


def test_files_are_seen_whoever_opens_them(place):
    work = [
        lambda: (place / "a.txt").read_text(), lambda: np.load(place / "b.npy"), lambda: os.open(place / "a.txt", os.O_RDONLY),
        lambda: np.memmap(place / "b.npy", mode="r"), lambda: np.fromfile(place / "a.txt", np.uint8),
    ]  # fmt: skip
    assert [read_in(place, one)[0] for one in work] == [{"a.txt"}, {"b.npy"}, {"a.txt"}, {"b.npy"}, {"a.txt"}]


@pytest.mark.skipif(not os.access("/dev/shm", os.W_OK), reason="no file system in memory")
def test_a_file_in_memory_is_a_need_and_a_device_none(tmp_path):
    """All of /dev was taken for devices: results from files in /dev/shm were stale after these had changed."""
    with tempfile.TemporaryDirectory(prefix="of_tests", dir="/dev/shm") as folder:
        (Path(folder) / "a.txt").write_text("a")
        assert read_in(Path(folder), lambda: (Path(folder) / "a.txt").read_text())[0] == {"a.txt"}
    assert read_in(Path("/dev"), lambda: open("/dev/null").close())[0] == set()


def test_a_file_that_is_not_there_is_a_need_too(place):
    def work():
        with pytest.raises(FileNotFoundError):
            (place / "none.txt").open()

    assert read_in(place, work)[0] == {"none.txt"}
    assert digest_of(str(place / "none.txt")) == ABSENT


def asked_in(folder, work):
    """What lay where ``work``, which qtool calls, asked whether there is something."""
    with following(Reads(folder / "run")) as reads:
        called(work)(Model.from_proto(network()))
    assert os.stat is real_stat
    return {
        os.path.relpath(path, folder): kind
        for path, kind in reads.needs().asked.items()
        if path.startswith(str(folder))
    }


def test_whether_a_file_is_there_is_a_need(place):
    def work():
        for name in ("a.txt", "none", "run/own.txt", "made.txt"):
            os.path.exists(place / name)  # noqa: PTH110
        (place / "made.txt").write_text("x")
        os.path.isdir(str(place))  # noqa: PTH112

    found = asked_in(place, work)
    assert found == {"a.txt": "file 1", "none": ABSENT, ".": "folder"}
    needs = Needs(asked={str(place / name): kind for name, kind in found.items()})
    assert not needs.broken()
    (place / "none").mkdir()
    assert needs.broken().startswith("none, ")
    with aside():
        assert asked_in(place, lambda: os.path.getsize(place / "a.txt")) == {}  # noqa: PTH202


@pytest.mark.skipif(sys.version_info < (3, 11), reason="pathlib calls a stat of its own before Python 3.11")
def test_whether_a_path_is_a_file_is_a_need(place):
    assert asked_in(place, lambda: [(place / name).is_file() for name in ("a.txt", "none")]) == {
        "a.txt": "file 1",
        "none": ABSENT,
    }


def test_a_link_is_copied_as_a_link_while_reads_are_followed(place):
    (place / "there").write_text("1")
    (place / "link").symlink_to(place / "there")
    read_in(place, lambda: shutil.copy2(place / "link", place / "twin", follow_symlinks=False))
    assert (place / "twin").is_symlink()


def test_what_is_made_or_is_the_runs_own_is_no_need(place):
    def work():
        (place / "made.txt").write_text("x")
        (place / "made.txt").read_text()
        (place / "log.txt").open("a").close()
        (place / "run" / "own.txt").write_text("x")
        (place / "run" / "own.txt").read_text()
        list((place / "run").iterdir())
        (place / "folder").mkdir()
        (place / "folder" / "c.txt").write_text("x")
        list((place / "folder").iterdir())

    assert read_in(place, work) == (set(), [])


def test_folders_that_are_listed_are_needs_by_their_names(place):
    assert read_in(place, lambda: sorted(place.iterdir()))[0] == {"."}
    before = digest_of(str(place))
    (place / "new.txt").write_text("")
    assert digest_of(str(place)) != before


def test_other_processes_and_the_network_cannot_be_followed(place):
    assert read_in(place, lambda: subprocess.run(["true"], check=True))[1] == ["it starts another process"]
    assert read_in(place, lambda: os.system("true"))[1] == ["it starts another process"]


def test_what_nobody_called_from_qtool_reads_does_not_count(place):
    with following(Reads()) as reads:
        assert current() is reads
        (place / "a.txt").read_text()
        other = threading.Thread(target=(place / "a.txt").read_text)
        other.start()
        other.join()
    assert str(place / "a.txt") not in reads.needs().files
    assert current() is None and needs_now() is None


def test_what_threads_of_the_users_read_counts(place):
    from concurrent.futures import ThreadPoolExecutor

    def in_thread():
        thread = threading.Thread(target=lambda: (place / "a.txt").read_text())
        thread.start()
        thread.join()

    def in_pool():
        with ThreadPoolExecutor(1) as pool:
            pool.submit(lambda: pool.submit(lambda: np.load(place / "b.npy"))).result().result()

    assert read_in(place, in_thread) == ({"a.txt"}, [])
    assert read_in(place, in_pool) == ({"b.npy"}, [])


class Frame:
    """A frame of the stack, of code in this file and of a module; a look at its code is an event for audit hooks."""

    def __init__(self, file, below, names):
        self.f_globals, self.f_back = names, below
        self.looks, self._code = 0, compile("", str(file), "exec")

    @property
    def f_code(self):
        self.looks += 1
        return self._code


@pytest.mark.parametrize("named", [True, False])
def test_whose_code_is_on_the_stack_is_asked_without_events(place, named, monkeypatch):
    """Every frame was an event that qtool's own hook heard, at every os.stat; only code of no module needs one."""
    own, user, installed = reads.__file__, place / "users.py", pytest.__file__
    cases = [
        ([own, user, own], True), ([own, own], False), ([own, user], False), ([user, installed], False),
        ([own, installed, own], True),
    ]  # fmt: skip
    names = {}
    for file in (own, user, installed):
        module = module_from_spec(spec_from_file_location(f"of {file}", file))
        monkeypatch.setitem(sys.modules, module.__name__, module)
        names[file] = vars(module)
    for files, asked in cases:
        frames: list[Frame | None] = [None]
        for file in reversed(files):
            frames.append(Frame(file, frames[-1], names[file] if named else {}))
        assert reads._users_ask(frames[-1]) is asked
        assert not named or not any(one.looks for one in frames if one is not None)


@pytest.mark.parametrize(
    "taken", [{"__file__": "<x>"}, {"__file__": ""}, vars(np), {k: v for k, v in vars(np).items() if k != "__name__"}]
)
def test_names_that_a_module_takes_over_from_another_do_not_hide_whose_code_it_is(place, monkeypatch, taken):
    """``globals().update(vars(numpy))`` made the user's code numpy's: what it read was no need, and results were stale."""
    (place / "users_own.py").write_text("def apply(self, model, context):\n    with open(FILE):\n        pass\n")
    spec = spec_from_file_location("users_own", place / "users_own.py")
    module = module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "users_own", module)
    spec.loader.exec_module(module)
    vars(module).update({**taken, "FILE": place / "a.txt"})
    with following(Reads(place / "run")) as reads:
        type("Users", (Pass,), {"apply": module.apply})()(Model.from_proto(network()))
    assert str(place / "a.txt") in reads.needs().files


@pytest.mark.parametrize("first", ["generated", "user"])
def test_code_of_several_files_in_a_module_without_a_file_is_told_apart(tmp_path, monkeypatch, first):
    module = module_from_spec(ModuleSpec("code_of_several_files", None))
    monkeypatch.setitem(sys.modules, module.__name__, module)
    source = "import sys\ndef {}():\n    return sys._getframe()\n"
    for name, file in (("generated", "<string>"), ("user", str(tmp_path / "own.py"))):
        exec(compile(source.format(name), file, "exec"), vars(module))
    owners = {"generated": "library", "user": "user"}
    for name in sorted(owners, key=lambda name: name != first):
        assert owner_of_frame(getattr(module, name)()) == owners[name]


def test_what_is_read_aside_does_not_count(place):
    def work():
        with aside():
            (place / "a.txt").read_text()

    assert read_in(place, work)[0] == set()


def test_needs_that_are_damaged_are_not_known():
    for content in (None, [], {"files": 3}, {"unknown": "x"}, {"other": {}}):
        assert Needs.read(content).broken()
    assert Needs.read({}).broken() == ""


def test_sources_tell_of_files_variables_and_libraries(tmp_path, monkeypatch):
    (tmp_path / "mine.py").write_text(
        "import os, numpy, cv2\nLIMIT = os.environ['MY_LIMIT']\nPATH = 'sub/limits.json'\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    found = source_needs(["mine"], (), tmp_path)
    assert found.files[str(tmp_path / "sub" / "limits.json")] == ABSENT
    assert found.environment["MY_LIMIT"] == ABSENT and found.libraries["numpy"] == np.__version__
    assert len(found.unknown) == 1 and "cv2" in found.unknown[0]
    assert found.broken()
    found.unknown = []
    assert found.broken() == ""
    monkeypatch.setenv("MY_LIMIT", "3")
    assert "MY_LIMIT" in found.broken()


def test_versions_of_all_that_computes_are_known():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    wanted = [*project["dependencies"], *extras["rtx"], *extras["tensorrt"], *extras["images"]]
    names = {line.replace(";", " ").split(">")[0].split("=")[0].split()[0] for line in wanted}
    assert names <= set(TOOLS)
    assert {"python", "numba", "ml_dtypes", "pillow", "onnxruntime"} <= set(versions())
