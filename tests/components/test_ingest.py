"""Ingest: each format through its real executor, stable splits, spans as TFX chooses them, and errors that name the file."""

from __future__ import annotations

import csv
import datetime
import gzip
import hashlib
import json
import random
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from components import ingest
from components.broken_files import find_broken
from components.errors import TflineError, UsageError
from components.ingest import Config, data_digest, input_files, prepare, summarise
from tests.components.small_line import driven, example, run_executor, write_records


def config(folder: Path, **others: Any) -> Config:
    return Config.model_validate({"format": "tfrecord", "path": str(folder), **others})


def blamed(config: Config) -> str:
    return find_broken(input_files(config), config.format)


def touch(folder: Path, *names: str, content: str = "x") -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(content, encoding="utf-8")


def chosen(settings: Config) -> list[str]:
    return [path.relative_to(settings.path).as_posix() for path in input_files(settings)]


# Which files.


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("tfrecord", ["a.tfrecord", "b.tfrecord-00000-of-00001.gz", "c.tfrecord.gz"]),
        ("csv", ["a.csv"]),
        ("parquet", ["a.parquet"]),
    ],
)
def test_every_file_of_the_format(kind: str, expected: list[str], tmp_path: Path) -> None:
    touch(tmp_path, *expected, "notes.txt", "a.csv~", ".a.csv.swp", "below/b.csv", "below/b.parquet", "below/b.tfrecord")
    assert chosen(config(tmp_path, format=kind)) == expected


def test_files_of_a_pattern(tmp_path: Path) -> None:
    touch(tmp_path, "2023/a1.rec", "2024/a1.rec", "2024/b1.rec", "2024/a1.txt")
    (tmp_path / "2024" / "a2.rec").mkdir()
    assert chosen(config(tmp_path, pattern="202?/a[0-9].rec")) == ["2023/a1.rec", "2024/a1.rec"]


def test_newest_span_by_number(tmp_path: Path) -> None:
    touch(tmp_path, "span-2/a.rec", "span-9/a.rec", "span-10/a.rec", "span-10/b.rec", "other-11/a.rec")
    assert chosen(config(tmp_path, pattern="span-{SPAN}/*")) == ["span-10/a.rec", "span-10/b.rec"]


def test_newest_span_in_file_names(tmp_path: Path) -> None:
    touch(tmp_path, "part-2.rec", "part-10.rec")
    assert chosen(config(tmp_path, pattern="part-{SPAN}.rec")) == ["part-10.rec"]


def test_spans_with_zeros_in_front(tmp_path: Path) -> None:
    touch(tmp_path, "span-002/a.rec", "span-010/a.rec")
    assert chosen(config(tmp_path, pattern="span-{SPAN:3}/*")) == ["span-010/a.rec"]
    with pytest.raises(UsageError) as caught:
        input_files(config(tmp_path, pattern="span-{SPAN}/*"))
    first = tmp_path / "span-002" / "a.rec"
    assert str(caught.value) == f"ingest.pattern: {first} has a span with leading zeros; write {{SPAN:3}} instead of {{SPAN}}"


def test_span_that_is_no_number(tmp_path: Path) -> None:
    touch(tmp_path, "span-2/a.rec", "span-new/a.rec")
    with pytest.raises(UsageError) as caught:
        input_files(config(tmp_path, pattern="span-{SPAN}/*"))
    path = tmp_path / "span-new" / "a.rec"
    assert str(caught.value) == f"ingest.pattern: expected a number in the place of {{SPAN}} in span-{{SPAN}}/*, found {path}"


@pytest.mark.parametrize("pattern", ["**/*.rec", "{SPAN}/{SPAN}/*", "{VERSION}/*", "{YYYY}-{MM}-{DD}/*", "{SPAN:0}/*"])
def test_patterns_that_are_not_understood(pattern: str, tmp_path: Path) -> None:
    with pytest.raises(ValidationError) as caught:
        config(tmp_path, pattern=pattern)
    expected = f"Value error, expected *, ? and [...] and at most one {{SPAN}} or {{SPAN:width}}, got '{pattern}'"
    assert [error["msg"] for error in caught.value.errors()] == [expected]


