"""What a model, a run folder or a page must never do: read files of others, make or replace files elsewhere, run or show what a name says."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from tests.conftest import node
from tests.fuzz import corpus
from tests.toolkit.conftest import complain
from toolkit import Model
from toolkit.base.errors import ModelError, NotAllowedError
from toolkit.cli.main import invoke
from toolkit.contract.ranges import Range, Ranges
from toolkit.graph.files.header import model_files

SECRET = b"TOP-SECRET-FILE-" * 8


def moved(tensor: TensorProto, location: str = "w.bin") -> None:
    """Make a tensor of 32 floats whose values lie in a file."""
    tensor.CopyFrom(
        TensorProto(name=tensor.name, data_type=TensorProto.FLOAT, dims=[32], data_location=TensorProto.EXTERNAL)
    )
    tensor.external_data.add(key="location", value=location)


def in_initializer(location: str) -> onnx.ModelProto:
    proto = corpus.network([node("Relu", ["c"], ["r"]), node("ReduceSum", ["k"], ["s"], keepdims=0), node("Add", ["r", "s"], ["m"])],
                           {"k": np.zeros(32, np.float32)})  # fmt: skip
    moved(next(tensor for tensor in proto.graph.initializer if tensor.name == "k"), location)
    return proto


def in_sparse_values(location: str) -> onnx.ModelProto:
    proto = in_initializer(location)
    tensor = proto.graph.initializer.pop()
    sparse = proto.graph.sparse_initializer.add(dims=[32])
    sparse.values.CopyFrom(tensor)
    sparse.indices.CopyFrom(numpy_helper.from_array(np.arange(32), "k_indices"))
    return proto


def in_constant(location: str) -> onnx.ModelProto:
    proto = in_initializer(location)
    constant = helper.make_node("Constant", [], ["k"], name="k", value=proto.graph.initializer.pop())
    proto.graph.node.insert(0, constant)
    return proto


def in_function(location: str) -> onnx.ModelProto:
    proto = corpus.with_function()
    body = proto.functions[0]
    moved(body.node[0].attribute[0].t, location)
    del body.node[1:]
    body.node.append(helper.make_node("ReduceSum", ["k"], ["s"], keepdims=0))
    body.node.append(helper.make_node("Add", ["a", "s"], ["b"]))
    return proto


def in_branch(location: str) -> onnx.ModelProto:
    proto = corpus.with_branches()
    branch = proto.graph.node[1].attribute[0].g
    tensor = branch.initializer.add(name="k")
    moved(tensor, location)
    last = branch.node[-1].output[0]
    branch.node[-1].output[0] = "inner"
    branch.node.append(helper.make_node("ReduceSum", ["k"], ["s"], keepdims=0))
    branch.node.append(helper.make_node("Add", ["inner", "s"], [last]))
    return proto


PLACES: dict[str, Callable[[str], onnx.ModelProto]] = {
    "initializer": in_initializer, "sparse initializer": in_sparse_values, "Constant": in_constant, "function": in_function, "branch": in_branch,
}  # fmt: skip


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory, which holds a secret; the model lies in a folder beside it."""
    (tmp_path / "model").mkdir()
    (tmp_path / "home").mkdir()
    corpus.recipe_folder(tmp_path / "model")
    (tmp_path / "model" / "w.bin").unlink()
    (tmp_path / "home" / "w.bin").write_bytes(SECRET)
    monkeypatch.chdir(tmp_path / "home")
    return tmp_path / "home"


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("location", ["w.bin", "../home/w.bin", "HOME/w.bin", "link.bin"])
def test_data_outside_the_models_folder_is_never_read(
    home: Path, capsys: pytest.CaptureFixture[str], place: str, location: str
) -> None:
    model = home.parent / "model"
    (model / "link.bin").symlink_to(home / "w.bin")
    (model / "m.onnx").write_bytes(PLACES[place](location.replace("HOME", str(home))).SerializeToString())
    for command in (
        ("check", "../model/r.toml"),
        ("run", "../model/r.toml", "--out", "../o"),
        ("inspect", "../model/m.onnx"),
    ):
        assert "w.bin" in complain(home, capsys, *command) or location == "link.bin"
    assert not any(SECRET[:15] in file.read_bytes() for file in (home.parent / "o").rglob("*") if file.is_file())
    with pytest.raises((ModelError, NotAllowedError)):
        Model.load(model / "m.onnx")
    assert all(file.parent == model for file in model_files(model / "m.onnx"))


