"""Work on a Ray cluster. Only this module uses Ray, which is imported when a cluster is requested.

Tasks are the same as in a single process; each worker opens a work once and keeps it open. A work and its arrays are
put into Ray's object store once, shared by the workers of a machine. If a worker is lost, its task is retried.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import pickle
import platform
import re
import signal
import sys
import sysconfig
import threading
import traceback
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from toolkit.base.cpu import cpu_kind
from toolkit.base.errors import QtoolError
from toolkit.base.gpu import gpu_uuid
from toolkit.base.matching_versions import refuse_unlike, stamp, version_reporter
from toolkit.base.modules import installed_at
from toolkit.base.places import AnswerT, ItemT, SharedWork, Workers, answered, taken_in
from toolkit.base.reads import Reads, aside, following

ADDRESS = r"ray://[A-Za-z0-9_.\-\[\]:]+:[0-9]{1,5}"
"""Pattern of a Ray Client address."""
_RETRIES = 5
_QUIET = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0"}
_LINE = 300
_SOON = 60
"""Seconds within which Ray assigns a free GPU."""


class RemoteTracebackError(Exception):
    """The traceback, as text, of an error in a worker."""


@contextmanager
def cluster(address: str | None = None) -> Iterator[Cluster]:
    """A Ray cluster for the duration of the block; it is connected to when there is work for it.

    This is the cluster that the caller's program is already connected to; else the one at ``address``; else the one
    that ``RAY_ADDRESS`` names or that was started on this machine; else a new one on this machine's cores, which ends
    with the block.

    Args:
        address: ``ray://host:port`` of a Ray Client server.

    Raises:
        QtoolError: Ray is not installed.
    """
    if importlib.util.find_spec("ray") is None:
        raise QtoolError(
            "work is to run on Ray, which is not installed", where="[run] on", remedy="run pip install 'qtool[ray]'"
        )
    found = Cluster(address)
    try:
        yield found
    finally:
        found.close()


def _ray() -> Any:
    for name, value in _QUIET.items():
        os.environ.setdefault(name, value)
    return importlib.import_module("ray")


def _connect(ray: Any, address: str | None) -> None:
    """Start Ray, or connect to the cluster at ``address``; this process's signal handlers are kept."""
    main = threading.current_thread() is threading.main_thread()
    before = signal.getsignal(signal.SIGTERM)
    quiet = {"log_to_driver": False, "logging_level": "ERROR"}
    try:
        # the error raised contains what the warnings say
        with aside(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            if address is not None:
                ray.init(address=address, **quiet)
            else:
                ray.init(include_dashboard=False, **quiet)
    except Exception as error:
        place = address or os.environ.get("RAY_ADDRESS") or "this machine"
        remedy = (
            "check that `ray status` there shows the cluster, that Python and Ray are of the same versions, and "
            "RAY_AUTH_MODE and RAY_AUTH_TOKEN if it requires a token"
        )
        raise QtoolError(f"Ray cannot be used: {_first(error)}", where=place, remedy=remedy) from error
    finally:
        if main:
            # Ray's handler would end the process at once
            signal.signal(signal.SIGTERM, before)


def _first(error: BaseException) -> str:
    """The first lines of a Ray message, which may be pages long."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return re.sub(r"\x1b\[[0-9;]*m", "", " ".join(lines[:3]))[:_LINE] or type(error).__name__


@contextmanager
def _answering(*lost: type[Exception]) -> Iterator[None]:
    """Convert Ray's errors in the block to qtool's.

    Args:
        lost: errors by which Ray reports that the cluster is gone; a lost connection is a ConnectionError.

    Raises:
        QtoolError: the cluster is gone or the connection is lost.
    """
    try:
        yield
    except (ConnectionError, *lost) as error:  # type: ignore[misc]
        raise QtoolError(
            f"the cluster no longer answers: {_first(error)}",
            where="Ray",
            remedy="run `ray status` there; the same command then resumes where this one stopped",
        ) from error


@dataclass
class Cluster:
    """The machines of a Ray cluster; see ``Workplace`` and ``cluster``.

    Attributes:
        address: address of the cluster; see ``cluster``.
        unlike: see ``Workplace``.
    """

    address: str | None = None
    unlike: set[str] = field(default_factory=set)
    _connected: bool = False

    @cached_property
    def ray(self) -> Any:
        """The module ``ray``, connected to the cluster.

        Raises:
            QtoolError: Ray does not answer, or a machine of the cluster has other versions than this one.
        """
        ray = _ray()
        if not ray.is_initialized():
            _connect(ray, self.address)
            self._connected = True
        with _answering(ray.exceptions.RayError):
            self._require_alike(ray)
        return ray

    def close(self) -> None:
        """Disconnect, if this object made the connection."""
        if self._connected:
            self._connected = False
            with aside():
                _ray().shutdown()

    @property
    def slots(self) -> int:
        """Number of tasks that run at a time: one per core."""
        with _answering(self.ray.exceptions.RayError):
            return max(int(self.ray.cluster_resources().get("CPU", 0)), 1)

    @contextmanager
    def workers(self, work: SharedWork[ItemT, AnswerT]) -> Iterator[Workers[ItemT, AnswerT]]:
        """See ``Workplace``.

        Raises:
            QtoolError: the work cannot be pickled, it does not fit into the object store, or the cluster is gone.
        """
        with self._tasks(work, 2 * self.slots, num_cpus=1) as tasks:
            yield tasks

    @contextmanager
    def gpu_workers(self, work: SharedWork[ItemT, AnswerT]) -> Iterator[Workers[ItemT, AnswerT] | None]:
        """See ``Workplace`` and ``workers``; does not wait for GPUs that are busy."""
        with self._others_than_own() as others:
            if not others:
                yield None
                return
            with self._tasks(work, others, num_cpus=1, num_gpus=1) as tasks:
                yield tasks

    @contextmanager
    def _others_than_own(self) -> Iterator[int]:
        """Yields the number of GPUs other than this process's own, which is reserved so that no task gets it."""
        ray, own = self.ray, gpu_uuid()
        held, mine = list[Any](), list[Any]()
        try:
            with _answering(ray.exceptions.RayError):
                others = count = int(ray.cluster_resources().get("GPU", 0))
                holder = ray.remote(_Holder).options(num_cpus=0, num_gpus=1)
                try:
                    while not mine and len(held) < count:
                        held.append(holder.remote())
                        if ray.get(held[-1].gpu.remote(), timeout=_SOON) == own:
                            mine, others = [held.pop()], count - 1
                except ray.exceptions.GetTimeoutError:
                    others = 0
            self._end(held)
            yield others
        finally:
            self._end(held + mine)

    def _end(self, actors: list[Any]) -> None:
        """End actors, which releases their resources."""
        while actors:
            with suppress(Exception):
                self.ray.kill(actors.pop())

    @contextmanager
    def _tasks(self, work: SharedWork[Any, Any], window: int, **needs: int) -> Iterator[_RayTasks]:
        """Tasks for a work; ``needs`` are the cores and GPUs of each task."""
        try:
            with _answering():
                held = self.ray.put(work)
        except self.ray.exceptions.RayError as error:
            raise QtoolError(
                f"the model and its samples cannot be put into Ray's object store: {_first(error)}",
                where="Ray",
                remedy="give it more room (`ray start --object-store-memory`), or use fewer samples",
            ) from error
        except (pickle.PicklingError, AttributeError, TypeError) as error:
            raise QtoolError(
                f"the work cannot be sent to other processes: {_first(error)}",
                remedy="define the class of your own metric at the top of a module, or compute here",
            ) from error
        task = self.ray.remote(_perform).options(max_retries=_RETRIES, **needs)
        workers = _RayTasks(self.ray, task, (held, stamp(), _places()), window, self.unlike)
        try:
            yield workers
        finally:
            workers.give_up()

    def _require_alike(self, ray: Any) -> None:
        """Raise a QtoolError if a machine has other versions of qtool, Python or packages, or does not answer."""
        nodes = [node for node in ray.nodes() if node["Alive"]]
        if len(nodes) < 2 and not ray.util.client.ray.is_connected():
            # the only machine is this one
            return
        strategies = importlib.import_module("ray.util.scheduling_strategies")
        asked = {}
        tell = ray.remote(version_reporter())
        for node in nodes:
            there = strategies.NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
            asked[node["NodeManagerAddress"]] = tell.options(num_cpus=0, scheduling_strategy=there).remote(_places())
        for machine, answer in asked.items():
            try:
                theirs = ray.get(answer)
            except Exception as error:
                raise QtoolError(f"the worker does not answer: {_first(error)}", where=machine) from error
            refuse_unlike(stamp(), theirs, machine)


def _places() -> list[str]:
    return [path for path in sys.path if path]


@dataclass
class _RayTasks:
    """Ray tasks that share one work."""

    ray: Any
    task: Any
    shared: tuple[Any, ...]
    window: int
    unlike: set[str]
    _under_way: set[Any] = field(default_factory=set)

    def submit(self, item: Any) -> _RayTask:
        # a reference inside a list is not fetched before the task needs it
        with _answering(self.ray.exceptions.RayError):
            reference = self.task.remote([self.shared[0]], *self.shared[1:], item)
        self._under_way.add(reference)
        return _RayTask(self, reference)

    def get(self, reference: Any) -> Any:
        """The answer of a task.

        Raises:
            QtoolError: its worker was lost in every retry, the task failed there, or the cluster is gone.
        """
        try:
            with _answering():
                failed, found, cpu = self.ray.get(reference)
        except self.ray.exceptions.RayTaskError as error:
            raise QtoolError(
                f"a worker failed: {_first(error.cause)}",
                where="Ray",
                remedy="qtool and its packages must be the same on every machine of the cluster",
            ) from error
        except self.ray.exceptions.RayError as error:
            raise QtoolError(
                f"a task was lost, and so were its {_RETRIES} retries: {_first(error)}",
                where="Ray",
                remedy="its machine may be out of memory: use smaller batches, or fewer tasks per machine "
                "(`ray start --num-cpus`)",
            ) from error
        finally:
            self._under_way.discard(reference)
        if cpu != cpu_kind():
            self.unlike.add(cpu)
        if failed:
            fault, where = found
            raise fault from RemoteTracebackError(where)
        return taken_in(found)

    def give_up(self) -> None:
        """Cancel all tasks under way."""
        for reference in list(self._under_way):
            self.end(reference)

    def end(self, reference: Any) -> None:
        """Cancel one task."""
        self._under_way.discard(reference)
        with suppress(Exception):
            self.ray.cancel(reference, force=True)


@dataclass(frozen=True)
class _RayTask:
    tasks: _RayTasks
    reference: Any

    def result(self) -> Any:
        return self.tasks.get(self.reference)

    def give_up(self) -> None:
        self.tasks.end(self.reference)


# ---------------------------------------------------------------- in a worker

_open: dict[str, Callable[[Any], Any]] = {}
"""The opened work that was used last, by its key in the object store."""


def _perform(box: list[Any], ours: Mapping[str, str], paths: list[str], item: Any) -> tuple[bool, Any, str]:
    """One task: whether it failed; its answer and what was read, or its error and traceback; the kind of CPU.

    Args:
        box: a list with the reference of the work.
        ours: the versions of the requesting process.
        paths: the requesting process's module search path.
        item: the item to answer.
    """
    try:
        key = box[0].hex()
        if key not in _open:
            refuse_unlike(ours, stamp(), platform.node())
            # close the sessions of the previous work before opening this one's
            _open.clear()
            if not _followed:
                # active until the process ends: a user's metric may read files here
                following(Reads()).__enter__()
                _followed.append(True)
            _reach(paths)
            _open[key] = _ray().get(box[0]).open()
        return False, answered(_open[key], item), cpu_kind()
    except Exception as error:
        return True, (_sendable(error), traceback.format_exc()), cpu_kind()


_followed: list[bool] = []


class _Holder:
    """An actor that occupies a GPU without using it."""

    def gpu(self) -> str:
        return gpu_uuid()


def _reach(paths: list[str]) -> None:
    """Extend the module search path by the requesting process's, and drop modules that the user may have changed."""
    missing = [path for path in paths if path not in sys.path and Path(path).is_dir()]
    sys.path += missing
    kept = tuple(f"{place}{os.sep}" for place in (Path(__file__).parents[2], sysconfig.get_path("stdlib")))
    for name, module in list(sys.modules.items()):
        file = getattr(module, "__file__", None) or ""
        own = any(file.startswith(path + os.sep) for path in paths)
        if own and not file.startswith(kept) and not installed_at(os.path.realpath(file)):
            del sys.modules[name]


def _sendable(error: Exception) -> Exception:
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:
        return QtoolError(f"{type(error).__name__}: {error}", where=platform.node())
    return error
