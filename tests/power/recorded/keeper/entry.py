"""The keeper whose writes are recorded. Its path names it as a keeper; the files beside it say where to."""

import os
import sys
from pathlib import Path
from typing import Any


def main() -> None:
    here = Path(__file__).parent
    real = (here / "real").read_text(encoding="utf-8")
    sys.path += [real, str(here)]
    import entry
    from recorder import Recorder

    entry.prepare(os.path.dirname(real))
    os.setsid()
    if os.fork():
        os._exit(0)
    os.chdir(sys.argv[1])
    from supervisor.keeper import loop, spawn

    recorder = Recorder(*(here / "where").read_text(encoding="utf-8").split("\n"))
    recorder.install()
    spawns: Any = spawn.spawn
    ended: Any = loop.Keeper._ended

    def spawn_recorded(*args: Any, **named: Any) -> Any:
        recorder.mark("spawning")
        return spawns(*args, **named)

    def ended_recorded(keeper: Any, child: Any) -> None:
        if not child.output:
            recorder.mark("reaped")
        ended(keeper, child)

    setattr(spawn, "spawn", spawn_recorded)  # noqa: B010  # a type checker knows its signature
    setattr(loop.Keeper, "_ended", ended_recorded)  # noqa: B010
    loop.Keeper(".").run()


if __name__ == "__main__":
    main()