def test_missing_folder(tmp_path: Path) -> None:
    with pytest.raises(UsageError) as caught:
        input_files(config(tmp_path / "data"))
    assert str(caught.value) == f"ingest.path: expected a folder with tfrecord files, found nothing at {tmp_path / 'data'}"


def test_file_in_place_of_the_folder(tmp_path: Path) -> None:
    touch(tmp_path, "data")
    with pytest.raises(UsageError) as caught:
        input_files(config(tmp_path / "data", format="csv"))
    assert str(caught.value) == f"ingest.path: expected a folder with csv files, found a file at {tmp_path / 'data'}"


@pytest.mark.parametrize("pattern", ["*.rec", "span-{SPAN}/*"])
def test_nothing_matches(pattern: str, tmp_path: Path) -> None:
    (tmp_path / "a.rec").mkdir()
    with pytest.raises(UsageError) as caught:
        input_files(config(tmp_path, pattern=pattern))
    assert str(caught.value) == f"ingest.pattern: no file in {tmp_path} matches {pattern}"


def test_all_files_are_empty(tmp_path: Path) -> None:
    touch(tmp_path, "a.tfrecord", "b.tfrecord", content="")
    with pytest.raises(UsageError) as caught:
        input_files(config(tmp_path))
    assert str(caught.value) == f"ingest: every file that matches *.tfrecord* in {tmp_path} is empty"


def test_data_digest_is_of_names_and_contents(tmp_path: Path) -> None:
    def digest() -> str:
        return data_digest(input_files(config(tmp_path / "data")))

    touch(tmp_path / "data", "a.tfrecord", "b.tfrecord")
    first = digest()
    parts = b"".join(name + b"\0" + hashlib.sha256(b"x").digest() for name in (b"a.tfrecord", b"b.tfrecord"))
    assert first == hashlib.sha256(parts).hexdigest()
    touch(tmp_path / "data", "unrelated.txt")
    assert digest() == first
    touch(tmp_path / "data", "b.tfrecord", content="y")
    assert digest() != first


# Data made by the pipeline's own function.

WRITER = """
def write(folder, rows, fail=False):
    (folder / "rows.csv").write_text("a\\n" + "1\\n" * rows)
    if fail:
        raise RuntimeError("the well is dry")


def write_number(folder):
    (folder / "number.csv").write_text(str(folder.stat().st_ino))


def write_elsewhere(folder):
    (folder / "rows.txt").write_text("")


def die(folder):
    import os
    (folder / "rows.csv").write_text("a\\n1\\n")
    os.kill(os.getpid(), 9)
"""


def prepared(folder: Path, function: str = "write", **arguments: Any) -> Config:
    touch(folder, "data.py", content=WRITER)
    made = {"function": f"data.py:{function}", "arguments": arguments}
    return config(folder / "home" / "rows", format="csv", prepare=made)


def test_data_is_written_once(tmp_path: Path) -> None:
    settings = prepared(tmp_path, rows=3)
    assert prepare(settings, tmp_path) is True
    file = tmp_path / "home" / "rows" / "rows.csv"
    assert file.read_text(encoding="utf-8") == "a\n1\n1\n1\n"
    file.write_text("a\n2\n", encoding="utf-8")
    assert prepare(settings, tmp_path) is False
    assert file.read_text(encoding="utf-8") == "a\n2\n"
    assert [path.name for path in file.parent.iterdir()] == ["rows.csv"], "nothing but data, whatever the pattern"
    assert file.parent.stat().st_mode & 0o777 == 0o755


