"""The pages of a real server, read as a browser without scripts reads them."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest

from supervisor import BlockingSupervisor
from supervisor.jobs.catalog import Catalog
from tests.web.conftest import PATIENCE, Server
from tests.web.page.conftest import Browser

EVIL = "<script>alert('x')</script><img src=x onerror=alert(1)>"


def test_the_first_glance(browser: Browser, sup: BlockingSupervisor, tmp_path: Path) -> None:
    assert "Needs attention Nothing needs attention. Running 0 Waiting 0" in browser.text("/")
    sup.set_group("few", limit=1)
    sup.set_group("nightly", limit=2)
    sup.pause_group("nightly", reason="the disk is full")
    failed = sup.wait(sup.start(["sh", "-c", "echo no such thing >&2; exit 3"], workspace=tmp_path).job_id)
    running = sup.start(["sleep", "60"], workspace=tmp_path, groups=["few"], labels={"issue": "7"})
    waiting = sup.start(["true"], workspace=tmp_path, groups=["few"])
    text = browser.text("/")
    assert "Needs attention paused group nightly by a user: the disk is full Resume" in text
    assert "failed sh -c 'echo no such thing >&2; exit 3' exit status 3: no such thing" in text
    assert "few 1 1 1 " in text
    assert f"sleep 60 {running.job_id[:8]} few issue=7 running" in text
    assert f"true {waiting.job_id[:8]} few" in text
    assert "for room in few; next in line" in text
    page = browser.get("/").text
    assert f'href="/jobs/{failed.job_id}"' in page
    sup.cancel(waiting.job_id)
    sup.cancel(running.job_id)


def test_html_in_a_job_is_text(browser: Browser, sup: BlockingSupervisor, tmp_path: Path) -> None:
    sup.set_group("g")
    sup.pause_group("g", reason=EVIL)
    command = ["sh", "-c", f'printf "%s\\n\\033[31m" "{EVIL}"; echo "{EVIL}" >&2; exit 1', EVIL]
    job = sup.start(command, workspace=tmp_path, labels={"what": EVIL, EVIL: "x"})
    sup.wait(job.job_id)
    paths = ("/", "/jobs", f"/jobs/{job.job_id}", "/groups/g", f"/jobs/{job.job_id}/output/stdout")
    for path in (*paths, f"/jobs?label={EVIL}=x", f"/jobs?label={EVIL}", f"/jobs/{EVIL}"):
        page = browser.get(path).text
        assert "<script>alert" not in page, path
        assert "<img src=x" not in page, path
        assert "\x1b" not in page, path
        if path in paths:
            assert "&lt;script&gt;alert" in page, path


def test_a_page_of_a_job_has_its_timeline_and_its_evidence(
    browser: Browser, sup: BlockingSupervisor, tmp_path: Path
) -> None:
    job = sup.wait(sup.start(["sh", "-c", "echo said; exit 4"], workspace=tmp_path, deadline_seconds=60).job_id)
    text = browser.text(f"/jobs/{job.job_id}")
    for part in (
        "failed exit status 4",
        "Timeline Created",
        "Launched",
        "Ended",
        "Evidence It ended failed, reason nonzero_exit",
        "exit.json it has ended with status 4: its keeper, which has waited for the process, has recorded that",
        f"process.json pid {job.pid}",
        "said",
        "Run again Dismiss",
    ):
        assert part in text
    assert "Cancel" not in text


def test_a_waiting_job_says_what_for(browser: Browser, sup: BlockingSupervisor, tmp_path: Path) -> None:
    before = sup.start(["sleep", "60"], workspace=tmp_path)
    job = sup.start(["true"], workspace=tmp_path, after=[before.job_id])
    text = browser.text(f"/jobs/{job.job_id}")
    assert f"It waits for dependency it waits for job {before.job_id} (running) to be done" in text.replace("  ", " ")
    assert f'href="/jobs/{before.job_id}"' in browser.get(f"/jobs/{job.job_id}").text
    sup.cancel(job.job_id)
    sup.cancel(before.job_id)


def test_the_answer_of_an_agent_is_rendered(browser: Browser, sup: BlockingSupervisor, tmp_path: Path) -> None:
    review = {
        "verdict": "request_changes",
        "summary": f"One thing {EVIL}",
        "findings": [
            {"severity": "high", "title": f"Bad {EVIL}", "file": "a.py", "line": 7, "recommendation": "Mend it."}
        ],
    }
    answer = {
        "type": "result",
        "subtype": "success",
        "is_error": False,
        "result": json.dumps(review),
        "session_id": "s",
    }
    file = tmp_path / "answer.json"
    file.write_text(json.dumps(answer), encoding="utf-8")
    job = sup.wait(sup.start(["cat", str(file)], workspace=tmp_path, kind="claude").job_id)
    assert job.status == "done"
    text = browser.text(f"/jobs/{job.job_id}")
    assert "Answer fail" in text
    assert f"high Bad {EVIL} a.py:7 Mend it." in text
    page = browser.get(f"/jobs/{job.job_id}").text
    assert "<script>alert" not in page
    with_json = sup.wait(sup.start(["echo", '{"a": "<b>"}'], workspace=tmp_path, kind="json").job_id)
    assert '"a": "<b>"' in browser.text(f"/jobs/{with_json.job_id}")


def test_looking_at_a_job_is_not_fetching_its_result(browser: Browser, sup: BlockingSupervisor, tmp_path: Path) -> None:
    job = sup.wait(sup.start(["false"], workspace=tmp_path, kind="claude").job_id)
    browser.get(f"/jobs/{job.job_id}")
    assert "Needs attention failed false" in browser.text("/")
    assert browser.post(f"/jobs/{job.job_id}/seen", {"back": "/"}).headers["location"] == "/?said=seen"
    assert "Dismissed. Needs attention Nothing needs attention." in browser.text("/?said=seen")


def is_paused(sup: BlockingSupervisor, job_id: str) -> bool:
    """Whether the records of a job say so; its own supervisor hears of a pause by another process a moment later."""
    with Catalog(sup.settings) as catalog:
        return catalog.status(job_id).paused


def test_buttons(browser: Browser, sup: BlockingSupervisor, tmp_path: Path) -> None:
    job = sup.start(["sleep", "60"], workspace=tmp_path)
    path = f"/jobs/{job.job_id}"
    assert "Pause Cancel" in browser.text(path)
    assert browser.post(f"{path}/pause").headers["location"] == f"{path}?said=pause"
    assert is_paused(sup, job.job_id)
    assert "The job is paused. sleep 60 paused" in browser.text(f"{path}?said=pause")
    browser.post(f"{path}/resume")
    assert not is_paused(sup, job.job_id)
    browser.post(f"{path}/cancel")
    assert sup.wait(job.job_id, timeout=PATIENCE).status == "cancelled"
    again = browser.post(f"{path}/rerun").headers["location"]
    new = again.removeprefix("/jobs/").partition("?")[0]
    assert sup.status(new).argv == ("sleep", "60")
    sup.cancel(new)
    assert browser.post(f"{path}/forget").headers["location"] == "/?said=forget"
    assert browser.get(path).status_code == 404
    held = sup.start(["true"], workspace=tmp_path, hold=True)
    assert browser.post(f"/jobs/{held.job_id}/release").status_code == 303
    assert sup.wait(held.job_id, timeout=PATIENCE).status == "done"
    refused = browser.post(f"/jobs/{held.job_id}/hold")
    assert refused.status_code == 400
    assert "has ended" in refused.text
    assert browser.post(f"/jobs/{held.job_id}/explode").status_code == 400


def test_groups_are_paused_resumed_and_limited(browser: Browser, sup: BlockingSupervisor) -> None:
    sup.set_group("few", limit=1, rate="9/min")
    assert browser.post("/groups/few/pause", {"for": "1h", "reason": "a <b> reason"}).status_code == 303
    (group,) = sup.groups()
    assert [each.detail for each in group.paused] == ["a <b> reason"]
    assert group.paused[0].until is not None
    text = browser.text("/groups/few")
    assert "a <b> reason" in text
    assert "Rate 9/min" in text
    browser.post("/groups/few/resume", {"back": "/"})
    browser.post("/groups/few/limit", {"limit": "5"})
    (group,) = sup.groups()
    assert (group.paused, group.limit, group.rate) == ((), 5, "9/min")
    browser.post("/groups/few/limit", {"limit": ""})
    assert sup.groups()[0].limit is None
    for path, fields in (
        ("/groups/few/limit", {"limit": "-1"}),
        ("/groups/few/limit", {"limit": "\N{SUPERSCRIPT TWO}"}),
        ("/groups/few/pause", {"for": "soon"}),
        ("/groups/few/pause", {"for": "999999999999999d"}),
        ("/groups/few/explode", {}),
    ):
        assert browser.post(path, fields).status_code == 400, path
    for path in ("/groups/none/limit", "/groups/none/pause"):
        assert browser.post(path, {"limit": "1"}).status_code == 404
    assert len(sup.groups()) == 1


def test_a_viewer_reads_and_changes_nothing(
    server: Server, sup: BlockingSupervisor, browsing: Callable[[Server], Browser], tmp_path: Path
) -> None:
    sup.set_group("few", limit=0)
    job = sup.start(["sleep", "60"], workspace=tmp_path)
    browser = browsing(server)
    browser.client.post("/login", data={"token": server.viewer}, headers={"origin": server.url.rstrip("/")})
    page = browser.get(f"/jobs/{job.job_id}").text
    assert "sleep 60" in page
    assert "formaction" not in page
    assert "formaction" not in browser.get("/").text
    assert "<h2>Limit" not in browser.get("/groups/few").text
    for path in (f"/jobs/{job.job_id}/cancel", f"/jobs/{job.job_id}/rerun", "/groups/few/limit"):
        answer = browser.post(path)
        assert answer.status_code == 403
        assert "may read, but not change anything" in answer.text
    assert sup.status(job.job_id).status == "running"
    assert sup.groups()[0].limit == 0
    sup.cancel(job.job_id)


def test_a_principal_sees_its_own_jobs_only(
    server: Server, sup: BlockingSupervisor, browsing: Callable[[Server], Browser], tmp_path: Path
) -> None:
    hers = sup.start(["sleep", "61"], workspace=tmp_path, labels={"mcp.principal": "alice"})
    others = sup.start(["sleep", "62"], workspace=tmp_path)
    browser = browsing(server)
    token = server.principal("alice")
    browser.client.post("/login", data={"token": token}, headers={"origin": server.url.rstrip("/")})
    for path in ("/", "/jobs"):
        text = browser.text(path)
        assert "sleep 61" in text
        assert "sleep 62" not in text
    assert "Running 1" in browser.text("/")
    path = f"/jobs/{others.job_id}"
    for each in (path, f"{path}/output/stdout", f"{path}/output/stdout/file", f"{path}/events"):
        assert browser.get(each).status_code == 404
    assert browser.post(f"{path}/cancel").status_code == 404
    assert browser.post(f"/jobs/{hers.job_id}/rerun").status_code == 403  # it would have the environment of the owner
    assert browser.post(f"/jobs/{hers.job_id}/cancel").status_code == 303
    assert sup.wait(hers.job_id, timeout=PATIENCE).status == "cancelled"
    sup.cancel(others.job_id)


def test_a_large_output_is_bounded(browser: Browser, sup: BlockingSupervisor, tmp_path: Path) -> None:
    job = sup.start(["sh", "-c", "seq 1 2000000; echo the end"], workspace=tmp_path)
    size = sup.wait(job.job_id).stdout_bytes
    assert size > 14_000_000
    page = browser.get(f"/jobs/{job.job_id}")
    assert len(page.content) < 120_000
    assert "the end" in page.text
    assert "the last part of" in page.text
    path = f"/jobs/{job.job_id}/output/stdout"
    first = browser.get(f"{path}?at=0")
    assert len(first.content) < 120_000
    assert ">1\n2\n3\n" in first.text
    assert f"{path}?at=65536" in first.text
    last = browser.get(path)
    assert "the end" in last.text
    assert "Earlier" in last.text
    for bad in ("-1", "x", "9" * 30, "\N{SUPERSCRIPT TWO}"):
        assert browser.get(path, params={"at": bad}).status_code == 400
    assert browser.get(f"{path}?at={size + 5}").status_code == 200
    assert browser.get(f"/jobs/{job.job_id}/output/nothing").status_code == 400
    with browser.client.stream("GET", f"{path}/file") as answer:
        assert answer.headers["content-disposition"].startswith("attachment")
        assert sum(len(part) for part in answer.iter_bytes()) == size


HUGE = """
import os, sys
os.ftruncate(1, 200 << 20)  # a hole, which is read as zeros
os.lseek(1, 0, os.SEEK_END)
os.write(1, b"the end\\n")
open(sys.argv[1]).read()
"""


def peak_bytes(pid: int) -> int:
    """Return the most memory that a process has had since its peak was reset."""
    lines = Path(f"/proc/{pid}/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) << 10 for line in lines if line.startswith("VmHWM:"))


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="needs Linux")
def test_a_log_of_200_mb_is_bounded_and_no_other_client_waits(
    server: Server, browser: Browser, sup: BlockingSupervisor, tmp_path: Path
) -> None:
    gate = tmp_path / "gate"
    os.mkfifo(gate)
    job = sup.start([sys.executable, "-c", HUGE, str(gate)], workspace=tmp_path, max_output_bytes=1 << 30)
    path = f"/jobs/{job.job_id}"
    with browser.client.stream("GET", f"{path}/events") as answer:
        held = _events(answer)
        while "the end" not in next((data["text"] for name, data in held if name == "output"), ""):
            pass
    Path(f"/proc/{server.process.pid}/clear_refs").write_text("5", encoding="ascii")
    before = peak_bytes(server.process.pid)
    page = browser.get(path)
    assert "the end" in page.text
    assert "200.0 MiB" in page.text
    assert len(page.content) < 120_000
    for at in (0, 100 << 20, 200 << 20):
        assert len(browser.get(f"{path}/output/stdout?at={at}").content) < 250_000  # zeros take three bytes
    skipped, texts = 0, ""
    with browser.client.stream("GET", f"{path}/events?stdout=0&stderr=0") as answer:
        for name, data in _events(answer):
            texts += data["text"] if name == "output" else ""
            skipped += data["bytes"] if name == "skip" else 0
            if "the end" in texts:
                break
    assert skipped > 199 << 20  # the reader is told how much it was not sent
    assert len(texts) < 1 << 20
    with browser.client.stream("GET", f"{path}/output/stdout/file") as answer:
        parts = answer.iter_raw()
        next(parts)  # and no more: the rest waits for its reader
        assert browser.get("/").status_code == 200
        assert "the end" in browser.get(path).text
        with server.client() as other:
            assert other.get("/v1/jobs").json()["jobs"][0]["stdout_bytes"] == (200 << 20) + 8
        answer.close()
    assert peak_bytes(server.process.pid) - before < 32 << 20
    gate.write_text("", encoding="ascii")
    sup.wait(job.job_id, timeout=PATIENCE)


def test_a_list_of_jobs_has_pages_and_filters(browser: Browser, sup: BlockingSupervisor, tmp_path: Path) -> None:
    for number in range(120):
        sup.start(["true", str(number)], workspace=tmp_path, hold=True, labels={"n": str(number % 2)})
    page = browser.get("/jobs").text
    assert page.count('data-job="') == 100
    assert "Older jobs" in page
    assert browser.get("/jobs?label=n=1").text.count('data-job="') == 60
    assert "No such job is kept" in browser.text("/jobs?state=running")
    assert browser.get("/jobs?state=nonsense").status_code == 400
    assert browser.get("/jobs?cursor=nonsense").status_code == 400


def test_events_bring_what_changes(browser: Browser, sup: BlockingSupervisor, tmp_path: Path) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    job = sup.start(["sh", "-c", f"echo begun; cat {fifo}; echo over"], workspace=tmp_path)
    with browser.client.stream("GET", "/page/events", headers={"accept": "text/event-stream"}) as stream:
        events = _events(stream)
        name, data = next(events)
        assert name == "sections"
        assert list(data["sections"]) == ["attention", "numbers", "groups", "running", "waiting", "ended"]
        assert job.job_id in data["sections"]["running"]
        assert data["news"] == "Nothing needs attention."
        with open(fifo, "w", encoding="ascii"):
            pass
        while job.job_id not in data["sections"].get("ended", ""):
            name, data = next(events)
        assert "groups" not in data["sections"]  # only what has changed


def test_events_of_a_job_bring_its_output_and_its_end(
    browser: Browser, sup: BlockingSupervisor, tmp_path: Path
) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    job = sup.start(["sh", "-c", f"printf 'begun \\303\\244\\n'; cat {fifo} >&2"], workspace=tmp_path)
    outputs: dict[str, str] = {"stdout": "", "stderr": ""}
    sections: dict[str, str] = {}
    with browser.client.stream("GET", f"/jobs/{job.job_id}/events") as stream:
        for name, data in _events(stream):
            if name == "output":
                outputs[data["stream"]] += data["text"]
                if data["text"] == "begun \N{LATIN SMALL LETTER A WITH DIAERESIS}\n":
                    fifo.write_text("<b>said</b>\n", encoding="ascii")
            elif name == "sections":
                sections |= data["sections"]
            elif name == "over":
                break
    assert outputs == {"stdout": "begun \N{LATIN SMALL LETTER A WITH DIAERESIS}\n", "stderr": "<b>said</b>\n"}
    assert "state-done" in sections["job-head"]
    assert "exit.json" in sections["job-evidence"]
    with browser.client.stream("GET", f"/jobs/{job.job_id}/events", headers={"last-event-id": "9.0"}) as stream:
        assert [data["text"] for name, data in _events(stream) if name == "output"] == ["<b>said</b>\n"]


def test_a_stream_ends_with_its_session(
    server: Server, browser: Browser, sup: BlockingSupervisor, tmp_path: Path
) -> None:
    with browser.client.stream("GET", "/page/events") as stream:
        events = _events(stream)
        next(events)
        assert server.token_file is not None
        server.token_file.unlink()
        job = sup.start(["true"], workspace=tmp_path)
        assert list(events) == []
    sup.wait(job.job_id)


def test_the_server_ends_in_order_with_open_pages(own_server: Server, browsing: Callable[[Server], Browser]) -> None:
    browser = browsing(own_server)
    assert own_server.login_url is not None
    browser.log_in(own_server.login_url)
    with browser.client.stream("GET", "/page/events") as stream:
        events = _events(stream)
        next(events)
        own_server.process.terminate()
        assert list(events) == []
        assert own_server.process.wait(PATIENCE) == 0


def _events(stream: httpx2.Response) -> Iterator[tuple[str, Any]]:
    name = ""
    for line in stream.iter_lines():
        if line.startswith("event: "):
            name = line.removeprefix("event: ")
        elif line.startswith("data: "):
            yield name, json.loads(line.removeprefix("data: "))


def test_static_files_need_no_login_and_are_kept(server: Server, browsing: Callable[[Server], Browser]) -> None:
    browser = browsing(server)
    for name in ("page.css", "page.js", "icon.svg", "htmx-4.0.1.min.js"):
        answer = browser.get(f"/page/{name}")
        assert answer.status_code == 200
        assert "immutable" in answer.headers["cache-control"]
    for name in ("../routes.py", "%2e%2e/routes.py", "htmx-4.0.1.LICENSE", "..%2froutes.py"):
        assert browser.get(f"/page/{name}").status_code in {401, 404}, name
