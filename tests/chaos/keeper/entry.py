"""The keeper with failpoints: as the real one, which names it by where it stands, but armed by its environment."""

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
    del sys.modules["signal"]  # `points` needs the whole of it and of json, of which a keeper has only a part
    import points

    from supervisor.keeper import loop

    points.install(points.KEEPER, points.module_of_keeper, keeper=True)
    loop.Keeper(".").run()


if __name__ == "__main__":
    main()