def test_data_appears_by_a_rename(tmp_path: Path) -> None:
    settings = prepared(tmp_path, "write_number")
    prepare(settings, tmp_path)
    folder = tmp_path / "home" / "rows"
    assert (folder / "number.csv").read_text(encoding="utf-8") == str(folder.stat().st_ino), "the folder that was written into"


def test_nothing_to_prepare(tmp_path: Path) -> None:
    assert prepare(config(tmp_path / "data"), tmp_path) is False
    assert list(tmp_path.iterdir()) == []


def test_data_that_is_there_is_not_made(tmp_path: Path) -> None:
    settings = prepared(tmp_path, rows=3)
    touch(tmp_path / "home" / "rows", "mine.csv")
    assert prepare(settings, tmp_path) is False
    assert [path.name for path in (tmp_path / "home" / "rows").iterdir()] == ["mine.csv"]


def test_data_made_by_other_arguments(tmp_path: Path) -> None:
    prepare(prepared(tmp_path, rows=3), tmp_path)
    with pytest.raises(UsageError) as caught:
        prepare(prepared(tmp_path, rows=4), tmp_path)
    made = '{"function": "data.py:write", "arguments": {"rows": 3}}'
    target = tmp_path / "home" / "rows"
    assert str(caught.value) == f"ingest.prepare: the data in {target} was made by {made}; move it away to make it anew"
    target.rename(tmp_path / "away")
    assert prepare(prepared(tmp_path, rows=4), tmp_path) is True
    assert len((target / "rows.csv").read_text(encoding="utf-8").splitlines()) == 5


@pytest.mark.parametrize(
    ("function", "arguments", "message"),
    [
        ("write", {"rows": 1, "fail": True}, "data.py:write failed: data.py:5: RuntimeError: the well is dry"),
        ("die", {}, "data.py:die failed: components.ingest:call_user_function crashed: its process was killed by SIGKILL"),
        ("write_elsewhere", {}, "data.py:write_elsewhere failed: it wrote no file that matches *.csv"),
        ("right", {}, "data.py:right failed: data.py has no function right"),
        ("write", {"row": 1}, "data.py:write failed: TypeError: write() got an unexpected keyword argument 'row'"),
    ],
)
def test_failing_function_leaves_nothing(function: str, arguments: dict[str, Any], message: str, tmp_path: Path) -> None:
    settings = prepared(tmp_path, function, **arguments)
    with pytest.raises(TflineError) as caught:
        prepare(settings, tmp_path)
    assert str(caught.value) == f"ingest.prepare: {message}"
    assert list((tmp_path / "home").iterdir()) == []


def test_missing_file_of_the_function(tmp_path: Path) -> None:
    settings = prepared(tmp_path)
    (tmp_path / "data.py").unlink()
    with pytest.raises(TflineError) as caught:
        prepare(settings, tmp_path)
    assert str(caught.value) == f"ingest.prepare: data.py:write failed: expected a Python file at {tmp_path / 'data.py'}"


# Files that are damaged. Each is whole first, so that it is the damage that is found.


def write_csv(file: Path, rows: int = 40) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("w", encoding="utf-8", newline="") as opened:
        writer = csv.writer(opened)
        writer.writerow(["count", "share", "name"])
        writer.writerows([number, number / 2, f"row {number}, quoted"] for number in range(rows))
    return file


def write_parquet(file: Path, rows: int = 40) -> Path:
    import pyarrow as pa
    import pyarrow.parquet

    file.parent.mkdir(parents=True, exist_ok=True)
    columns = {"count": range(rows), "values": [[number / 2, 1.0] for number in range(rows)]}
    pyarrow.parquet.write_table(pa.table({name: list(values) for name, values in columns.items()}), file)
    return file


def write_tfrecord(file: Path, rows: int = 40) -> Path:
    return write_records(file, [example(number) for number in range(rows)])


