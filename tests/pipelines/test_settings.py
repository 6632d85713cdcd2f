"""The loader of pipeline folders, with toy classes: what wins, and the exact words for everything that can be wrong."""

from __future__ import annotations

import re
import string
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from enum import Enum
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import pytest
import yaml
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, ConfigDict, Field, create_model, field_validator, model_validator

from components.errors import UsageError
from pipelines.settings import load_settings

FOLDER = "pipelines/digits"
BASE = f"{FOLDER}/pipeline.yaml"
OVERLAY = f"{FOLDER}/environments/cluster.yaml"


class Toy(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Precision(Enum):
    FLOAT16 = "float16"
    INT8 = "int8"


class Adam(Toy):
    kind: Literal["adam"] = "adam"
    learning_rate: float = Field(default=1e-3, gt=0, lt=1)


class Sgd(Toy):
    kind: Literal["sgd"] = "sgd"
    momentum: float = 0.0


Optimizer = Annotated[Adam | Sgd, Field(discriminator="kind")]


class Layer(Toy):
    units: int = Field(ge=1)
    activation: Literal["relu", "gelu", "on"] = "relu"


class Train(Toy):
    epochs: int = Field(ge=1)
    batch_size: int = Field(default=32, ge=1, le=4096)
    warmup: int = 0
    optimizer: Optimizer = Adam()
    layers: tuple[Layer, ...] = ()

    @model_validator(mode="after")
    def warm_before_the_end(self) -> Self:
        if self.warmup > self.epochs:
            raise ValueError(f"warmup ({self.warmup}) must be at most epochs ({self.epochs})")
        return self


class Spans(Toy):
    first: int
    last: int

    @model_validator(mode="after")
    def in_order(self) -> Self:
        if self.first > self.last:
            raise ValueError("first must not be after last")
        return self


class Pattern(Toy):
    pattern: str = Field(min_length=1)


class Pipeline(Toy):
    name: str = Field(default="digits", pattern="^[a-z]+$")
    data: Path = Path("data")
    train: Train = Train(epochs=1)
    precision: Precision | None = None
    slices: dict[str, Layer] = Field(default_factory=dict)
    limits: dict[Literal["accuracy", "bytes"], float] = Field(default_factory=dict)
    candidates: list[Optimizer] = Field(default_factory=list, max_length=3)
    fallback: Optimizer | None = None
    workers: Annotated[int, Field(ge=1)] | Literal["auto"] = "auto"
    source: Spans | Pattern | None = None
    seed: int | None = None
    shape: tuple[int, int] = (28, 28)
    tags: list[str] = Field(default_factory=list)
    extra: dict[str, Any] = Field(default_factory=dict)

    @field_validator("tags")
    @classmethod
    def each_once(cls, tags: list[str]) -> list[str]:
        if len(set(tags)) < len(tags):
            raise ValueError("each tag must be given once")
        return tags


class Strict(Toy):
    name: str
    train: Train


Write = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Write:
    """Writes a pipeline folder and gives its path as a user would, relative to the working folder."""
    monkeypatch.chdir(tmp_path)

    def write(base: str | bytes | None, **environments: str) -> Path:
        folder = Path(FOLDER)
        folder.mkdir(parents=True)
        if base is not None:
            (folder / "pipeline.yaml").write_bytes(base if isinstance(base, bytes) else base.encode())
        for name, text in environments.items():
            (folder / "environments").mkdir(exist_ok=True)
            (folder / "environments" / f"{name}.yaml").write_text(text, encoding="utf-8")
        return folder

    return write


def refusal(folder: Path, kind: type[BaseModel] = Pipeline, **options: Any) -> str:
    """The message that loading ends with."""
    with pytest.raises(UsageError) as caught:
        load_settings(folder, kind, **options)
    return str(caught.value)


def test_layers_win_in_order(write: Write) -> None:
    base = (
        "name: digits\ntrain: {epochs: 5, batch_size: 8, layers: [{units: 4}, {units: 2}]}\nextra: {a: {b: 1, c: 2}, d: [1, 2]}\n"
    )
    folder = write(base, cluster="train: {batch_size: 64}\nextra: {a: {c: {x: 3}}, d: [9]}\n")
    loaded = load_settings(
        folder, Pipeline, environment="cluster", overrides=["train.batch_size=128", "train.layers.1.units=7", "seed=3"]
    )
    assert loaded == Pipeline(
        name="digits",
        train=Train(epochs=5, batch_size=128, layers=(Layer(units=4), Layer(units=7))),
        extra={"a": {"b": 1, "c": {"x": 3}}, "d": [9]},
        seed=3,
    )


def test_without_environment_no_overlay_is_read(write: Write) -> None:
    assert load_settings(write("name: a\n", local="name: b\n"), Pipeline).name == "a"


def test_local_is_read_when_it_is_there_and_may_be_missing(write: Write) -> None:
    folder = write("name: a\n", local="name: b\n")
    assert load_settings(folder, Pipeline, environment="local").name == "b"
    (folder / "environments" / "local.yaml").unlink()
    assert load_settings(folder, Pipeline, environment="local").name == "a"


def test_explicit_empty_mapping_is_a_valid_document(write: Write) -> None:
    assert load_settings(write("{}\n", cluster="{}\n"), Pipeline, environment="cluster") == Pipeline()


def test_variables_fill_only_the_names_that_were_given(write: Write) -> None:
    base = "data: '{home}/span-{SPAN}'\nextra: {escaped: '{{home}}', both: ['{home}{pipeline}', 3], '{home}': x}\n"
    loaded = load_settings(
        write(base),
        Pipeline,
        overrides=["extra.set='{home}/x'"],
        variables={"home": r"C:\1", "pipeline": "{home}"},
    )
    assert loaded.data == Path(r"C:\1/span-{SPAN}")
    assert loaded.extra == {"escaped": "{{home}}", "both": [r"C:\1{home}", 3], "{home}": "x", "set": r"C:\1/x"}


def test_without_variables_braces_stay(write: Write) -> None:
    assert load_settings(write("data: '{home}/x'\n"), Pipeline).data == Path("{home}/x")


def test_anchors_and_merge_keys_work_and_are_no_duplicates(write: Write) -> None:
    base = "slices:\n  a: &a {units: 3, activation: gelu}\n  b: {<<: *a, units: 4}\n  c: *a\n  d: {<<: *a}\n"
    slices = load_settings(write(base), Pipeline).slices
    assert {name: (layer.units, layer.activation) for name, layer in slices.items()} == {
        "a": (3, "gelu"),
        "b": (4, "gelu"),
        "c": (3, "gelu"),
        "d": (3, "gelu"),
    }


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("seed=", None),
        ("seed=null", None),
        ("seed=12", 12),
        (" seed = 12 # why", 12),
    ],
)
def test_override_values_are_yaml(write: Write, override: str, expected: int | None) -> None:
    assert load_settings(write("seed: 1\n"), Pipeline, overrides=[override]).seed == expected


