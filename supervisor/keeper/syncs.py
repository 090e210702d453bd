"""A step of the keeper that waits for the disk or for another program, and the step that follows it."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Sync", "run"]


class Sync:
    """Something to wait for, such as the disk for a job that survives the loss of power.

    Args:
        step: waits, or raises ``OSError``.
        then: goes on afterwards in the loop; gets the error of the step, or ``None``. May be repeated.
    """

    def __init__(self, step: Callable[[], object], then: Callable[[str | None], object]) -> None:
        self._step = step
        self._then = then
        self._error: str | None = None

    def wait(self) -> None:
        """Do the step; may block, and raises nothing."""
        try:
            self._step()
        except OSError as error:
            self._error = f"{error.filename}: {error.strerror}"
        except Exception as error:  # noqa: BLE001  # the job waits for what follows
            self._error = repr(error)

    def go_on(self) -> None:
        """Do what follows."""
        self._then(self._error)


def run(sync: Sync) -> None:
    """Do the step, as one of ``relay.Relay.guard``."""
    sync.wait()
