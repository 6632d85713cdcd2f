"""What is remembered of Beam has to be what Beam says."""

from __future__ import annotations

import subprocess
import sys

# In a process of its own: Beam would remember for all tests that follow.
_COMPARE = """
import apache_beam as beam
from apache_beam.options.pipeline_options import DirectOptions, PipelineOptions, StandardOptions, TypeOptions
from apache_beam.transforms import core
from components.beam_memory import remember

class Do(beam.DoFn):
    def process(self, element, *others, stamp=beam.DoFn.TimestampParam, number=3):
        yield element

class Other(Do):
    def process(self, element, letter="a"):
        yield element

def functions():
    return [Do().process, Other().process, Do().setup, len, "text".split, lambda x, y=2: x, Do.process]

def options():
    options = PipelineOptions(["--runner=FnApiRunner", "--direct_num_workers=3"])
    options.view_as(StandardOptions).streaming = True
    return [options.view_as(cls).get_all_options() for cls in (StandardOptions, DirectOptions, TypeOptions)] + [
        options.view_as(StandardOptions).streaming,
        options.view_as(StandardOptions).runner,
        options.view_as(DirectOptions).direct_num_workers,
    ]

plain = [core.get_function_args_defaults(function) for function in functions()], options()
remember()
remembering = core.get_function_args_defaults
remember()
assert core.get_function_args_defaults is remembering
for _ in range(2):
    assert ([core.get_function_args_defaults(function) for function in functions()], options()) == plain
names, _ = core.get_function_args_defaults(Do().process)
names.clear()
assert core.get_function_args_defaults(Do().process) == plain[0][0]
first, second = PipelineOptions(["--streaming"]), PipelineOptions([])
assert first.view_as(StandardOptions).streaming and not second.view_as(StandardOptions).streaming
first.view_as(DirectOptions).direct_num_workers = 5
assert PipelineOptions(["--streaming"]).view_as(DirectOptions).direct_num_workers == 1
"""


def test_answers_are_beams() -> None:
    done = subprocess.run([sys.executable, "-c", _COMPARE], capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
