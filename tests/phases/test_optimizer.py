"""PhasedOptimizer against Keras's own optimizers: to the bit on one device."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from contextlib import contextmanager

import keras
import numpy as np
import pytest
import tensorflow as tf

import ftkeras
from ftkeras.errors import UserError
from ftkeras.phases import Phase, StagedUnfreezing
from ftkeras.phases.groups import Group
from ftkeras.phases.optimizer import PhasedOptimizer

OPTIMIZERS = {
    name: kind
    for name, kind in vars(keras.optimizers).items()
    if inspect.isclass(kind)
    and issubclass(kind, keras.optimizers.Optimizer)
    and name not in ("Optimizer", "LossScaleOptimizer", "MultiOptimizer")
}
GRADIENTS = np.random.default_rng(0).normal(size=(16, 3, 2)).astype("float32")


def variable(dtype: str = "float32", value: float = 2.0) -> keras.Variable:
    return keras.Variable(np.full((3, 2), value), dtype=dtype)


def steps(
    optimizer: keras.optimizers.Optimizer, weights: list[keras.Variable], gradients: np.ndarray
) -> None:
    for gradient in gradients:
        ready = [keras.ops.cast(gradient, weight.dtype) for weight in weights]
        optimizer.apply(ready, weights)


def phased(
    template: keras.optimizers.Optimizer, *groups: tuple[keras.Variable, tuple[float | None, ...]]
) -> PhasedOptimizer:
    optimizer = PhasedOptimizer(template)
    optimizer.arrange(
        [Group((str(i),), (weight,), shares) for i, (weight, shares) in enumerate(groups)]
    )
    optimizer.enter(0)
    return optimizer


def built(
    optimizer: keras.optimizers.Optimizer, weight: keras.Variable
) -> keras.optimizers.Optimizer:
    optimizer.build([weight])
    return optimizer


def same(a: keras.Variable, b: keras.Variable) -> bool:
    return np.array_equal(a.numpy(), b.numpy())


# -------------------------------------------------------------------------- steps by hand

VARIANTS = {
    "plain": {},
    "accumulation": {"gradient_accumulation_steps": 2},
    "clipnorm": {"clipnorm": 0.5},
    "clipvalue": {"clipvalue": 0.3},
    "ema": {"use_ema": True, "ema_momentum": 0.9},
}


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("name", sorted(OPTIMIZERS))
def test_the_first_phase_is_the_plain_optimizer_and_a_group_that_joins_is_a_new_one(name, variant):
    def make() -> keras.optimizers.Optimizer:
        return OPTIMIZERS[name](0.01, weight_decay=0.1, **VARIANTS[variant])

    early, late, plain, alone = (variable() for _ in range(4))
    ours = phased(make(), (early, (1.0, 1.0)), (late, (None, 1.0)))
    theirs, fresh = built(make(), plain), built(make(), alone)
    steps(ours, [early], GRADIENTS[:6])
    steps(theirs, [plain], GRADIENTS[:6])
    assert same(early, plain)
    ours.enter(1)
    steps(ours, [early, late], GRADIENTS[6:])
    steps(theirs, [plain], GRADIENTS[6:])
    steps(fresh, [alone], GRADIENTS[6:])
    for optimizer, weights in ((ours, [early, late]), (theirs, [plain]), (fresh, [alone])):
        optimizer.finalize_variable_values(weights)
    assert same(early, plain)
    assert same(late, alone)
    assert not np.allclose(late.numpy(), 2.0)


def test_a_late_weights_first_step_is_adams_first_step_and_without_groups_three_times_that():
    def first_step(optimizer: keras.optimizers.Optimizer, late: keras.Variable) -> float:
        steps(optimizer, [late], GRADIENTS[:1])
        return float(np.abs(late.numpy() - 2).max())

    early, late = variable(), variable()
    ours = phased(keras.optimizers.Adam(0.01), (early, (1.0, 1.0)), (late, (None, 1.0)))
    theirs = keras.optimizers.Adam(0.01)
    theirs.build([other := variable()])
    for _ in range(3000):
        theirs.iterations.assign_add(1)
    steps(ours, [early], GRADIENTS)
    ours.enter(1)
    assert first_step(ours, late) == pytest.approx(0.01, rel=1e-3)
    assert first_step(theirs, other) == pytest.approx(0.032, rel=0.05)


@pytest.mark.parametrize("name", ["Adam", "Nadam", "SGD"])
def test_a_weight_that_paused_resumes_with_its_own_count(name):
    paused, other, unbroken = variable(), variable(), variable()
    ours = phased(OPTIMIZERS[name](0.01), (paused, (1.0, None, 1.0)), (other, (None, 1.0, None)))
    steps(ours, [paused], GRADIENTS[:2])
    ours.enter(1)
    steps(ours, [other], GRADIENTS[2:10])
    ours.enter(2)
    steps(ours, [paused], GRADIENTS[10:12])
    plain = built(OPTIMIZERS[name](0.01), unbroken)
    steps(plain, [unbroken], np.concatenate([GRADIENTS[:2], GRADIENTS[10:12]]))
    assert same(paused, unbroken)


@pytest.mark.parametrize("name", sorted(OPTIMIZERS))
def test_a_share_is_a_smaller_learning_rate_and_decay_keeps_in_proportion(name):
    shared, alone = variable(), variable()
    steps(
        phased(OPTIMIZERS[name](0.01, weight_decay=0.3), (shared, (0.25,))),
        [shared],
        GRADIENTS[:5],
    )
    steps(built(OPTIMIZERS[name](0.0025, weight_decay=0.3), alone), [alone], GRADIENTS[:5])
    np.testing.assert_allclose(shared.numpy(), alone.numpy(), rtol=1e-5)
    assert not np.allclose(shared.numpy(), 2)


@pytest.mark.parametrize("how", [{"var_list": 1}, {"var_names": ["spared"]}])
def test_what_is_excluded_from_weight_decay_stays_so(how):
    decayed = keras.Variable(np.ones(3), name="decayed")
    spared = keras.Variable(np.ones(3), name="spared")
    template = keras.optimizers.AdamW(0.1, weight_decay=0.5)
    template.exclude_from_weight_decay(**({"var_list": [spared]} if "var_list" in how else how))
    ours = phased(template, (decayed, (1.0,)), (spared, (1.0,)))
    ours.apply([np.zeros(3, "float32")] * 2, [decayed, spared])
    np.testing.assert_allclose(decayed.numpy(), 0.95)
    np.testing.assert_array_equal(spared.numpy(), 1.0)


def test_a_global_norm_is_that_of_all_groups():
    weights = [variable() for _ in range(3)]
    plain = [variable() for _ in range(3)]
    template = keras.optimizers.SGD(1.0, global_clipnorm=0.5)
    ours = phased(
        template,
        *((weight, (share,)) for weight, share in zip(weights, (1.0, 1.0, 0.5), strict=True)),
    )
    ours.apply([keras.ops.convert_to_tensor(g) for g in GRADIENTS[:3]], weights)
    theirs = keras.optimizers.SGD(1.0, global_clipnorm=0.5)
    theirs.apply([keras.ops.convert_to_tensor(g) for g in GRADIENTS[:3]], plain)
    assert same(weights[0], plain[0])
    assert same(weights[1], plain[1])
    np.testing.assert_allclose(2 - weights[2].numpy(), (2 - plain[2].numpy()) / 2, atol=1e-6)


@pytest.mark.parametrize(
    ("name", "dtype"),
    [
        *((name, dtype) for name in ("Lion", "SGD") for dtype in ("float64", "bfloat16")),
        *((name, "float16") for name in ("AdamW", "Lion", "Muon")),  # Muon lacks float64
    ],
)
def test_other_dtypes_to_the_bit(name, dtype):
    ours, plain = variable(dtype, 0.25), variable(dtype, 0.25)
    options = {"use_ema": True, "ema_momentum": 0.9, "clipnorm": 0.5}
    optimizer = phased(OPTIMIZERS[name](0.1, **options), (ours, (1.0,)))
    theirs = built(OPTIMIZERS[name](0.1, **options), plain)
    steps(optimizer, [ours], GRADIENTS[:5])
    steps(theirs, [plain], GRADIENTS[:5])
    assert same(ours, plain)
    optimizer.finalize_variable_values([ours])
    theirs.finalize_variable_values([plain])
    assert same(ours, plain)
    assert not same(ours, variable(dtype, 0.25))


def test_weights_without_a_gradient_are_left_alone_with_a_warning_and_their_count_stands():
    first, second = variable(), variable()
    ours = phased(keras.optimizers.Adam(0.01), (first, (1.0,)), (second, (0.5,)))
    with pytest.warns(UserWarning, match="Gradients do not exist"):
        ours.apply([tf.constant(GRADIENTS[0]), None], [first, second])
    assert same(second, variable())
    assert not same(first, variable())
    alone = variable()
    steps(ours, [second], GRADIENTS[:1])
    steps(built(keras.optimizers.Adam(0.005), alone), [alone], GRADIENTS[:1])
    assert same(second, alone)
    with pytest.raises(ValueError, match="No gradients provided"):
        ours.apply([None, None], [first, second])


def test_a_weight_that_no_phase_trains_is_an_error():
    known = variable()
    ours = phased(keras.optimizers.Adam(), (known, (1.0,)))
    with pytest.raises(UserError, match="which no phase trains"):
        steps(ours, [known, variable()], GRADIENTS[:1])


# -------------------------------------------------------------------- the rate from outside


def moves(optimizer: PhasedOptimizer, weight: keras.Variable) -> float:
    before = weight.numpy()
    steps(optimizer, [weight], np.ones((1, 3, 2), "float32"))
    return float((before - weight.numpy()).max())


@pytest.mark.parametrize("by", ["setter", "assign"])
def test_what_others_make_of_the_rate_lasts(by):
    weight = variable()
    optimizer = phased(keras.optimizers.SGD(0.1), (weight, (1.0,)))
    optimizer.steer([0.5])
    assert moves(optimizer, weight) == pytest.approx(0.5)
    for value in (0.05, 0.0, 0.25):
        if by == "setter":
            optimizer.learning_rate = value
        else:
            optimizer.learning_rate.assign(value)
        assert moves(optimizer, weight) == pytest.approx(value, abs=1e-6)
        optimizer.steer([0.4])
        assert moves(optimizer, weight) == pytest.approx(0.8 * value, abs=1e-6)
        optimizer.steer([0.5])
    with pytest.raises(UserError, match="cannot become a schedule"):
        optimizer.learning_rate = keras.optimizers.schedules.CosineDecay(1.0, 10)


# ------------------------------------------------------------------------ what is refused


class WithoutConfig(keras.optimizers.Optimizer):
    def __init__(self, learning_rate: float = 0.1):
        super().__init__(learning_rate)


class WithHalfAConfig(keras.optimizers.SGD):
    def __init__(self, learning_rate: float = 0.1, boost: float = 1.0, **options: object):
        super().__init__(learning_rate, **options)
        self.boost = boost


class Wrapper(keras.optimizers.Optimizer):
    def __init__(self, inner_optimizer: keras.optimizers.Optimizer, **options: object):
        super().__init__(0.1, **options)
        self.inner_optimizer = inner_optimizer


class Complete(WithHalfAConfig):
    """An optimizer of a person's own, as it should be."""

    def update_step(self, gradient, variable, learning_rate):
        super().update_step(gradient * self.boost, variable, learning_rate)

    def get_config(self):
        return {**super().get_config(), "boost": self.boost}