WRITERS: Mapping[str, Callable[[Path, int], Path]] = {"tfrecord": write_tfrecord, "csv": write_csv, "parquet": write_parquet}


def flip(file: Path, place: int) -> None:
    content = bytearray(file.read_bytes())
    content[place] ^= 0x10
    file.write_bytes(content)


def cut(file: Path, bytes_kept: int) -> None:
    file.write_bytes(file.read_bytes()[:bytes_kept])


def uncompressed(file: Path) -> bytes:
    content = file.read_bytes()
    return gzip.decompress(content) if file.suffix == ".gz" else content


def recompress(file: Path, content: bytes) -> None:
    file.write_bytes(gzip.compress(content))


RECORD = len(example(0)) + 16
NO_TFRECORD = "after 0 records: corrupted record at 0 (Is this even a TFRecord file?)"
DAMAGE: list[tuple[str, Callable[[Path], Any], str]] = [
    ("a.tfrecord", lambda file: cut(file, RECORD + 50), "after 1 records: truncated record at"),
    ("a.tfrecord", lambda file: cut(file, RECORD + 5), "after 1 records: 5 bytes are left over"),
    ("a.tfrecord", lambda file: flip(file, RECORD + 40), f"after 1 records: corrupted record at {RECORD + 12}"),
    ("a.tfrecord", lambda file: flip(file, 3), NO_TFRECORD),
    ("a.tfrecord", lambda file: file.write_text("only text\n" * 9), NO_TFRECORD),
    ("a.tfrecord", lambda file: write_records(file, [example(0), b"\xff\xff"]), "record 1 is no tf.Example: Error parsing"),
    ("a.tfrecord.gz", lambda file: cut(file, 400), "Compressed file ended before the end-of-stream marker was reached"),
    ("a.tfrecord.gz", lambda file: flip(file, 300), ""),
    ("a.tfrecord.gz", lambda file: file.write_text("only text\n" * 9), "Not a gzipped file (b'on')"),
    ("a.tfrecord.gz", lambda file: recompress(file, uncompressed(file)[:-3]), "after 39 records: truncated record at"),
    ("a.csv", lambda file: file.write_text("a,b\n1,2\n3\n4,5\n"), "line 3 has 1 values, the header 2"),
    ("a.csv", lambda file: file.write_text("a,b\n1,2\n3,4,5\n"), "line 3 has 3 values, the header 2"),
    ("a.csv", lambda file: file.write_text('a,b\n1,"2\n3,4\n'), "unexpected end of data"),
    ("a.csv", lambda file: file.write_bytes("a,b\n1,caf\xe9\n".encode("latin-1")), "'utf-8' codec can't decode byte 0xe9"),
    ("a.parquet", lambda file: cut(file, file.stat().st_size - 9), "Parquet magic bytes not found in footer."),
    ("a.parquet", lambda file: file.write_text("only text\n" * 9), "Parquet magic bytes not found in footer."),
    ("a.parquet", lambda file: flip(file, 30), ""),
]  # fmt: skip


@pytest.mark.parametrize(("name", "damage", "message"), DAMAGE, ids=range(len(DAMAGE)))
def test_broken_file_is_named(name: str, damage: Callable[[Path], Any], message: str, tmp_path: Path) -> None:
    kind = name.split(".")[1]
    whole, file = (WRITERS[kind](tmp_path / found, 40) for found in (name.replace("a.", "A."), name))
    assert find_broken([whole, file], kind) == ""
    damage(file)
    told = find_broken([whole, file], kind)
    assert told.startswith(f"{file} is not a whole {kind} file: {message}")
    assert "\n" not in told
    assert "{{" not in told, "names of TensorFlow's ops are not for users"
    assert blamed(config(tmp_path, format=kind)) == told


