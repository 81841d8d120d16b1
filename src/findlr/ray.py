"""Ray: ``find_lr(..., verify=True, executor=findlr.ray.executor())`` makes a race's runs on a cluster."""

from __future__ import annotations

import logging
import pickle
from collections.abc import Callable
from concurrent.futures import Executor, Future
from contextlib import suppress
from typing import Any

from findlr.errors import ConfigurationError, MissingExtraError
from findlr.search.parcel import Parcel

try:
    import ray
    from ray import cloudpickle
except ImportError:
    raise MissingExtraError.of("ray", "ray") from None

logger = logging.getLogger("findlr")

_NOT_OURS = ("num_returns", "name")


def executor(**options: Any) -> RayExecutor:
    """An executor whose tasks run on the Ray cluster that this process is connected to.

    The training is sent to the cluster's object store once. A run whose worker or node is lost is made again elsewhere.
    Ctrl-C cancels what runs and what waits.

    Args:
        **options: what each run takes, as in Ray's ``options``: num_cpus (1 unless given), num_gpus, memory in bytes,
            resources, max_retries (3 unless given), scheduling_strategy, runtime_env and so on.

    Returns:
        The executor. It holds nothing that had to be shut down.

    Raises:
        ConfigurationError: Ray is not started, or it has no such option.

    Example:
        >>> finding = find_lr(*training, total_steps=9000, verify=True, executor=executor(num_gpus=1))  # doctest: +SKIP
        >>> finding.race.path  # doctest: +SKIP
        'parallel'

    Source: https://docs.ray.io, ``ray.remote_function.RemoteFunction.options``.
    """
    if not ray.is_initialized():
        raise ConfigurationError("Ray is not started in this process: call ray.init() first, or ray.init('auto')")
    for name in _NOT_OURS:
        if name in options:
            raise ConfigurationError(f"findlr.ray.executor can't take {name}: leave it out")
    try:
        remote = ray.remote(_call).options(**{"num_cpus": 1, **options})
    except (TypeError, ValueError) as error:
        raise ConfigurationError(f"findlr.ray.executor: {error}") from None
    return RayExecutor(remote)


class RayExecutor(Executor):
    """Tasks on a Ray cluster; see ``executor``.

    Args:
        remote: the remote function that calls what it is given.
    """

    pickler: type[pickle.Pickler] = cloudpickle.Pickler
    """It takes what a script or a notebook defines."""

    def __init__(self, remote: Any) -> None:
        self._remote = remote
        self._is_shut = False
        self._tasks: list[_Task] = []

    def share(self, parcel: Parcel[Any]) -> Any:
        """A reference to the parcel in the object store."""
        return ray.put(parcel)

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """Call ``fn`` on the cluster.

        Raises:
            RuntimeError: the executor is shut down.
        """
        if self._is_shut:
            raise RuntimeError("this executor is shut down")
        task = _Task(self._remote.remote(fn, *args, **kwargs))
        self._tasks = [each for each in self._tasks if not each.done()] + [task]
        return task

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Take no more tasks; the cluster goes on.

        Args:
            wait: until its tasks have ended.
            cancel_futures: cancel those that have not.
        """
        self._is_shut = True
        for task in self._tasks:
            if cancel_futures:
                task.cancel()
            if wait:
                with suppress(Exception):
                    task.exception()


class _Task(Future[Any]):
    """A task on the cluster; cancelling it stops it, too, if it runs."""

    def __init__(self, reference: Any) -> None:
        super().__init__()
        self._reference = reference
        reference.future().add_done_callback(self._ended)

    def cancel(self) -> bool:
        if self.done():
            return False
        with suppress(Exception):  # Ray was shut down
            ray.cancel(self._reference, force=True)  # an import that is broken off would stay half done in its worker
        return super().cancel()

    def _ended(self, inner: Future[Any]) -> None:
        if not self.set_running_or_notify_cancel():
            return
        error = inner.exception()
        if error is None:
            self.set_result(inner.result())
        else:
            self.set_exception(error)


def _call(function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    return function(*args, **kwargs)
