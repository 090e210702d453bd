"""``login``: print another link that begins a session with the page of ``serve``. It needs the extra ``serve``."""

from __future__ import annotations

import click

from supervisor.cli import exits
from supervisor.cli.front import Invocation, command
from supervisor.cli.servers import check_extra
from supervisor.errors import InvalidArguments

__all__ = ["login"]


@command("login")
@click.option("--viewer", is_flag=True, help="For a session that sees all jobs and changes nothing.")
@click.option(
    "--url",
    default="http://127.0.0.1:8765",
    show_default=True,
    help="The address of the server, as the browser reaches it.",
)
def login(call: Invocation, *, viewer: bool, url: str) -> int:
    """Print a link that logs a browser in to the page of `supervisor serve`.

    It works once, within a day, and begins a session of a week. Any server on the state root accepts it.
    """
    check_extra("serve", "hypercorn", "jinja2", "mcp", "starlette")
    from supervisor.http.guard import OWNER_ROLE, VIEWER_ROLE, Callers
    from supervisor.http.tokens import Tokens
    from supervisor.web.page.sessions import Sessions, path_of

    state_dir = call.settings.state_dir
    roles = Tokens(state_dir, "serve-tokens", (OWNER_ROLE, VIEWER_ROLE))
    role = VIEWER_ROLE if viewer else OWNER_ROLE
    token = roles.token(role)
    if token is None:
        message = f"there is no token for the {role}"
        raise InvalidArguments(
            message, repair=f"Make the file {roles.directory / role}, 0600, with a long random line."
        )
    link = url.rstrip("/") + path_of(Sessions(state_dir, Callers(Tokens(state_dir), roles)).link(token))
    call.answer(lambda: {"ok": True, "login_url": link, "role": role}, link)
    return exits.OK
