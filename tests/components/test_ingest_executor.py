"""The ingest executor where it reads for itself: what TensorFlow would pass over, and what an earlier attempt left behind."""

from __future__ import annotations

from pathlib import Path

import pytest

from components import ingest
from components.errors import TflineError
from components.ingest import Config
from tests.components.small_line import example, run_executor, write_records


@pytest.mark.slow
def test_record_that_is_cut_within_its_head(tmp_path: Path) -> None:
    file = write_records(tmp_path / "data" / "a.tfrecord", [example(number) for number in range(40)])
    first = len(example(0)) + 16
    file.write_bytes(file.read_bytes()[: first + 5])
    with pytest.raises(TflineError) as caught:
        run_executor(ingest.component(Config(format="tfrecord", path=str(tmp_path / "data"))), tmp_path / "out")
    assert str(caught.value) == f"{file} is not a whole tfrecord file: after 1 records: 5 bytes are left over"


@pytest.mark.slow
def test_what_a_killed_attempt_left_is_not_kept(tmp_path: Path) -> None:
    """TFX starts a resumed execution in the folder that the killed one wrote to."""
    import tensorflow as tf

    write_records(tmp_path / "data" / "a.tfrecord", [example(number) for number in range(40)])
    split = tmp_path / "out" / "examples" / "Split-train"
    for name in ("data_tfrecord-00000-of-00007.gz", ".part-00000009.gz"):
        write_records(split / name, [example(number) for number in range(40)])
    settings = Config(format="tfrecord", path=str(tmp_path / "data"), splits={"train": 1})
    run_executor(ingest.component(settings), tmp_path / "out")
    [file] = split.iterdir()
    assert file.name == "data_tfrecord-00000-of-00001.gz"
    found = list(tf.data.TFRecordDataset(str(file), "GZIP").as_numpy_iterator())
    assert found == [example(number) for number in range(40)]
