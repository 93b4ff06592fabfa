"""The fields of a config: one pydantic model per section, strict about fields and types.

Editors show each field's description (through `configs/schema.json`), and `ftkeras init` writes it
as a comment. Nothing here imports TensorFlow.
"""

from __future__ import annotations

import importlib
from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag, model_validator

from ftkeras.config.data import DataConfig, check_kind
from ftkeras.config.fields import (
    FilePath,
    Fraction,
    NameOrPath,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    Section,
    Units,
    WeightsOrPath,
)
from ftkeras.config.phases import Phase

# ------------------------------------------------------------------------------- outputs

Kind = Literal["classes", "labels", "number"]
OutputName = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]{0,39}$")]


class OutputConfig(Section):
    """One output of the model."""

    kind: Kind = "classes"
    """One of several classes, any number of labels ('a;b' in CSV, a list in JSON), or a number."""
    column: str | None = None
    """The manifest's column with the answers, or label; default: the output's name. An empty cell
    means that the answer is unknown."""
    map: dict[str, str] = {}
    """New names for the column's values: {sneaker: shoe}; "" means unknown."""
    weight: PositiveFloat = 1.0
    """Weight of the output's loss; the first one, if weights are learned."""


OneOutput = Annotated[
    Annotated[Kind, Tag("kind")] | Annotated[OutputConfig, Tag("output")],
    Discriminator(lambda given: "kind" if isinstance(given, str) else "output"),
]


# --------------------------------------------------------------------- backbone and head


class BackboneConfig(Section):
    """The pretrained network under the head."""

    name: NameOrPath
    """A Keras Applications name, or one for texts (see `ftkeras backbones`). Or the path of a
    .keras file, or of a run of the task alignment, to use its image tower. Or a model of keras-hub
    (docs/hub.md): keras_hub/PRESET, hf://OWNER/MODEL, or a folder in keras-hub's or Hugging Face's
    format."""
    weights: WeightsOrPath = "imagenet"
    """imagenet (Keras downloads them), starter (shipped with ftkeras, for MobileNetV2 and for
    backbones for texts), none, or a file of weights or word vectors. Backbones for texts use
    starter by default."""
    cut: str | None = None
    """The name of the layer whose output is the backbone's output; default: the last one."""
    activation: dict[str, str] = {}
    """Activations to swap in the backbone; its weights stay: {relu6: swish}."""
    stochastic_depth: Fraction | None = None
    """The drop rate of the last residual branch, rising from the first (Huang et al. 2016)."""
    reinitialize: Annotated[int, Field(ge=0)] = 0
    """How many of the last blocks start from fresh weights."""
    shrink_and_perturb: ShrinkPerturb | None = None
    """If left out, the pretrained weights stay as they are."""
    recurrent: RecurrentConfig | None = None
    """For lstm, gru, bilstm and bigru: their size; default: one layer of 128 units."""
    adapt: AdaptConfig | None = None
    """For char_lstm: trains it on the texts, without their labels, before it learns the task."""


class AdaptConfig(Section):
    """Fine-tuning a language model on unlabelled texts (Howard and Ruder 2018, "ULMFiT")."""

    epochs: PositiveInt = 4
    """Passes over the texts."""
    learning_rate: PositiveFloat = 1.6e-2
    """The peak rate of its last layer; each layer below has 1 / 2.6 of it."""
    texts: FilePath | None = None
    """A file with more texts, one per line, without labels; default: only the training texts."""


class RecurrentConfig(Section):
    """The layers of a recurrent backbone."""

    units: Units = 128
    """Width of each layer, in one direction."""
    layers: Annotated[int, Field(ge=1, le=8)] = 1
    """How many layers."""
    embedding: Units = 100
    """Width of the embedding, if there are no word vectors."""
    dropout: Fraction = 0.0
    """Dropout of each layer's inputs."""
    recurrent_dropout: Fraction = 0.0
    """Dropout of a layer's state between steps (Gal and Ghahramani 2016)."""


class ShrinkPerturb(Section):
    """Shrink the pretrained weights and add fresh ones (Ash and Adams 2020)."""

    shrink: Annotated[float, Field(ge=0.0, le=1.0)]
    """The factor on the pretrained weights."""
    perturb: NonNegativeFloat
    """The factor on the freshly drawn weights that are added."""


