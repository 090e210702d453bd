"""The keeper, from whose greeting on nothing can be imported, as after an upgrade of the Python below it."""

import os
import sys
from pathlib import Path


class _Nothing:
    def find_spec(self, name: str, _path: object = None, _target: object = None) -> None:
        with Path(sys.argv[1], "imported").open("a", encoding="ascii") as file:
            file.write(f"{name}\n")
        message = f"{name} is gone"
        raise ImportError(message)


def main() -> None:
    os.setsid()
    if os.fork():
        os._exit(0)
    os.chdir(sys.argv[1])
    sys.path.append(Path(__file__).with_name("real").read_text(encoding="utf-8"))
    import _signal

    sys.modules.setdefault("signal", _signal)
    import keeper_loop

    made = keeper_loop.Keeper(".")
    sys.meta_path[:] = [_Nothing()]
    made.run()
    os._exit(0)


if __name__ == "__main__":
    main()
