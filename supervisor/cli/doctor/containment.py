"""The checks of ``doctor`` for containers, systemd units and login sessions.

Each of these may end the supervisor and its jobs together, and a process cannot protect itself
against that. So ``doctor`` warns of it.
"""

from __future__ import annotations

import contextlib
import glob
import os
import re
from collections.abc import Iterator
from typing import Any, Final

from supervisor.cli.doctor.check import Check, Severity
from supervisor.keeper import spawn
from supervisor.system import cgroups, scopes

__all__ = ["check_cgroups", "check_containment"]

_UNIT: Final = re.compile(r"/([^/]+\.(?:service|scope))(?:/|$)")
_SESSION: Final = re.compile(r"/session-[^/]+\.scope(?:/|$)")
_USER_MANAGER: Final = re.compile(r"/user@[0-9]+\.service(?:/|$)")
_INITS: Final = ("systemd", "init", "tini", "dumb-init", "docker-init", "catatonit", "runit", "s6-svscan", "launchd")


def check_containment() -> Iterator[Check]:
    """Check for a container, a systemd unit or session, and usable cgroups."""
    yield _container()
    yield from _cgroup()


def _read(path: str) -> str:
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read()
    except OSError:
        return ""


def _container() -> Check:
    first = _read("/proc/1/comm").strip()
    signs = [path for path in ("/.dockerenv", "/run/.containerenv", "/run/systemd/container") if os.path.exists(path)]
    lowercase = os.environ.get("container")  # noqa: SIM112  # as systemd and podman set it
    if lowercase or os.environ.get("KUBERNETES_SERVICE_HOST"):
        signs.append("environment")
    if re.search(r"docker|containerd|kubepods|libpod|lxc", _read("/proc/1/cgroup")):
        signs.append("/proc/1/cgroup")
    facts: dict[str, Any] = {"container": bool(signs), "signs": signs, "pid_1": first or None}
    if not signs:
        return Check("container", Severity.FINE, "none detected", facts=facts)
    message = f"running in one ({', '.join(signs)}; pid 1 is {first or 'unknown'}): its end also ends every job"
    repair = "Put the state root on a volume if results should outlive the container."
    if first and not first.startswith(_INITS):
        repair += " Start the container with an init (`docker run --init`) to avoid zombie processes."
    return Check("container", Severity.WARNING, message, repair, facts)


def _cgroup() -> Iterator[Check]:
    lines = _read("/proc/self/cgroup").splitlines()
    path = next((line.partition("::")[2] for line in lines if line.startswith("0::")), "")
    if not path:
        path = next((line.split(":", 2)[2] for line in lines if ":name=systemd:" in line), "")
    units = _UNIT.findall(path)
    gets_scope, why = _scope()
    facts: dict[str, Any] = {"cgroup": path or None, "unit": units[-1] if units else None, "scope": gets_scope}
    if _USER_MANAGER.search(path):
        lingers = os.path.exists(f"/var/lib/systemd/linger/{_user()}")
        facts["lingers"] = lingers
        unit = f" (unit {units[-1]})" if len(units) > 1 else ""
        if lingers:
            message = f"under your user manager{unit}, which runs on after the last logout"
            repair = f"Stopping {units[-1]} still ends every job." if len(units) > 1 and not gets_scope else None
            yield Check("systemd", Severity.FINE, message, repair, facts)
        else:
            message = f"under your user manager{unit}: the last logout ends every job"
            repair = "Run `loginctl enable-linger`: the user manager then runs on after a logout."
            yield Check("systemd", Severity.WARNING, message, repair, facts)
    elif gets_scope:
        what = "a login session" if _SESSION.search(path) else f"unit {units[-1]}" if units else "no unit"
        message = f"in {what}; jobs leave it for a scope of their own, and do not end with it"
        yield Check("systemd", Severity.FINE, message, facts=facts)
    elif _SESSION.search(path):
        kills = _kills_user_processes()
        facts["kill_user_processes"] = kills
        if kills:
            message = "in a login session, and KillUserProcesses=yes: logging out ends every job"
            repair = "Run `loginctl enable-linger`: jobs then get scopes of your user manager, which runs on."
            yield Check("systemd", Severity.WARNING, message, repair, facts)
        else:
            yield Check("systemd", Severity.FINE, "in a login session; its end does not end jobs", facts=facts)
    elif units:
        message = f"in unit {units[-1]}: stopping or restarting it ends every job (KillMode=control-group)"
        repair = "Set KillMode=process in the unit, or start jobs under `systemd-run --scope`."
        yield Check("systemd", Severity.WARNING, message, repair, facts)
    else:
        yield Check("systemd", Severity.FINE, "in no unit and no login session", facts=facts)
    if gets_scope:
        repair = f"Have it in Delegate={' '.join(cgroups.CONTROLLERS)} of user@.service."
        yield from check_cgroups(_places_in_scope(path), "in a scope of systemd, which each keeper gets", repair)
    else:
        places = cgroups.find_places(spawns_into=spawn.CAN_SPAWN_INTO, prepare=False)
        yield from check_cgroups(places, repair=f"{_REPAIR}{_how(why)}")