class LoraConfig(Section):
    """Adapters of low rank beside frozen weights of the backbone (LoRA: Hu et al. 2021)."""

    rank: Annotated[int, Field(ge=1, le=4096)] = 8
    """The rank of the matrix that is added to a weight."""
    alpha: PositiveFloat = 16.0
    """The added matrix is scaled by alpha / rank."""
    targets: str | list[str] | None = None
    """Which layers get one: attention (query and value of each attention), all (every layer that
    can have one), re:PATTERN (layers whose path matches the regular expression), or the name of a
    layer. A list may have several of these. Default: attention if the backbone has any, otherwise
    all."""
    adapters: FilePath | None = None
    """The adapters.npz of a run on the same base, to start from. Rank, alpha and targets are then
    those of the file."""


class HiddenLayer(Section):
    """One dense layer between pooling and logits."""

    units: Units
    """Width of the layer."""
    activation: str = "relu"
    """A Keras activation name."""
    normalization: Literal["none", "batch", "layer"] = "none"
    """Normalisation between the dense layer and its activation."""
    dropout: Fraction = 0.0
    """Dropout after the activation."""
    initializer: str = "glorot_uniform"
    """A Keras initialiser name for the kernel."""


Pooling = Literal["avg", "max", "avg_max", "mean", "first", "last", "attention", "pooler", "none"]


class HeadConfig(Section):
    """The new layers on top of the backbone."""

    pooling: Pooling | None = None
    """How features become one vector. For a map: avg, max, or avg_max, which concatenates both. For
    a sequence, without its padding: mean, max, first, last, or attention; for a Transformer also
    pooler, its own layer on the first token. For a vector: none. Default: the first that fits."""
    hidden: list[HiddenLayer] = []
    """Dense layers before the logits."""
    dropout: Fraction = 0.2
    """Dropout before the logits."""
    start: Literal["floor", "random"] = "floor"
    """The first weights of the logits. floor: a regularised linear model on the frozen features
    (docs/floor.md), if the backbone is pretrained and there are no hidden layers. random: fresh
    weights."""
    counts: Literal["auto", "off"] = "auto"
    """auto: the logits of a classifier without a network are added in the end, if the input can be
    counted and that lowers the validation loss (docs/floor.md). off: it is only measured."""
    initializer: str = "glorot_uniform"
    """A Keras initialiser name for the logits' kernel."""
    bias_from_frequencies: bool = True
    """Start the logits' bias at the log of the class frequencies (Karpathy 2019)."""


class LossConfig(Section):
    """The loss that training minimises."""

    name: Literal[
        "auto", "cross_entropy", "binary_cross_entropy", "focal", "mse", "mae", "huber"
    ] = "auto"
    """auto: cross-entropy for one of several classes, binary cross-entropy for any number of
    labels, mse for a number. If another loss does not fit an output, that output uses auto."""
    label_smoothing: Fraction = 0.0
    """The share of each target that is spread over all classes (Szegedy et al. 2016)."""
    gamma: NonNegativeFloat = 2.0
    """Focusing strength of the focal loss (Lin et al. 2017)."""


# ------------------------------------------------------------------------------- training


class StrategyConfig(Section):
    """A named way to fine-tune; `ftkeras plan` prints it as phases."""

    strategy: Literal[
        "linear_probe",
        "full",
        "lp_ft",
        "gradual",
        "last_n",
        "surgical",
        "bitfit",
        "norm_only",
        "lora",
        "lora_then_full",
        "auto",
    ]
    """linear_probe, full, lp_ft (linear probe, then full), gradual (one more block per epoch),
    last_n, surgical (the blocks with the largest relative gradients), bitfit, norm_only, lora (the
    head, then the adapters with it), lora_then_full, or auto (the last blocks from the start if the
    head starts from the floor)."""
    epochs: PositiveInt = 10
    """Epochs of all phases together."""
    learning_rate: PositiveFloat = 1.0e-3
    """The peak rate while only new weights train: the head, and adapters."""
    fine_rate: PositiveFloat = 1.0e-4
    """The peak rate while pretrained weights train."""
    last_n: PositiveInt = 4
    """How many blocks last_n and auto unfreeze."""


PhasesConfig = Annotated[
    Annotated[list[Phase], Field(min_length=1), Tag("list")]
    | Annotated[StrategyConfig, Tag("strategy")],
    Discriminator(lambda given: "list" if isinstance(given, list) else "strategy"),
]


class WeightAverage(Section):
    """An exponential moving average of the weights, which validation and the final model use."""

    decay: Annotated[float, Field(gt=0.0, lt=1.0)] = 0.999
    """The share of the average that is kept at each update."""


class RegularizationConfig(Section):
    """Penalties on weights that train; biases and normalisation are left out."""

    l2: NonNegativeFloat = 0.0
    """Penalty toward zero: for the head, and for backbone weights if l2_sp is 0."""
    l2_sp: NonNegativeFloat = 0.0
    """Penalty toward the pretrained weights (L2-SP: Li, Grandvalet and Davoine 2018)."""