def test_overrides_may_hold_equals_signs_make_sections_and_replace_whole_ones(write: Write) -> None:
    overrides = ["extra.query=a=b", "extra.new.deep=1", "fallback={kind: sgd}", "limits.accuracy=0.9", "extra.nothing.x=2"]
    base = "fallback: {kind: adam, learning_rate: 0.5}\nextra: {nothing: null}\n"
    loaded = load_settings(write(base), Pipeline, overrides=overrides)
    assert loaded.extra == {"query": "a=b", "new": {"deep": 1}, "nothing": {"x": 2}}
    assert loaded.fallback == Sgd()
    assert loaded.limits == {"accuracy": 0.9}


EXPECTED_FOLDER = (
    "Expected a pipeline folder: pipeline.yaml (its settings), model.py (its model) and, "
    "where settings differ by place, environments/<name>.yaml. `tfline new FOLDER` writes one."
)


def test_folders_that_are_none(write: Write) -> None:
    folder = write(None)
    assert refusal(Path("pipelines/digts")) == f"pipelines/digts: no such folder. {EXPECTED_FOLDER}"
    assert refusal(folder) == f"{FOLDER}: no pipeline.yaml in this folder. {EXPECTED_FOLDER}"
    (folder / "pipeline.yaml").mkdir()
    assert refusal(folder) == f"{BASE}: cannot be read: Is a directory."
    Path("file").touch()
    assert refusal(Path("file")) == f"file: not a folder. {EXPECTED_FOLDER}"


