"""What a config may say: one pydantic model a section, strict about fields and types.

Each field's description is what editors show (through `configs/schema.json`) and what
`ftkeras init` writes as a comment. Nothing here imports TensorFlow.
"""

from __future__ import annotations

import importlib
from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag, model_validator

from ftkeras.config.data import DataConfig
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
    """One question that the model answers about each example."""

    kind: Kind = "classes"
    """One of several classes, any number of labels ('a;b' in CSV, a list in JSON), or a number."""
    column: str | None = None
    """The manifest's column with the answers, or label: what the source calls so; left out, the
    output's name. An empty cell: the answer is unknown."""
    map: dict[str, str] = {}
    """What the column's values stand for: {sneaker: shoe}; to "" is: not known."""
    weight: PositiveFloat = 1.0
    """How much the output's loss counts beside others; if weights move, what they start from."""


OneOutput = Annotated[
    Annotated[Kind, Tag("kind")] | Annotated[OutputConfig, Tag("output")],
    Discriminator(lambda given: "kind" if isinstance(given, str) else "output"),
]


# --------------------------------------------------------------------- backbone and head


class BackboneConfig(Section):
    """The pretrained network under the head."""

    name: NameOrPath
    """A Keras Applications name, or one for texts (see `ftkeras backbones`); the path of a .keras
    file, or of a run of the task alignment, whose tower of images it is then; or a model of
    keras-hub (docs/hub.md): keras_hub/PRESET, hf://OWNER/MODEL, or the path of a folder in
    keras-hub's or Hugging Face's form."""
    weights: WeightsOrPath = "imagenet"
    """imagenet (Keras downloads them), starter (shipped: of MobileNetV2, and of backbones for
    texts, which take them if this is left out), none, or a file: weights, or word vectors."""
    cut: str | None = None
    """The name of the layer whose output is the backbone's output; left out, the last one."""
    activation: dict[str, str] = {}
    """Activations to swap across the backbone, its weights kept: {relu6: swish}."""
    stochastic_depth: Fraction | None = None
    """The drop rate of the last residual branch, rising from the first (Huang et al. 2016)."""
    reinitialize: Annotated[int, Field(ge=0)] = 0
    """How many of the last blocks start from fresh weights."""
    shrink_and_perturb: ShrinkPerturb | None = None
    """Left out, the pretrained weights stay as they are."""
    recurrent: RecurrentConfig | None = None
    """Of lstm, gru, bilstm and bigru: how large they are; left out, one layer of 128 units."""
    adapt: AdaptConfig | None = None
    """Of char_lstm: trains it on the texts, without their labels, before it learns the task."""


class AdaptConfig(Section):
    """Fine-tuning a language model on unlabelled texts (Howard and Ruder 2018, "ULMFiT")."""

    epochs: PositiveInt = 4
    """Passes over the texts."""
    learning_rate: PositiveFloat = 1.6e-2
    """The peak rate of its last layer; each layer below has 1 / 2.6 of it."""
    texts: FilePath | None = None
    """A file with one more text per line, without labels; left out, only the training texts."""


class RecurrentConfig(Section):
    """The layers of a recurrent backbone."""

    units: Units = 128
    """Width of each layer, in one direction."""
    layers: Annotated[int, Field(ge=1, le=8)] = 1
    """How many layers."""
    embedding: Units = 100
    """Width of the embedding, if there are no word vectors."""
    dropout: Fraction = 0.0
    """Dropout of what each layer reads."""
    recurrent_dropout: Fraction = 0.0
    """Dropout of what a layer hands on from step to step (Gal and Ghahramani 2016)."""


class ShrinkPerturb(Section):
    """Shrink the pretrained weights and add fresh ones (Ash and Adams 2020)."""

    shrink: Annotated[float, Field(ge=0.0, le=1.0)]
    """The factor on the pretrained weights."""
    perturb: NonNegativeFloat
    """The factor on the freshly drawn weights that are added."""


class LoraConfig(Section):
    """Adapters of low rank beside frozen weights of the backbone (LoRA: Hu et al. 2021)."""

    rank: Annotated[int, Field(ge=1, le=4096)] = 8
    """The rank of what is added to a weight."""
    alpha: PositiveFloat = 16.0
    """What is added counts times alpha / rank."""
    targets: str | list[str] | None = None
    """Which layers get one: attention (query and value of each attention), all (every layer that
    can have one), re:PATTERN (layers in whose path the regular expression is found), or the name of
    a layer; or several of these. Left out: attention if the backbone has any, otherwise all."""
    adapters: FilePath | None = None
    """The adapters.npz of a run on the same base, to start from. Rank, alpha and targets are those
    of the file then."""


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