def _scope() -> tuple[bool, str]:
    """Return whether a keeper that is started here leaves for a scope of its own, and why not."""
    try:
        return scopes.find_manager() is not None, ""
    except scopes.ScopeError as error:
        return False, str(error)


def _places_in_scope(path: str) -> cgroups.Places:
    """Return the places that a keeper will have in its scope; ``path`` is the control group of this process."""
    uid = os.geteuid()
    below = re.match(rf"(.*/user@{uid}\.service)(?:/|$)", path)
    manager = below[1] if below else f"/user.slice/user-{uid}.slice/user@{uid}.service" if uid else "/system.slice"
    held = _read(f"{scopes.ROOT}{manager}/cgroup.controllers").split()
    places = cgroups.Places()
    places.tree = cgroups.Place(f"{scopes.ROOT}{manager}", 2)
    places.limits = {name: places.tree for name in cgroups.CONTROLLERS if name in held}
    places.missing = {name: "the manager does not have it" for name in cgroups.CONTROLLERS if name not in held}
    return places


def _how(why: str) -> str:
    """Return what gets a keeper a scope; ``why`` is why it gets none."""
    if "last logout" in why:
        return " Or run `loginctl enable-linger`: keepers then get scopes of their own, and run on after a logout."
    return ""


_REPAIR: Final = (
    "Run it under your user manager (`systemd-run --user --scope`), which has a scope for each keeper, or in a unit "
    "with Delegate=yes whose own processes are in a part of it (DelegateSubgroup=)."
)


def check_cgroups(places: cgroups.Places, where: str = "here", repair: str = _REPAIR) -> Iterator[Check]:
    """Check whether jobs get control groups, and which limits they can have; ``repair`` gets them the others."""
    tree = places.tree
    facts: dict[str, Any] = {"directory": tree and tree.directory, "version": tree and tree.version}
    if tree is None:
        message = f"cannot be created here ({places.missing['tree']}); jobs are stopped process by process"
        yield Check("cgroups", Severity.NOTE, message, repair, facts)
    elif tree.version == 2 and not spawn.CAN_SPAWN_INTO:
        message = f"can be created {where}, for jobs with limits: others would start too slowly with this C library"
        how = "Give a job a limit that it never reaches (--pids 10000). glibc 2.39 and newer give every job one."
        yield Check("cgroups", Severity.NOTE, message, how, facts)
    else:
        message = f"can be created {where}; each job gets its own, version {tree.version}"
        yield Check("cgroups", Severity.FINE, message, facts=facts)
    missing = {name: why for name, why in places.missing.items() if name != "tree"}
    facts = {"possible": sorted(places.limits), "missing": missing}
    if not missing:
        yield Check("job limits", Severity.FINE, "memory, cpu and pids of a job can be limited", facts=facts)
    else:
        why = "; ".join(f"{name}: {missing[name]}" for name in cgroups.CONTROLLERS if name in missing)
        yield Check("job limits", Severity.NOTE, f"not possible for {why}", repair, facts)


def _user() -> str:
    import pwd

    try:
        return pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:
        return str(os.geteuid())


def _kills_user_processes() -> bool:
    """Read the configuration of logind, whose last assignment counts."""
    answer = False
    files: dict[str, str] = {}
    for folder in ("/usr/lib/systemd", "/usr/local/lib/systemd", "/run/systemd", "/etc/systemd"):
        for found in sorted(glob.glob(f"{folder}/logind.conf.d/*.conf")):
            files[os.path.basename(found)] = found
    for path in ("/etc/systemd/logind.conf", *(files[name] for name in sorted(files))):
        with contextlib.suppress(ValueError):
            for line in _read(path).splitlines():
                name, equals, value = line.partition("=")
                if equals and name.strip() == "KillUserProcesses":
                    answer = value.strip().lower() in {"yes", "true", "on", "1"}
    return answer
