from __future__ import annotations

import io

from rich.console import Console

from components.records import StageRecord
from components.summary import Summary, Table
from components.variants.report import VARIANT_COLUMNS
from pipelines.variants_table import print_variants

MADE = (412_345, 379_000, 1.0, 0.98765, 0.0, 1.0, 0.00012, 0.1, 1.23456, 12.5, 3_400_000, 7, 0.0, None)


def printed(*rows: tuple[object, ...], **params: str) -> str:
    table = Table(columns=VARIANT_COLUMNS, rows=rows)
    stages = {"optimize": StageRecord(stage="optimize", summary=Summary(tables={"variants": table}, params=params))}
    stream = io.StringIO()
    print_variants(stages, Console(file=stream, width=80))
    return stream.getvalue()


def test_the_table_fits_80_columns_and_reasons_stand_below() -> None:
    long = "a-very-long-name-of-a-variant-x1"
    empty = (None,) * (len(VARIANT_COLUMNS) - 2)
    text = printed(
        ("float32", *MADE, "chosen"),
        (long, *MADE, "refused: accuracy 0.9 is low; too slow"),
        ("qat", *empty, "not made: layer x"),
    )
    table, reasons = text.splitlines()[:4], text.splitlines()[4:]
    assert max(map(len, table)) <= 80
    assert table[0].split() == ["variant", "bytes", "gzip", "ratio", "acc.", "rms", "p50", "ms", "p95", "ms", "arena"]
    assert table[1].split() == [
        *("float32", "412", "kB", "379", "kB", "1.00", ".9877", ".0001", "1.235", "12.5", "3.4", "MB", "chosen")
    ]
    assert table[2].rstrip().endswith("refused")
    assert table[3].split() == ["qat", "not", "made"]
    assert reasons == [f"  {long} refused: accuracy 0.9 is low; too slow", "  qat not made: layer x"]


def test_where_the_transform_is_not_inside_it_says_so_and_why() -> None:
    text = printed(("float32", *MADE, "chosen"), why_transformed="these ops have no TFLite form: UpperBound")
    assert text == (
        "  The transform lies beside the .tflite, as host_transform, not inside: these ops have no TFLite form: UpperBound\n"
    )


def test_a_single_variant_and_no_stage_print_nothing() -> None:
    assert printed(("float32", *MADE, "chosen")) == ""
    stream = io.StringIO()
    print_variants({}, Console(file=stream))
    assert stream.getvalue() == ""