class HeadConfig(Section):
    """The new layers on top of the backbone."""

    pooling: (
        Literal["avg", "max", "avg_max", "mean", "first", "last", "attention", "pooler", "none"]
        | None
    ) = None
    """How features become one vector. Of a map: avg, max, or avg_max, which concatenates both. Of a
    sequence, without its padding: mean, max, first, last, or attention; of a Transformer also
    pooler, its own layer on the first token. Of a vector: none. Left out: the first that fits."""
    hidden: list[HiddenLayer] = []
    """Dense layers before the logits."""
    dropout: Fraction = 0.2
    """Dropout before the logits."""
    start: Literal["floor", "random"] = "floor"
    """What the logits start from. floor: a regularised linear model on the frozen features
    (docs/floor.md), if the backbone is pretrained and there are no hidden layers. random: fresh
    weights."""
    counts: Literal["auto", "off"] = "auto"
    """auto: the logits of a classifier that needs no network are added in the end, if the input can
    be counted and that lowers the validation loss (docs/floor.md). off: it is only measured."""
    initializer: str = "glorot_uniform"
    """A Keras initialiser name for the logits' kernel."""
    bias_from_frequencies: bool = True
    """Start the logits' bias at the log of the class frequencies (Karpathy 2019)."""


class LossConfig(Section):
    """What training minimises."""

    name: Literal[
        "auto", "cross_entropy", "binary_cross_entropy", "focal", "mse", "mae", "huber"
    ] = "auto"
    """auto: cross-entropy for one of several classes, binary cross-entropy for any number of
    labels, mse for a number. An output that does not take what is named takes its own of auto."""
    label_smoothing: Fraction = 0.0
    """How much of each target is spread over the other classes (Szegedy et al. 2016)."""
    gamma: NonNegativeFloat = 2.0
    """Focusing strength of the focal loss (Lin et al. 2017)."""


# ------------------------------------------------------------------------------- training


class StrategyConfig(Section):
    """A named way to fine-tune, which `ftkeras plan` writes out as phases."""

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
    """linear_probe, full, lp_ft (linear probe, then full), gradual (one more block an epoch),
    last_n, surgical (the blocks that the data pull at most), bitfit, norm_only, lora (the head,
    then the adapters with it), lora_then_full, or auto (the last blocks at once if the head starts
    from the floor)."""
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
    """How much of the average stays at each update."""


class RegularizationConfig(Section):
    """Penalties on weights that train; biases and normalisation are left out."""

    l2: NonNegativeFloat = 0.0
    """Toward zero: of the head, and of backbone weights where l2_sp is 0."""
    l2_sp: NonNegativeFloat = 0.0
    """Toward the pretrained weights (L2-SP: Li, Grandvalet and Davoine 2018)."""


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
    """Multiplies every learning rate by images an update / base_batch_size (linear: Goyal et al.
    2017), or by its square root."""
    base_batch_size: PositiveInt = 32
    """The images an update that the rates were chosen for; only scale_rate reads it."""


class EarlyStopping(Section):
    """When to end training before its last epoch."""

    metric: str = "val_loss"
    """A logged metric, or `val_` and a metric of `evaluation.json`, such as val_macro_f1; the
    direction follows from its name."""
    patience: PositiveInt = 3
    """How many epochs without improvement end the training."""
    min_delta: NonNegativeFloat = 0.0
    """The smallest change that counts as an improvement."""


class CheckpointConfig(Section):
    """When to save all that a run goes on from, besides where epochs end."""

    every_steps: PositiveInt | None = None
    """After every so many steps; left out, steps do not count."""
    every_minutes: PositiveFloat | None = 10.0
    """After so many minutes; null: time does not count."""


class TroubleConfig(Section):
    """What to do where the loss is not a number any more, or explodes."""

    retries: Annotated[int, Field(ge=0)] = 2
    """How often a run goes back to its last good checkpoint before it stops."""
    shrink: Annotated[float, Field(gt=0.0, le=1.0)] = 0.5
    """The factor on all learning rates each time it goes back."""
    explosion: Annotated[float, Field(gt=1.0)] | None = 10.0
    """How many times the usual loss is an explosion; null: only what is not finite is trouble."""


LAST_EPOCH = "last_epoch"


