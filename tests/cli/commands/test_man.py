"""The manual pages are whole, agree with the commands, and are what man(7) and groff accept."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import Any

import click
import pytest

from supervisor.cli import man_pages
from supervisor.cli.app import COMMANDS, app
from supervisor.settings import Settings


def shown(page: str) -> str:
    """Return a page as a terminal shows it, without its layout."""
    groff = shutil.which("groff")
    if groff is None:
        pytest.skip("needs groff")
    done = subprocess.run(
        [groff, "-man", "-Tutf8", "-ww", "-P-cbou"], input=page, capture_output=True, text=True, check=True
    )
    assert done.stderr == ""
    return " ".join(done.stdout.replace("\N{HYPHEN}\n", "").split())


def test_each_command_has_a_page_with_its_options() -> None:
    made = dict(man_pages.pages())
    assert list(made) == ["supervisor", *(f"supervisor-{name}" for name in COMMANDS)]
    top = click.Context(app, info_name="supervisor")
    for name in COMMANDS:
        command = app.get_command(top, name)
        assert command is not None
        page = made[f"supervisor-{name}"]
        for option in command.params:
            if isinstance(option, click.Option) and not option.hidden:
                assert option.opts[-1].replace("-", "\\-") in page
        assert all(
            line[:3] in {".TH", ".SH", ".SS", ".PP", ".TP", ".B ", ".nf", ".fi"}
            for line in page.split("\n")
            if line[:1] == "."
        )


def test_the_page_of_the_program_has_the_commands_and_the_variables() -> None:
    text = shown(man_pages.page_of(""))
    assert all(f"supervisor-{name}(1) {line}" in text for name, (_, _, line) in COMMANDS.items() if "-" not in name)
    assert "SUPERVISOR_JOB_TTL Seconds a finished job is kept (default: 86400)." in text
    assert len(list(man_pages._variables())) == len(Settings.__attrs_attrs__)  # type: ignore[attr-defined]
    assert all(text for _, text in man_pages._variables())


def test_groff_takes_every_page() -> None:
    shown("".join(page for _, page in man_pages.pages()))


def test_text_that_looks_like_a_request_is_shown() -> None:
    text = ".cargo `x` a\\b ~/-x ^ 'y' \"z\""
    assert text in shown(f".TH X 1\n.PP\n{man_pages._escaped(text)}\n")


def test_a_page_is_printed(cli: Any) -> None:
    assert cli("man", "run").stdout == man_pages.page_of("run")
    assert cli.json("man") == {"ok": True, "page": man_pages.page_of("")}


def test_the_pages_are_installed(cli: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (first, *_) = cli.json("man", "--install")["paths"]
    assert first == str(tmp_path / ".local/share/man/man1/supervisor.1")
    done = cli("man", "--install", "--directory", str(tmp_path / "pages"))
    assert done.stdout == f"{len(COMMANDS) + 1} pages are in {tmp_path / 'pages'}.\n"
    assert (tmp_path / "pages/supervisor-run.1").read_text() == man_pages.page_of("run")


@pytest.mark.parametrize(
    "words", [("run", "--install"), ("--directory", "x"), ("--install", "--directory", "/dev/null/x")]
)
def test_what_cannot_be_done_gives_2(cli: Any, words: tuple[str, ...]) -> None:
    assert cli("man", *words).exit_code == 2
