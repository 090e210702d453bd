"""What may take the supervisor and its jobs down together: a container, a systemd unit, a login.

Jobs outlive whoever started them, unless all of them are in something that is torn down as a
whole; nothing that a process can do about itself protects from that. So it is said beforehand.
"""

from __future__ import annotations

import contextlib
import glob
import os
import re
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from supervisor.cli.doctor.check import Check

__all__ = ["look"]

_UNIT: Final = re.compile(r"/([^/]+\.(?:service|scope))(?:/|$)")
_SESSION: Final = re.compile(r"/session-[^/]+\.scope(?:/|$)")
_USER_MANAGER: Final = re.compile(r"/user@[0-9]+\.service(?:/|$)")
_INITS: Final = (
    "systemd",
    "init",
    "tini",
    "dumb-init",
    "docker-init",
    "catatonit",
    "runit",
    "s6-svscan",
    "launchd",
)


def look() -> Iterator[Check]:
    """Yield a check for each of them, as far as it can be told from inside."""
    yield _container()
    yield from _cgroup()


def _read(path: str) -> str:
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read()
    except OSError:
        return ""


def _container() -> Check:
    from supervisor.cli.doctor.check import Check, Verdict

    first = _read("/proc/1/comm").strip()
    signs = [path for path in ("/.dockerenv", "/run/.containerenv", "/run/systemd/container") if os.path.exists(path)]
    spelt_like_that = os.environ.get("container")  # noqa: SIM112  # by systemd and podman
    if spelt_like_that or os.environ.get("KUBERNETES_SERVICE_HOST"):
        signs.append("environment")
    if re.search(r"docker|containerd|kubepods|libpod|lxc", _read("/proc/1/cgroup")):
        signs.append("/proc/1/cgroup")
    facts: dict[str, Any] = {"container": bool(signs), "signs": signs, "pid_1": first or None}
    if not signs:
        return Check("container", Verdict.FINE, "none that can be seen from inside", facts=facts)
    message = f"we are in one ({', '.join(signs)}; pid 1 is {first or 'unknown'}): its end is the end of every job"
    repair = "Keep the state root on a volume if the jobs' outcomes should outlive the container."
    if first and not first.startswith(_INITS):
        repair += " Start it with an init (`docker run --init`), so that ended processes do not pile up."
    return Check("container", Verdict.WARNING, message, repair, facts)


def _cgroup() -> Iterator[Check]:
    from supervisor.cli.doctor.check import Check, Verdict

    lines = _read("/proc/self/cgroup").splitlines()
    path = next((line.partition("::")[2] for line in lines if line.startswith("0::")), "")
    if not path:
        path = next((line.split(":", 2)[2] for line in lines if ":name=systemd:" in line), "")
    units = _UNIT.findall(path)
    facts: dict[str, Any] = {"cgroup": path or None, "unit": units[-1] if units else None}
    if _USER_MANAGER.search(path):
        lingers = os.path.exists(f"/var/lib/systemd/linger/{_user()}")
        facts["lingers"] = lingers
        unit = f" (unit {units[-1]})" if len(units) > 1 else ""
        if lingers:
            message = f"under your user manager{unit}, which stays after the last logout"
            yield Check("systemd", Verdict.FINE, message, _stopping(units), facts)
        else:
            message = f"under your user manager{unit}: the last logout ends every job"
            yield Check("systemd", Verdict.WARNING, message, "`loginctl enable-linger` keeps it running.", facts)
    elif _SESSION.search(path):
        kills = _kills_user_processes()
        facts["kill_user_processes"] = kills
        if kills:
            message = "in a login session, and KillUserProcesses=yes: logging out ends every job"
            repair = "Start jobs under `systemd-run --user --scope` with `loginctl enable-linger`."
            yield Check("systemd", Verdict.WARNING, message, repair, facts)
        else:
            yield Check(
                "systemd", Verdict.FINE, "in a login session, which leaves jobs alone when it ends", facts=facts
            )
    elif units:
        message = f"in unit {units[-1]}: stopping or restarting it ends every job (KillMode=control-group)"
        repair = "KillMode=process in the unit spares the jobs, as does `systemd-run --scope` around their start."
        yield Check("systemd", Verdict.WARNING, message, repair, facts)
    else:
        yield Check("systemd", Verdict.FINE, "in no unit and no login session", facts=facts)
    yield _own_cgroups(path)


def _stopping(units: list[str]) -> str | None:
    return f"Stopping {units[-1]} still ends them." if len(units) > 1 else None


def _own_cgroups(path: str) -> Check:
    """Say whether jobs could have cgroups of their own."""
    from supervisor.cli.doctor.check import Check, Verdict

    mount = next(
        (line.split(" ")[4] for line in _read("/proc/self/mountinfo").splitlines() if " - cgroup2 " in line),
        "",
    )
    directory = f"{mount}{path}".rstrip("/")
    usable = bool(mount) and os.access(directory or "/", os.W_OK) and os.access(f"{directory}/cgroup.procs", os.W_OK)
    facts = {"cgroup2": mount or None, "writable": usable}
    message = "cgroups can be made here" if usable else "none can be made here; jobs are stopped by their processes"
    return Check("cgroups", Verdict.NOTE, message, facts=facts)


def _user() -> str:
    import pwd

    try:
        return pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:
        return str(os.geteuid())


def _kills_user_processes() -> bool:
    """Read what logind was told; the last word wins."""
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
