"""CSV as tf.Examples: as many types, gaps and quotes as CSV has, against plain Python doing what TFX's CsvExampleGen does."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from components import csv_rows
from components.csv_rows import encode, infer_types, read_columns
from components.errors import TflineError


def write(file: Path, content: str) -> Path:
    file.write_bytes(content.encode())
    return file


def rows_of(file: Path) -> list[tuple[str, ...]]:
    return [row for columns in read_columns(file) for row in zip(*(cells.to_pylist() for cells in columns.values()), strict=True)]


def expected(names: list[str], rows: list[list[str]]) -> tuple[dict[str, int], list[bytes]]:
    """Types and records as tfx/components/example_gen/csv_example_gen/executor.py makes them, cell by cell."""
    import tensorflow as tf
    from tfx_bsl.coders.csv_decoder import ColumnType, ColumnTypeInferrer

    inferrer = ColumnTypeInferrer(names, skip_blank_lines=True)
    found = inferrer.create_accumulator()
    for row in rows:
        found = inferrer.add_input(found, [cell.encode() for cell in row])
    kinds = {
        ColumnType.INT: lambda values: tf.train.Feature(int64_list=tf.train.Int64List(value=map(int, values))),
        ColumnType.FLOAT: lambda values: tf.train.Feature(float_list=tf.train.FloatList(value=map(float, values))),
        ColumnType.STRING: lambda values: tf.train.Feature(bytes_list=tf.train.BytesList(value=values)),
        ColumnType.UNKNOWN: lambda values: tf.train.Feature(),
    }
    records = []
    for row in rows:
        features = {name: kinds[found[name]]([cell.encode()] if cell else []) for name, cell in zip(names, row, strict=True)}
        example = tf.train.Example(features=tf.train.Features(feature=features))
        records.append(example.SerializeToString(deterministic=True))
    return {name: int(kind) for name, kind in found.items()}, records


def made(file: Path) -> tuple[dict[str, int], list[bytes]]:
    types = infer_types(file)
    return types, [record for columns in read_columns(file) for record in encode(columns, types)]


NUMBERS = st.one_of(
    st.integers().map(str),
    st.floats().map(str),
    st.decimals(allow_nan=False, allow_infinity=False).map(str),
    st.sampled_from(["0", "-0", "+7", "007", " 8 ", "1_000", "0x1F", "1e5", "1E400", "-1e-400", "nan", "-inf", ".5", "5.", "٣"]),
    st.sampled_from(["9223372036854775807", "-9223372036854775808", "9223372036854775808", "123456789012345678901234567890"]),
    st.sampled_from(["16777217", "0.1", "3.4028235e38", "3.5e38", "340282356779733661637539395458142568448", "1.5\n", "2\n"]),
)
# Surrogates are no UTF-8, and a line that ends in \r is one that ends for Python and none for TFX.
TEXTS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\r"), max_size=8)
COLUMN = st.one_of(
    st.just(st.just("")),
    st.just(st.integers(-300, 300).map(str)),
    st.just(st.decimals(-1000, 1000, places=3).map(str)),
    st.just(NUMBERS),
    st.just(TEXTS),
    st.just(st.one_of(st.just(""), st.just(""), NUMBERS)),
    st.just(st.one_of(st.just(""), st.sampled_from(["a", 'say "x", y', "two\nlines", "1"]))),
)


@st.composite
def tables(draw: st.DrawFn) -> tuple[list[str], list[list[str]]]:
    names = draw(st.lists(st.text("abcé,Z9", min_size=1, max_size=4), min_size=2, max_size=5, unique=True))
    columns = draw(st.tuples(*(COLUMN for _ in names)))
    return names, draw(st.lists(st.tuples(*columns).map(list), min_size=1, max_size=12))


@settings(max_examples=100, deadline=None)
@given(table=tables())
def test_records_are_those_of_csv_example_gen(tmp_path_factory: pytest.TempPathFactory, table: tuple[list[str], Any]) -> None:
    names, rows = table
    file = tmp_path_factory.getbasetemp() / "rows.csv"
    with file.open("w", encoding="utf-8", newline="") as opened:
        csv.writer(opened, lineterminator="\n").writerows([names, *rows])
    assert made(file) == expected(names, rows)


def test_rows_over_many_batches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(csv_rows, "_CELLS", 7)
    # The type of each column is decided by a row in the middle, far from the others.
    rows = [[str(number), "1.5" if number == 40 else str(number), "x" if number == 41 else "2", ""] for number in range(90)]
    file = write(tmp_path / "a.csv", "\n".join(["i,f,s,none", *map(",".join, rows)]) + "\n")
    assert len(list(read_columns(file))) == 90
    types, records = made(file)
    assert (types, records) == expected(["i", "f", "s", "none"], rows)
    assert types == {"i": 0, "f": 1, "s": 2, "none": -1}


@pytest.mark.parametrize(
    ("content", "rows"),
    [
        ("a,b\n1,2\n3,4\n", [("1", "2"), ("3", "4")]),
        ("a,b\n1,2\n3,4", [("1", "2"), ("3", "4")]),
        ("a,b\r\n1,2\r\n\r\n3,4\r\n", [("1", "2"), ("3", "4")]),
        ("a,b\n\n\n1,2\n\n", [("1", "2")]),
        ('a,b\n"x, ""y""","two\nlines"\n,""\n', [('x, "y"', "two\nlines"), ("", "")]),
        ('a,b\n6" pipe,x\n', [('6" pipe', "x")]),
        ('a,b\n"x"y,z\n', [("xy", "z")]),
        ('"a\nb","c, d"\n1,2\n', [("1", "2")]),
        ('a,b\n1,"last"', [("1", "last")]),
        ("a,b\n", []),
        ("", []),
    ],
)
def test_shapes_of_csv(content: str, rows: list[tuple[str, ...]], tmp_path: Path) -> None:
    assert rows_of(write(tmp_path / "a.csv", content)) == rows


def test_names_of_columns(tmp_path: Path) -> None:
    [columns] = read_columns(write(tmp_path / "a.csv", ' first ,"second, ""quoted""", third\t\r\n1,2,3\n'))
    assert list(columns) == ["first ", 'second, "quoted"', " third"], "only the ends of the line are stripped, as by TFX"


def test_blank_line_of_a_single_column_is_no_row(tmp_path: Path) -> None:
    assert rows_of(write(tmp_path / "a.csv", 'a\n1\n\n""\n2\n')) == [("1",), ("",), ("2",)]


def test_of_two_columns_with_one_name_the_last(tmp_path: Path) -> None:
    file = write(tmp_path / "a.csv", "a,a\n1,2\n3,4\n")
    assert rows_of(file) == [("2",), ("4",)]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("a,b\n1,2\n3\n", "up to line 4, not every row has 2 values, as the header has"),
        ("a,b\n1,2,3\n", "up to line 3, not every row has 2 values, as the header has"),
        ('a,b\n1,"2\n3,4\n', "a quote is never closed"),
        ('a,b\n1,2\n3,"', "a quote is never closed"),
    ],
)
def test_broken_rows(content: str, message: str, tmp_path: Path) -> None:
    file = write(tmp_path / "a.csv", content)
    with pytest.raises(TflineError) as caught:
        rows_of(file)
    assert str(caught.value) == f"{file}: {message}"


def test_text_in_another_encoding(tmp_path: Path) -> None:
    file = tmp_path / "a.csv"
    file.write_bytes("a,b\n1,café\n".encode("latin-1"))
    with pytest.raises(UnicodeDecodeError):
        rows_of(file)
