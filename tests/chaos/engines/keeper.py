"""The keeper with failpoints: as the real one, which names it by where it stands, but armed by its environment."""

import os
import sys


def main() -> None:
    os.setsid()
    if os.fork():
        os._exit(0)
    os.chdir(sys.argv[1])
    sys.path += [os.environ["CHAOS_ENGINES"], os.environ["CHAOS_DIRECTORY"]]
    import points  # isort: skip  # first: it needs the whole json, of which a keeper has only a part
    import keeper_loop

    points.install(points.KEEPER, points.module_of_keeper, keeper=True)
    keeper_loop.Keeper(".").run()


if __name__ == "__main__":
    main()
