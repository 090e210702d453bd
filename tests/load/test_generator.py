"""Due times and latencies, against a driver in memory that may be slow."""

from __future__ import annotations

import attrs
import pytest
import trio
import trio.testing
from click import unstyle

from supervisor.cli.bench.text import intention, lines
from supervisor.load import mix
from supervisor.load.generator import Load
from supervisor.load.plan import plan
from supervisor.load.trial import own_cost
from tests.load.liar import Liar, wall
from tests.load.test_bench import LATE, MIX, bench

Clock = trio.testing.MockClock
PLAIN = mix.parse(MIX, "mix.toml")


async def test_jobs_are_asked_for_when_they_are_due_whether_or_not_others_were_answered(
    autojump_clock: Clock,  # noqa: ARG001
) -> None:
    driver = Liar(slow=30)
    poisson = attrs.evolve(PLAIN, arrivals="poisson")
    load = Load(driver, poisson, "run", wall=wall)
    await load.run()
    asked = [moment - load.began for moment, _ in driver.requests]
    assert asked == pytest.approx([order.due for order in plan(poisson)])
    assert load.figures["start_due"].to_json()["max"] == pytest.approx(30_000)
    assert load.figures["behind"].to_json()["max"] == pytest.approx(0, abs=1e-6)
    assert (load.held_back, load.in_flight, load.faults) == (0, 0, [])


async def test_a_job_that_has_to_wait_is_timed_from_when_it_was_due(autojump_clock: Clock) -> None:  # noqa: ARG001
    """Twenty jobs, one every 0.1 s, each of which takes 1 + 1.5 s, one after the other."""
    load = Load(Liar(slow=1), attrs.evolve(PLAIN, max_in_flight=1), "run", wall=wall)
    await load.run()
    call, due = (load.figures[name].to_json() for name in ("start_call", "start_due"))
    assert call["p50"] == call["max"] == pytest.approx(1000)
    assert due["max"] == pytest.approx(1000 + 19 * (2500 - 100))
    assert due["p50"] == pytest.approx(1000 + 9 * (2500 - 100))
    assert load.held_back == 19


async def test_ends_are_timed_by_the_clock_of_the_machine(autojump_clock: Clock) -> None:  # noqa: ARG001
    load = Load(Liar(), PLAIN, "run", wall=lambda: wall() + 0.004)
    await load.run()
    known = load.figures["exit_known"].to_json()
    assert known["count"] == 20
    assert known["p50"] == known["max"] == pytest.approx(4, abs=0.01)
    late = Load(Liar(), mix.parse(LATE, "mix.toml"), "run", wall=wall)
    await late.run()
    assert late.figures["deadline_overshoot"].to_json()["max"] == pytest.approx(0, abs=0.01)


async def test_a_start_that_is_not_answered_is_given_up(autojump_clock: Clock) -> None:  # noqa: ARG001
    load = Load(Liar(slow=100), PLAIN, "run", patience_seconds=5, wall=wall)
    await load.run()
    assert load.errors == {"start: no_answer": 20}
    assert all(record.uncertain and not record.refused for record in load.records.values())
    assert load.acknowledged == 0


async def test_what_the_generator_costs_is_measured_anew() -> None:
    assert 0 < await own_cost(PLAIN) < 0.1


async def test_a_report_in_words(autojump_clock: Clock) -> None:  # noqa: ARG001
    driver = Liar({3: "refuse", 5: "runs twice", 7: "short output", 9: "no answer"})
    shape = await bench(driver).run()
    said = unstyle("\n".join(lines(shape)))
    assert said.startswith("the load had faults: ")
    for each in (
        "20 due, 18 started, 2 refused",
        "1  start: state_full",
        "1  twice: it ran more than once",
        "1  output: its output differs from what it wrote",
        "output: job ",
        "1 job was found whose start had no answer",
    ):
        assert each in said, said


def test_an_intention() -> None:
    said = intention(PLAIN, "a place")
    assert said.startswith("20 jobs for a place: 10 a second for 2.0 s, evenly spaced, some 15 at once; seed 1;")