class TrainingConfig(Section):
    """How the loop runs."""

    monitor: str | None = None
    """The metric that tells the best epoch: a logged one, or `val_` and a metric of
    `evaluation.json`, such as val_macro_f1 or val_per_class.cat.recall. Left out, val_accuracy (any
    number of labels, or several outputs: val_loss; a number: val_mae). last_epoch: the last one,
    which is better on few validation examples if the rate falls to zero."""
    early_stopping: EarlyStopping | None = None
    """Left out, all epochs run."""
    end: Literal["chosen", "trained"] = "chosen"
    """What a run keeps that started from the floor. chosen: the floor, the weights of the best
    epoch, or those half way between, by the validation split. trained: the weights of the best
    epoch."""
    refit: bool = False
    """Train once more in the end, as was chosen, on training and validation data together."""
    strategy: Literal["auto", "cpu", "gpu", "mirrored", "multi_worker", "tpu"] = "auto"
    """The devices; auto takes a TPU, several workers (TF_CONFIG, Slurm), several GPUs, a GPU or the
    CPU, whichever is there first."""
    precision: Literal["auto", "float32", "mixed_float16", "mixed_bfloat16"] = "auto"
    """The Keras dtype policy; auto is mixed_bfloat16 on a TPU, mixed_float16 on GPUs with tensor
    cores, else float32."""
    jit: Literal["auto"] | bool = "auto"
    """Whether XLA compiles the steps; auto does on a GPU and on a TPU."""
    average: WeightAverage | None = None
    """Left out, weights are not averaged."""
    deterministic: bool = False
    """Make every operation reproducible to the bit, at some cost in speed."""
    checkpoint: CheckpointConfig = CheckpointConfig()
    """When to save all that a run goes on from."""
    trouble: TroubleConfig = TroubleConfig()
    """How often to go back to a good checkpoint, and at what rates."""
    loggers: list[Literal["wandb", "mlflow"]] = []
    """Where the run is written down besides its folder and TensorBoard."""


class TrunkConfig(Section):
    """The frozen part of the network, run once a phase instead of every epoch."""

    mode: Literal["auto", "on", "off"] = "auto"
    """auto stores it where that should save time, on wherever it is possible, off never."""
    precision: Literal["exact", "float32", "bfloat16"] = "float32"
    """exact: the trunk computes, to the bit, what it would without a store; float32 rounds
    differently, and with bfloat16 uses OpenVINO where that is installed, which is faster."""
    dtype: Literal["float32", "float16", "bfloat16"] = "float32"
    """How stored numbers are kept."""
    views: NonNegativeInt = 0
    """How many augmented versions of each image are stored, to take turns by epoch, and whether
    MixUp and CutMix may mix what is stored. 0 stores only what is the same every epoch."""
    silence: bool | None = None
    """Whether frozen layers run without their dropout and stochastic depth, which otherwise end
    the trunk. Left out, those of Transformers of keras-hub do."""
    memory_mb: NonNegativeInt | None = None
    """Room for a store in memory; left out, half of what is free."""
    disk_mb: NonNegativeInt | None = None
    """Room for a store on disk; left out, a fifth of what is free."""


class ExportConfig(Section):
    """What is written when training ends."""

    saved_model: bool = True
    """Write a SavedModel for TF Serving under export/."""
    formats: list[Literal["litert", "onnx", "openvino"]] = []
    """Also write these, each under export/ with its certificate (extras litert, onnx, openvino)."""
    static_batch: PositiveInt | None = None
    """Adds a signature for batches of just this size, which accelerators can compile."""


def is_shipped_text(backbone: str) -> bool:
    """Whether a backbone is one of the recurrent ones for texts."""
    # By name, as the schemas of tasks are: the catalog stands with the backbones.
    return backbone in importlib.import_module("ftkeras.backbones.text.catalog").TEXT_CATALOG


def kind_of(backbone: Any) -> str | None:
    """Returns the kind of input that a backbone takes; None if its name does not say."""
    if not isinstance(backbone, str):
        return None
    if is_shipped_text(backbone):
        return "text"
    hub = importlib.import_module("ftkeras.backbones.hub")
    return hub.kind_of(backbone) if hub.is_hub(backbone) else None


class Config(Section):
    """A whole experiment."""

    task: str = "classification"
    """What is learned; a task may have a section of its own (see docs/tasks.md)."""
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0
    """Every random choice follows from it."""
    data: DataConfig
    outputs: dict[OutputName, OneOutput] = {}
    """What the model answers, by name: {age: number}, or {age: {kind: number, column: years}}; left
    out, what the source's labels say."""
    backbone: BackboneConfig
    lora: LoraConfig | None = None
    """Left out, the backbone has no adapters."""
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
        """Names the kind that the backbone takes, if the config names no kind."""
        data, backbone = (
            given.get(name) if isinstance(given, dict) else None for name in ("data", "backbone")
        )
        if not (isinstance(data, dict) and isinstance(backbone, dict)):
            return given
        kind, examples = kind_of(backbone.get("name")), data.get("input", {})
        if kind is None or not isinstance(examples, dict) or "kind" in examples:
            return given
        return {**given, "data": {**data, "input": {**examples, "kind": kind}}}

    @property
    def asked(self) -> dict[str, OutputConfig]:
        """The outputs with all their settings; none if the source's labels say what is asked."""
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
