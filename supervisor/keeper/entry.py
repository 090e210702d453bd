"""The keeper: a small detached process that is the parent of the job processes and lives as long as they do.

This file is what ``ps`` shows: ``python -I -S .../keeper/entry.py STATE_ROOT``. It only detaches and hands over to
``loop``, which is imported rather than run so that its compiled form is used (Python compiles a script at every start).

Standard input is a socket to the supervisor that started it. As ``entry.py --job DIRECTORY`` it keeps
the one job of that directory, on the machine where an engine started it, see ``single_job``.
"""

import os
import sys


def prepare(package: str) -> None:
    """Make modules of ``package``, the directory of ``supervisor``, importable without the files ``__init__.py``.

    Only the keeper's files may be there, and leaving out the four saves 0.3 ms of some 11.
    """
    for name in ("", "/jobdir", "/keeper", "/system"):
        module = type(sys)(f"supervisor{name.replace('/', '.')}")
        module.__path__ = [package + name]
        sys.modules[module.__name__] = module
    # Its names mean something to the compiler only; reading its file takes 0.2 ms.
    future = sys.modules.setdefault("__future__", type(sys)("__future__"))
    future.__dict__.setdefault("annotations", None)
    import _signal  # type: ignore[import-not-found]  # part of every Python, and of no stubs

    # The same as `signal` without its enumerations, which take a third of the start of a keeper.
    sys.modules.setdefault("signal", _signal)


def main() -> None:
    """Detach from the session and the process tree of the supervisor, then keep jobs."""
    prepare(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    if sys.argv[1] == "--job":  # an engine started this process and watches its session, so it stays in it
        from supervisor.keeper.single_job import keep_one

        os._exit(keep_one(sys.argv[2]))  # an orderly end of the interpreter takes longer than the job may
    os.setsid()
    if os.fork():
        os._exit(0)  # the supervisor waits for this process; init is the parent of the child
    os.chdir(sys.argv[1])  # a state root that is renamed takes the working directory and all relative names along
    from supervisor.keeper.loop import Keeper

    Keeper(".").run()
    os._exit(0)  # threads that still hang on a file system are given up


if __name__ == "__main__":
    main()