@pytest.mark.parametrize(
    ("name", "write", "message"),
    [
        ("a.tfrecord", lambda file: recompress(file, b""), "it is compressed, so its name has to end in .gz"),
        (
            "a.csv",
            lambda file: file.write_text("\ufeffa,b\n1,2\n"),
            "it starts with a byte order mark, which would become part of the first column's name",
        ),
        (
            "a.parquet",
            lambda file: write_table(file, x=[1], when=[datetime.date(2024, 1, 2)]),
            "column 'when' has type date32[day]; expected integers, floats, strings, bytes, or lists of them",
        ),
        (
            "a.parquet",
            lambda file: write_table(file, xs=[[[1]]]),
            "column 'xs' has type list<element: list<element: int64>>; expected integers, floats, strings, bytes, or lists of "
            "them",
        ),
        ("a.parquet", lambda file: write_table(file, x=[[1, None]]), "column 'x' has a list with a null in it: [1, None]"),
    ],
)
def test_whole_file_that_does_not_fit(name: str, write: Callable[[Path], Any], message: str, tmp_path: Path) -> None:
    write(tmp_path / name)
    assert blamed(config(tmp_path, format=name.split(".")[1])) == f"{tmp_path / name}: {message}"


def write_table(file: Path, **columns: list[Any]) -> None:
    import pyarrow as pa
    import pyarrow.parquet

    pyarrow.parquet.write_table(pa.table(columns), file)


def test_csv_files_with_different_columns(tmp_path: Path) -> None:
    touch(tmp_path, "a.csv", content="x,y\n1,2\n")
    touch(tmp_path, "b.csv", content="y,x\n1,2\n")
    first, second = input_files(config(tmp_path, format="csv"))
    assert blamed(config(tmp_path, format="csv")) == f"{second} has other columns than {first}: y, x; expected x, y"


def test_parquet_files_with_different_columns(tmp_path: Path) -> None:
    write_table(tmp_path / "a.parquet", x=[1], y=[1.5])
    write_table(tmp_path / "b.parquet", x=[1.5], y=[1.5])
    first, second = input_files(config(tmp_path, format="parquet"))
    expected = f"{second} has other columns than {first}: x (double), y (double); expected x (int64), y (double)"
    assert blamed(config(tmp_path, format="parquet")) == expected


def test_whole_files_are_not_blamed(tmp_path: Path) -> None:
    for kind, write in WRITERS.items():
        write(tmp_path / f"a.{kind}", 3)
        assert blamed(config(tmp_path, format=kind)) == ""
    write_tfrecord(tmp_path / "b.tfrecord.gz")
    assert blamed(config(tmp_path)) == ""


# The executors, really run.


def run_ingest(settings: Config, outputs: Path) -> dict[str, list[Any]]:
    """Ingests; the examples of each split."""
    import tensorflow as tf

    made = run_executor(ingest.component(settings), outputs)["examples"]
    assert json.loads(made.split_names) == list(settings.splits)
    return {
        split: [
            tf.train.Example.FromString(record)
            for file in sorted((Path(made.uri) / f"Split-{split}").iterdir())
            for record in tf.data.TFRecordDataset(str(file), "GZIP").as_numpy_iterator()
        ]
        for split in settings.splits
    }


def serialized(split: list[Any]) -> set[bytes]:
    return {found.SerializeToString(deterministic=True) for found in split}


