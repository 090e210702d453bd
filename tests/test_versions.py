"""The page on versions has the numbers that the code has."""

from __future__ import annotations

import ast
import re
from importlib import import_module
from pathlib import Path
from typing import Any

import supervisor
from supervisor import model
from supervisor.jobdir import records
from supervisor.keeper import protocol
from supervisor.mcp_server.tasks import state
from supervisor.store import version
from supervisor.web.app import OPERATIONS

PACKAGE = Path(supervisor.__file__).parent
PAGE = PACKAGE.parent / "docs/versions.md"


def section(title: str) -> list[list[str]]:
    """Return the cells of the table of a section, without its head."""
    text = re.search(
        rf"^## {re.escape(title)}\n(.*?)(?=^## |\Z)", PAGE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL
    )
    assert text is not None
    rows = re.findall(r"^\| (.+) \|$", text[1], re.MULTILINE)
    return [row.split(" | ") for row in rows[1:]]


def written_versions() -> dict[str, Any]:
    """Return the number that each module writes as ``"v"``."""
    found: dict[str, Any] = {"jobdir/records.py": records.VERSION}  # it composes its records by itself
    for path in sorted(PACKAGE.rglob("*.py")):
        name = str(path.relative_to(PACKAGE))
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Dict):
                values = [value for key, value in zip(node.keys, node.values, strict=True) if is_version(key)]
                for value in values:
                    module = import_module(f"supervisor.{name.removesuffix('.py').replace('/', '.')}")
                    number = eval(ast.unparse(value), vars(module))
                    assert found.setdefault(name, number) == number
    return found


def is_version(key: ast.expr | None) -> bool:
    return isinstance(key, ast.Constant) and key.value == "v"


def test_the_page_has_the_numbers_of_the_code() -> None:
    found = {what: number for what, number, *_ in section("The numbers")}
    (rest,) = {path.split("/")[1] for path in (each.path for each in OPERATIONS) if path.startswith("/v")}
    assert found == {
        "the package": supervisor.__version__,
        "records and other files": str(records.VERSION),
        "the index": str(version.VERSION),
        "the protocol between a supervisor and its keeper": str(protocol.PROTOCOL),
        "the control of a keeper over its jobs": str(records.CONTROLS),
        "the shape of a job": model.FINGERPRINT,
        "REST": rest,
        "MCP": f"{state.MODERN_VERSION}, {state.LEGACY_VERSION}",
    }


def test_the_page_has_each_module_that_writes_files_with_a_version() -> None:
    rows = {
        module: int(number) for _, number, modules, _ in section("Files") for module in re.findall(r"`(.+?)`", modules)
    }
    assert rows == written_versions()


def test_the_page_has_each_version_of_the_index() -> None:
    assert [int(number) for number, _ in section("The index")] == [*range(1, version.VERSION + 1)]
