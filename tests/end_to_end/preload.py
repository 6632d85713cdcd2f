"""Imported once by the fork server that starts commands in tests."""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ.setdefault("TF_USE_LEGACY_KERAS", "1")

import tfx.components
import tfx.components.example_gen.custom_executors.parquet_executor
import tfx.orchestration.portable.launcher  # noqa: F401
