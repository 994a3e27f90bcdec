"""The whole road with a model above protobuf's limit, 2.28 GB of float32: time and peak memory of every command.

Run: python -m tests.benchmarks.bench_large [--width 4096] [--blocks 17] [--folder FOLDER] [--memory 6GB] [--limit 6GB]
[COMMAND ...]

The folder takes some 12 GB. Memory is that of the command and its child processes together, looked at 10 times a
second: what they have for themselves (anonymous), and with it the files that they have mapped, which the system takes
back where memory is short (PSS: a page that is mapped twice counts once). The weights' share of a peak tells how often
they are held. ``--memory`` is the recipes' ``[run] memory`` instead of the 1.2 times the weights that ``new`` sets;
``none`` sets no limit. With ``--limit`` every command is in a memory cgroup of its own that has so much, files that are
mapped or written among it: what takes more is killed (Linux, as root).
"""

from __future__ import annotations

import argparse
import os
import re
import resource
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from tests.large_models import block_samples, residual_blocks
from toolkit.base.settings import byte_size

ROOT = Path(__file__).resolve().parents[2]
_INTERVAL = 0.1
_SEARCH = re.compile(r'\[\[pass\]\]\nuse = "search_precision".*?\n\n', re.DOTALL)
_LIMIT = re.compile(r"\[run\]\nmemory.*?\n\n")
_INSERT = '[[pass]]\nuse = "insert_qdq"\n\n'


class Memory(threading.Thread):
    """Watches the memory of a process and its children until it is told to stop."""

    def __init__(self, process: int) -> None:
        super().__init__(daemon=True)
        self.process, self.own, self.all, self.over = process, 0, 0, threading.Event()

    def run(self) -> None:
        """Look every now and then."""
        while not self.over.wait(_INTERVAL):
            found = [_memory(one) for one in _family(self.process)]
            self.own = max(self.own, sum(own for own, _ in found))
            self.all = max(self.all, sum(own + mapped for own, mapped in found))


def _family(process: int) -> list[int]:
    try:
        children = Path(f"/proc/{process}/task/{process}/children").read_text().split()
    except OSError:
        return []
    return [process, *(one for child in children for one in _family(int(child)))]


def _memory(process: int) -> tuple[int, int]:
    """Bytes of anonymous memory and of mapped files."""
    try:
        lines = dict(line.split(":", 1) for line in Path(f"/proc/{process}/smaps_rollup").read_text().splitlines()[1:])
        return tuple(1024 * int(lines[key].split()[0]) for key in ("Pss_Anon", "Pss_File"))  # type: ignore[return-value]
    except (OSError, KeyError):
        return 0, 0


@contextmanager
def limited(limit: int | None, folder: Path) -> Iterator[Callable[[], None] | None]:
    """What a child calls to be in a memory cgroup of its own, where there is a limit; the folder's files leave memory.

    Pages count for the group that has read them first: with them in memory already, a child would have them for free.
    """
    if limit is None:
        yield None
        return
    old = Path("/sys/fs/cgroup/memory/memory.limit_in_bytes").exists()
    group = Path("/sys/fs/cgroup", "memory" if old else "", f"bench_large-{os.getpid()}")
    group.mkdir()
    (group / ("memory.limit_in_bytes" if old else "memory.max")).write_text(str(limit))
    for path in folder.rglob("*"):
        if path.is_file():
            with path.open("rb") as stream:
                os.fsync(stream.fileno())
                os.posix_fadvise(stream.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)

    def enter() -> None:
        (group / "cgroup.procs").write_text(str(os.getpid()))

    try:
        yield enter
    finally:
        group.rmdir()


def timed(folder: Path, weights: int, words: Sequence[str], limit: int | None = None) -> None:
    """Run a command of qtool in the folder and print what it took."""
    start, before = time.monotonic(), resource.getrusage(resource.RUSAGE_CHILDREN)
    paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    with (folder / f"{words[0]}.log").open("w") as log, limited(limit, folder) as enter:
        child = subprocess.Popen(
            [sys.executable, "-m", "toolkit.cli", *words], cwd=folder, stdout=log, stderr=subprocess.STDOUT,
            env=os.environ | {"PYTHONPATH": os.pathsep.join(paths), "TMPDIR": str(folder), "OMP_NUM_THREADS": "2"},
            preexec_fn=enter,
        )  # fmt: skip
        watch = Memory(child.pid)
        watch.start()
        status = child.wait()
    watch.over.set()
    watch.join()
    seconds, after = time.monotonic() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
    worked = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    print(f"{' '.join(words):60} {status:6} {seconds:8.1f} {worked:8.1f} {watch.own / 1e9:8.2f} {watch.all / 1e9:8.2f} "
          f"{watch.own / weights:8.2f} {watch.all / weights:8.2f}", flush=True)  # fmt: skip
    # 1: done, and the budget missed, as two samples of random weights may
    if not 0 <= status <= 1:
        print((folder / f"{words[0]}.log").read_text()[-2000:])


def recipes(folder: Path, memory: str | None) -> None:
    """Recipes beside the one that ``new`` wrote: of the search, of plain INT8 with and without an engine, of stripping."""
    text = (folder / "new.toml").read_text().replace('backend = "auto"', 'backend = "none"')
    if memory is not None:
        # new sets 1.2 times the weights; none leaves memory unlimited
        text = _LIMIT.sub("" if memory == "none" else f'[run]\nmemory = "{memory}"\n\n', text)
    plain = _SEARCH.sub(_INSERT, text)
    (folder / "searched.toml").write_text(text)
    (folder / "plain.toml").write_text(plain)
    (folder / "rtx.toml").write_text(plain.replace('backend = "none"', 'backend = "tensorrt_rtx"'))
    paired = plain.replace("big.onnx", "runs/plain/.qtool/prepared.onnx")
    (folder / "stripped.toml").write_text(paired.replace("[[pass]]", '[[pass]]\nuse = "strip_qdq"\n\n[[pass]]', 1))


def main() -> None:
    """Make the model, run the commands that were named, or all."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--width", type=int, default=4096)
    parser.add_argument("--blocks", type=int, default=17)
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--memory")
    parser.add_argument("--limit", type=byte_size)
    parser.add_argument("commands", nargs="*")
    given = parser.parse_args()
    weights = 2 * given.blocks * 4 * given.width**2
    with tempfile.TemporaryDirectory() as temporary:
        folder = (given.folder or Path(temporary)).resolve()
        if not (folder / "big.bin").exists():
            folder.mkdir(parents=True, exist_ok=True)
            residual_blocks(folder / "big.onnx", given.width, given.blocks)
            block_samples(folder / "samples.npz", given.width)
        print(f"{weights / 1e9:.2f} GB of weights")
        print(f"{'command':60} status  seconds    CPU s   own GB   all GB      own  all, of the weights")
        for words in (
            ["new", "big.onnx", "--data", "samples.npz", "--out", "new.toml", "--force"],
            ["check", "searched.toml"],
            ["run", "plain.toml", "--out", "runs/plain"],
            ["run", "plain.toml", "--out", "runs/plain"],
            ["run", "rtx.toml", "--out", "runs/rtx"],
            ["sensitivity", "plain.toml", "--out", "runs/plain"],
            ["run", "searched.toml", "--out", "runs/searched"],
            ["run", "stripped.toml", "--out", "runs/stripped"],
            ["compare", "runs/plain", "runs/searched"],
            ["inspect", "big.onnx"],
        ):
            if not given.commands or set(given.commands) & set(words):
                timed(folder, weights, words, given.limit)
            if words[0] == "new":
                recipes(folder, given.memory)


if __name__ == "__main__":
    main()
