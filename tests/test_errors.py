from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest

from supervisor import errors
from supervisor.errors import InvalidArguments, InvalidSettings, JobRunning, LaunchFailed, SupervisorError

CLASSES: list[type[SupervisorError]] = [getattr(errors, name) for name in errors.__all__]

CODES = {
    "EndpointFailed": "endpoint_failed",
    "FeatureUnavailable": "feature_unavailable",
    "GroupClosed": "group_closed",
    "GroupNotFound": "group_not_found",
    "ScheduleNotFound": "schedule_not_found",
    "IdempotencyConflict": "idempotency_conflict",
    "InputRefused": "input_refused",
    "InternalError": "internal_error",
    "InvalidArguments": "invalid_arguments",
    "InvalidSettings": "invalid_settings",
    "JobElsewhere": "job_elsewhere",
    "JobNotFound": "job_not_found",
    "JobRunning": "job_running",
    "LaunchFailed": "launch_failed",
    "OutputLost": "output_lost",
    "PermissionDenied": "permission_denied",
    "StateBusy": "state_busy",
    "StateCorrupt": "state_corrupt",
    "StateFull": "state_full",
    "StateUnsafe": "state_unsafe",
    "SupervisorClosed": "internal_error",
    "SupervisorError": "internal_error",
    "TooManyRequests": "too_many_requests",
}


def test_the_codes_are_those_of_the_contract() -> None:
    found = {each.__name__: each.code for each in CLASSES}
    assert found == CODES, "a new class needs a line in CODES above; a code that was released stays as it is"


def test_every_exception_of_the_module_is_exported() -> None:
    defined = {
        name for name, held in vars(errors).items() if isinstance(held, type) and issubclass(held, SupervisorError)
    }
    assert defined == set(errors.__all__), (
        "name each class in __all__ of supervisor/errors.py: the pages are made from that"
    )


@pytest.mark.parametrize("cls", CLASSES)
def test_every_error_says_what_to_do_in_one_sentence(cls: type[SupervisorError]) -> None:
    error = cls("It went wrong.")
    assert isinstance(error, SupervisorError)
    assert str(error) == error.message == "It went wrong."
    assert error.repair[0].isupper()
    assert error.repair.endswith(".")
    assert (error.retryable, error.retry_after_ms, error.details) == (cls.default_retryable, None, {})


@pytest.mark.parametrize("cls", CLASSES)
def test_what_is_given_wins_over_the_defaults_of_the_class(cls: type[SupervisorError]) -> None:
    error = cls(
        "m",
        repair="",
        retryable=not cls.default_retryable,
        retry_after_ms=0,
        details={"path": "/x"},
    )
    assert error.repair == ""
    assert error.retryable is not cls.default_retryable
    assert error.retry_after_ms == 0
    assert error.details == {"path": "/x"}


def test_details_are_never_shared_between_errors() -> None:
    first, second = JobRunning("a"), JobRunning("b")
    first.details["job_id"] = "0" * 32
    assert second.details == {}


def test_only_what_may_pass_by_itself_is_retryable() -> None:
    known = {"input_refused", "job_running", "state_busy", "state_full", "too_many_requests"}
    found = {each.code for each in CLASSES if each.default_retryable}
    assert found == known, (
        "name the code here if the same call may succeed later without a change; else it is not retryable"
    )


@pytest.mark.parametrize("cls", [InvalidArguments, InvalidSettings])
def test_wrong_values_are_value_errors_too(cls: type[SupervisorError]) -> None:
    assert issubclass(cls, ValueError)


def test_a_failed_launch_carries_the_status_of_a_shell() -> None:
    assert LaunchFailed("m").exit_status == 125
    missing = LaunchFailed("m", exit_status=127, details={"argv0": "nope"})
    assert (missing.exit_status, missing.details) == (127, {"argv0": "nope"})


@pytest.mark.parametrize("cls", CLASSES)
@pytest.mark.parametrize("duplicate", [copy.copy, lambda error: pickle.loads(pickle.dumps(error))])
def test_an_error_survives_being_sent_to_another_process(cls: type[SupervisorError], duplicate: Any) -> None:
    error = cls("m", repair="r", retryable=True, retry_after_ms=5, details={"a": 1})
    twin = duplicate(error)
    assert type(twin) is cls
    assert twin.args == error.args
    assert vars(twin) == vars(error)
