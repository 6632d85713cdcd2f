"""What `optimize:` in pipeline.yaml can say. A variant is one form of the model, by its technique and that technique's settings:

    post-training      float32, float16, dynamic, int8, int8_io, int16x8
    in training        qat, pruned, clustered, and in combination pqat, cqat, pcqat (fine-tuned from the trained float model)

The techniques and what they may be set to are those of the TFLite converter (tensorflow/lite/python/lite.py) and of TensorFlow
Model Optimization 0.8 (tensorflow_model_optimization/python/core).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from components.strategy import StrategyName

Select = Literal["smallest", "fastest", "most_accurate"]
PostTraining = Literal["float32", "float16", "dynamic", "int8", "int8_io", "int16x8"]
InTraining = Literal["qat", "pruned", "clustered", "pqat", "cqat", "pcqat"]

POST_TRAINING: tuple[PostTraining, ...] = ("float32", "float16", "dynamic", "int8", "int8_io", "int16x8")
QUANTIZED_IN_TRAINING = ("qat", "pqat", "cqat", "pcqat")
PRUNED = ("pruned", "pqat", "pcqat")
CLUSTERED = ("clustered", "cqat", "pcqat")
TRAINED = ("qat", "pruned", "clustered", "pqat", "cqat", "pcqat")

MEANINGS: Mapping[str, str] = {
    "float32": "The trained model as it is, with every weight in 4 bytes; only the file format is another.",
    "float16": "Weights are stored in 2 bytes instead of 4, and are float numbers again when the model runs.",
    "dynamic": "Weights are stored in 1 byte; what flows between the layers stays float.",
    "int8": "Weights and what flows between the layers are 1-byte integers; inputs and outputs stay float.",
    "int8_io": "As int8, with inputs and outputs that are integers too, for chips that cannot compute with floats.",
    "int16x8": "Weights in 1 byte, what flows between the layers in 2: more exact than int8, larger in memory and often slower.",
    "qat": "Quantization-aware training: trained on with the rounding of int8 in place, so that the weights make up for it.",
    "pruned": "Trained on while the smallest weights are set to zero: the zeros compress well.",
    "clustered": "Trained on with each layer's weights drawn to a few shared values, which compress well.",
    "pqat": "Pruned first, then trained on with the rounding of int8; the zeros stay zero.",
    "cqat": "Clustered first, then trained on with the rounding of int8; the shared values stay few.",
    "pcqat": "Pruned, clustered, then trained on with the rounding of int8: zeros, few values and 1-byte weights in one file.",
}
"""Kind of a variant to what it is, in a sentence."""

# Which settings each technique reads; anything else said of it would be ignored, and so is refused.
_READS = {
    "layers": QUANTIZED_IN_TRAINING,
    "edges": QUANTIZED_IN_TRAINING,
    "schedule": PRUNED,
    "pattern": PRUNED,
    "sparsity": PRUNED,
    "block": PRUNED,
    "clusters": CLUSTERED,
    "convert": ("pruned", "clustered"),
    "sparse_encoding": ("pruned",),
    "epochs": TRAINED,
    "learning_rate": TRAINED,
}


class Variant(BaseModel):
    """One form of the model.

    Attributes:
        kind: The technique. "int8" has float32 edges, quantized inside, "int8_io" integer ones; "int16x8" has int16 activations
            and int8 weights.
        name: How the report calls it; the kind unless said, which one of several of a kind must.
        layers: Quantization-aware training: "all", which fails when a layer cannot, or "able", which leaves those in float.
        edges: Quantized in training: "float" or "integer" inputs and outputs.
        schedule: Of pruning: "polynomial" raises the sparsity over the first half of the fine-tuning, "constant" prunes at once.
        pattern: "unstructured"; "2:4", two zeros in any four consecutive weights; "block", whole blocks.
        sparsity: Share of zeros among the weights of the pruned layers; not for "2:4", where it is 0.5.
        block: Height and width of a block in a [inputs, outputs] weight, for "block", which prunes layers with such weights only.
        clusters: Different values that a layer's weights may have.
        convert: How a pruned or clustered model, which is a float one, is converted.
        sparse_encoding: Stores zeros in TFLite's sparse format where it is smaller (`Optimize.EXPERIMENTAL_SPARSITY`).
        epochs, learning_rate: Of its fine-tuning, instead of those of `FineTune`: pruning takes more than quantization.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: PostTraining | InTraining
    name: str = Field(default="", pattern=r"^([a-z0-9][a-z0-9_.-]{0,31})?$")
    layers: Literal["all", "able"] = "all"
    edges: Literal["float", "integer"] = "float"
    schedule: Literal["polynomial", "constant"] = "polynomial"
    pattern: Literal["unstructured", "2:4", "block"] = "unstructured"
    sparsity: float = Field(default=0.8, gt=0, lt=1)
    block: tuple[int, int] = (4, 1)
    clusters: int = Field(default=16, ge=2, le=256)
    convert: PostTraining = "float32"
    sparse_encoding: bool = False
    epochs: int | None = Field(default=None, ge=1)
    learning_rate: float | None = Field(default=None, gt=0, allow_inf_nan=False)

    @model_validator(mode="after")
    def _says_only_what_is_read(self) -> Variant:
        for setting, kinds in _READS.items():
            if self._says(setting) and self.kind not in kinds:
                raise ValueError(f"{setting}: {self.kind} has no such setting, expected with {', '.join(kinds)}")
        if self.pattern == "2:4" and (self._says("sparsity") or self._says("schedule")):
            raise ValueError("sparsity, schedule: expected none with the pattern 2:4, whose sparsity is 0.5 from the first step")
        if self._says("block") and self.pattern != "block":
            raise ValueError(f"block: expected with `pattern: block`, got it with {self.pattern}")
        if min(self.block) < 1:
            raise ValueError(f"block: expected two numbers of at least 1, got {list(self.block)}")
        return self

    def _says(self, setting: str) -> bool:
        # Not model_fields_set: a stage gets its configuration as JSON, with every field in it.
        return bool(getattr(self, setting) != type(self).model_fields[setting].default)

    @property
    def title(self) -> str:
        """The name, or the kind of one without."""
        return self.name or self.kind

    @property
    def trained(self) -> bool:
        """Whether it is fine-tuned before it is converted."""
        return self.kind not in POST_TRAINING

    @property
    def converted_as(self) -> PostTraining:
        """The converter's settings that it needs."""
        if self.kind in QUANTIZED_IN_TRAINING:
            return "int8_io" if self.edges == "integer" else "int8"
        return self.convert if self.trained else self.kind  # type: ignore[return-value]