@pytest.mark.parametrize(
    ("make", "lost"),
    [
        (WithoutConfig, "unexpected keyword"),
        (lambda: WithHalfAConfig(boost=5.0), "boost"),
        (lambda: Wrapper(keras.optimizers.SGD()), "inner_optimizer"),
    ],
)
def test_an_optimizer_that_cannot_be_copied_is_refused_when_the_callback_is_made(make, lost):
    model = network(make())
    with pytest.raises(UserError, match=rf"phases copy the optimizer .*{lost}") as caught:
        StagedUnfreezing(model, [EVERYTHING])
    assert "\n" not in str(caught.value)


def test_an_optimizer_of_ones_own_serves():
    ours, plain = variable(), variable()
    steps(phased(Complete(0.01, boost=3.0), (ours, (1.0,))), [ours], GRADIENTS[:3])
    steps(built(Complete(0.01, boost=3.0), plain), [plain], GRADIENTS[:3])
    assert same(ours, plain)


# ---------------------------------------------------------------------------------- by fit

RANDOM = np.random.default_rng(1)
INPUTS = RANDOM.normal(size=(40, 4)).astype("float32")
LABELS = np.arange(40) % 3
LOSS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
EVERYTHING = Phase("all", epochs=2, learning_rate=0.01, train=["all"], decay="constant")
EMA = {"use_ema": True, "ema_momentum": 0.9}
OFTEN = {**EMA, "ema_overwrite_frequency": 3}
TWO = {"gradient_accumulation_steps": 2}


