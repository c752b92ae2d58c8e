"""`petl-bench fit`, `validate`, `test` and `predict`: a configuration becomes an experiment, and that is run."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from petl_bench.cli.configuration import configured
from petl_bench.runs import session
from petl_bench.runs.experiment import Experiment


def fit(arguments: Sequence[str], plugins: Sequence[str]) -> int:
    """Trains, then tests the result."""
    return _run("fit", session.fit, arguments, plugins)


def validate(arguments: Sequence[str], plugins: Sequence[str]) -> int:
    """Evaluates an adapter on the validation split."""
    return _run("validate", session.validate, arguments, plugins)


def test(arguments: Sequence[str], plugins: Sequence[str]) -> int:
    """Tests an adapter."""
    return _run("test", session.test, arguments, plugins)


def predict(arguments: Sequence[str], plugins: Sequence[str]) -> int:
    """Writes features or answers."""
    return _run("predict", session.predict, arguments, plugins)


def _run(command: str, work: Callable[[Experiment], Any], arguments: Sequence[str], plugins: Sequence[str]) -> int:
    """The exit code of one of them.

    Raises:
        PetlBenchError: for anything wrong in options, data, or on the way.
    """
    try:
        with configured(command, list(arguments), plugins) as configuration:
            work(configuration.experiment())
    except SystemExit as stop:  # --help and --print_config end this way
        return int(stop.code or 0)
    return 0
