"""How a keeper is known: by its registration, or by its claim of a single job."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from supervisor.keeper import registration


def claim_of(pid: int, start: int = 7, boot: str = "boot", namespace: str = "ns") -> str:
    return f"keeper.{pid}.{start}.{boot}.{namespace}"


def test_a_keeper_is_known_by_its_registration(tmp_path: Path) -> None:
    words = [b"python", b"-I", b"-S", b"/x/keeper/entry.py", os.fsencode(tmp_path), b""]
    assert not registration.is_registered(words, claim_of(41))
    registration.register(str(tmp_path), claim_of(41))
    registration.register(str(tmp_path), claim_of(41))
    assert registration.is_registered(words, claim_of(41))
    assert not registration.is_registered(words, claim_of(41, 8))
    assert not registration.is_registered(words, claim_of(42))
    assert not registration.is_registered(words, claim_of(41, boot="other"))
    assert not registration.is_registered(words[:-2], claim_of(41))
    registration.unregister(str(tmp_path), claim_of(41))
    registration.unregister(str(tmp_path), claim_of(41))
    assert not registration.is_registered(words, claim_of(41))


def test_the_keeper_of_one_job_is_known_by_its_claim(tmp_path: Path) -> None:
    (tmp_path / "claim").symlink_to(claim_of(41))
    words = [b"python", b"-I", b"-S", b"/x/keeper.py", b"--job", os.fsencode(tmp_path), b""]
    assert registration.is_registered(words, claim_of(41))
    assert not registration.is_registered(words, claim_of(40))


@pytest.mark.parametrize("word", [b"/nowhere", b"/dev/null", b"relative", b"", b"/" + b"x" * 5000])
def test_a_command_line_that_leads_nowhere(word: bytes) -> None:
    assert not registration.is_registered([b"python", word], claim_of(41))


def test_registrations_of_keepers_that_are_gone_are_removed(tmp_path: Path) -> None:
    claims = [claim_of(1), claim_of(2), claim_of(2, boot="older"), claim_of(2, namespace="other"), "rubbish"]
    for claim in claims:
        registration.register(str(tmp_path), claim)
    registration.sweep(str(tmp_path), "boot", "ns", lambda pid, start: (pid, start) == (1, 7))
    assert sorted(os.listdir(tmp_path / registration.KEEPERS)) == sorted([claims[0], claims[3]])