@pytest.mark.parametrize("name", ["prod", "../../secret", "", "cluster.yaml"])
def test_unknown_environment(write: Write, name: str) -> None:
    folder = write("{}\n", local="{}\n", cluster="{}\n")
    Path("secret.yaml").write_text("{}\n")
    expected = f"{FOLDER}/environments: no environment {name!r} (a file <environment>.yaml). There are: cluster, local."
    assert refusal(folder, environment=name) == expected


def test_unknown_environment_of_a_folder_that_has_none(write: Write) -> None:
    expected = f"{FOLDER}/environments: no environment 'prod' (a file <environment>.yaml). The folder has none."
    assert refusal(write("{}\n"), environment="prod") == expected


QUOTES = "A value that begins with { needs quotes."
EMPTY = "the file is empty, expected settings (key: value). Write {} if none are meant."


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            "name: a\ntrain: [1\nseed: 2\n",
            ":3:5: not valid YAML: while parsing a flow sequence from line 2, expected ',' or ']', but got ':'.",
        ),
        ("name: a: b\n", ":1:8: not valid YAML: mapping values are not allowed here."),
        (
            "train:\n\tepochs: 1\n",
            r":2:1: not valid YAML: while scanning for the next token, found character '\t' that cannot start any token.",
        ),
        (
            "a: 1\n---\nb: 2\n",
            ":2:1: not valid YAML: expected a single document in the stream from line 1, but found another document.",
        ),
        ("seed: 1\nname: *nobody\n", ":2:7: not valid YAML: found undefined alias 'nobody'."),
        (
            "data: {home}/x\n",
            f":1:13: not valid YAML: while parsing a block mapping, expected <block end>, but found '<scalar>'. {QUOTES}",
        ),
        ("seed: 1\nname: 'a\x00'\n", r":2: not valid YAML: the character '\x00' is not allowed."),
        pytest.param("seed: 1\n" + "extra: " + "[" * 2000, ": nested too deeply.", id="nested"),
        (b"seed: 1\nname: caf\xe9\n", ":2: not UTF-8 text (byte 0xe9). Save the file as UTF-8."),
        ("", f": {EMPTY}"),
        ("# name: a\n", f": {EMPTY}"),
        ("- name\n", ":1: expected a mapping (key: value) at the top, got a list of 1 item."),
        ("# a comment\nnull\n", ":2: expected a mapping (key: value) at the top, got null."),
        ("name\n", ":1: expected a mapping (key: value) at the top, got 'name' (str)."),
        ("2024-02-30\n", ":1: '2024-02-30' is not a valid timestamp: day is out of range for month."),
        ("extra:\n  day: 2024-02-30\n", ":2: extra.day: '2024-02-30' is not a valid timestamp: day is out of range for month."),
        ("2024-02-30: 1\n", ":1: '2024-02-30' is not a valid timestamp: day is out of range for month."),
        ("name: !secret x\n", ":1: name: the type !secret is not supported, expected plain YAML."),
        ("tags: !!set {a, b}\n", ":1: tags: the type !!set is not supported, expected plain YAML."),
        (
            "name: !!python/name:os.system ''\n",
            ":1: name: the type !!python/name:os.system is not supported, expected plain YAML.",
        ),
        ("extra:\n  a: &a [*a]\n", ":2: extra.a.0: an alias stands inside what it stands for."),
        (
            "name: a\ntrain:\n  epochs: 1\n  warmup: 0\n  epochs: 2\n",
            ":5: train.epochs: the key is there twice, first on line 3.",
        ),
        ("train: {epochs: 1, epochs: 2}\n", ":1: train.epochs: the key is there twice."),
        ("train:\n  on: 1\n", ":2: train.on: YAML reads this key as true (bool), expected text. Put it in quotes: 'on'."),
        ("extra: {3: x}\n", ":1: extra.3: YAML reads this key as 3 (int), expected text. Put it in quotes: '3'."),
        ("extra:\n  ~: x\n", ":2: extra.~: YAML reads this key as null, expected text. Put it in quotes: '~'."),
        ("extra:\n  {home}: x\n", ":2: extra: a key is a list or a mapping, expected text. Put it in quotes."),
    ],
)
def test_files_that_are_not_settings(write: Write, text: str | bytes, expected: str) -> None:
    assert refusal(write(text)) == BASE + expected


