"""The page in a real browser, with a real server and real jobs; run by ``nox -s browser``."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from supervisor import BlockingSupervisor
from tests.browser.conftest import Screen

pytestmark = pytest.mark.browser

# Resolves with the milliseconds from the end of a job, by its record, to the moment at which the page shows it.
SHOWN = """
(job) => new Promise((resolve) => {
  const look = () => {
    if (document.querySelector(`#ended [data-job="${job}"]`)) { watching.disconnect(); resolve(Date.now()); }
  };
  const watching = new MutationObserver(look);
  watching.observe(document.body, { subtree: true, childList: true, characterData: true, attributes: true });
  look();
})
"""
TICKS = """
() => new Promise((resolve) => {
  const element = document.querySelector("#running [data-since]"), before = element.textContent;
  const watching = new MutationObserver(() => {
    if (element.textContent !== before) { watching.disconnect(); resolve(element.textContent); }
  });
  watching.observe(element, { childList: true, characterData: true, subtree: true });
})
"""


@pytest.fixture
def gate(tmp_path: Path) -> Path:
    """A pipe: a job that reads it ends when the test writes to it."""
    fifo = tmp_path / "gate"
    os.mkfifo(fifo)
    return fifo


def test_the_first_glance_is_kept_up_to_date(
    screen: Screen, sup: BlockingSupervisor, gate: Path, record_property: Any
) -> None:
    sup.set_group("few", limit=1)
    job = sup.start(["sh", "-c", f"cat {gate}; exit 3"], workspace=gate.parent, groups=["few"])
    screen.log_in()
    screen.until_live()
    page = screen.page
    assert page.locator("#running .command").inner_text().startswith("sh -c")
    assert page.locator("#attention .calm").inner_text() == "Nothing needs attention."
    assert page.evaluate(TICKS).endswith("s")
    waiting = sup.start(["true"], workspace=gate.parent, groups=["few"])
    page.wait_for_selector(f'#waiting [data-job="{waiting.job_id}"]')
    page.evaluate(f"() => {{ window.shown = ({SHOWN})('{job.job_id}') }}")
    gate.write_text("", encoding="ascii")
    at = page.evaluate("() => window.shown")
    ended = sup.wait(job.job_id).completed_at
    assert ended is not None
    milliseconds = at - ended.timestamp() * 1000
    record_property("end_to_screen_ms", round(milliseconds, 1))
    print(f"the end was on the screen after {milliseconds:.0f} ms")  # noqa: T201  # for the report of the session
    page.wait_for_selector("#attention .state-failed")
    page.wait_for_selector(f'#ended [data-job="{waiting.job_id}"]')
    page.wait_for_function("() => document.getElementById('news').textContent.includes('1 job ended badly')")


def test_a_job_is_read_while_it_writes(screen: Screen, sup: BlockingSupervisor, gate: Path) -> None:
    job = sup.start(["sh", "-c", f"echo '<b>begun</b>'; cat {gate}; cat {gate} >&2"], workspace=gate.parent)
    screen.log_in()
    screen.go(f"/jobs/{job.job_id}")
    screen.until_live()
    page = screen.page
    page.wait_for_function("() => document.getElementById('stdout').textContent === '<b>begun</b>\\n'")
    gate.write_text("more\n", encoding="ascii")
    page.wait_for_function("() => document.getElementById('stdout').textContent === '<b>begun</b>\\nmore\\n'")
    gate.write_text("trouble\n", encoding="ascii")
    page.wait_for_function("() => document.getElementById('stderr').textContent === 'trouble\\n'")
    page.wait_for_selector("#job-head .state-done")
    assert "exit.json" in page.locator("#job-evidence").inner_text()
    assert page.locator("#job-timeline li").last.inner_text().startswith("Forgotten")


def test_buttons_with_the_keyboard_and_focus_that_stays(screen: Screen, sup: BlockingSupervisor, gate: Path) -> None:
    job = sup.start(["sh", "-c", f"cat {gate}"], workspace=gate.parent)
    other = sup.start(["sleep", "60"], workspace=gate.parent)
    screen.log_in()
    screen.until_live()
    page = screen.page
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "Skip to content"
    page.locator(f'#running [data-job="{job.job_id}"]').focus()
    sup.cancel(other.job_id)
    page.wait_for_selector(f'#ended [data-job="{other.job_id}"]')
    assert page.evaluate("document.activeElement.dataset.job") == job.job_id
    gate.write_text("", encoding="ascii")
    page.wait_for_selector(f'#ended [data-job="{job.job_id}"]')
    page.wait_for_function(f"() => document.activeElement.dataset.job === '{job.job_id}'")  # it has moved with the job
    third = sup.start(["sleep", "60"], workspace=gate.parent)
    screen.go(f"/jobs/{third.job_id}")
    screen.until_live()
    page.get_by_role("button", name="Pause").press("Enter")
    page.wait_for_selector("#job-head .state-paused")
    page.locator("#job-head summary").press("Enter")
    sup.resume(third.job_id)
    page.wait_for_selector("#job-head .state-running")
    assert page.get_by_role("button", name="Cancel the job").is_visible()  # what was opened stays open
    page.get_by_role("button", name="Cancel the job").press("Enter")
    page.wait_for_selector("#job-head .state-cancelled")


def test_a_logout_ends_the_stream_of_another_tab(screen: Screen, sup: BlockingSupervisor, gate: Path) -> None:
    screen.log_in()
    screen.until_live()
    other = screen.page.context.new_page()
    other.goto(screen.server.url)
    other.get_by_role("button", name="Sign out").click()
    other.wait_for_url("**/login")
    screen.page.bring_to_front()
    job = sup.start(["true"], workspace=gate.parent)
    screen.page.wait_for_function("() => document.getElementById('link').classList.contains('lost')")
    sup.wait(job.job_id)


def test_no_page_has_a_defect_that_axe_finds(screen: Screen, sup: BlockingSupervisor, gate: Path) -> None:
    axe = pytest.importorskip("axe_playwright_python.sync_playwright").Axe()
    sup.set_group("few", limit=2)
    sup.set_group("nightly", limit=1)
    sup.pause_group("nightly", reason="the disk is full")
    failed = sup.wait(sup.start(["sh", "-c", "echo no >&2; exit 1"], workspace=gate.parent).job_id)
    running = sup.start(["sh", "-c", f"echo x; cat {gate}"], workspace=gate.parent, groups=["few"], labels={"a": "b"})
    waiting = sup.start(["true"], workspace=gate.parent, groups=["nightly"])
    screen.go("/login")
    assert axe.run(screen.page).violations_count == 0
    screen.log_in()
    jobs = [f"/jobs/{each.job_id}" for each in (failed, running, waiting)]
    paths = ["/", *jobs, f"{jobs[0]}/output/stdout", "/jobs", "/groups/nightly", "/groups/none"]
    for scheme in ("light", "dark"):
        screen.page.emulate_media(color_scheme=scheme)
        for width in (1280, 390):
            screen.page.set_viewport_size({"width": width, "height": 900})
            for path in paths:
                screen.go(path)
                found = axe.run(screen.page)
                assert found.violations_count == 0, (path, scheme, width, found.generate_report())
                too_wide = "document.documentElement.scrollWidth > document.documentElement.clientWidth"
                assert not screen.page.evaluate(too_wide), (path, width)
    screen.console[:] = [each for each in screen.console if "404" not in each]  # of the group that is not there
    sup.cancel(waiting.job_id)
    gate.write_text("", encoding="ascii")


class TestWithoutScripts:
    """The same server, and a browser that runs no scripts."""

    @pytest.fixture
    def screen_options(self) -> dict[str, Any]:
        return {"java_script_enabled": False}

    def test_everything_can_be_read_and_done(self, screen: Screen, sup: BlockingSupervisor, gate: Path) -> None:
        sup.set_group("few", limit=1)
        job = sup.start(["sh", "-c", f"echo said; cat {gate}"], workspace=gate.parent, groups=["few"])
        screen.log_in()
        page = screen.page
        assert "Live updates need JavaScript" in page.locator("body").inner_text()
        page.locator(f'[data-job="{job.job_id}"]').click()
        assert "said" in page.locator("#stdout").inner_text()
        page.get_by_role("button", name="Pause").click()
        assert "The job is paused" in page.locator("body").inner_text()
        page.get_by_role("button", name="Resume").click()
        page.locator("#job-head summary").click()
        page.get_by_role("button", name="Cancel the job").click()
        assert sup.wait(job.job_id).status == "cancelled"
        screen.go("/groups/few")
        page.get_by_label("Reason").fill("lunch")
        page.get_by_role("button", name="Pause").click()
        assert "lunch" in page.locator("main").inner_text()
        screen.go("/")
        page.get_by_role("button", name="Resume group few").click()
        page.wait_for_url("**/?said=group-resume")
        assert sup.groups()[0].paused == ()
        page.get_by_role("button", name="Sign out").click()
        page.wait_for_url("**/login")
