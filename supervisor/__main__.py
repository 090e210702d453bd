"""``python -m supervisor`` is the command ``supervisor``."""

from __future__ import annotations

import sys


def _main() -> int:
    if sys.argv[1:] == ["launch-waiting"]:  # started by a keeper, and a job waits for it
        from supervisor.runtime.launch_waiting import main
    else:
        from supervisor.cli import main
    return main()


if __name__ == "__main__":
    sys.exit(_main())