@pytest.mark.parametrize("place", PLACES)
def test_data_inside_the_models_folder_is_read_from_there(
    home: Path, capsys: pytest.CaptureFixture[str], place: str
) -> None:
    model = home.parent / "model"
    (model / "m.onnx").write_bytes(PLACES[place]("w.bin").SerializeToString())
    (model / "w.bin").write_bytes(np.full(32, 0.25, np.float32).tobytes())
    assert invoke(["run", "../model/r.toml", "--out", "../o"]) == 0
    assert not any(SECRET[:15] in file.read_bytes() for file in (home.parent / "o").rglob("*") if file.is_file())
    assert model / "w.bin" in model_files(model / "m.onnx")
    capsys.readouterr()


def test_training_information_is_left_out(tmp_path: Path) -> None:
    proto = corpus.network()
    moved(proto.training_info.add().algorithm.initializer.add(name="k"), "/etc/passwd")
    (tmp_path / "m.onnx").write_bytes(proto.SerializeToString())
    assert Model.load(tmp_path / "m.onnx").nodes


# ---------------------------------------------------------------- files made or replaced elsewhere


@pytest.mark.parametrize("name", ["lock", ""])
@pytest.mark.parametrize("dangling", [True, False])
def test_no_link_in_a_run_folder_makes_files_elsewhere(
    home: Path, capsys: pytest.CaptureFixture[str], name: str, dangling: bool
) -> None:
    target, hidden = home / "elsewhere", home / "o" / ".qtool"
    (hidden if name else hidden.parent).mkdir(parents=True)
    if not dangling:
        target.touch() if name else target.mkdir()
    (hidden / name if name else hidden).symlink_to(target)
    complain(home, capsys, "run", "../model/r.toml", "--out", "o")
    assert not target.exists() if dangling else not list(target.glob("*")) if not name else not target.read_bytes()


def written_over(home: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in home.parent.rglob("*") if path.is_file()}


