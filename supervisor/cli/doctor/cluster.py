"""The checks of ``doctor`` for Slurm and the directory that its jobs share with this machine."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from typing import Any, Final

from supervisor.cli import text
from supervisor.cli.doctor.check import Check, Severity
from supervisor.errors import SupervisorError
from supervisor.settings import Settings
from supervisor.system.file_systems import file_system_of, on_network

__all__ = ["check_cluster"]

_COMMANDS: Final = ("sbatch", "squeue", "scancel", "scontrol")
_CLUSTER_FILE_SYSTEMS: Final = frozenset({"lustre", "beegfs", "gpfs", "pvfs2", "orangefs"})


def check_cluster(settings: Settings) -> Iterator[Check]:
    """Check Slurm and the shared directory. Without Slurm, yield one note and run no command."""
    found = {name: shutil.which(name) for name in _COMMANDS}
    missing = [name for name, path in found.items() if path is None]
    if "sbatch" in missing:
        message = 'not installed; needed only for engine="slurm"'
        yield Check("Slurm", Severity.NOTE, message, facts={"installed": False})
        return
    facts: dict[str, Any] = {"installed": True, "commands": found}
    if missing:
        message = f"{', '.join(missing)} not on PATH: jobs could be submitted, but not supervised"
        yield Check("Slurm", Severity.WARNING, message, "Install all of Slurm's client commands.", facts)
        return
    yield _slurm(facts)
    yield _shared(settings)


def _slurm(facts: dict[str, Any]) -> Check:
    from supervisor.engines.cluster.interface import Rejected, Unreachable
    from supervisor.engines.cluster.slurm import commands

    output = commands.ask(commands.VERSION)
    last = output.stdout.strip().rpartition(" ")[2]
    facts["version"] = version = last if last[:1].isdigit() else None
    facts["reachable"] = False
    set_conf = "Set SLURM_CONF if the configuration of your cluster is not in the default place."
    try:
        commands.check_version(output)
        partitions = commands.read_sinfo(commands.ask(commands.SINFO))
    except Rejected as problem:
        repair = set_conf if version is None else "Ask the administrators of the cluster for a newer version."
        return Check("Slurm", Severity.WARNING, str(problem), repair, facts)
    except Unreachable as problem:
        message = f"{version or 'Slurm'}; its controller cannot be reached: {problem}"
        repair = f"Jobs that are started now would wait for it. {set_conf}"
        return Check("Slurm", Severity.WARNING, message, repair, facts)
    facts["reachable"] = True
    facts["partitions"] = {
        each.name: {"default": each.default, "up": each.up, "nodes": each.nodes, "usable": each.usable}
        for each in partitions
    }
    words = ", ".join(
        f"{each.name}{' (default)' if each.default else ''} {each.usable} of {each.nodes} nodes"
        f"{'' if each.up else ', not up'}"
        for each in partitions
    )
    message = f"{version}; partitions: {words or 'none'}"
    if not any(each.up and each.usable for each in partitions):
        repair = "Jobs that are started now would wait: no partition is up with a usable node (see `sinfo`)."
        return Check("Slurm", Severity.WARNING, message, repair, facts)
    return Check("Slurm", Severity.FINE, message, None, facts)


def _shared(settings: Settings) -> Check:
    from supervisor.engines.cluster.shared_directory import check_shared_directory

    name = "shared directory"
    if settings.shared_dir is None:
        message = "SUPERVISOR_SHARED_DIR is not set, so each Slurm job must name a directory"
        return Check(name, Severity.NOTE, message, facts={"path": None})
    path = os.path.realpath(os.path.expanduser(settings.shared_dir))
    above = path
    while not os.path.exists(above):
        above = os.path.dirname(above)
    kind = file_system_of(above)
    networked = on_network(above) or kind in _CLUSTER_FILE_SYSTEMS
    facts: dict[str, Any] = {"path": path, "exists": above == path, "file_system": kind or None, "network": networked}
    words = path if above == path else f"{path} (the first job will create it)"
    words = text.one_line(words) + (f", on {kind}" if kind else "")
    try:
        if above == path:
            check_shared_directory(path)
        elif not os.access(above, os.W_OK | os.X_OK):
            return Check(name, Severity.WARNING, f"{path} cannot be created in {above}", "Choose another one.", facts)
    except SupervisorError as error:
        return Check(name, Severity.WARNING, error.message, error.repair, facts)
    if not networked:
        repair = "If the nodes do not have it under the same path, jobs there end with launch_failed."
        return Check(name, Severity.NOTE, f"{words}, a local file system", repair, facts)
    return Check(name, Severity.FINE, words, None, facts)