def test_all_problems_of_all_files_at_once(write: Write) -> None:
    folder = write("name: a\nname: b\nno: 1\n", cluster="seed: [\n")
    assert refusal(folder, environment="cluster", overrides=["epochs"]).splitlines() == [
        f"{BASE}:2: name: the key is there twice, first on line 1.",
        f"{BASE}:3: no: YAML reads this key as false (bool), expected text. Put it in quotes: 'no'.",
        f"{OVERLAY}:2:1: not valid YAML: while parsing a flow node, expected the node content, but found '<stream end>'.",
        "--set epochs: expected KEY=VALUE, such as train.epochs=3.",
    ]


def test_an_empty_overlay_is_an_error(write: Write) -> None:
    assert refusal(write("{}\n", cluster="# nothing\n"), environment="cluster") == f"{OVERLAY}: {EMPTY}"


TOP = "name, data, train, precision, slices, limits, candidates, fallback, workers, source, seed, shape, tags, extra"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        # Unknown and missing keys.
        ("train:\n  epocks: 3\n", ":2: train.epocks: unknown key. Did you mean 'epochs'?"),
        ("train:\n  epochs: 3\n  Batch-Size: 3\n", ":3: train.Batch-Size: unknown key. Did you mean 'batch_size'?"),
        ("train:\n  epochs: 3\n  WARMUP: 1\n", ":3: train.WARMUP: unknown key. Did you mean 'warmup'?"),
        ("zzz: 1\n", f":1: zzz: unknown key. Allowed: {TOP}."),
        ("name: a\ntrain:\n  batch_size: 3\n", ":2: train.epochs: missing key, expected an integer ≥ 1."),
        (
            "train:\n  epochs: 1\n  layers:\n  - units: 3\n  - activation: relu\n",
            ":5: train.layers.1.units: missing key, expected an integer ≥ 1.",
        ),
        (
            "train:\n  epochs: 1\n  layers:\n  - units: 3\n    unit: 4\n",
            ":5: train.layers.0.unit: unknown key. Did you mean 'units'?",
        ),
        ("slices:\n  young:\n    units: 3\n    wat: 1\n", ":4: slices.young.wat: unknown key. Allowed: units, activation."),
        ("limits:\n  acuracy: 1\n", ":2: limits.acuracy: unknown key. Did you mean 'accuracy'?"),
        # Types, ranges, choices.
        (
            "train:\n  epochs: 1\n  batch_size: many\n",
            ":3: train.batch_size: expected an integer ≥ 1 and ≤ 4096, got 'many' (str).",
        ),
        ("train:\n  epochs: 0\n", ":2: train.epochs: expected an integer ≥ 1, got 0 (int)."),
        ("train:\n  epochs: 1.5\n", ":2: train.epochs: expected an integer ≥ 1, got 1.5 (float)."),
        ("train:\n  epochs:\n", ":2: train.epochs: expected an integer ≥ 1, got null."),
        ("train:\n", ":1: train: expected a mapping, got null."),
        ("train: 3\n", ":1: train: expected a mapping, got 3 (int)."),
        ("seed: many\n", ":1: seed: expected an integer or null, got 'many' (str)."),
        ("shape:\n- 28\n- x\n", ":3: shape.1: expected an integer, got 'x' (str)."),
        ("shape: [28]\n", ":1: shape: expected a list of 2 items, got a list of 1 item."),
        ("candidates: [{}, {}, {}, {}]\n", ":1: candidates: expected a list of at most 3 items, got a list of 4 items."),
        ("name: Digits\n", ":1: name: expected text that matches ^[a-z]+$, got 'Digits' (str)."),
        ("name: no\n", ":1: name: expected text that matches ^[a-z]+$, got false (bool). Put it in quotes if text is meant."),
        ("data: 2024-01-31\n", ":1: data: expected a path, got 2024-01-31 (date). Put it in quotes if text is meant."),
        ("data: {home}\n", ":1: data: expected a path, got a mapping. Text that begins with { needs quotes."),
        ("precision: int9\n", ":1: precision: expected one of 'float16', 'int8' or null, got 'int9' (str). Did you mean 'int8'?"),
        (
            "slices:\n  a: {units: 1, activation: on}\n",
            ":2: slices.a.activation: expected one of 'relu', 'gelu', 'on', got true (bool). Put it in quotes.",
        ),
        (f"seed: {'9' * 30}x{'9' * 40}\n", f":1: seed: expected an integer or null, got '{'9' * 30}x{'9' * 26}...' (str)."),
        # Discriminated unions.
        (
            "fallback: {kind: adamm}\n",
            ":1: fallback.kind: expected one of 'adam', 'sgd', got 'adamm' (str). Did you mean 'adam'?",
        ),
        ("fallback:\n  learning_rate: 1\n", ":1: fallback.kind: missing key, expected one of 'adam', 'sgd'."),
        ("fallback:\n  kinds: adam\n", ":2: fallback.kinds: unknown key. Did you mean 'kind'?"),
        ("fallback: adam\n", ":1: fallback: expected a mapping or null, got 'adam' (str)."),
        (
            "train:\n  epochs: 1\n  optimizer:\n    kind: adam\n    learningrate: 0.1\n",
            ":5: train.optimizer.learningrate: unknown key. Did you mean 'learning_rate'?",
        ),
        (
            "candidates:\n- kind: sgd\n- kind: sgd\n  moment: 1\n",
            ":4: candidates.1.moment: unknown key. Did you mean 'momentum'?",
        ),
        (
            "fallback:\n  kind: adam\n  learning_rate: 2\n",
            ":3: fallback.learning_rate: expected a number > 0 and < 1, got 2 (int).",
        ),
        # Plain unions: once, for the member that the value is most like.
        ("workers: 0\n", ":1: workers: expected an integer ≥ 1 or 'auto', got 0 (int)."),
        ("workers: autp\n", ":1: workers: expected an integer ≥ 1 or 'auto', got 'autp' (str). Did you mean 'auto'?"),
        ("source: 3\n", ":1: source: expected a mapping or null, got 3 (int)."),
        ("source:\n  patern: x\n", ":2: source.patern: unknown key. Did you mean 'pattern'?"),
        ("source:\n  first: 1\n", ":1: source.last: missing key, expected an integer."),
        ("source:\n  pattern: ''\n", ":2: source.pattern: expected text of at least 1 character, got '' (str)."),
        ("source:\n  first: 2\n  last: 1\n", ":1: source: first must not be after last"),
        # Validators.
        ("name: a\ntrain:\n  epochs: 3\n  warmup: 4\n", ":2: train: warmup (4) must be at most epochs (3)"),
        ("seed: 1\ntags: [a, a]\n", ":2: tags: each tag must be given once"),
    ],
)
def test_settings_that_the_class_refuses(write: Write, text: str, expected: str) -> None:
    assert refusal(write(text)) == BASE + expected