def network(optimizer: keras.optimizers.Optimizer, **options: object) -> keras.Model:
    keras.utils.set_random_seed(0)
    hidden = keras.layers.Dense(5, "tanh", name="hidden")
    model = keras.Sequential([keras.Input((4,)), hidden, keras.layers.Dense(3, name="logits")])
    model.compile(optimizer, LOSS, **{"jit_compile": False, **options})
    return model


def fit(model: keras.Model, phases: list[Phase] | None, epochs: int = 2) -> list[np.ndarray]:
    callbacks = [StagedUnfreezing(model, phases)] if phases else []
    if not phases:  # ScheduleFreeAdamW needs the weights' values, which are not there in a graph
        model.optimizer.build(model.trainable_variables)
    data = {"batch_size": 4, "shuffle": False, "callbacks": callbacks, "verbose": 0}
    model.fit(INPUTS, LABELS, epochs=epochs, **data)
    return model.get_weights()


@contextmanager
def policy(name: str | None) -> Iterator[None]:
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(name or before)
    try:
        yield
    finally:
        keras.config.set_dtype_policy(before)


HALF = "mixed_float16"
PAIRS = {
    "accumulation, clipnorm": ("Adam", {**TWO, "clipnorm": 0.1}, {}, None),
    "accumulation, clipvalue": ("SGD", {**TWO, "clipvalue": 0.01}, {}, None),
    "accumulation, global_clipnorm": ("AdamW", {**TWO, "global_clipnorm": 0.1}, {}, None),
    "accumulation, float16": ("Adam", TWO, {}, HALF),
    "accumulation, averages": ("Lion", {**TWO, **EMA}, {}, None),
    "accumulation, overwriting": ("Nadam", {**TWO, **OFTEN}, {}, None),
    "accumulation, together": ("RMSprop", TWO, {"steps_per_execution": 5}, None),
    "accumulation, XLA": ("Adam", TWO, {"jit_compile": True}, None),
    "accumulation, loss scale": ("Adam", {**TWO, "loss_scale_factor": 8.0}, {}, None),
    "clipnorm, float16": ("Adamax", {"clipnorm": 0.1}, {}, HALF),
    "clipnorm, averages": ("Muon", {"clipnorm": 0.1, **EMA}, {}, None),
    "clipvalue, overwriting": ("Ftrl", {"clipvalue": 0.01, **OFTEN}, {}, None),
    "clipvalue, together": ("Lamb", {"clipvalue": 0.01}, {"steps_per_execution": 2}, None),
    "global_clipnorm, float16": ("Adam", {"global_clipnorm": 0.1}, {}, HALF),
    "global_clipnorm, XLA": ("AdamW", {"global_clipnorm": 0.1}, {"jit_compile": True}, None),
    "global_clipnorm, averages": ("SGD", {"global_clipnorm": 0.1, **EMA}, {}, None),
    "averages, float16": ("Adafactor", EMA, {}, HALF),
    "averages, XLA": ("Adagrad", EMA, {"jit_compile": True}, None),
    "overwriting, together": ("Adadelta", OFTEN, {"steps_per_execution": 5}, None),
    "loss scale, clipnorm": ("Adam", {"loss_scale_factor": 8.0, "clipnorm": 0.1}, {}, None),
    "loss scale": ("Adam", {"loss_scale_factor": 8.0}, {}, None),
    "global_clipnorm": ("SGD", {"global_clipnorm": 0.1}, {}, None),
    "schedule-free, averages": ("ScheduleFreeAdamW", EMA, {}, None),
}  # fmt: skip


