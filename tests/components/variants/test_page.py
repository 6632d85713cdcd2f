from __future__ import annotations

import re
from html.parser import HTMLParser
from typing import Any, get_args

import pytest

from components.variants.config import MEANINGS, Gates, InTraining, MaxLatency, PostTraining, SliceGate
from components.variants.evaluation import Edge
from components.variants.graph_counts import GraphCounts
from components.variants.page import render
from components.variants.report import Broken, FineTuned, FloatModel, Made, Report, Row, tables_of
from components.variants.weights import Kernel, Kernels
from tests.components.variants.test_judging import row

GRAPHS = GraphCounts(
    saved_model={"Const": 16, "MatMul": 2, "FusedBatchNormV3": 1, "ReadVariableOp": 4},
    frozen={"Const": 11, "MatMul": 2, "FusedBatchNormV3": 1},
    optimised={"Const": 9, "MatMul": 2, "_FusedBatchNormEx": 1},
    variables=4,
    reads=4,
    frozen_reads=0,
    optimised_reads=0,
    float_weights_bytes=20936,
)
VOID_TAGS = {"meta", "br", "path", "use"}


def report(*rows: Row, chosen: str, **settings: Any) -> Report:
    float_model = FloatModel(
        saved_model_pb_bytes=54153,
        variables_bytes=23011,
        saved_model_bytes=77261,
        reference="weights",
        reference_bytes=20936,
        graphs=GRAPHS,
        batch_norms=1,
        accuracy=0.95,
        eval_examples=100,
    )
    given: dict[str, Any] = {"select": "smallest", "gates": Gates()} | settings
    return Report(
        signature="dense",
        output="tip",
        float_model=float_model,
        rows=rows,
        chosen=chosen,
        representative_examples=7,
        seed=3,
        **given,
    )


