"""Makes the screenshots of docs/page.md: a server on a new state root, jobs that look like work, and Chromium.

``nox -s browser -- screenshots`` runs it. It needs playwright, and Chromium as ``chromium``.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, Final

from playwright.sync_api import Page, sync_playwright

from supervisor import BlockingSupervisor, Retry, Settings

DOCS: Final = Path(__file__).parent
ARGUMENTS: Final = [
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
]
AGENT: Final = """
import json, sys, time
def say(**message):
    print(json.dumps(message), flush=True)
say(type="system", subtype="init", session_id=sys.argv[2], model="claude")
for turn in range(1, int(sys.argv[1]) + 1):
    usage = {"input_tokens": 9000 + 700 * turn, "output_tokens": 350 * turn}
    tool = {"type": "tool_use", "id": f"call{turn}", "name": ["Read", "Edit", "Bash", "Grep"][turn % 4], "input": {}}
    say(type="assistant", parent_tool_use_id=None, message={"id": f"m{turn}", "usage": usage, "content": [tool]})
time.sleep(600)
"""
REVIEW: Final = {
    "verdict": "concerns",
    "confidence": "high",
    "summary": "The retry loop is right, but two callers still swallow the error that it now raises.",
    "findings": [
        {
            "severity": "high",
            "title": "The upload is reported as done when its last attempt fails",
            "file": "acme/upload.py",
            "line": 118,
            "evidence": "finish() is called in the finally block, also after RetriesExceeded.",
            "recommendation": "Call finish() only after a successful send().",
        },
        {
            "severity": "low",
            "title": "The delay between attempts has no jitter",
            "file": "acme/retry.py",
            "line": 31,
            "recommendation": "Multiply it by a random factor from 0.5 to 1.5.",
        },
    ],
    "next_steps": ["Add a test in which every attempt fails."],
}


def seed(sup: BlockingSupervisor, folder: Path) -> dict[str, str]:
    """Start the jobs of the pictures, and return the ids of two."""
    here = {"workspace": folder}
    sup.set_group("agents", limit=4, budgets=["usd=20/day"])
    sup.set_group("builds", limit=2)
    sup.set_group("nightly", limit=1)
    for number in range(14):
        sup.wait(sup.start(["git", "--version"], labels={"commit": f"{number + 2571:x}"}, **here).job_id)
    (folder / "review.json").write_text(
        json.dumps({"type": "result", "subtype": "success", "is_error": False, "result": json.dumps(REVIEW),
                    "session_id": "s1", "total_cost_usd": 0.4182}), encoding="utf-8")  # fmt: skip
    review = sup.wait(
        sup.start(["cat", "review.json"], kind="claude", groups=["agents"], labels={"pr": "482"}, **here).job_id
    )
    build = 'echo "linking acme"; echo "ld: undefined symbol: acme_upload_finish" >&2; exit 2'
    once_more = Retry(maximum_attempts=2, initial_interval=0, retry_on=["job_failed"])
    failed = sup.wait(
        sup.start(["sh", "-c", build], groups=["builds"], labels={"branch": "main"}, retry=once_more, **here).job_id
    )
    sup.wait(sup.start(["sleep", "30"], groups=["builds"], deadline_seconds=0.3, **here).job_id)
    running = ""
    for number, turns in enumerate((12, 5, 21)):
        command = ["python3", "agent.py", str(turns), f"session-{number}"]
        job = sup.start(command, kind="claude", groups=["agents"], labels={"issue": str(171 + number)}, **here)
        running = job.job_id
    tests = 'for n in $(seq 1 400); do echo "tests/test_upload.py::test_part[$n] PASSED"; done; sleep 600'
    running = sup.start(["sh", "-c", tests], groups=["agents"], labels={"pr": "482"}, **here).job_id
    for number in (174, 175):
        sup.start(["claude", "-p", f"Fix issue {number}"], groups=["agents"], labels={"issue": str(number)}, **here)
    sup.start(["make", "release"], groups=["builds"], hold=True, **here)
    sup.pause_group("nightly", reason="the backup disk is being replaced")
    sup.start(["./backup.sh", "--full"], groups=["nightly"], **here)
    return {"running": running, "failed": failed.job_id, "review": review.job_id}


def shoot(page: Page, url: str, ids: dict[str, str]) -> None:
    """Take the pictures."""
    pictures: tuple[tuple[str, str, Any, int, int], ...] = (
        ("page-light", "", "light", 1280, 1000),
        ("page-dark", "", "dark", 1280, 1000),
        ("page-phone", "", "light", 390, 844),
        ("page-job", f"jobs/{ids['failed']}", "light", 1280, 1000),
        ("page-running", f"jobs/{ids['running']}", "dark", 1280, 900),
        ("page-answer", f"jobs/{ids['review']}", "light", 1280, 900),
    )
    for name, path, scheme, width, height in pictures:
        page.emulate_media(color_scheme=scheme, reduced_motion="reduce")
        page.set_viewport_size({"width": width, "height": height})
        page.goto(f"{url}{path}")
        page.wait_for_load_state("load")
        page.screenshot(path=DOCS / f"{name}.png")
        print(f"docs/{name}.png")  # noqa: T201


def main() -> int:
    """Make all pictures."""
    program = shutil.which("chromium")
    if program is None:
        print("there is no chromium", file=sys.stderr)  # noqa: T201
        return 1
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "acme"
        folder.mkdir()
        (folder / "agent.py").write_text(AGENT, encoding="utf-8")
        settings = Settings(state_dir=Path(temporary) / "state", stop_grace_seconds=0.2)
        command = [sys.executable, "-m", "supervisor", "--state-dir", str(settings.state_dir), "serve", "--json"]
        with BlockingSupervisor(settings) as sup:
            ids = seed(sup, folder)
            server = subprocess.Popen([*command, "--http", "127.0.0.1:0"], stdout=subprocess.PIPE, env=os.environ)
            try:
                assert server.stdout is not None  # noqa: S101
                said = json.loads(server.stdout.readline())
                with sync_playwright() as engine:
                    context = engine.chromium.launch_persistent_context(
                        f"{temporary}/profile", executable_path=program, args=ARGUMENTS
                    )
                    page = context.new_page()
                    page.goto(said["login_url"])
                    page.get_by_role("button", name="Sign in").click()
                    page.wait_for_url(said["url"])
                    shoot(page, said["url"], ids)
                    context.close()
            finally:
                server.terminate()
                server.wait()
                for state in ("running", "queued"):
                    for job in sup.list(state=state, limit=100).jobs:
                        sup.cancel(job.job_id)
    return 0


if __name__ == "__main__":
    sys.exit(main())
