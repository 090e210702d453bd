"""Measure the supervisor next to its peers and its limits, print a table, and write the figures as JSON.

``python -m benchmarks report FILE`` makes the page, its tables and its plots in docs/ from such a file.
``--check`` compares with the page instead, and exits with 1 if a figure fell.
"""

from __future__ import annotations

import argparse
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Sequence
from pathlib import Path

import attrs

from benchmarks.cases import CASES
from benchmarks.checking import compare, place_like, pooled, told
from benchmarks.figures import OURS, Cannot
from benchmarks.machine import facts, load
from benchmarks.pages import KEPT
from benchmarks.peers import Peer, every_peer
from benchmarks.peers.baselines import BARE, ORIGINAL
from benchmarks.plan import Plan, Size
from benchmarks.report import Run, table


def _arguments(given: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--full", action="store_true", help="more rounds and larger numbers; takes over an hour")
    parser.add_argument("--toy", action="store_true", help="so little that it only shows that it works")
    parser.add_argument("cases", nargs="*", metavar="CASE", help=f"of {', '.join(CASES)}; all without any")
    parser.add_argument("--case", action="append", default=[], metavar="CASE", help="the same by name")
    parser.add_argument(
        "--only", action="append", metavar="PEER", help="beside this peer only, or `none`; again for more"
    )
    parser.add_argument("--root", type=Path, metavar="DIR", help="where the state roots stand; decides the file system")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures here")
    parser.add_argument("--update", action="store_true", help="keep the other cases that the file holds already")
    parser.add_argument("--keep", action="store_true", help="keep what was written below --root")
    words = "compare with the page, beside the limits of the machine; exit with 1 if a figure fell by more than a tenth"
    parser.add_argument("--check", action="store_true", help=words)
    parser.add_argument("--against", type=Path, default=KEPT, metavar="FILE", help="the run of --check, for the page's")
    chosen = parser.parse_args(given)
    chosen.cases += chosen.case
    if unknown := set(chosen.cases) - set(CASES):
        parser.error(f"no such case: {', '.join(sorted(unknown))}; there are {', '.join(CASES)}")
    names = {peer.name for peer in every_peer()} | {"none"}
    if unknown := set(chosen.only or ()) - names:
        parser.error(f"no such peer: {', '.join(sorted(unknown))}; there are {', '.join(sorted(names))}")
    return chosen


def _peers(only: Sequence[str] | None) -> tuple[dict[str, Peer], dict[str, str], dict[str, dict[str, str]]]:
    """Return the peers that take part, why the others do not, and the description of each for the report."""
    present: dict[str, Peer] = {}
    missing: dict[str, str] = {}
    described: dict[str, dict[str, str]] = {}
    for peer in every_peer():
        if only is not None and peer.name not in only:
            continue
        try:
            described[peer.name] = {"version": peer.version(), "about": peer.about}
            present[peer.name] = peer
        except Cannot as reason:
            missing[peer.name] = str(reason)
    return present, missing, described


def measure(given: Sequence[str] | None = None) -> Run:
    """Measure the requested cases."""
    return _measure(_arguments(given))


def check(given: Sequence[str] | None = None) -> tuple[str, bool]:
    """Measure as the page's run did, and return the comparison in words and whether all is well.

    The cases of figures that fell are measured a second time, with the rounds of both put together.
    """
    chosen = _arguments(given)
    page = Run.load_from(chosen.against)
    if not (chosen.toy or chosen.full):
        chosen.toy, chosen.full = page.size == "toy", page.size == "full"
    chosen.only = chosen.only or [BARE, ORIGINAL]
    chosen.cases = chosen.cases or [case for case in CASES if any(figure.case == case for figure in page.figures)]
    chosen.root = chosen.root or place_like(page.taken.file_system)
    if chosen.root is None:
        sys.exit(f"the page's state roots stood on {page.taken.file_system}: give a directory there with --root")
    run = _measure(chosen)
    found, without = compare(page, run)
    if doubtful := dict.fromkeys(each.case for each in found if each.verdict != "held"):
        sys.stderr.write(f"once more, since figures fell: {', '.join(doubtful)}\n")
        chosen.cases, chosen.json = [*doubtful], None
        run = pooled(run, _measure(chosen))
        found, without = compare(page, run)
    well = bool(found) and not run.failed and all(each.verdict != "fell" for each in found)
    return told(page, run, found, without), well


def _measure(chosen: argparse.Namespace) -> Run:
    before = load()
    peers, missing, described = _peers(chosen.only)
    folder = Path(tempfile.mkdtemp(prefix="supervisor-benchmarks-", dir=chosen.root))
    size: Size = "toy" if chosen.toy else "full" if chosen.full else "quick"
    plan = Plan(folder=folder, size=size, peers=peers, missing=missing)
    run = Run(machine=facts(folder.resolve()), load=[before], size=size, peers=described)
    cases = chosen.cases or list(CASES)
    if chosen.update and chosen.json is not None and chosen.json.exists():
        run.take_over(Run.load_from(chosen.json), cases)
    begun = time.monotonic()
    try:
        for name in cases:
            plan.tell(f"[{time.monotonic() - begun:6.0f} s] {name}")
            busy = load()
            try:
                for figure in CASES[name](plan):
                    run.figures.append(attrs.evolve(figure, taken=attrs.evolve(run.taken, load=busy)))
                    plan.tell(table([figure], colour=sys.stderr.isatty()).split("\n", 2)[2].rstrip())
            except Exception as error:  # noqa: BLE001  # the other cases are still useful
                run.failed[name] = repr(error)[:300]
                traceback.print_exc()
            if chosen.json is not None:  # an interrupted run is still useful
                run.save(chosen.json)
    finally:
        plan.close()
        if not chosen.keep:
            plan.tell(f"[{time.monotonic() - begun:6.0f} s] deleting {folder}")
            shutil.rmtree(folder, ignore_errors=True)
    run.load = [before, load()]
    if chosen.json is not None:
        run.save(chosen.json)
    return run


def main() -> None:
    """Run the command line."""
    if sys.argv[1:2] == ["report"]:
        from benchmarks.pages import main as report

        report(sys.argv[2:])
        return
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # runs every `finally`
    if _arguments(None).check:
        words, well = check()
        sys.stdout.write(words)
        sys.exit(not well)
    run = measure()
    sys.stdout.write(table(run.figures, colour=sys.stdout.isatty()))
    machine = run.machine
    sys.stdout.write(
        f"\n{OURS}: supervisor {machine['supervisor']} ({machine['commit']}); {machine['processor']}, "
        f"{machine['cores']} cores, Linux {machine['kernel']}, {machine['python']}, {machine['file_system']}; "
        f"load {run.load[0]} before, {run.load[1]} after; {run.size} size\n"
    )
    if run.failed:
        sys.exit(f"failed: {', '.join(run.failed)}")


if __name__ == "__main__":
    main()