class FineTune(BaseModel):
    """How a technique's model is trained on, from the float model's weights, once for each technique that is combined.

    Attributes:
        epochs: Over the training split.
        learning_rate: Of the model's own optimizer, at first: it falls to zero. None is its own times `learning_rate_factor`.
        learning_rate_factor: See there.
        strategy, replicas, batch_size, shuffle_buffer, train_split, seed: As in `train`, from where they are taken unless set.
        timeout_seconds: For all the training of one variant.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    epochs: int = Field(default=4, ge=1)
    learning_rate: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    learning_rate_factor: float = Field(default=0.1, gt=0, allow_inf_nan=False)
    strategy: StrategyName = "none"
    replicas: int | None = Field(default=None, ge=1)
    batch_size: int = Field(default=32, ge=1)
    shuffle_buffer: int = Field(default=10_000, ge=0)
    train_split: str = Field(default="train", pattern=r"^[A-Za-z0-9_-]+$")
    seed: int = Field(default=0, ge=0)
    timeout_seconds: float = Field(default=3600.0, gt=0, allow_inf_nan=False)


class SliceGate(BaseModel):
    """A slice on which a variant may lose only so much.

    Attributes:
        slice: Feature of the raw examples to value; several are crossed.
        max_accuracy_drop: As a fraction of the slice's examples.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    slice: dict[str, str] = Field(min_length=1)
    max_accuracy_drop: float = Field(allow_inf_nan=False)


