"""The keeper with failpoints. Its path names it as a keeper, and its environment arms it."""

import os
import sys


def main() -> None:
    sys.path += [os.environ["CHAOS_KEEPER"], os.environ["CHAOS_DIRECTORY"]]
    from entry import prepare

    prepare(os.path.dirname(os.environ["CHAOS_KEEPER"]))
    os.setsid()
    if os.fork():
        os._exit(0)
    os.chdir(sys.argv[1])
    del sys.modules["signal"]  # `points` needs all of it and of json, and a keeper has only parts
    import points

    from supervisor.keeper import loop

    points.install(points.KEEPER, points.module_of_keeper, keeper=True)
    loop.Keeper(".").run()


if __name__ == "__main__":
    main()
