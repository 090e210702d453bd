"""Who gets to see the page: links that work once, sessions, and requests of other sites."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from supervisor import BlockingSupervisor
from supervisor.errors import StateBusy
from supervisor.http.guard import Callers
from supervisor.http.tokens import Tokens
from supervisor.web.page import sessions
from supervisor.web.page.sessions import Sessions
from tests.web.conftest import PATIENCE, Server, Start
from tests.web.page.conftest import Browser

Browsing = Callable[[Server], Browser]
NOBODY = "0" * 32


def test_a_visitor_is_led_to_the_login(server: Server, browsing: Browsing) -> None:
    browser = browsing(server)
    for path in ("/", "/jobs", f"/jobs/{NOBODY}", "/groups/x", f"/jobs/{NOBODY}/output/stdout"):
        answer = browser.get(path)
        assert (answer.status_code, answer.headers["location"]) == (303, "/login"), path
    assert "supervisor serve" in browser.text("/login")
    assert browser.client.post(f"/jobs/{NOBODY}/cancel").headers["location"] == "/login"
    assert browser.get("/page/events", headers={"accept": "text/event-stream"}).status_code == 204


def test_a_link_works_once(server: Server, browsing: Browsing) -> None:
    assert server.login_url is not None
    one, other = browsing(server), browsing(server)
    answer = one.log_in(server.login_url)
    assert (answer.status_code, answer.headers["location"]) == (303, "/")
    cookie = answer.headers["set-cookie"].lower()
    for part in ("httponly", "samesite=strict", "path=/", "max-age=604800"):
        assert part in cookie
    assert "secure" not in cookie
    assert one.get("/").status_code == 200
    again = other.log_in(server.login_url)
    assert again.status_code == 403
    assert "has been used" in again.text
    assert other.get("/").status_code == 303


def test_a_token_begins_a_session_and_a_wrong_one_does_not(server: Server, browsing: Browsing) -> None:
    browser = browsing(server)
    headers = {"origin": server.url.rstrip("/")}
    assert browser.client.post("/login", data={"token": "wrong-wrong-wrong-wrong"}, headers=headers).status_code == 403
    assert browser.client.post("/login", data={"token": server.viewer}, headers=headers).status_code == 303
    assert "viewer" in browser.get("/").text


def test_the_cookie_is_secure_behind_a_proxy_with_tls(server: Server, browsing: Browsing) -> None:
    headers = {"origin": "https://jobs.example", "host": "jobs.example"}
    answer = browsing(server).client.post("/login", data={"token": server.token}, headers=headers)
    assert "secure" in answer.headers["set-cookie"].lower()


def test_a_session_survives_a_restart_and_ends_with_its_logout(
    start: Start, browsing: Browsing, state_dir: Path
) -> None:
    server = start()
    browser = browsing(server)
    assert server.login_url is not None
    browser.log_in(server.login_url)
    server.process.send_signal(signal.SIGKILL)
    server.process.wait(PATIENCE)
    again = start()
    after = Browser(browsing(again).client, again.url)
    after.client.cookies = browser.client.cookies
    assert after.get("/").status_code == 200
    cookies = dict(after.client.cookies)
    assert after.post("/logout").headers["location"] == "/login"
    assert not after.client.cookies
    after.client.cookies.update(cookies)  # a copy of the cookie is worth nothing, either
    assert after.get("/").status_code == 303
    directory = state_dir / "page-sessions"
    assert stat.S_IMODE(directory.stat().st_mode) == 0o700
    assert [each.name.partition("-")[0] for each in directory.iterdir()] == ["link"]
    assert all(stat.S_IMODE(each.stat().st_mode) == 0o600 for each in directory.iterdir())


def test_a_session_ends_with_its_token(server: Server, browser: Browser) -> None:
    assert browser.get("/").status_code == 200
    assert server.token_file is not None
    server.token_file.unlink()
    assert browser.get("/").status_code == 303


def test_the_command_prints_another_link(server: Server, browsing: Browsing) -> None:
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    command = [sys.executable, "-m", "supervisor", "login", "--viewer", "--url", server.url]
    link = subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout.strip()
    assert link.startswith(f"{server.url}login?link=")
    browser = browsing(server)
    assert browser.log_in(link).status_code == 303
    assert "viewer" in browser.get("/").text


def test_links_and_sessions_end_with_their_time(state_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    roles = Tokens(state_dir, "serve-tokens", ("owner", "viewer"))
    token = roles.token("owner")
    assert token is not None
    held = Sessions(state_dir, Callers(Tokens(state_dir), roles))
    link, session = held.link(token), held.begin(token)
    assert session is not None
    assert held.caller(session) is not None
    assert held.caller(link) is None  # a link is no session
    assert held.begin_by_link(session) is None
    now = sessions.time.time()
    monkeypatch.setattr(sessions.time, "time", lambda: now + sessions.LINK_SECONDS + 1)
    assert held.begin_by_link(link) is None
    assert held.caller(session) is not None
    monkeypatch.setattr(sessions.time, "time", lambda: now + sessions.SESSION_SECONDS + 1)
    assert held.caller(session) is None
    held.link(token)
    assert len(list((state_dir / "page-sessions").iterdir())) == 1  # what is over is deleted


def test_a_new_session_ends_the_oldest_of_a_token_that_has_as_many_as_it_may(
    state_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    roles = Tokens(state_dir, "serve-tokens", ("owner", "viewer"))
    owner, viewer = roles.token("owner"), roles.token("viewer")
    assert owner is not None
    assert viewer is not None
    held = Sessions(state_dir, Callers(Tokens(state_dir), roles))
    begun = sessions.time.time()
    seconds = iter(range(1000))
    monkeypatch.setattr(sessions.time, "time", lambda: begun + next(seconds) / 1000)
    monkeypatch.setattr(sessions, "MAX_SESSIONS", 3)
    other, link, first = held.begin(viewer), held.link(owner), held.begin(owner)
    later = [held.begin(owner) for _ in range(3)]
    assert [each is not None and held.caller(each) is not None for each in (first, *later, other)] == [False] + [
        True
    ] * 4
    assert held.begin_by_link(link) is not None  # links are counted apart
    assert held.caller(str(later[0])) is None


@pytest.mark.parametrize("content", [b"", b"[]", b'{"v": 2}', b'{"v": 1, "token": 3, "until": 1e99}', b"\xff"])
def test_a_damaged_session_is_over(state_dir: Path, content: bytes) -> None:
    roles = Tokens(state_dir, "serve-tokens", ("owner", "viewer"))
    held = Sessions(state_dir, Callers(Tokens(state_dir), roles))
    session = held.begin(roles.token("owner") or "")
    assert session is not None
    (file,) = (state_dir / "page-sessions").iterdir()
    file.write_bytes(content)
    assert held.caller(session) is None
    assert held.caller("../" + session) is None


def test_a_session_that_cannot_be_read_now_is_not_over(state_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    roles = Tokens(state_dir, "serve-tokens", ("owner", "viewer"))
    held = Sessions(state_dir, Callers(Tokens(state_dir), roles))
    session = held.begin(roles.token("owner") or "")
    assert session is not None

    def fail(*_: object, **__: object) -> None:
        raise OSError(24, "Too many open files")

    monkeypatch.setattr("builtins.open", fail)
    with pytest.raises(StateBusy):
        held.caller(session)


def test_without_tokens_there_is_no_login(start: Start, browsing: Browsing) -> None:
    server = start("--no-token")
    browser = browsing(server)
    assert browser.get("/").status_code == 200
    assert "Sign out" not in browser.get("/").text
    assert browser.get("/login").headers["location"] == "/"


# ------------------------------------------------------------ other sites


@pytest.fixture
def job_id(sup: BlockingSupervisor, tmp_path: Path) -> str:
    return sup.start(["sleep", "60"], workspace=tmp_path).job_id


def test_a_form_of_another_site_does_nothing(browser: Browser, sup: BlockingSupervisor, job_id: str) -> None:
    for headers in (
        {"sec-fetch-site": "cross-site"},
        {"sec-fetch-site": "same-site"},
        {"sec-fetch-site": "none"},
        {"origin": "http://127.0.0.1:1"},  # another program on the same machine
        {"origin": "https://evil.example"},
        {"origin": "null"},
    ):
        assert browser.post(f"/jobs/{job_id}/cancel", **headers).status_code == 403, headers
    assert sup.status(job_id).stop_requested is None


def test_a_form_needs_its_token_and_its_origin(browser: Browser, sup: BlockingSupervisor, job_id: str) -> None:
    path = f"/jobs/{job_id}/cancel"
    for csrf in ("", "0" * 64, "\N{SNOWMAN}"):
        assert browser.post(path, {"csrf": csrf}).status_code == 403
    assert browser.client.post(path, data={"csrf": browser.csrf()}).status_code == 403  # says not where it comes from
    assert browser.post(path, {"more": "x" * 70000}).status_code == 400
    assert browser.client.get(path).status_code in {401, 404, 405}
    assert sup.status(job_id).stop_requested is None
    assert browser.post(path).status_code == 303
    assert sup.wait(job_id, timeout=PATIENCE).status == "cancelled"


def test_the_token_of_another_session_is_refused(
    server: Server, browser: Browser, browsing: Browsing, job_id: str
) -> None:
    other = browsing(server)
    headers = {"origin": server.url.rstrip("/")}
    other.client.post("/login", data={"token": server.token}, headers=headers)
    assert browser.post(f"/jobs/{job_id}/cancel", {"csrf": other.csrf()}).status_code == 403


def test_every_answer_has_a_strict_policy(browser: Browser, job_id: str) -> None:
    for path in ("/", "/jobs", f"/jobs/{job_id}", "/login", "/groups/none", f"/jobs/{NOBODY}", "/page/page.css"):
        headers = browser.get(path).headers
        policy = headers["content-security-policy"]
        assert "default-src 'none'; script-src 'self'; style-src 'self'" in policy, path
        assert "unsafe" not in policy
        assert "frame-ancestors 'none'" in policy
        assert headers["x-content-type-options"] == "nosniff"
    for path in ("/", f"/jobs/{job_id}"):
        page = browser.get(path).text
        assert " style=" not in page
        assert "<style" not in page
        assert " onclick=" not in page
