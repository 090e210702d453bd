"""Whether jobs could run on a cluster: what ``doctor`` says about Slurm."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Final

from supervisor.errors import SupervisorError

if TYPE_CHECKING:
    from supervisor.cli.doctor.check import Check
    from supervisor.settings import Settings

__all__ = ["look"]

_COMMANDS: Final = ("sbatch", "squeue", "scancel", "scontrol")
_SHARED_BY_NATURE: Final = frozenset({"lustre", "beegfs", "gpfs", "pvfs2", "orangefs"})


def look(settings: Settings) -> Iterator[Check]:
    """Yield what there is to say; where there is no Slurm that is one line, and nothing is run."""
    from supervisor.cli.doctor.check import Check, Verdict

    found = {name: shutil.which(name) for name in _COMMANDS}
    missing = [name for name, path in found.items() if path is None]
    if "sbatch" in missing:
        message = 'not installed, and only needed for engine="slurm"'
        yield Check("Slurm", Verdict.NOTE, message, facts={"installed": False})
        return
    facts: dict[str, Any] = {"installed": True, "commands": found}
    if missing:
        message = f"{', '.join(missing)} not on PATH: jobs could be submitted, and not be looked after"
        yield Check("Slurm", Verdict.WARNING, message, "Install all of Slurm's client commands.", facts)
        return
    yield _slurm(facts)
    yield _shared(settings)


def _slurm(facts: dict[str, Any]) -> Check:
    from supervisor.cli.doctor.check import Check, Verdict
    from supervisor.engines.cluster.interface import Rejected, Unreachable
    from supervisor.engines.cluster.slurm import commands

    told = commands.ask(commands.version())
    last = told.stdout.strip().rpartition(" ")[2]
    facts["version"] = version = last if last[:1].isdigit() else None
    facts["reachable"] = False
    leads = "Set SLURM_CONF to the configuration of your cluster, if it is not in the usual place."
    try:
        commands.check_version(told)
        partitions = commands.read_sinfo(commands.ask(commands.sinfo()))
    except Rejected as problem:
        repair = leads if version is None else "Ask whoever runs the cluster for a newer one."
        return Check("Slurm", Verdict.WARNING, str(problem), repair, facts)
    except Unreachable as problem:
        message = f"{version or 'Slurm'}, and its controller cannot be reached: {problem}"
        repair = f"Jobs that are started now would wait for it. {leads}"
        return Check("Slurm", Verdict.WARNING, message, repair, facts)
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
        repair = "Jobs that are started now would wait: no partition is up with a node in working order (see `sinfo`)."
        return Check("Slurm", Verdict.WARNING, message, repair, facts)
    return Check("Slurm", Verdict.FINE, message, None, facts)


def _shared(settings: Settings) -> Check:
    """Look at the directory that jobs on a cluster have in common with this machine."""
    from supervisor.cli import text
    from supervisor.cli.doctor.check import Check, Verdict
    from supervisor.engines import registry
    from supervisor.system.file_systems import file_system_of, on_network

    name = "shared directory"
    if settings.shared_dir is None:
        message = "SUPERVISOR_SHARED_DIR is not set, so that each job on Slurm has to name one"
        return Check(name, Verdict.NOTE, message, facts={"path": None})
    path = os.path.realpath(os.path.expanduser(settings.shared_dir))
    above = path
    while not os.path.exists(above):
        above = os.path.dirname(above)
    kind = file_system_of(above)
    networked = on_network(above) or kind in _SHARED_BY_NATURE
    facts: dict[str, Any] = {"path": path, "exists": above == path, "file_system": kind or None, "network": networked}
    words = path if above == path else f"{path} (will be made by the first job)"
    words = text.one_line(words) + (f", on {kind}" if kind else "")
    try:
        if above == path:
            registry.check_shared_directory(path)
        elif not os.access(above, os.W_OK | os.X_OK):
            return Check(name, Verdict.WARNING, f"{path} cannot be made in {above}", "Choose another one.", facts)
    except SupervisorError as error:
        return Check(name, Verdict.WARNING, error.message, error.repair, facts)
    if not networked:
        repair = "If the nodes do not see it under this very path, jobs there end with launch_failed."
        return Check(name, Verdict.NOTE, f"{words}, a file system of this machine", repair, facts)
    return Check(name, Verdict.FINE, words, None, facts)
