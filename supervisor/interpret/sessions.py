"""The sessions of agents: the id is known before a run begins, and a run that was cut short can be continued.

The commands of Claude Code and of Codex are known here by their options. A command that is not known well enough is
left as it is: its session is not known in advance, and its next attempt starts anew.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Final

from supervisor.interpret import SessionCommand
from supervisor.interpret.command_words import Takes, Words, sort_words

__all__ = ["claude_in_session", "codex_in_session"]

_CLAUDE: Final[Mapping[str, Takes]] = {
    **dict.fromkeys(
        (
            *("-p", "--print", "--verbose", "--include-partial-messages", "--include-hook-events", "--mcp-debug"),
            *("--dangerously-skip-permissions", "--allow-dangerously-skip-permissions", "--replay-user-messages"),
            *("-c", "--continue", "--fork-session", "--no-session-persistence", "--ide", "--strict-mcp-config"),
            *("--disable-slash-commands", "--chrome", "--no-chrome", "--bare"),
        ),
        Takes.NOTHING,
    ),
    **dict.fromkeys(
        (
            *("--output-format", "--input-format", "--json-schema", "--max-budget-usd", "--max-turns"),
            *("--system-prompt", "--system-prompt-file", "--append-system-prompt", "--append-system-prompt-file"),
            *("--permission-mode", "--permission-prompt-tool", "--model", "--fallback-model", "--agent", "--agents"),
            *("--settings", "--setting-sources", "--session-id", "--plugin-dir", "--effort", "-n", "--name"),
        ),
        Takes.ONE,
    ),
    **dict.fromkeys(("-d", "--debug", "-r", "--resume", "-w", "--worktree", "--from-pr"), Takes.MAYBE),
    **dict.fromkeys(
        (
            *("--allowedTools", "--allowed-tools", "--disallowedTools", "--disallowed-tools", "--tools"),
            *("--mcp-config", "--betas", "--add-dir", "--file"),
        ),
        Takes.MANY,
    ),
}
"""The options of version 2.1.332."""

_CODEX: Final[Mapping[str, Takes]] = {
    **dict.fromkeys(
        (
            *("--json", "--experimental-json", "--full-auto", "--dangerously-bypass-approvals-and-sandbox", "--yolo"),
            *("--skip-git-repo-check", "--ephemeral", "--oss", "--search", "--last", "--all"),
        ),
        Takes.NOTHING,
    ),
    **dict.fromkeys(
        (
            *("-c", "--config", "--enable", "--disable", "-m", "--model", "--local-provider", "-s", "--sandbox"),
            *("-a", "--ask-for-approval", "-p", "--profile", "-C", "--cd", "--add-dir", "--output-schema"),
            *("--color", "-o", "--output-last-message"),
        ),
        Takes.ONE,
    ),
    **dict.fromkeys(("-i", "--image"), Takes.MANY),
}
"""The options of ``codex exec``, version 0.171.0."""


def _words_of(argv: Sequence[str], program: str, known: Mapping[str, Takes]) -> Words | None:
    return sort_words(argv[1:], known) if os.path.basename(argv[0]) == program else None


def claude_in_session(argv: Sequence[str], session_id: str, prompt: str | None) -> SessionCommand | None:
    """Return the command ``claude -p`` in a session, see ``supervisor.interpret.HasSessions``."""
    words = _words_of(argv, "claude", _CLAUDE)
    if words is None or not words.has("-p", "--print") or words.has("--no-session-persistence"):
        return None
    if prompt is not None:
        if words.value("--input-format") not in {None, "text"}:
            return None
        kept = words.without("--session-id", "-r", "--resume", "-c", "--continue", "--fork-session", "--from-pr")
        return SessionCommand((argv[0], "--resume", session_id, *kept), session_id, prompt.encode())
    own = words.value("--session-id")
    if own is None and not words.has("--fork-session"):
        own = words.value("-r", "--resume")
    if own is not None:
        return SessionCommand(tuple(argv), own)
    if words.has("-r", "--resume", "-c", "--continue", "--from-pr"):  # which session that is, only the program knows
        return None
    return SessionCommand((argv[0], "--session-id", session_id, *argv[1:]), session_id)


def codex_in_session(argv: Sequence[str], session_id: str, prompt: str | None) -> SessionCommand | None:
    """Return the command ``codex exec`` in a session, see ``supervisor.interpret.HasSessions``."""
    words = _words_of(argv, "codex", _CODEX)
    if words is None or not words.others or words.others[0] not in {"exec", "e"} or words.has("--ephemeral"):
        return None
    if prompt is None:  # it makes the id itself
        match words.others:
            case (_, "resume", own, *_) if not words.has("--last"):
                return SessionCommand(tuple(argv), own)
            case _:
                return None
    kept = words.without("--last", "--all")
    return SessionCommand((argv[0], "exec", *kept, "resume", session_id, "-"), session_id, prompt.encode())