def test_missing_at_the_root_and_several_problems(write: Write) -> None:
    folder = write("# settings\ntrain:\n  epochs: 0\n  warmap: 2\n")
    assert refusal(folder, Strict).splitlines() == [
        f"{BASE}:2: name: missing key, expected text.",
        f"{BASE}:3: train.epochs: expected an integer ≥ 1, got 0 (int).",
        f"{BASE}:4: train.warmap: unknown key. Did you mean 'warmup'?",
    ]


def test_a_misspelt_required_key_is_told_once_others_stay_missing(write: Write) -> None:
    assert refusal(write("nane: a\n"), Strict).splitlines() == [
        f"{BASE}:1: train: missing key, expected a mapping.",
        f"{BASE}:1: nane: unknown key. Did you mean 'name'?",
    ]


def test_errors_name_the_layer_that_set_the_value(write: Write) -> None:
    base = "train:\n  epochs: 3\n  batch_size: 8\nseed: 1\ntags:\n- a\n- 3\n"
    folder = write(base, cluster="# cluster\nname: digits\ntrain:\n  batch_size: many\ntags: [3]\n")
    assert refusal(folder, environment="cluster", overrides=["seed=x", "train.epocs=4"]).splitlines() == [
        f"{OVERLAY}:4: train.batch_size: expected an integer ≥ 1 and ≤ 4096, got 'many' (str).",
        "--set train.epocs=4: train.epocs: unknown key. Did you mean 'epochs'?",
        "--set seed=x: seed: expected an integer or null, got 'x' (str).",
        f"{OVERLAY}:5: tags.0: expected text, got 3 (int). Put it in quotes if text is meant.",
    ]


