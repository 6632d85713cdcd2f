"""Two things that Beam 2.77 works out thousands of times for a pipeline, remembered; the answers are the same.

Building and running the graph of one stage calls `inspect.signature` 45,000 times, on some hundred functions, and builds an
argument parser 1,900 times, on some ten option classes: two fifths of the CPU time of a stage whose data is small.
"""

from __future__ import annotations

import copy
import types
from typing import Any


def remember() -> None:
    """Replaces the two functions of Beam in this process, and in what is forked from it; a second call does nothing."""
    from apache_beam.options.pipeline_options import PipelineOptions
    from apache_beam.transforms import core

    if not isinstance(core.get_function_args_defaults, _Arguments):
        core.get_function_args_defaults = _Arguments(core.get_function_args_defaults)
        PipelineOptions.view_as = _remembering(PipelineOptions.view_as)


class _Arguments:
    """`get_function_args_defaults`: names and defaults of a function's arguments, without those that are bound."""

    def __init__(self, plain: Any) -> None:
        self._plain = plain
        self._known: dict[types.FunctionType, tuple[list[str], list[Any]]] = {}

    def __call__(self, function: Any) -> tuple[list[str], list[Any]]:
        # What a method takes depends on the function under it alone; other callables may answer as they like.
        under = function.__func__ if type(function) is types.MethodType else None
        if type(under) is not types.FunctionType:
            names, defaults = self._plain(function)
        else:
            if under not in self._known:
                self._known[under] = self._plain(function)
            names, defaults = self._known[under]
        return list(names), list(defaults)


def _remembering(plain: Any) -> Any:
    known: dict[tuple[type, tuple[str, ...]], Any] = {}

    def view_as(self: Any, cls: Any) -> Any:
        flags = self._flags
        if flags is None:  # stands for sys.argv, which may change
            return plain(self, cls)
        key = (cls, tuple(flags))
        if key not in known:
            known[key] = copy.deepcopy(cls(flags)._visible_options)
        view: Any = cls.__new__(cls)
        # As PipelineOptions.view_as does: the values are those of the options that are viewed, the names those of the class.
        view._flags, view._visible_options, view._all_options = flags, copy.deepcopy(known[key]), self._all_options
        for name in view._visible_option_list():
            if name not in self._all_options:
                self._all_options[name] = getattr(view._visible_options, name)
        return view

    return view_as
