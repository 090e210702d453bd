"""What makes an engine of the two halves of a cluster: options, the engine, and its clients."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import attrs

from supervisor.engines.cluster.interface import ADMISSION, Backend, SyncBackend
from supervisor.engines.interface import Engine
from supervisor.errors import InvalidArguments
from supervisor.system.paths import absolute, expanded

if TYPE_CHECKING:
    from supervisor.engines.cluster.client import ClusterClient

__all__ = ["ClusterFactory"]

_DEADLINE_FROM: Final = ("start", "submission")
_ADMISSION: Final = ("supervisor", "engine")


@attrs.frozen(kw_only=True)
class ClusterFactory:
    """An ``EngineFactory`` for a cluster.

    Attributes:
        name: the name of the engine.
        backend: makes its ``Backend``.
        sync_backend: makes its ``SyncBackend``.
        options: the names of its own options, and in words what each accepts.
        check: returns its own options as they are recorded, or raises ``InvalidArguments``.
        admits: whether it understands ``Submission.after`` and ``begin_ns``, so that it can admit its jobs itself.
    """

    name: str
    backend: Callable[[], Backend]
    sync_backend: Callable[[], SyncBackend]
    options: Mapping[str, str] = attrs.field(factory=dict[str, str])
    check: Callable[[Mapping[str, Any]], dict[str, Any]] = dict
    admits: bool = False

    def engine(self, root: str, python: str | os.PathLike[str] | None) -> Engine:
        """Return the engine. The nodes have no state root, and run the Python of this process."""
        del root, python
        from supervisor.engines.cluster.engine import ClusterEngine

        return ClusterEngine(self.backend(), self.client)

    def client(self) -> ClusterClient:
        """Return a new client."""
        from supervisor.engines.cluster.client import ClusterClient

        return ClusterClient(self.name, self.sync_backend())

    def accepted_options(self) -> dict[str, str]:
        """Return the options of all clusters, and those of this one."""
        common = {
            "shared_dir": "the path of a directory that this machine and the nodes share",
            "deadline_from": " or ".join(map(repr, _DEADLINE_FROM)),
        }
        if self.admits:
            common[ADMISSION] = " or ".join(map(repr, _ADMISSION))
        return {**common, **self.options}

    def check_options(self, options: Mapping[str, Any]) -> dict[str, Any]:
        """Return ``shared_dir``, ``deadline_from``, and as ``own`` the options of this cluster.

        ``own`` has ``admission`` if the cluster is to admit the job.

        Raises:
            InvalidArguments: there is no such option, or a value does not fit.
        """
        own = dict(options)
        given = own.pop("shared_dir", None)
        shared = str(given) if isinstance(given, str | Path) else ""
        if not shared or "\0" in shared:
            message = f"the {self.name} engine needs shared_dir: a directory that this machine and the nodes share"
            raise InvalidArguments(message, repair="Give shared_dir among the engine's options, or --shared-dir.")
        begin = own.pop("deadline_from", "start")
        if begin not in _DEADLINE_FROM:
            message = f"deadline_from is {begin!r:.80}; it must be 'start' or 'submission'"
            raise InvalidArguments(message)
        admission = own.pop(ADMISSION, "supervisor") if self.admits else "supervisor"
        if admission not in _ADMISSION:
            message = f"admission is {admission!r:.80}; it must be 'supervisor' or 'engine'"
            raise InvalidArguments(message)
        path = os.path.realpath(absolute(expanded(shared), "shared_dir"))
        checked = self.check(own)
        if admission == "engine":
            checked[ADMISSION] = {}
        return {"shared_dir": path, "deadline_from": begin, "own": checked}
