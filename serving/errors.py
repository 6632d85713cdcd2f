"""What can go wrong with stored models, each told in one message; light enough for every command to import."""

from __future__ import annotations


class ServingError(Exception):
    """A failure that a user can do something about, told without a traceback."""

    exit_code = 1


class StoreError(ServingError):
    """Something about a version store that cannot be done or is not right."""