class OptimizerConfig(Section):
    """The one optimizer that serves all phases."""

    name: Literal["sgd", "adam", "adamw", "rmsprop", "lion", "nadam", "adafactor", "lamb"] = "adamw"
    """A Keras optimizer."""
    weight_decay: NonNegativeFloat = 1.0e-4
    """Decoupled weight decay; biases and normalisation are left out."""
    momentum: Fraction = 0.9
    """Momentum, for sgd and rmsprop."""
    clip_norm: PositiveFloat | None = None
    """The global norm that gradients are clipped to."""
    accumulate: PositiveInt = 1
    """Over how many steps gradients are accumulated before an update."""
    scale_rate: Literal["none", "linear", "sqrt"] = "none"
    """Multiplies every learning rate by images per update / base_batch_size (linear: Goyal et al.
    2017), or by its square root."""
    base_batch_size: PositiveInt = 32
    """The images per update that the rates were chosen for; only scale_rate uses it."""


class EarlyStopping(Section):
    """When to end training before its last epoch."""

    metric: str = "val_loss"
    """A logged metric, or `val_` and a metric of `evaluation.json`, such as val_macro_f1. Its name
    decides the direction."""
    patience: PositiveInt = 3
    """How many epochs without improvement end the training."""
    min_delta: NonNegativeFloat = 0.0
    """The smallest change that counts as an improvement."""


class CheckpointConfig(Section):
    """When to save the state of a run, besides the ends of epochs."""

    every_steps: PositiveInt | None = None
    """Save after this many steps; null: never by steps."""
    every_minutes: PositiveFloat | None = 10.0
    """Save after this many minutes; null: never by time."""


class TroubleConfig(Section):
    """What to do if the loss is not a number any more, or explodes."""

    retries: Annotated[int, Field(ge=0)] = 2
    """How often a run returns to its last good checkpoint before it stops."""
    shrink: Annotated[float, Field(gt=0.0, le=1.0)] = 0.5
    """The factor on all learning rates each time that it returns."""
    explosion: Annotated[float, Field(gt=1.0)] | None = 10.0
    """A loss this many times the usual one is an explosion; null: only a loss that is not finite
    is."""


LAST_EPOCH = "last_epoch"


class TrainingConfig(Section):
    """How training runs."""

    monitor: str | None = None
    """The metric that decides the best epoch: a logged one, or `val_` and a metric of
    `evaluation.json`, such as val_macro_f1 or val_per_class.cat.recall. Default: val_accuracy; for
    any number of labels or several outputs, val_loss; for a number, val_mae. last_epoch keeps the
    last epoch. That is better with few validation examples, if the rate falls to zero."""
    early_stopping: EarlyStopping | None = None
    """If left out, all epochs run."""
    end: Literal["chosen", "trained"] = "chosen"
    """Which weights a run keeps that started from the floor. chosen: the floor, the weights of the
    best epoch, or those half way between, as the validation split decides. trained: the weights of
    the best epoch."""
    refit: bool = False
    """After validation has chosen, train once more on training and validation data together."""
    strategy: Literal["auto", "cpu", "gpu", "mirrored", "multi_worker", "tpu"] = "auto"
    """The devices. auto takes the first that exists of: a TPU, several workers (TF_CONFIG, Slurm),
    several GPUs, a GPU, the CPU."""
    precision: Literal["auto", "float32", "mixed_float16", "mixed_bfloat16"] = "auto"
    """The Keras dtype policy; auto is mixed_bfloat16 on a TPU, mixed_float16 on GPUs with tensor
    cores, otherwise float32."""
    jit: Literal["auto"] | bool = "auto"
    """Whether XLA compiles the steps; auto: on a GPU and on a TPU."""
    gradient_checkpointing: bool = False
    """Keep only what enters each block, and compute the rest of the block once more in the backward
    pass: less memory, more time (docs/speed.md)."""
    average: WeightAverage | None = None
    """If left out, weights are not averaged."""
    deterministic: bool = False
    """Make every operation reproducible to the bit, at some cost in speed."""
    checkpoint: CheckpointConfig = CheckpointConfig()
    """When to save the state of the run."""
    trouble: TroubleConfig = TroubleConfig()
    """How often to return to a good checkpoint, and at what rates."""
    loggers: list[Literal["wandb", "mlflow"]] = []
    """More loggers, besides the run's folder and TensorBoard."""