def test_a_sections_error_names_what_changed_it(write: Write) -> None:
    folder = write("train:\n  epochs: 5\n  warmup: 3\n", cluster="train: {batch_size: 8}\n")
    assert refusal(folder, environment="cluster", overrides=["train.epochs=2"]) == (
        f"{BASE}:1: train: warmup (3) must be at most epochs (2) (changed by {OVERLAY}:1, --set train.epochs=2)"
    )


def test_the_last_override_is_the_origin(write: Write) -> None:
    assert refusal(write("seed: x\n"), overrides=["seed=y", "seed=z"]) == (
        "--set seed=z: seed: expected an integer or null, got 'z' (str)."
    )


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("seed", "expected KEY=VALUE, such as train.epochs=3."),
        ("=3", "expected KEY=VALUE, such as train.epochs=3."),
        ("train..epochs=3", "expected KEY=VALUE, such as train.epochs=3."),
        ("seed.x=3", f"seed: expected a mapping to set 'x' in, got 1 (int) from {BASE}:1."),
        ("shape.x=3", f"shape.x: shape is a list (from {BASE}:2): expected a number below 2, got 'x'."),
        ("shape.2=3", f"shape.2: shape is a list (from {BASE}:2): expected a number below 2, got '2'."),
        ("shape.-1=3", f"shape.-1: shape is a list (from {BASE}:2): expected a number below 2, got '-1'."),
        ("tags.0=3", f"tags.0: tags is a list (from {BASE}:3): expected no number, as the list is empty, got '0'."),
        ("shape.1=x", "shape.1: expected an integer, got 'x' (str)."),
        ("shape=[1", "not valid YAML: while parsing a flow sequence, expected ',' or ']', but got '<stream end>'."),
        ("data={home}/x", f"not valid YAML: expected '<document start>', but found '<scalar>'. {QUOTES}"),
        ("extra={a: 1, a: 2}", "extra.a: the key is there twice."),
        ("extra={on: 1}", "extra.on: YAML reads this key as true (bool), expected text. Put it in quotes: 'on'."),
        ("fallback={kind: sgd, momentun: 1}", "fallback.momentun: unknown key. Did you mean 'momentum'?"),
    ],
)
def test_overrides_that_do_not_fit(write: Write, override: str, expected: str) -> None:
    assert refusal(write("seed: 1\nshape: [28, 28]\ntags: []\n"), overrides=[override]) == f"--set {override}: {expected}"


def test_an_override_that_does_not_fit_does_not_hide_the_rest(write: Write) -> None:
    assert refusal(write("seed: 1\nname: A\n"), overrides=["seed.x=3"]).splitlines() == [
        f"--set seed.x=3: seed: expected a mapping to set 'x' in, got 1 (int) from {BASE}:1.",
        f"{BASE}:2: name: expected text that matches ^[a-z]+$, got 'A' (str).",
    ]


def test_models_that_json_schema_cannot_describe(write: Write) -> None:
    class Odd(Toy):
        hook: Callable[[int], int] = abs
        seed: int = 0

    assert refusal(write("hook: 3\nsead: 1\n"), Odd).splitlines() == [
        f"{BASE}:1: hook: expected callable, got 3 (int).",
        f"{BASE}:2: sead: unknown key. Did you mean 'seed'?",
    ]