@pytest.mark.parametrize("pair", PAIRS)
def test_one_phase_of_fit_equals_keras_to_the_bit(pair):
    name, options, compiled, dtype = PAIRS[pair]
    with policy(dtype):
        plain = fit(network(OPTIMIZERS[name](0.01, **options), **compiled), None)
        ours = fit(network(OPTIMIZERS[name](0.01, **options), **compiled), [EVERYTHING])
        start = network(OPTIMIZERS[name]()).get_weights()
    for before, theirs, here in zip(start, plain, ours, strict=True):
        np.testing.assert_array_equal(here, theirs)
        assert not np.array_equal(here, before)


def test_phases_that_train_the_same_are_one_training():
    """A clip by the global norm sees all groups, and no state is lost between the phases."""
    options = {"global_clipnorm": 0.1, **TWO, **EMA}
    plain = fit(network(keras.optimizers.Adam(0.01, **options)), None)
    first = Phase("one", epochs=1, learning_rate=0.01, train=["all"], decay="constant")
    ours = fit(network(keras.optimizers.Adam(0.01, **options)), [first, Phase("two")])
    for theirs, here in zip(plain, ours, strict=True):
        np.testing.assert_array_equal(here, theirs)


class CountsTraces(keras.Model):
    """Counts how often its train step is traced."""

    traces = 0

    def train_step(self, data):
        self.traces += 1
        return super().train_step(data)


