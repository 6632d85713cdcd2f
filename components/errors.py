"""The errors that a user of tfline can do something about, each with the exit code that the command ends with."""

from __future__ import annotations


class TflineError(Exception):
    """A failure told in one message, without a traceback; `exit_code` 1 unless a kind of error says otherwise."""

    exit_code = 1


class UsageError(TflineError):
    """Bad usage or configuration: nothing was started, nothing was written."""

    exit_code = 2


class GateRefused(TflineError):
    """A gate (data, validation, evaluation, accuracy, size, infra) did not let the run go on."""

    exit_code = 3