class MaxLatency(BaseModel):
    """Limits in milliseconds on percentiles of single calls; None for none."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    p50: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    p95: float | None = Field(default=None, gt=0, allow_inf_nan=False)


class Gates(BaseModel):
    """What a variant has to keep to, or it is not shipped.

    Attributes:
        max_accuracy_drop: Largest loss of accuracy against the float model, as a fraction (0.01 is one point).
        slices: The same for single slices.
        max_bytes: Largest size of the .tflite.
        max_latency_ms: Of one call on the machine that the stage runs on, one thread, one example.
        integer_only: Every op, and the edges, must compute with integers, for accelerators without floating point.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    max_accuracy_drop: float = Field(default=0.01, allow_inf_nan=False)
    slices: tuple[SliceGate, ...] = ()
    max_bytes: int | None = Field(default=None, ge=1)
    max_latency_ms: MaxLatency = MaxLatency()
    integer_only: bool = False


class Config(BaseModel):
    """Which forms of a model are made, and what they may cost.

    Attributes:
        variants: Kinds by their names, or mappings with settings; see `Variant`.
        select: Which of those that pass the gates is shipped.
        gates: What each has to keep to.
        fine_tune: How those that are trained on are.
        features: What the .tflite takes: "raw" features, the transform inside; "transformed" ones, the transform beside the file
            for the host to apply; "auto" is raw where TFLite can hold the transform.
        signature: Key of the signature that takes dense tensors; one that parses tf.Examples converts to a file that fails.
        output: The signature's output that is compared with the label; None when it has one.
        model: The model's name, for the file's metadata; the pipeline's unless set.
        labels: Names of the classes in the order of the output's values, for the file's metadata.
        label: Feature with the true class, one number an example, from 0.
        slices: Each a list of features of the raw examples to cross, as in `evaluate`, from where they are taken unless set.
        train_split: Where the representative dataset is drawn from.
        eval_split: What all models are evaluated on, all of it.
        representative_examples: Drawn evenly over the whole training split; fewer when the split has fewer.
        seed: Of that draw.
        batch: "one": a call takes one example, what devices do, and the only form XNNPACK runs whole (an open batch leaves
            SHAPE, STRIDED_SLICE and PACK before a reshape, and LSTMs do not convert); "any": the dimension stays open.
        latency_calls: Calls that are timed, one example each.
        batch_size: Examples a call while evaluating; bounds the memory.
        timeout_seconds: For each process but that of fine-tuning.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    variants: tuple[PostTraining | InTraining | Variant, ...] = ("int8_io",)
    select: Select = "smallest"
    gates: Gates = Gates()
    fine_tune: FineTune = FineTune()
    features: Literal["auto", "raw", "transformed"] = "auto"
    signature: str = Field(default="dense", min_length=1)
    output: str | None = None
    model: str = Field(default="model", min_length=1)
    labels: tuple[str, ...] = ()
    label: str = Field(default="label", min_length=1)
    slices: tuple[tuple[str, ...], ...] = ()
    train_split: str = Field(default="train", pattern=r"^[A-Za-z0-9_-]+$")
    eval_split: str = Field(default="eval", pattern=r"^[A-Za-z0-9_-]+$")
    representative_examples: int = Field(default=200, ge=1)
    seed: int = Field(default=0, ge=0)
    batch: Literal["one", "any"] = "one"
    latency_calls: int = Field(default=100, ge=1)
    batch_size: int = Field(default=256, ge=1)
    timeout_seconds: float = Field(default=600.0, gt=0, allow_inf_nan=False)

    @model_validator(mode="after")
    def _names_are_different(self) -> Config:
        if not self.variants:
            raise ValueError("variants: expected at least one, got none; `optimize: null` leaves the stage out")
        titles = [variant.title for variant in self.chosen()]
        if twice := sorted({title for title in titles if titles.count(title) > 1}):
            raise ValueError(f"variants: {', '.join(twice)} is there more than once; give each a `name` of its own")
        return self

    def chosen(self) -> tuple[Variant, ...]:
        """The variants, those given by their kind alone spelt out."""
        return tuple(Variant(kind=each) if isinstance(each, str) else each for each in self.variants)

    @property
    def trains(self) -> bool:
        """Whether a variant has to be fine-tuned."""
        return any(variant.trained for variant in self.chosen())
