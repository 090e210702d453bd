"""Chaos: see ``driver.py``, which describes a round and can be run by hand, too."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from pathlib import Path

import pytest

import supervisor

PACKAGE = Path(supervisor.__file__).parents[1]
DRIVER = Path(__file__).with_name("driver.py")


def play(directory: Path, rounds: int, *options: str) -> None:
    seed = random.SystemRandom().randrange(10**6)
    words = [sys.executable, str(DRIVER), "--rounds", str(rounds), "--seed", str(seed), "--directory", str(directory)]
    words += ["--package", str(PACKAGE), *options]
    done = subprocess.run(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    sys.stdout.write(done.stdout)
    if done.returncode:
        pytest.fail(done.stdout, pytrace=False)


def test_every_failpoint_has_its_seam() -> None:
    words = [sys.executable, "-c", "import sys; sys.path[:0] = sys.argv[1:]; import points; points.check()"]
    done = subprocess.run([*words, str(DRIVER.parent), str(PACKAGE)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_a_few_rounds(tmp_path: Path) -> None:
    play(tmp_path / "chaos", 10)


@pytest.mark.chaos
def test_many_rounds(tmp_path: Path, rounds: int) -> None:
    play(tmp_path / "chaos", rounds)


@pytest.mark.chaos
def test_many_rounds_in_which_things_run_out(tmp_path: Path, rounds: int) -> None:
    play(tmp_path / "chaos", rounds, "--scarce")


def play_queues(rounds: int, driver: str = "queues.py") -> None:
    seed = random.SystemRandom().randrange(10**6)
    words = [sys.executable, str(DRIVER.with_name(driver)), "--rounds", str(rounds), "--seed", str(seed)]
    environment = {**os.environ, "PYTHONPATH": str(PACKAGE)}
    done = subprocess.run(
        words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False, env=environment
    )
    sys.stdout.write(done.stdout)
    if done.returncode:
        pytest.fail(done.stdout, pytrace=False)


def test_a_few_rounds_of_groups() -> None:
    play_queues(3)


@pytest.mark.chaos
def test_many_rounds_of_groups(rounds: int) -> None:
    play_queues(rounds)


@pytest.mark.chaos
def test_many_fleets_that_meet_usage_limits(rounds: int) -> None:
    play_queues(rounds, "fleets.py")
