"""What ``doctor`` says about systemd and control groups; ``tests/vm`` asks it on a real system."""

from __future__ import annotations

import pytest

from supervisor.cli.doctor import containment
from supervisor.cli.doctor.check import Check, Severity
from supervisor.system import scopes
from supervisor.system.cgroups import CONTROLLERS, Places

SESSION = "0::/user.slice/user-1000.slice/session-3.scope\n"
SERVICE = "0::/system.slice/reports.service\n"
IN_MANAGER = "0::/user.slice/user-1000.slice/user@1000.service/app.slice/reports.service\n"


def _checks(monkeypatch: pytest.MonkeyPatch, group: str, *, scope: str | None, controllers: str = "") -> list[Check]:
    """Return the checks of systemd, control groups and limits; ``scope`` is why there is none for a keeper."""

    def find_manager() -> str | None:
        if scope is not None:
            raise scopes.ScopeError(scope)
        return "/run/user/1000/bus"

    def read(path: str) -> str:
        return group if path == "/proc/self/cgroup" else controllers if path.endswith("cgroup.controllers") else ""

    monkeypatch.setattr(scopes, "find_manager", find_manager)
    monkeypatch.setattr(containment, "_read", read)
    return [check for check in containment.check_containment() if check.name != "container"]


@pytest.mark.parametrize(("group", "where"), [(SESSION, "in a login session"), (SERVICE, "in unit reports.service")])
def test_jobs_that_get_a_scope_do_not_end_with_where_they_were_started(
    monkeypatch: pytest.MonkeyPatch, group: str, where: str
) -> None:
    systemd, cgroups, limits = _checks(monkeypatch, group, scope=None, controllers="cpu memory pids")
    assert (systemd.severity, systemd.repair) == (Severity.FINE, None)
    assert systemd.message == f"{where}; jobs leave it for a scope of their own, and do not end with it"
    assert cgroups.message.startswith("can be created in a scope of systemd, which each keeper gets")
    assert limits.facts["possible"] == ["cpu", "memory", "pids"]


def test_a_controller_that_is_missing_is_named_with_its_repair(monkeypatch: pytest.MonkeyPatch) -> None:
    *_, limits = _checks(monkeypatch, SESSION, scope=None, controllers="memory pids")
    assert limits.message == "not possible for cpu: the manager does not have it"
    assert "Delegate=memory cpu pids of user@.service" in str(limits.repair)


def test_a_service_that_ends_its_jobs_is_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    systemd, *_ = _checks(monkeypatch, SERVICE, scope="this user has no user manager of systemd")
    assert (systemd.severity, "ends every job" in systemd.message) == (Severity.WARNING, True)


def test_lingering_is_how_a_user_gets_scopes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(containment.cgroups, "find_places", lambda **_: _nowhere())
    _, cgroups, limits = _checks(monkeypatch, SESSION, scope="the user manager ends with the last logout")
    assert "loginctl enable-linger" in str(cgroups.repair)
    assert "loginctl enable-linger" in str(limits.repair)


def _nowhere() -> Places:
    places = Places()
    places.missing = dict.fromkeys(("tree", *CONTROLLERS), "it is not writable")
    return places


def test_a_service_of_the_user_manager_does_not_take_its_jobs_with_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(containment.os.path, "exists", lambda _: True)
    systemd, *_ = _checks(monkeypatch, IN_MANAGER, scope=None, controllers="cpu memory pids")
    assert (systemd.severity, systemd.repair) == (Severity.FINE, None)
