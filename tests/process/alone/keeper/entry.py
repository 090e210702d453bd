"""A keeper that can import nothing after its greeting, as after an upgrade of the Python below it."""

import os
import sys
from pathlib import Path


class _Nothing:
    def find_spec(self, name: str, _path: object = None, _target: object = None) -> None:
        with Path(sys.argv[1], "imported").open("ab") as file:  # a text file may need a codec, which is imported
            file.write(f"{name}\n".encode())
        message = f"{name} is gone"
        raise ImportError(message)


def main() -> None:
    real = Path(__file__).with_name("real").read_text(encoding="utf-8")
    sys.path.append(real)
    import entry

    sys.path.remove(real)
    entry.prepare(os.path.dirname(real))
    os.setsid()
    if os.fork():
        os._exit(0)
    os.chdir(sys.argv[1])
    from supervisor.keeper.loop import Keeper

    made = Keeper(".")
    sys.meta_path[:] = [_Nothing()]
    made.run()
    os._exit(0)


if __name__ == "__main__":
    main()
