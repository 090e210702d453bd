"""The output of an ended job is its output at its end, at every later query."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest
import trio

import supervisor
from supervisor.errors import OutputLost
from supervisor.jobdir import records
from supervisor.jobs.catalog import Catalog
from supervisor.settings import Settings
from supervisor.system import processes

if TYPE_CHECKING:
    from tests.process.conftest import World

pytestmark = pytest.mark.skipif(not processes.HAVE_PROC, reason="needs Linux")

PATIENCE = 60


def cli(world: World, *words: str, **environment: str) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [sys.executable, "-m", "supervisor", *words],
        capture_output=True,
        check=False,
        stdin=subprocess.DEVNULL,
        timeout=PATIENCE,
        env=world.environment | environment,
    )


def start(world: World, *words: str, **environment: str) -> str:
    done = cli(world, "start", *words, **environment)
    assert done.returncode == 0, done.stderr
    return done.stdout.decode().strip()


def ended(world: World, job_id: str) -> Any:
    (job,) = world.catalog.wait([job_id], timeout=PATIENCE)
    return job


def fresh(world: World, job_id: str, *, registry: bool) -> dict[str, Any]:
    """Return a job as a first observer gets it; without the index, from its directory alone."""
    if not registry:
        for name in ("registry.db", "registry.db-wal", "registry.db-shm"):
            (world.root / name).unlink(missing_ok=True)
    done = cli(world, "result", job_id, "--json")
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


@pytest.mark.parametrize("stream", [1, 2])
@pytest.mark.parametrize("how", ["sh", "setsid sh"])
def test_what_is_left_behind_changes_nothing_about_the_end(world: World, stream: int, how: str) -> None:
    gate, up = world.fifo(), world.fifo()
    behind = f'read go < {gate}; echo "and more" >&{stream}; echo $$ > {up}; read go < {gate}'
    job_id = start(world, "--kind", "json", "--", "sh", "-c", f"echo 42; echo err >&2; {how} -c '{behind}' & exit 0")
    leader_gone = ended(world, job_id)
    assert leader_gone.status == "done"
    assert leader_gone.warnings == ()
    gate.open()
    left, keeper = world.hold(up.number()), world.keeper(job_id)
    for registry in (True, False):
        answer = fresh(world, job_id, registry=registry)
        assert (answer["value"], answer["job"]["status"]) == (42, "done")
        assert (answer["job"]["stdout_bytes"], answer["job"]["stderr_bytes"]) == (3, 4)
        (warning,) = answer["job"]["warnings"]
        assert warning.startswith(f"9 bytes were written to {'stdout' if stream == 1 else 'stderr'} after")
    for follow in ((), ("--follow",)):
        assert cli(world, "logs", job_id, *follow).stdout == b"42\n"
        assert cli(world, "logs", job_id, "--stderr", *follow).stdout == b"err\n"
    gate.open()
    assert left.ended()
    keeper.kill()  # it would notice within eight seconds


def test_run_ends_with_its_command(world: World) -> None:
    gate, up = world.fifo(), world.fifo()
    behind = f"echo $$ > {up}; while :; do echo more; sleep 0.05; done"
    done = cli(world, "run", "--", "sh", "-c", f"echo done; sh -c '{behind}' & read go < {gate} & exit 3")
    assert done.returncode == 3
    assert done.stdout.startswith(b"done\n")
    left = world.hold(up.number())
    assert left.alive  # leftovers of a command are not stopped
    left.kill()
    gate.open()


def test_the_output_limit_holds_for_what_is_left_behind(world: World) -> None:
    up, gate = world.fifo(), world.fifo()
    behind = f"echo $$ > {up}; read go < {gate}; while :; do echo 0123456789; done"
    words = ("--", "sh", "-c", f"sh -c '{behind}' & exit 0")
    job_id = start(world, *words, SUPERVISOR_JOB_MAX_OUTPUT_BYTES="10000", SUPERVISOR_STOP_GRACE_SECONDS="0.3")
    left = world.hold(up.number())
    assert ended(world, job_id).status == "done"  # the limit is checked at the end of the command, too
    gate.open()
    assert left.ended()
    job = ended(world, job_id)
    assert (job.status, job.reason, job.stop_requested) == ("done", "exited", None)
    assert world.record(job_id, records.STOP) is None


def test_what_is_left_behind_is_ended_where_the_setting_says_so(world: World) -> None:
    up, gate = world.fifo(), world.fifo()
    behind = f"echo $$ > {up}; exec > /dev/null 2>&1; read go < {gate}"
    done = world.fifo()  # leftovers are ended at once, so the command waits until its child has reported its pid
    words = ("--", "sh", "-c", f"setsid sh -c '{behind}' & read go < {done}")
    job_id = start(world, *words, SUPERVISOR_JOB_LEFTOVERS="stop", SUPERVISOR_STOP_GRACE_SECONDS="0.3")
    left = world.hold(up.number())
    done.open()
    assert left.ended()
    assert ended(world, job_id).status == "done"


def test_the_keeper_leaves_with_the_last_that_was_left_behind(world: World) -> None:
    up, gate = world.fifo(), world.fifo()
    behind = f"echo $$ > {up}; read go < {gate}"
    host = world.host()
    job_id = host.start("sh", "-c", f"read go < {gate}; sh -c '{behind}' & exit 0")
    keeper = world.keeper(job_id)
    gate.open()
    left = world.hold(up.number())
    host.kill()
    assert ended(world, job_id).status == "done"
    assert keeper.alive
    gate.open()
    assert left.ended()
    assert keeper.ended()


@pytest.mark.parametrize("stream", [1, 2])
@pytest.mark.parametrize("kind", ["raw", "json", "claude"])
def test_the_output_limit_is_looked_at_in_the_end(world: World, kind: str, stream: int) -> None:
    job_id = start(world, "--kind", kind, "--", "truncate", "-s", "1G", f"/proc/self/fd/{stream}")
    job = ended(world, job_id)
    assert (job.status, job.reason, job.exit_code) == ("failed", "output_limit", 0)
    code = "import resource, runpy; resource.setrlimit(resource.RLIMIT_AS, (1 << 30, 1 << 30)); "
    code += "runpy.run_module('supervisor', run_name='__main__')"
    done = subprocess.run(
        [sys.executable, "-c", code, "result", job_id, "--json"],
        capture_output=True,
        check=False,
        timeout=PATIENCE,
        env=world.environment,
    )
    assert json.loads(done.stdout)["error"]["code"] == "output_limit"


def test_a_stopped_job_has_what_all_of_it_wrote(world: World) -> None:
    up = world.fifo()
    behind = f"trap 'echo last words; exit' TERM; echo $$ > {up}; while :; do sleep 0.01; done"
    job_id = start(world, "--", "sh", "-c", f'echo first; sh -c "{behind}" & wait', SUPERVISOR_STOP_GRACE_SECONDS="20")
    up.number()
    assert world.catalog.cancel(job_id).status == "cancelled"
    assert world.catalog.status(job_id).stdout_bytes == len("first\nlast words\n")
    assert cli(world, "logs", job_id).stdout == b"first\nlast words\n"


@pytest.mark.parametrize("name", ["/dev/stderr", "/dev/stdout", "/proc/self/fd/1"])
def test_a_command_that_truncates_its_output_is_read_from_the_beginning_again(world: World, name: str) -> None:
    go, stream = world.fifo(), "stderr" if name == "/dev/stderr" else "stdout"
    host = world.host()
    job_id = host.start("sh", "-c", f"for i in 1 2 3; do echo line $i > {name}; read go < {go}; done")
    words = ["logs", job_id, "--follow", *(["--stderr"] if stream == "stderr" else [])]
    with subprocess.Popen(
        [sys.executable, "-m", "supervisor", *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=world.environment,
        bufsize=0,
    ) as reader:
        assert reader.stdout is not None
        for number in (1, 2, 3):
            assert reader.stdout.readline() == f"line {number}\n".encode()
            go.open()
        assert reader.stdout.read() == b""
        assert reader.stderr is not None
        assert f"truncated its {stream}" in reader.stderr.read().decode()
        assert reader.wait(PATIENCE) == 0


async def test_follow_starts_over(world: World) -> None:
    go = world.fifo()
    script = f"echo one > /dev/stdout; read go < {go}; echo longer > /dev/stdout; read go < {go}; echo 2 > /dev/stdout"
    async with supervisor.open_supervisor(Settings(state_dir=world.root)) as sup:
        job = await sup.start(["sh", "-c", script])
        read = b""
        async with sup.follow(job.job_id) as chunks:
            with trio.fail_after(PATIENCE):
                async for chunk in chunks:
                    read += chunk
                    if read in {b"one\n", b"one\nlonger\n"}:
                        go.open()
            assert read == b"one\nlonger\n2\n"
            assert chunks.restarts == 2
        path = world.job(job.job_id) / records.STDOUT
        path.write_bytes(b"")
        async with sup.follow(job.job_id) as chunks:
            with pytest.raises(OutputLost):
                async for _ in chunks:
                    pass


def test_the_job_says_that_it_has_truncated_its_output(world: World) -> None:
    go = world.fifo()
    script = f"echo a long first line > /dev/stderr; read go < {go}; echo short > /dev/stderr; read go < {go}"
    job_id = start(world, "--", "sh", "-c", script)
    stderr = world.job(job_id) / records.STDERR
    keeper_looks = 1.2  # seconds; the keeper checks a job after half a second, and then less and less often
    up = subprocess.run(["sleep", str(keeper_looks)], check=True)
    assert up.returncode == 0
    go.open()
    while stderr.read_bytes() != b"short\n":
        os.sched_yield()
    go.open()
    (warning,) = ended(world, job_id).warnings
    assert "truncated its own output" in warning


@pytest.mark.parametrize("kind", ["raw", "json"])
@pytest.mark.parametrize("left", [None, b"", b"4"])
def test_an_output_that_is_not_there_any_more_is_no_answer(world: World, kind: str, left: bytes | None) -> None:
    job_id = start(world, "--kind", kind, "--", "sh", "-c", "echo 42")
    assert ended(world, job_id).status == "done"
    path = world.job(job_id) / records.STDOUT
    path.unlink()
    if left is not None:
        path.write_bytes(left)
    for _ in range(2):
        with pytest.raises(OutputLost):
            world.catalog.result(job_id)
    answer = fresh(world, job_id, registry=True)
    assert answer["error"]["code"] == "output_lost"
    assert answer["error"]["details"]["recorded_bytes"] == 3
    for words in (["logs", job_id], ["logs", job_id, "--follow"], ["logs", job_id, "--json"]):
        done = cli(world, *words)
        assert done.returncode == 125
        assert b"output_lost" in done.stdout or b"3 bytes of stdout" in done.stderr
    again = fresh(world, job_id, registry=False)
    assert again["error"]["code"] == "output_lost"


def test_an_error_while_the_output_is_read_changes_nothing(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    job_id = start(world, "--kind", "json", "--", "sh", "-c", "echo 42")
    real = os.pread

    def fails(*_: Any) -> bytes:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr("supervisor.jobdir.output.os.pread", fails)
    with Catalog(Settings(state_dir=world.root)) as catalog, pytest.raises(Exception) as caught:  # noqa: PT011
        catalog.result(job_id)
    assert "output_lost" not in str(getattr(caught.value, "code", ""))
    monkeypatch.setattr("supervisor.jobdir.output.os.pread", real)
    assert world.catalog.result(job_id).value == 42


def test_advice_names_the_job_and_the_stream_that_has_something(world: World) -> None:
    for script, of_stderr, detail in (
        ("echo reason; exit 3", False, "reason"),
        ("echo reason >&2; exit 3", True, "reason"),
        ("echo out; echo err >&2; exit 3", True, "err"),
        ("echo out; echo >&2; kill -9 $$", None, "out"),
        ("echo token=ghp_0123456789abcdefghijABCDEFGHIJ0123456; exit 3", False, None),
    ):
        job_id = start(world, "--", "sh", "-c", script)
        job = ended(world, job_id)
        error = world.catalog.result(job_id).error
        assert error is not None
        assert "JOB" not in error.repair
        if of_stderr is not None:
            assert f"`supervisor logs {job_id}{' --stderr' if of_stderr else ''}`" in error.repair
        assert job.detail is not None
        assert detail is None or job.detail == detail
        assert "ghp_" not in job.detail


def test_run_says_that_what_it_passed_on_is_not_all(world: World) -> None:
    script = "echo one; echo two > /dev/stdout"
    done = cli(world, "run", "--", "sh", "-c", script)
    assert done.returncode == 0
    assert done.stdout in {b"two\n", b"one\ntwo\n"}
    assert (b"truncated its stdout" in done.stderr) is (done.stdout != b"two\n")


def test_a_pipe_in_between_loses_nothing(world: World) -> None:
    command = "echo 1; echo 2 > /dev/stdout; echo 3 > /dev/stderr; echo 4 | tee /dev/stderr; exit 3"
    piped = f"{{ {{ {command}; }} 2>&1 >&3 | cat >&2; }} 3>&1 | cat"  # as on the page about output
    done = cli(world, "run", "--", "bash", "-o", "pipefail", "-c", piped)
    assert (done.returncode, done.stdout, done.stderr) == (3, b"1\n2\n4\n", b"3\n4\n")