@pytest.mark.slow
def test_tfrecord(tmp_path: Path) -> None:
    records = [example(number) for number in range(100)]
    write_records(tmp_path / "data" / "a.tfrecord", records[:50])
    write_records(tmp_path / "data" / "b.tfrecord.gz", records[50:])
    splits = run_ingest(config(tmp_path / "data", splits={"train": 7, "validation": 1, "eval": 2}), tmp_path / "out")
    # Ten buckets of SHA-256, as tfx/components/example_gen/base_example_gen_executor.py deals records out.
    buckets = {record: int(hashlib.sha256(record).hexdigest(), 16) % 10 for record in records}
    assert serialized(splits["train"]) == {record for record in records if buckets[record] < 7}
    assert serialized(splits["validation"]) == {record for record in records if buckets[record] == 7}
    assert serialized(splits["eval"]) == {record for record in records if buckets[record] > 7}
    assert sum(len(found) for found in splits.values()) == 100
    folder = tmp_path / "out" / "examples"
    summary = summarise({"examples": [str(folder)]})
    counted = {name: sum(path.stat().st_size for path in (folder / f"Split-{name}").iterdir()) for name in splits}
    assert summary.metrics == {f"{name}_bytes": size for name, size in counted.items()}
    assert summary.headline == f"{sum(counted.values()) / 1000:,.0f} kB in eval, train, validation"
    assert summary.params == {"data_digest": data_digest(input_files(config(tmp_path / "data")))}


@pytest.mark.slow
def test_csv(tmp_path: Path) -> None:
    write_csv(tmp_path / "data" / "a.csv", 60)
    splits = run_ingest(config(tmp_path / "data", format="csv", splits={"train": 2, "eval": 1}), tmp_path / "out")
    found = {
        made.features.feature["count"].int64_list.value[0]: (
            made.features.feature["share"].float_list.value[0],
            made.features.feature["name"].bytes_list.value[0],
        )
        for split in splits.values()
        for made in split
    }
    assert found == {number: (number / 2, f"row {number}, quoted".encode()) for number in range(60)}
    assert 10 < len(splits["eval"]) < 30


@pytest.mark.slow
def test_parquet(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    columns: dict[str, list[Any]] = {
        "count": list(range(30)),
        "share": [number / 4 if number % 5 else None for number in range(30)],
        "sure": [number % 2 == 0 for number in range(30)],
        "name": ["" if number % 3 == 0 else f"row {number}" for number in range(30)],
        "bytes": [bytes([number, 255]) for number in range(30)],
        "values": [[number / 2] * (number % 3) for number in range(30)],
    }
    write_table(tmp_path / "data" / "a.parquet", **columns)
    splits = run_ingest(config(tmp_path / "data", format="parquet", splits={"train": 2, "eval": 1}), tmp_path / "out")
    assert min(len(split) for split in splits.values()) > 3
    rows = {}
    for made in (found for split in splits.values() for found in split):
        features = made.features.feature
        rows[features["count"].int64_list.value[0]] = {
            "share": list(features["share"].float_list.value),
            "sure": list(features["sure"].int64_list.value),
            "name": list(features["name"].bytes_list.value),
            "bytes": list(features["bytes"].bytes_list.value),
            "values": list(features["values"].float_list.value),
        }
    assert rows == {
        number: {
            "share": [columns["share"][number]] if number % 5 else [],
            "sure": [int(columns["sure"][number])],
            "name": [columns["name"][number].encode()],
            "bytes": [columns["bytes"][number]],
            "values": columns["values"][number],
        }
        for number in range(30)
    }


@pytest.mark.slow
def test_a_record_stays_in_its_split_whatever_else_arrives(tmp_path: Path) -> None:
    records = [example(number) for number in range(120)]
    write_records(tmp_path / "first" / "a.tfrecord", records[:60])
    random.Random(1).shuffle(records)
    write_records(tmp_path / "second" / "z.tfrecord.gz", records[:70])
    write_records(tmp_path / "second" / "a.tfrecord", records[70:])
    first = run_ingest(config(tmp_path / "first"), tmp_path / "one")
    second = run_ingest(config(tmp_path / "second"), tmp_path / "two")
    for split, others in (("train", "eval"), ("eval", "train")):
        assert serialized(first[split]) < serialized(second[split])
        assert not serialized(first[split]) & serialized(second[others])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("pattern", "names", "newest"),
    [
        ("span-{SPAN}/*", ("span-2/a.rec", "span-9/a.rec", "span-10/a.rec", "span-10/b.rec"), 2),
        ("span-{SPAN:3}/*", ("span-002/a.rec", "span-009/a.rec", "span-010/a.rec"), 1),
        ("{SPAN}-p?/a[0-9].rec*", ("2-p1/a0.rec", "10-p1/a0.rec.gz", "10-p2/a1.rec", "10-p2/ab.rec"), 2),
        ("part-{SPAN}.rec", ("part-2.rec", "part-10.rec"), 1),
        ("*.rec", ("a.rec", "b.rec", ".c.rec", "below/d.rec"), 3),
    ],
)
def test_the_files_are_those_that_tfx_and_beam_choose(pattern: str, names: tuple[str, ...], newest: int, tmp_path: Path) -> None:
    from apache_beam.io.filesystems import FileSystems
    from tfx.proto import example_gen_pb2
    from tfx.utils import proto_utils

    touch(tmp_path, *names)
    settings = config(tmp_path, pattern=pattern)
    asked = example_gen_pb2.Input()
    proto_utils.json_to_proto(driven(ingest.component(settings))["input_config"], asked)
    [found] = FileSystems.match([f"{tmp_path}/{asked.splits[0].pattern}"])
    assert sorted(metadata.path for metadata in found.metadata_list) == [str(path) for path in input_files(settings)]
    assert len(found.metadata_list) == newest


