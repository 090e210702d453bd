"""The Slurm engine, for the registry."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from supervisor.engines.cluster.factory import ClusterFactory
from supervisor.engines.cluster.interface import Backend, SyncBackend
from supervisor.engines.cluster.slurm.options import OPTIONS

__all__ = ["FACTORY"]


def _backend() -> Backend:
    from supervisor.engines.cluster.slurm.backend import Slurm

    return Slurm()


def _sync_backend() -> SyncBackend:
    from supervisor.engines.cluster.slurm.commands import SlurmSyncBackend

    return SlurmSyncBackend()


def _check(options: Mapping[str, Any]) -> dict[str, Any]:
    from supervisor.engines.cluster.slurm import commands

    return {**commands.check_options(options)}


FACTORY: Final = ClusterFactory(
    name="slurm",
    backend=_backend,
    sync_backend=_sync_backend,
    options={name: accepts for name, (_, _, accepts) in OPTIONS.items()},
    check=_check,
    admits=True,
)