def test_the_loader_imports_nothing_heavy() -> None:
    script = "import sys, pipelines.settings; print(sorted({'tensorflow', 'tfx', 'mlflow', 'numpy'} & set(sys.modules)))"
    root = Path(__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", script], cwd=root, capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout == "[]\n"


WORDS = st.sampled_from(["a", "b", "c", "on", "no", "1", "a.b", "é", ""])
LEAVES = st.none() | st.booleans() | st.integers() | st.text(string.printable, max_size=5) | st.lists(st.integers(), max_size=2)
TREES = st.recursive(
    st.dictionaries(WORDS, LEAVES, max_size=4), lambda tree: st.dictionaries(WORDS, LEAVES | tree, max_size=4), max_leaves=12
)


def leaves(tree: Mapping[str, Any], above: tuple[str, ...] = ()) -> dict[tuple[str, ...], Any]:
    """Everything in a tree that is not a mapping with keys, by path."""
    found: dict[tuple[str, ...], Any] = {}
    for key, value in tree.items():
        found |= leaves(value, (*above, key)) if isinstance(value, dict) and value else {(*above, key): value}
    return found


@settings(max_examples=150, deadline=None)
@given(base=TREES, over=TREES)
def test_merging_keeps_what_the_overlay_does_not_mention_and_takes_what_it_does(
    base: dict[str, Any], over: dict[str, Any]
) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "environments").mkdir()
        (folder / "pipeline.yaml").write_text(yaml.safe_dump({"extra": base}, allow_unicode=True), encoding="utf-8")
        (folder / "environments" / "over.yaml").write_text(yaml.safe_dump({"extra": over}, allow_unicode=True), encoding="utf-8")
        merged = load_settings(folder, Pipeline, environment="over").extra

    taken, mentioned = leaves(over), {path[:end] for path in leaves(over) for end in range(1, len(path) + 1)}
    result = leaves(merged)
    for path, value in taken.items():
        if value == {}:  # an empty mapping changes nothing but what is not a mapping
            inside = merged
            for key in path:
                inside = inside[key]
            assert isinstance(inside, dict)
        else:
            assert result[path] == value
    for path, value in leaves(base).items():
        replaced = any(path[:end] in taken and taken[path[:end]] != {} for end in range(1, len(path) + 1))
        if not replaced and path not in mentioned:
            assert result[path] == value
    known = {**leaves(base), **taken}
    assert all(path in known for path in result)


FIELDS = re.findall(
    "[a-z_]+",
    """activation augment batch_size blessing brightness cache checkpoint clusters compression dataset dropout early_stopping
    epochs examples experiment filters gradient_clip horizon label learning_rate limits loss metrics momentum optimizer patience
    precision pruning quantization replicas representative schedule seed servable shuffle signature slices sparsity splits
    strategy threshold timeout tracking units version warmup weight_decay workers""",
)


def edits(left: str, right: str) -> int:
    """Levenshtein's distance."""
    row = list(range(len(right) + 1))
    for i, a in enumerate(left, 1):
        last, row = row, [i, *([0] * len(right))]
        for j, b in enumerate(right, 1):
            row[j] = min(last[j] + 1, row[j - 1] + 1, last[j - 1] + (a != b))
    return row[-1]


@st.composite
def misspellings(draw: st.DrawFn) -> tuple[list[str], str, str]:
    """Some fields, one of them, and the same with one letter changed, dropped, added, or two swapped."""
    fields = draw(st.lists(st.sampled_from(FIELDS), min_size=1, max_size=12, unique=True))
    right = draw(st.sampled_from(fields))
    at = draw(st.integers(0, len(right) - 1))
    letter = draw(st.sampled_from(string.ascii_letters + "-_"))
    changed, dropped, added = (right[:at] + new + right[at + skip :] for new, skip in ((letter, 1), ("", 1), (letter, 0)))
    swapped = right[:at] + right[at : at + 2][::-1] + right[at + 2 :]
    return fields, right, draw(st.sampled_from([changed, dropped, added, swapped]))


@settings(max_examples=200, deadline=None)
@given(misspellings())
def test_any_slip_of_the_hand_gets_the_right_suggestion(case: tuple[list[str], str, str]) -> None:
    fields, right, typed = case
    # Ambiguous is what has another field about as near; two letters swapped are two edits.
    assume(all(edits(typed.lower(), other) > 3 for other in fields if other != right) and typed != right)
    definitions: dict[str, Any] = dict.fromkeys(fields, (int, 0))
    kind = create_model("Generated", __base__=Toy, **definitions)
    with tempfile.TemporaryDirectory() as name:
        path = Path(name) / "pipeline.yaml"
        path.write_text(f"# one slip\n{typed!r}: 1\n", encoding="utf-8")
        assert refusal(Path(name), kind) == f"{path}:2: {typed}: unknown key. Did you mean {right!r}?"