@pytest.mark.slow
def test_newest_span_is_ingested(tmp_path: Path) -> None:
    for span in (2, 10):
        write_records(tmp_path / "data" / f"span-{span}" / "a.tfrecord", [example(100 * span + number) for number in range(20)])
    settings = config(tmp_path / "data", pattern="span-{SPAN}/*", splits={"train": 1})
    expected = {example(1000 + number) for number in range(20)}
    assert serialized(run_ingest(settings, tmp_path / "out")["train"]) == expected


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "damage", "message"),
    [
        ("b.tfrecord", lambda file: flip(file, RECORD + 40), "after 1 records: corrupted record at"),
        # Beam reads what is left without a word.
        ("b.tfrecord.gz", lambda file: cut(file, 400), "Compressed file ended before"),
        ("b.csv", lambda file: file.write_text("\ufeffcount,share,name\n1,2,x\n"), None),
    ],
    ids=("flipped", "cut gzip", "byte order mark"),
)
def test_ingest_of_a_broken_file(name: str, damage: Callable[[Path], Any], message: str | None, tmp_path: Path) -> None:
    kind = name.split(".")[1]
    WRITERS[kind](tmp_path / "data" / f"a.{kind}", 40)
    damage(WRITERS[kind](tmp_path / "data" / name, 40))
    with pytest.raises(TflineError) as caught:
        run_ingest(config(tmp_path / "data", format=kind), tmp_path / "out")
    file = tmp_path / "data" / name
    expected = f"{file} is not a whole {kind} file: {message}" if message else f"{file}: it starts with a byte order mark"
    assert str(caught.value).startswith(expected)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["a.tfrecord.gz", "a.parquet"])
def test_ingest_of_no_record(name: str, tmp_path: Path) -> None:
    kind = name.split(".")[1]
    file = WRITERS[kind](tmp_path / "data" / name, 0)
    assert file.stat().st_size > 0, "an empty file is another case"
    with pytest.raises(TflineError) as caught:
        run_ingest(config(tmp_path / "data", format=kind), tmp_path / "out")
    assert str(caught.value) == f"ingest: there is no record in {file}"


@pytest.mark.slow
def test_split_that_gets_nothing(tmp_path: Path) -> None:
    write_tfrecord(tmp_path / "data" / "a.tfrecord", 3)
    with pytest.raises(TflineError) as caught:
        run_ingest(config(tmp_path / "data", splits={"train": 1000, "eval": 1}), tmp_path / "out")
    expected = "ingest.splits: no record fell into split 'eval'; give it a larger share, or bring more data"
    assert str(caught.value) == expected