class TrunkConfig(Section):
    """The frozen part of the network, run once per phase instead of every epoch."""

    mode: Literal["auto", "on", "off"] = "auto"
    """auto stores it if that should save time, on whenever it is possible, off never."""
    precision: Literal["exact", "float32", "bfloat16"] = "float32"
    """exact: the trunk's outputs are equal, to the bit, to those without a store. float32 and
    bfloat16 round differently, and use OpenVINO if it is installed, which is faster."""
    dtype: Literal["float32", "float16", "bfloat16"] = "float32"
    """How stored numbers are kept."""
    views: NonNegativeInt = 0
    """How many augmented versions of each image are stored; epochs take them in turn, and MixUp and
    CutMix mix stored images. 0: store only a trunk whose outputs are the same every epoch."""
    silence: bool | None = None
    """Whether frozen layers run without their dropout and stochastic depth, which otherwise end
    the trunk. Default: true for Transformers of keras-hub, otherwise false."""
    memory_mb: NonNegativeInt | None = None
    """Room for a store in memory; default: half of what is free."""
    disk_mb: NonNegativeInt | None = None
    """Room for a store on disk; default: a fifth of what is free."""


class ExportConfig(Section):
    """The files that are written when training ends."""

    saved_model: bool = True
    """Write a SavedModel for TF Serving under export/."""
    formats: list[Literal["litert", "onnx", "openvino"]] = []
    """Also write these, each under export/ with its certificate (extras litert, onnx, openvino)."""
    static_batch: PositiveInt | None = None
    """Adds a signature for batches of exactly this size, which accelerators can compile."""


def is_shipped_text(backbone: str) -> bool:
    """Whether a backbone is a recurrent one for texts."""
    # By name, like the schemas of tasks: the catalog is in the package of backbones.
    return backbone in importlib.import_module("ftkeras.backbones.text.catalog").TEXT_CATALOG


def kind_of(backbone: Any) -> str | None:
    """Returns the kind of input that a backbone takes; None if its name does not say."""
    if not isinstance(backbone, str):
        return None
    if is_shipped_text(backbone):
        return "text"
    hub = importlib.import_module("ftkeras.backbones.hub")
    return hub.kind_of(backbone) if hub.is_hub(backbone) else None


def has_own_weights(backbone: str) -> bool:
    """Whether a backbone comes with its weights: a model of keras-hub, or a .keras file."""
    hub = importlib.import_module("ftkeras.backbones.hub")
    return backbone.endswith(".keras") or hub.is_hub(backbone)


class Config(Section):
    """A config: a whole experiment."""

    task: str = "classification"
    """The task; it may have a section of its own (see docs/tasks.md)."""
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0
    """The seed of every random choice."""
    data: DataConfig
    outputs: dict[OutputName, OneOutput] = {}
    """The model's outputs, by name: {age: number}, or {age: {kind: number, column: years}}.
    Default: one output, for the source's labels."""
    backbone: BackboneConfig
    lora: LoraConfig | None = None
    """If left out, the backbone has no adapters."""
    head: HeadConfig = HeadConfig()
    loss: LossConfig = LossConfig()
    phases: PhasesConfig
    regularization: RegularizationConfig = RegularizationConfig()
    optimizer: OptimizerConfig = OptimizerConfig()
    training: TrainingConfig = TrainingConfig()
    trunk: TrunkConfig = TrunkConfig()
    export: ExportConfig = ExportConfig()
    report: bool = True
    """Write report.html when training ends."""

    @model_validator(mode="before")
    @classmethod
    def _input_follows_from_backbone(cls, given: Any) -> Any:
        """Fills in the kind of input that the backbone takes, if the config names none."""
        data, backbone = (
            given.get(name) if isinstance(given, dict) else None for name in ("data", "backbone")
        )
        if not (isinstance(data, dict) and isinstance(backbone, dict)):
            return given
        kind, examples = kind_of(backbone.get("name")), data.get("input", {})
        if kind is None or not isinstance(examples, dict):
            return given
        check_kind(backbone["name"], kind, examples)
        if "kind" in examples:
            return given
        return {**given, "data": {**data, "input": {**examples, "kind": kind}}}

    @property
    def asked(self) -> dict[str, OutputConfig]:
        """The outputs with all their settings; none if the source's labels decide."""
        return {
            name: OutputConfig(kind=asked) if isinstance(asked, str) else asked
            for name, asked in self.outputs.items()
        }

    @model_validator(mode="after")
    def _phase_names_differ(self) -> Config:
        names = [phase.name for phase in self.phases] if isinstance(self.phases, list) else []
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"phases: the name {twice[0]!r} is given twice; names must differ")
        return self