class Reader(HTMLParser):
    """What a browser would see: the text, the exact values, and whether every element is closed."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.values: list[str] = []
        self.links: list[str] = []
        self.ids: list[str] = []
        self.words: list[str] = []
        self.feed(page)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        self.tags.append(tag)
        if tag not in VOID_TAGS:
            self.open.append(tag)
        if tag == "data":
            self.values.append(given["value"] or "")
        self.links += [given[key] or "" for key in ("href", "src") if key in given]
        self.ids += [given["id"] or ""] if "id" in given else []

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID_TAGS:
            assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" not in self.open:
            self.words.append(data)

    @property
    def text(self) -> str:
        return re.sub(r"\s+", " ", " ".join(self.words))


def tuned(found: Made) -> Made:
    fine = FineTuned(
        seconds=6.7,
        learning_rate=0.0005,
        strategy="mirrored",
        replicas=2,
        losses={"pruning": (0.5, 0.25), "quantization": (0.125, float("nan"))},
        left_out={"pruning": ("conv (Conv2D)",)},
    )
    kernels = (
        Kernel(tensor="net/MatMul", shape=(10, 512), dtype="int8", sparsity=0.625, clusters=8),
        Kernel(tensor="net/conv", shape=(8, 3, 3, 1), dtype="int8", sparsity=0.0, clusters=None),
    )
    edges = (Edge(name="pixels", shape=(1, 64), dtype="int8", scale=0.0625, zero_point=-128),)
    measured = found.measured.model_copy(
        update={"inputs": edges, "outputs": edges, "ops": {"CONV_2D": 1, "MUL": 2}, "float_ops": ("MUL",)}
    )
    update = {
        "fine_tuned": fine,
        "kernels": Kernels(sparsity=0.6, clusters=8, kernels=kernels),
        "measured": measured,
        "sha256": "ab12",
    }
    return found.model_copy(update=update)


SLICES = (("state:1", 20, 0.95, 0.90), ("state:2", 80, 0.94, 0.95))
BROKEN = (Broken(gate="size", reason="too big by 7"), Broken(gate="latency", reason="too slow by 8"))


@pytest.fixture(scope="module")
def whole() -> Report:
    """One that was chosen, one that passes, one that was refused, and one that could not be made."""
    small = row("small", size=1234, gzip=987, accuracy=0.9412, drop=0.0088, p50=0.123456, p95=0.654321, slices=SLICES)
    return report(
        small.model_copy(
            update={"kind": "pqat", "settings": {"sparsity": 0.61}, "made": tuned(small.made) if small.made else None}
        ),
        row("also", size=2345, gzip=1987, accuracy=0.9312, drop=0.0188, slices=SLICES),
        row("large", size=99999, accuracy=0.95, p50=9.5, p95=11.25, broken=BROKEN, slices=SLICES),
        row("never", reason="the converter crashed with SIGABRT"),
        chosen="small",
        gates=Gates(
            max_accuracy_drop=0.02,
            max_bytes=50000,
            max_latency_ms=MaxLatency(p50=5.0),
            slices=(SliceGate(slice={"state": "1"}, max_accuracy_drop=0.06),),
        ),
    )


@pytest.fixture(scope="module")
def page(whole: Report) -> str:
    return render(whole)


def test_every_number_of_the_tables_is_on_the_page_exactly(whole: Report, page: str) -> None:
    values = Reader(page).values
    variants = tables_of(whole)["variants"]
    for cells in variants.rows:
        for column, value in zip(variants.columns, cells, strict=True):
            if isinstance(value, int | float):
                assert str(value) in values, f"{cells[0]}: {column}"
    for found in whole.rows:
        for table in (found.made.measured.comparison.slices, found.made.measured.comparison.labels) if found.made else ():
            for _, *numbers in table.rows:
                assert {str(number) for number in numbers} <= set(values)


def test_people_read_the_numbers_rounded(page: str) -> None:
    text = Reader(page).text
    for words in ("1,234", "0.9412", "0.0088", "0.123", "60.0%", "20,936", "77,261"):
        assert words in text


def test_what_was_chosen_is_told_in_a_sentence(page: str) -> None:
    text = Reader(page).text
    assert "small is the form that is shipped" in text
    assert "is the smallest file of the 2 that pass all gates, of 4 asked for: 1,234 bytes (987 compressed), 1.00 of" in text
    assert "accuracy 0.9412, the float model's 0.9500." in text


def test_each_variants_fate_and_settings_are_told(page: str) -> None:
    text = Reader(page).text
    for words in (
        "refused: size, latency",
        "too big by 7; too slow by 8",
        "not made",
        "the converter crashed with SIGABRT",
        "sparsity 0.61",
    ):
        assert words in text
    assert re.search(r"bytes of the file at most 50,000 1,234 yes large", text)
    assert re.search(r"milliseconds a call, p50 at most 5 0.123 yes large", text)
    assert re.search(r"accuracy lost on the slice state:1 at most 0.06 0.0500 yes —", text)


def test_a_gate_on_integers_names_those_with_float_ops() -> None:
    found = report(row("a"), row("b", size=5, float_ops=("SIN",)), chosen="a", gates=Gates(integer_only=True))
    assert "kinds of ops that compute with floats none 0 yes b" in Reader(render(found)).text


def test_how_it_was_trained_and_what_its_file_is_like(page: str) -> None:
    text = Reader(page).text
    assert re.search(r"small pruning 2 0.5 → 0.25 0.0005 mirrored x 2 6.7 conv \(Conv2D\)", text)
    assert re.search(r"quantization 2 0.125 → nan", text)
    assert re.search(r"net/MatMul 10 x 512 int8 62.5% 8", text)
    assert re.search(r"net/conv 8 x 3 x 3 x 1 int8 0.0% > 1,024", text)
    assert re.search(r"pixels input 1 x 64 int8 0.0625 -128", text)
    assert re.search(r"float ops left MUL SHA-256 ab12", text)


def test_freezing_and_folding_are_told_by_their_numbers(page: str) -> None:
    text = Reader(page).text
    assert re.search(r"1\. SavedModel ops 23 constants 16 variables 4 variable reads 4 ", text)
    assert re.search(r"2\. Frozen graph ops 14 constants 11 variables 0 variable reads 0 4 variables became constants", text)
    assert "14 ops to 12, batch normalizations 1 to 1." in text
    assert re.search(r"4\. small\.tflite ops 3 constants 1 .* the 1 batch normalization went into the weights", text)


def test_the_gates_slice_is_marked_and_a_loss_too_large_on_it(whole: Report) -> None:
    gate = SliceGate(slice={"state": "1"}, max_accuracy_drop=0.04)
    page = render(whole.model_copy(update={"gates": Gates(slices=(gate,))}))
    assert "gate: at most 0.04 lost" in Reader(page).text
    assert re.search(r'<td class="\s*over"><data value="0\.9">', page)
    assert re.search(r'<td class="\s*gain"><data value="0\.95">', page)


def test_a_refused_run_says_which_gates_and_that_nothing_is_shipped() -> None:
    text = Reader(render(report(row("a", broken=BROKEN), row("b", reason="it crashed"), chosen="a"))).text
    assert "No small form of the model passes the gates" in text
    assert "Nothing is shipped: 1 of 2 variants could be made" in text
    assert "a: too big by 7 a: too slow by 8 b: not made: it crashed" in text
    assert "chosen" not in text.replace("chosen file", "")


def test_one_variant_has_a_page_without_a_picture_and_two_have_one() -> None:
    alone = Reader(render(report(row("a"), chosen="a")))
    assert "svg" not in alone.tags
    assert "#picture" not in alone.links
    assert "turned into 1 TFLite file:" in alone.text
    two = Reader(render(report(row("a"), row("b", size=2000), chosen="a")))
    assert two.tags.count("svg") == 1


def test_points_in_the_same_place_and_ruined_ones_can_be_drawn() -> None:
    rows = [row(f"v{number}", size=1000, gzip=1000, accuracy=0.9) for number in range(20)]
    text = Reader(render(report(*rows, row("bad", accuracy=0.1, broken=BROKEN), chosen="v0"))).text
    assert {f"v{number}" for number in range(20)} <= set(text.split())
    assert "bad, 0.1000" in text


def test_the_users_words_are_escaped() -> None:
    evil = '<script>alert("1")</script>'
    bad = row(evil, broken=(Broken(gate="size", reason=evil),), slices=((evil, 5, 1.0, 0.5),))
    page = render(
        report(bad.model_copy(update={"settings": {"layers": evil}}), row("$b$", size=9), row("c", reason=evil), chosen="$b$")
    )
    found = Reader(page)
    assert "script" not in found.tags
    assert evil not in page
    assert page.count("&lt;script&gt;") >= 6


def test_the_page_needs_nothing_but_itself(page: str) -> None:
    found = Reader(page)
    assert not {"script", "link", "img", "iframe", "object"} & set(found.tags)
    assert "@import" not in page
    assert not re.search(r"url\((?!#)", page)
    assert all(link.startswith("#") for link in found.links)
    assert {link[1:] for link in found.links} <= set(found.ids)
    assert len(found.ids) == len(set(found.ids))
    assert "prefers-color-scheme: dark" in page


def test_the_same_report_gives_the_same_page(whole: Report, page: str) -> None:
    assert render(Report.model_validate_json(whole.model_dump_json())) == page


def test_every_technique_is_explained() -> None:
    assert list(MEANINGS) == [*get_args(PostTraining), *get_args(InTraining)]


def test_a_model_without_float_accuracy_labels_or_weights_has_a_page() -> None:
    bare = report(row("a"), row("b", size=5), chosen="b")
    float_model = bare.float_model.model_copy(update={"accuracy": None, "batch_norms": 0})
    text = Reader(render(bare.model_copy(update={"float_model": float_model}))).text
    assert "By label" not in text
    assert "batch normalizations" not in text and "went into the weights" not in text
