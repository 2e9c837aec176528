from __future__ import annotations

import inspect
import signal

import pytest

from nilr import errors
from nilr.errors import DataError, Interrupted, NilrError, UnknownNameError, UsageError

KINDS = [kind for kind in vars(errors).values() if inspect.isclass(kind) and issubclass(kind, NilrError)]


def test_an_error_carries_its_message_and_hint() -> None:
    error = DataError("`x` is no pack", hint="pack it")
    assert (error.message, error.hint, str(error), error.exit_status) == (
        "`x` is no pack",
        "pack it",
        "`x` is no pack",
        1,
    )


def test_an_unknown_name_lists_the_known_ones() -> None:
    error = UnknownNameError("algorithm", "reptile", ["maml", "metasgd"])
    assert (error.message, error.hint) == ("unknown algorithm `reptile`", "known: maml, metasgd")


def test_an_unknown_name_that_is_near_a_known_one_is_answered_with_that_one() -> None:
    error = UnknownNameError("algorithm", "meta-sgd", ["maml", "metasgd"])
    assert error.hint == "did you mean `metasgd`? known: maml, metasgd"


def test_an_unknown_name_among_many_lists_the_nearest() -> None:
    error = UnknownNameError("class", "clas070", [f"class{number:03}" for number in range(351)])
    assert error.hint is not None
    assert error.hint.startswith("did you mean `class070`? the nearest of 351 names: class070, ")
    assert error.hint.count("class") == 11


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_only_usage_errors_have_status_2(kind: type[NilrError]) -> None:
    assert kind.exit_status == (2 if issubclass(kind, UsageError) else 1)


def test_an_interruption_is_not_caught_as_an_ordinary_exception() -> None:
    assert not issubclass(Interrupted, Exception)
    assert Interrupted(signal.SIGTERM, hint="go on").signum == 15