def test_no_command_writes_over_what_it_reads(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = home.parent / "model"
    for name in ("a.json", "b.json", "rep.json"):
        content = corpus.run_files()["report.json" if name == "rep.json" else "ranges.json"]
        (model / name).write_bytes(content)
    (model / "col.npz").write_bytes(corpus.run_files()["p.npz"])
    os.link(model / "a.json", model / "hard.json")
    (model / "soft.json").symlink_to(model / "a.json")
    before = written_over(home)
    a, b, col = (str(model / name) for name in ("a.json", "b.json", "col.npz"))
    for target in (a, b, str(model / "hard.json"), str(model / "soft.json"), str(model / "." / "a.json")):
        complain(home, capsys, "compare", a, b, "--html", target)
    complain(
        home, capsys, "compare", str(model / "rep.json"), str(model / "rep.json"), "--html", str(model / "rep.json")
    )
    complain(home, capsys, "merge", col, "--out", col)
    for target in ("m.onnx", "c.npz", "t.npz"):
        command = [
            "new",
            str(model / "m.onnx"),
            "--data",
            str(model / "c.npz"),
            "--test",
            str(model / "t.npz"),
            "--force",
        ]
        complain(home, capsys, *command, "--out", str(model / target))
    for target in ("m.onnx", "c.npz", "t.npz", "r.toml"):
        complain(home, capsys, "calibrate", str(model / "r.toml"), "--out", str(model / target))
        complain(home, capsys, "run", str(model / "r.toml"), "--out", str(model / target))
    assert written_over(home) == before


def test_a_page_is_not_written_over_the_files_of_a_run_that_is_compared(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert invoke(["run", "../model/r.toml", "--out", "o"]) == 0
    before = written_over(home)
    names = ("report.json", "report.html", "model.onnx", "search.json", ".qtool/steps.json")
    for name in names:
        complain(home, capsys, "compare", "o", "o", "--html", f"o/{name}")
    assert written_over(home) == before
    # two inputs of one name, in either order
    shutil.copytree(home / "o", home / "p")
    shutil.copy(home / "o" / "ranges.json", home / "ranges.json")
    before = written_over(home)
    for runs in (("o", "p"), ("p", "o")):
        for name in names:
            complain(home, capsys, "compare", *runs, "--html", f"o/{name}")
    for files in (("o/ranges.json", "ranges.json"), ("ranges.json", "o/ranges.json")):
        complain(home, capsys, "compare", *files, "--html", "ranges.json")
    (home / "o" / "part.npz").write_bytes(corpus.run_files()["p.npz"])
    (home / "part.npz").write_bytes(corpus.run_files()["p.npz"])
    for parts in (("part.npz", "o/part.npz"), ("o/part.npz", "part.npz")):
        assert "would destroy it" in complain(home, capsys, "merge", *parts, "--out", "part.npz")
    (home / "o" / "part.npz").unlink()
    (home / "part.npz").unlink()
    assert written_over(home) == before


def test_no_command_puts_a_file_in_the_place_of_a_pipe_or_device(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A device of the system cannot be put at stake here: a link to one and a pipe are treated alike."""
    (home / "a.json").write_bytes(corpus.run_files()["ranges.json"])
    (home / "col.npz").write_bytes(corpus.run_files()["p.npz"])
    os.mkfifo(home / "pipe")
    (home / "null").symlink_to("/dev/null")
    commands = (
        ("compare", "a.json", "a.json", "--html"), ("new", "../model/m.onnx", "--force", "--out"), ("merge", "col.npz", "--out"),
        ("calibrate", "../model/r.toml", "--out"),
    )  # fmt: skip
    for name in ("pipe", "null"):
        for command in commands:
            assert name in complain(home, capsys, *command, name)
    assert (home / "pipe").is_fifo() and (home / "null").is_symlink()


@pytest.mark.parametrize("name", ["m.onnx", "c.npz", "r.toml", "a.json"])
def test_a_pipe_that_a_recipe_names_is_called_one(
    tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """No command waits for it, and none says that it is not there."""
    corpus.recipe_folder(tmp_path)
    text = (tmp_path / "r.toml").read_text()
    if name == "a.json":
        (tmp_path / "r.toml").write_text(text.replace("[calibration]", '[calibration]\nranges = "a.json"', 1))
    (tmp_path / name).unlink(missing_ok=True)
    os.mkfifo(tmp_path / name)
    assert invoke(["check", str(tmp_path / "r.toml")]) == 2
    said = capsys.readouterr().err
    assert "this is a pipe, not a file" in said and name in said


def test_nothing_is_written_in_the_systems_own_folders(tmp_path: Path) -> None:
    from toolkit.base.errors import WriteError
    from toolkit.base.files import require_place

    for place in ("/dev/null", "/dev/stdout", "/proc/self/status"):
        with pytest.raises(WriteError, match="this is a device"):
            require_place(Path(place))
    require_place(tmp_path / "none")
    require_place(tmp_path)


# ---------------------------------------------------------------- pages

HOSTILE = "<script>alert(1)</script>\x1b[2J\u202e'\"&"


def test_the_page_of_compared_ranges_shows_names_and_obeys_none(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Ranges({HOSTILE: Range(1.0, "minmax"), "x": Range(2.0, "minmax")}).save(home / "a.json")
    Ranges({HOSTILE: Range(3.0, "minmax"), HOSTILE + "2": Range(2.0, "minmax")}).save(home / "<b>.json")
    assert invoke(["compare", "a.json", "<b>.json", "--html", "c.html"]) == 0
    page = (home / "c.html").read_text()
    assert "\x1b" not in page and "\u202e" not in page and "<script>alert" not in page and "<b>" not in page
    policy = re.search(r'http-equiv="Content-Security-Policy" content="([^"]+)"', page)
    assert policy is not None and "default-src 'none'" in policy[1] and "script-src 'sha256-" in policy[1]
    assert "\x1b" not in capsys.readouterr().out


def test_every_template_carries_the_policy() -> None:
    from toolkit.report.page.html import environment

    pages = [
        name
        for name in environment().list_templates(extensions=["jinja"])
        if "<html" in environment().loader.get_source(environment(), name)[0]
    ]
    assert pages == ["layout.html.jinja"]
    assert "Content-Security-Policy" in environment().loader.get_source(environment(), "layout.html.jinja")[0]


def test_a_report_of_hostile_names_is_printed_as_it_is_named(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    content = json.loads(corpus.run_files()["report.json"])
    content["recipe"]["name"] = HOSTILE
    (home / "rep.json").write_text(json.dumps(content))
    invoke(["inspect", "rep.json"])
    printed = capsys.readouterr()
    assert "\x1b" not in printed.out + printed.err and "\u202e" not in printed.out + printed.err


def test_what_is_measured_of_hostile_names_is_printed_as_it_is_named(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    proto = corpus.network()
    for one in proto.graph.node:
        one.name = HOSTILE + one.name
    (home.parent / "model" / "m.onnx").write_bytes(proto.SerializeToString())
    for command in ("check", "sensitivity", "bisect"):
        out = [] if command == "check" else ["--out", "o"]
        assert invoke([command, "../model/r.toml", *out]) == 0
        printed = capsys.readouterr()
        assert "\x1b" not in printed.out + printed.err and "\u202e" not in printed.out + printed.err


def test_links_that_lead_in_a_circle_are_refused(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = home.parent / "model"
    (model / "m.onnx").write_bytes(corpus.with_external(model).SerializeToString())
    (model / "w.bin").unlink()
    (model / "w.bin").symlink_to("w.bin")
    (home / "circle").symlink_to("circle")
    assert "'w0'" in complain(home, capsys, "check", "../model/r.toml")
    for command in (
        ("run", "../model/r.toml", "--out", "circle"),
        ("inspect", "circle"),
        ("new", "../model/m.onnx", "--out", "circle"),
    ):
        assert "circle" in complain(home, capsys, *command)