def test_a_phase_that_only_changes_rates_retraces_nothing():
    tokens = keras.Input((4,))
    x = keras.layers.Dense(4, name="a")(tokens)
    model = CountsTraces(tokens, keras.layers.Dense(3, name="b")(x))
    model.compile(keras.optimizers.Adam(), LOSS, jit_compile=False)
    same_weights = [
        Phase("one", epochs=1, learning_rate=0.01, train=["all"]),
        Phase("rate", learning_rate=0.001, decay="linear", warmup=0.5),
        Phase("rates", rates={"block:a": 1e-4}),
        Phase("decay", layer_decay=0.5),
        Phase("steps", steps=5, rates={}),
    ]
    other_weights = Phase("head", epochs=1, train=["head"])
    unfreeze = StagedUnfreezing(model, [*same_weights, other_weights], steps_per_epoch=10)
    traces = []

    class Watch(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            traces.append((unfreeze.phase.name, self.model.traces))

    callbacks = [unfreeze, Watch()]
    model.fit(INPUTS, LABELS, batch_size=4, epochs=unfreeze.epochs, callbacks=callbacks, verbose=0)
    assert traces[0] == ("one", 1)
    assert {count for phase, count in traces if phase != "head"} == {1}
    assert traces[-1] == ("head", 2)


# --------------------------------------------------------------------------- kinds of weights


def kinds_of_weights(name: str) -> keras.Model:
    """Returns a model of one kind of weight, for inputs of four tokens below 9."""
    keras.utils.set_random_seed(0)
    tokens = keras.Input((4,), dtype="int32")
    embedding = keras.layers.ReversibleEmbedding(9, 6, name="embedding")
    x = embedding(tokens)
    flat = keras.layers.Flatten()
    if name == "constraint":
        limit = keras.constraints.UnitNorm()
        x = keras.layers.Dense(6, kernel_constraint=limit, bias_constraint="non_neg")(x)
    elif name == "layer used twice":
        twice = keras.layers.Dense(6, "tanh")
        x = twice(twice(x))
    elif name == "tied":
        return keras.Model(tokens, flat(embedding(x, reverse=True)))
    return keras.Model(tokens, keras.layers.Dense(3)(flat(x)))


class DenseAdam(keras.optimizers.Adam):
    """Keras's Adam, given an embedding's gradient as one tensor."""

    def apply(self, grads, trainable_variables=None):
        super().apply([tf.convert_to_tensor(grad) for grad in grads], trainable_variables)


def test_adam_squares_the_sum_of_a_row_that_comes_twice():
    """Keras squares each part; if this fails for it, Keras has fixed that."""
    rows = tf.IndexedSlices(tf.constant([[1.0], [2.0]]), tf.constant([0, 0]), tf.constant([2, 1]))
    squares = {}
    for staged in (False, True):
        weight, adam = keras.Variable([[0.0], [0.0]]), keras.optimizers.Adam(0.1, beta_2=0.5)
        optimizer = built(PhasedOptimizer(adam) if staged else adam, weight)
        optimizer.apply([rows], [weight])
        [velocity] = [v for v in optimizer.variables if "velocity" in v.path]
        squares[staged] = float(velocity[0, 0])
    assert squares == {False: 0.5 * (1 + 4), True: 0.5 * (1 + 2) ** 2}


@pytest.mark.parametrize("options", [{}, {"clipnorm": 0.1}, {"global_clipnorm": 0.1}, EMA], ids=str)
@pytest.mark.parametrize("name", ["sparse gradients", "constraint", "layer used twice", "tied"])
def test_kinds_of_weights_to_the_bit(name, options):
    if name == "constraint" and options:
        return  # Keras averages weights before it constrains them
    results = []
    for staged in (False, True):
        model = kinds_of_weights(name)
        optimizer = (keras.optimizers.Adam if staged else DenseAdam)(0.01, **options)
        model.compile(optimizer, LOSS, jit_compile=False)
        callbacks = [StagedUnfreezing(model, [EVERYTHING])] if staged else []
        tokens = np.arange(160).reshape(40, 4) ** 2 % 9
        model.fit(
            tokens, LABELS, batch_size=8, shuffle=False, epochs=2, callbacks=callbacks, verbose=0
        )
        results.append(model.get_weights())
    for theirs, ours in zip(*results, strict=True):
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("options", [TWO, OFTEN], ids=["accumulation", "overwriting"])
def test_constraints_hold(options):
    model = kinds_of_weights("constraint")
    model.compile(keras.optimizers.Adam(0.1, **options), LOSS, jit_compile=False)
    layer = next(layer for layer in model.layers if isinstance(layer, keras.layers.Dense))
    unfreeze = StagedUnfreezing(model, [EVERYTHING])
    lengths = []

    class Watch(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            lengths.append(np.linalg.norm(layer.kernel.numpy(), axis=0))

    tokens = np.arange(160).reshape(40, 4) ** 2 % 9
    model.fit(tokens, LABELS, epochs=2, batch_size=5, callbacks=[unfreeze, Watch()], verbose=0)
    np.testing.assert_allclose(lengths[options is TWO :], 1.0, atol=1e-5)
    assert (layer.bias.numpy() >= 0).all()


# ------------------------------------------------------------------------------ two replicas

REPLICA_OPTIONS = {
    "clipnorm, loss scale": {"clipnorm": 0.05, "loss_scale_factor": 8.0},
    "clipvalue, overwriting": {"clipvalue": 0.01, **OFTEN},
    "global_clipnorm, accumulation": {**TWO, "global_clipnorm": 0.05},
    "averages, accumulation": {**EMA, **TWO},
}
HEAD_THEN_ALL = [
    Phase("head", epochs=1, learning_rate=0.05, train=["head"], decay="constant"),
    Phase("all", train=["all"], layer_decay=0.5),
]


@pytest.mark.slow
def test_two_replicas_equal_one_device_over_20_steps(two_replicas):
    """In one test: strategies of one process disturb each other."""
    one_device = tf.distribute.get_strategy()
    for name, options in REPLICA_OPTIONS.items():
        results = []
        for strategy in (one_device, two_replicas):
            with strategy.scope():
                model = network(keras.optimizers.SGD(0.1, momentum=0.9, **options))
            results.append(fit(model, HEAD_THEN_ALL))
        for one, two in zip(*results, strict=True):
            np.testing.assert_allclose(two, one, atol=1e-5, err_msg=name)


@pytest.mark.slow
def test_an_overflow_on_the_second_replica_skips_the_step_on_both(two_replicas):
    with two_replicas.scope():
        inner = keras.optimizers.SGD(0.1)
        model = network(keras.optimizers.LossScaleOptimizer(inner, initial_scale=4.0))
    before = model.get_weights()
    inputs = INPUTS[:8].copy()
    inputs[-1] = np.inf  # of the second half of the batch
    unfreeze = StagedUnfreezing(model, [EVERYTHING])
    data = tf.data.Dataset.from_tensor_slices((inputs, LABELS[:8])).batch(8)
    model.fit(data, shuffle=False, callbacks=[unfreeze], verbose=0)
    for was, now in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(now, was)
    scale = keras.ops.convert_to_numpy(model.optimizer.dynamic_scale)
    assert float(scale) == 2.0
    data = tf.data.Dataset.from_tensor_slices((INPUTS[:8], LABELS[:8])).batch(8)
    model.fit(data, shuffle=False, callbacks=[unfreeze], verbose=0)
    for was, now in zip(before, model.get_weights(), strict=True):
        assert np.isfinite(now).all()
        assert not np.array_equal(now, was)


# ----------------------------------------------------------------------- a second callback


def test_a_second_callback_does_not_stack_on_the_first():
    model = network(keras.optimizers.SGD(0.1))
    half = Phase("half", epochs=1, learning_rate=0.1, train=["all"], layer_decay=0.5)
    first = StagedUnfreezing(model, [half])
    first.prepare(model)
    optimizer = model.optimizer
    second = StagedUnfreezing(model, [half])
    second.prepare(model)
    assert model.optimizer is optimizer
    other = StagedUnfreezing(model, [EVERYTHING])
    other.prepare(model)
    assert isinstance(model.optimizer, PhasedOptimizer)
    assert isinstance(model.optimizer.template(), keras.optimizers.SGD)
    assert [group.shares for group in model.optimizer.groups] == [(1.0,)]


def test_tensorflows_checkpoints_hold_all_of_its_state(tmp_path):
    phases = [HEAD_THEN_ALL[0], HEAD_THEN_ALL[1]]
    whole = fit(network(keras.optimizers.Adam(0.01, **TWO)), phases)
    stopped = network(keras.optimizers.Adam(0.01, **TWO))
    fit(stopped, phases, epochs=1)
    saved = tf.train.Checkpoint(model=stopped, optimizer=stopped.optimizer)
    path = saved.save(tmp_path / "checkpoint")
    resumed = network(keras.optimizers.Adam(0.01, **TWO))
    unfreeze = ftkeras.StagedUnfreezing(resumed, phases)
    unfreeze.prepare(resumed)
    loaded = tf.train.Checkpoint(model=resumed, optimizer=resumed.optimizer)
    loaded.restore(path).assert_consumed()
    resumed.fit(
        INPUTS, LABELS, batch_size=4, shuffle=False, epochs=2, initial_epoch=1, verbose=0,
        callbacks=[unfreeze],
    )  # fmt: skip
    for a, b in zip(whole, resumed.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_model_compiled_with_it_trains_as_with_its_template_and_loads_again(tmp_path):
    weights, path = [], tmp_path / "model.keras"
    for wrap in (False, True):
        keras.utils.set_random_seed(0)
        model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])
        adam = keras.optimizers.Adam(0.1, gradient_accumulation_steps=2)
        model.compile(PhasedOptimizer(adam) if wrap else adam, "mse", jit_compile=False)
        model.fit(np.ones((8, 3)), np.ones((8, 2)), batch_size=2, verbose=0)
        weights.append(model.get_weights()[0])
    np.testing.assert_array_equal(*weights)
    model.save(path)
    optimizer = keras.models.load_model(path).optimizer
    assert int(optimizer.micro_steps) == 4 and int(optimizer.iterations) == 2
