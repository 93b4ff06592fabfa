"""Trunks of models of token sequences: several named inputs, Keras masks, dropout inside layers."""

from __future__ import annotations

from importlib.util import find_spec

import keras
import numpy as np
import pytest
import tensorflow as tf

from ftkeras.graph import GraphModel, flatten
from ftkeras.trunk.cost import NOMINAL_LENGTH, work
from ftkeras.trunk.engines import make_engine
from ftkeras.trunk.extract import Outlet, Part, Trunks, extract
from ftkeras.trunk.lengths import ByLength
from ftkeras.trunk.masks import find_masks
from ftkeras.trunk.plan import _seconds_per_work
from ftkeras.trunk.split import is_within, joined_trunk, split_model, split_or_reason
from ftkeras.trunk.writer import plan_layout

layers = keras.layers
WORDS, LENGTH, WIDTH = 11, 6, 8
TOKENS = np.array([[3, 5, 2, 0, 0, 0], [1, 2, 3, 4, 5, 6], [9, 0, 0, 0, 0, 0]], np.int32)


def encoder(dropout=0.0, **options):
    from keras_hub.layers import TransformerEncoder

    return TransformerEncoder(12, 2, dropout=dropout, **options)


def mean():
    return layers.GlobalAveragePooling1D(name="mean")


def chain(*between, mask_zero=True, frozen=2):
    """Token ids through an embedding and some layers to two logits; the first ones are frozen."""
    keras.utils.set_random_seed(0)
    tokens = keras.Input((LENGTH,), dtype="int32", name="token_ids")
    x = layers.Embedding(WORDS, WIDTH, mask_zero=mask_zero, name="embed")(tokens)
    for layer in between:
        x = layer(x, x) if isinstance(layer, layers.MultiHeadAttention) else layer(x)
    model = keras.Model(tokens, layers.Dense(2, name="logits")(x))
    for layer in model.layers[1 : 1 + frozen]:
        layer.trainable = False
    return model


def bert(dropout=0.0, length=LENGTH, trained=1):
    """A classifier on a tiny BERT of keras-hub, whose inputs have names; its last layers train."""
    from keras_hub.models import BertBackbone

    keras.utils.set_random_seed(0)
    backbone = BertBackbone(WORDS, 2, 2, WIDTH, 12, dropout=dropout, max_sequence_length=LENGTH)
    inputs = {x.name: keras.Input((length,), name=x.name, dtype="int32") for x in backbone.inputs}
    pooled = backbone(inputs)["pooled_output"]
    model = keras.Model(inputs, layers.Dense(2, name="logits")(pooled))
    backbone.trainable = False
    backbone.pooled_dense.trainable = True
    for layer in backbone.transformer_layers[2 - trained :]:
        layer.trainable = True
    return model


def bert_inputs():
    return {
        "token_ids": TOKENS,
        "segment_ids": np.zeros_like(TOKENS),
        "padding_mask": (TOKENS != 0).astype("int32"),
    }


def names(part):
    return [step.operation.name for step in part.graph.steps]


def assert_same_to_the_bit(model, split, inputs, trains=(False, True)):
    for training in trains:
        found = split.tail(split.trunk(inputs, training=False), training=training)
        np.testing.assert_array_equal(found, model(inputs, training=training))


# -------------------------------------------------------------------------------- masks


@pytest.mark.parametrize(
    "between",
    [
        lambda: [layers.LSTM(5, return_sequences=True), layers.LSTM(4)],
        lambda: [layers.GRU(5, return_sequences=True), layers.Dense(4), mean()],
        lambda: [layers.Bidirectional(layers.GRU(4, return_sequences=True)), layers.LSTM(3)],
        lambda: [layers.MultiHeadAttention(2, 4), layers.Dense(4), mean()],
        lambda: [layers.Dense(5), layers.MultiHeadAttention(2, 3), mean()],
        lambda: [encoder(), layers.Dense(4), mean()],
        lambda: [encoder(), encoder(), layers.LSTM(4)],
    ],
)
def test_a_mask_crosses_the_split(between):
    model = chain(*between())
    split = split_model(model)
    assert "embed" in names(split.trunk)
    assert sorted({spec.dtype for spec in split.frontier}) == ["bool", "float32"]
    assert_same_to_the_bit(model, split, TOKENS)
    stored = [tensor.numpy() for tensor in split.trunk(TOKENS)]
    np.testing.assert_array_equal(split.tail(stored), model(TOKENS))
    unmasked = [np.ones_like(x) if x.dtype == bool else x for x in stored]
    assert not np.array_equal(split.tail(unmasked), model(TOKENS))  # the mask is what tells
    assert all(np.array_equal(x, TOKENS != 0) for x in stored if x.dtype == bool)


def test_pooling_on_either_side_of_the_split_is_the_mean_of_the_real_steps():
    lengths = (TOKENS != 0).sum(axis=1)
    for between in ([layers.Dense(5), mean()], [layers.Dense(5), layers.Dense(4), mean()]):
        model = chain(*between)
        split = split_model(model)
        steps = keras.Model(model.input, between[-2].output)(TOKENS).numpy()
        means = np.stack([row[:n].mean(axis=0) for row, n in zip(steps, lengths, strict=True)])
        kernel, bias = model.get_layer("logits").get_weights()
        found = split.tail([x.numpy() for x in tf.nest.flatten(split.trunk(TOKENS))])
        np.testing.assert_allclose(found, means @ kernel + bias, atol=1e-6)


def test_a_layer_that_takes_the_mask_off_takes_it_off_behind_the_split_too():
    """Multi-head attention does, for all that read its input later."""
    keras.utils.set_random_seed(0)
    tokens = keras.Input((LENGTH,), dtype="int32")
    x = layers.Embedding(WORDS, WIDTH, mask_zero=True)(tokens)
    x = layers.Dense(WIDTH, name="frozen")(x)
    attended = layers.MultiHeadAttention(2, 4, name="attend")(x, x)
    pooled = [
        layers.GlobalAveragePooling1D(name=f"mean_{i}")(t) for i, t in enumerate((x, attended))
    ]
    model = keras.Model(tokens, layers.Dense(2, name="logits")(layers.Concatenate()(pooled)))
    for frozen in (["embedding", "frozen"], ["embedding", "frozen", "attend"]):
        for layer in model.layers:
            layer.trainable = layer.name.rstrip("_0123456789") not in frozen
        split = split_model(model)
        assert_same_to_the_bit(model, split, TOKENS)


def test_no_mask_is_stored_if_no_layer_of_the_tail_reads_it():
    model = chain(layers.Dense(5), layers.LSTM(4), mask_zero=False)
    assert [spec.dtype for spec in split_model(model).frontier] == ["float32"]
    model = chain(layers.LSTM(5), layers.Dense(4))  # the LSTM has used it up
    assert [spec.dtype for spec in split_model(model).frontier] == ["float32"]
    images = keras.Input((8, 8, 3))
    assert find_masks(flatten(keras.Model(images, layers.Conv2D(2, 3)(images)))).readers == {}


def test_a_masked_nested_model_is_opened():
    inner_in = keras.Input((LENGTH, WIDTH))
    x = layers.LSTM(5, return_sequences=True, name="inside")(inner_in)
    inner = keras.Model(inner_in, layers.LSTM(4, name="trained")(x), name="inner")
    with pytest.warns(UserWarning, match="does not support masking"):
        model = chain(inner, frozen=1)
        expected = model(TOKENS)
    model.get_layer("inner").get_layer("inside").trainable = False
    split = split_model(model)
    assert names(split.trunk)[-1] != "inner" and "inside" in names(split.trunk)
    assert names(split.tail)[-2:] == ["trained", "logits"]
    np.testing.assert_array_equal(split.tail(split.trunk(TOKENS)), expected)


def test_a_mask_on_the_output_reaches_the_loss():
    """Keras leaves masked steps out of the loss."""
    model = chain(layers.Dense(5), layers.Dense(4))
    split = split_model(model)
    labels = np.zeros((3, LENGTH), np.int32)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    expected = loss(labels, model(TOKENS)).numpy()
    assert loss(labels, split.tail(split.trunk(TOKENS))).numpy() == expected
    assert loss(labels, tf.identity(model(TOKENS))).numpy() != expected


def test_masks_that_are_given_to_a_graph_reach_its_layers():
    sequence = keras.Input((LENGTH, 4))
    model = keras.Model(sequence, layers.LSTM(3)(sequence))
    values = np.random.default_rng(0).normal(size=(3, LENGTH, 4)).astype("float32")
    flat = GraphModel(flatten(model), "flat")
    mask = TOKENS != 0
    with pytest.warns(UserWarning, match="does not support masking"):  # but it does
        expected = model(values, mask=mask)
    np.testing.assert_array_equal(flat(values, mask=mask), expected)
    assert not np.array_equal(flat(values, mask=mask), model(values))


def test_training_from_the_frontier_is_training_the_model():
    histories = []
    labels = np.array([0, 1, 1])
    for stored in (False, True):
        keras.utils.set_random_seed(1)
        model = chain(layers.MultiHeadAttention(2, 4), encoder(), layers.LSTM(4))
        given = TOKENS
        if stored:
            split = split_model(model)
            given = split.trunk.predict(TOKENS, verbose=0)
            model = GraphModel(split.tail.graph, "tail", model)
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        model.compile(keras.optimizers.Adam(0.05), loss)
        fitted = model.fit(given, labels, epochs=4, shuffle=False, verbose=0)
        histories.append(fitted.history["loss"])
    np.testing.assert_allclose(*histories, rtol=1e-6)
    assert histories[0][0] > histories[0][-1]


def test_phases_share_the_trunk_and_its_masks():
    model = chain(
        layers.Dense(5, name="a"),
        layers.LSTM(4, return_sequences=True, name="b"),
        layers.LSTM(3, name="c"),
    )
    graph = flatten(model)
    model.get_layer("b").trainable = False
    far = split_model(model, graph=graph)
    model.get_layer("b").trainable = True
    near = split_model(model, graph=graph)
    assert is_within(near, far) and not is_within(far, near)
    trunk, places = joined_trunk([far, near])
    tensors = trunk(TOKENS)
    for split, place in zip((far, near), places, strict=True):
        expected = split.trunk(TOKENS)
        assert len(expected) == len(place)
        for found, want in zip(place, expected, strict=True):
            np.testing.assert_array_equal(tensors[found], want)


# ---------------------------------------------------------------------- several named inputs


def test_a_model_with_named_inputs_is_split_like_any_other():
    model = bert()
    split = split_model(model)
    assert split.trunk.graph.names == ("padding_mask", "segment_ids", "token_ids")
    assert "transformer_layer_0" in names(split.trunk)
    assert "transformer_layer_1" in names(split.tail)
    # The input that the tail reads, too, is stored with the rest.
    assert [(s.shape, s.dtype) for s in split.frontier] == [
        ((LENGTH,), "int32"),
        ((LENGTH, WIDTH), "float32"),
    ]
    assert_same_to_the_bit(model, split, bert_inputs())
    assert {id(v) for v in split.tail.trainable_variables} == {
        id(v) for v in model.trainable_variables
    }


def test_a_frontier_of_unknown_size_is_not_stored_and_the_reason_says_so():
    model = bert(length=None)
    assert split_model(model) is None
    assert "no fixed size: (None, None" in split_or_reason(model)


@pytest.mark.parametrize("precision", ["exact", "float32"])
def test_engines_run_trunks_of_several_inputs_and_masks(precision):
    sample = {name: tf.constant(x) for name, x in bert_inputs().items()}
    masked = chain(layers.MultiHeadAttention(2, 4), layers.Dense(4), mean())
    masked.get_layer("embed").trainable = False
    for model, batch in ((bert(), sample), (masked, tf.constant(TOKENS))):
        split = split_model(model)
        run, name = make_engine(split.trunk, batch, batch_size=2, precision=precision)
        assert "OpenVINO in float32" in name or precision == "exact" or not find_spec("openvino")
        parts = zip(*run([batch]), strict=True)  # OpenVINO takes no more than two at a time
        for a, b in zip(map(np.concatenate, parts), split.trunk(batch), strict=True):
            np.testing.assert_allclose(a.astype("float32"), tf.cast(b, tf.float32), atol=1e-5)
            assert a.dtype == b.dtype.as_numpy_dtype


def test_replicas_run_trunks_of_several_inputs(two_replicas):
    with two_replicas.scope():
        split = split_model(bert())
    batch = {name: tf.constant(x) for name, x in bert_inputs().items()}
    expected = split.trunk(batch)
    data = tf.data.Dataset.from_tensor_slices(batch).batch(1)  # one replica gets nothing
    for given in (data, [batch]):
        run, _ = make_engine(split.trunk, batch, batch_size=3, strategy=two_replicas)
        parts = zip(*run(given), strict=True)
        for a, b in zip(map(np.concatenate, parts), expected, strict=True):
            np.testing.assert_allclose(a, b, atol=1e-5)


def test_a_model_with_named_inputs_is_timed_at_a_length_that_it_takes():
    for length in (LENGTH, None):  # the positions of this BERT end after LENGTH
        model = bert(length=length)
        assert 0 < _seconds_per_work(model, flatten(model), NOMINAL_LENGTH) < 1e-3


def test_a_store_keeps_masks_and_whole_numbers(tmp_path, monkeypatch):
    monkeypatch.setenv("FTKERAS_CACHE", str(tmp_path))
    model = chain(layers.LSTM(5, return_sequences=True), layers.LSTM(4))
    split = split_model(model)
    data = tf.data.Dataset.from_tensor_slices({"token_ids": TOKENS}).batch(2)
    for key in ("stored", None):  # on disk, in memory
        layout = plan_layout(split.frontier, examples=3, dtype="float16")
        trunks = Trunks([split], batch_size=2, precision="exact")
        store = extract(
            trunks, Part(data, lambda: data, "plain"), [Outlet(layout, key)], report=lambda _: None
        )
        stored = store.gather(tf.constant([2, 0], tf.int64))
        for found, expected in zip(stored, split.trunk(TOKENS), strict=True):
            assert found.dtype == expected.dtype
            np.testing.assert_allclose(
                tf.cast(found, tf.float32),
                tf.gather(tf.cast(expected, tf.float32), [2, 0]),
                atol=1e-3,
            )


def test_sequences_of_like_length_run_together_and_come_back_in_order():
    """Ids are padded with 1, as RoBERTa's are; segments are 0 in the middle of a text, too."""
    lengths = np.array([3, 9, 1, 8, 2, 0, 5, 4])
    ids = np.full((8, 16), 1, "int32")
    for row, length in enumerate(lengths):
        ids[row, :length] = 10 + row
    batches = [
        {"segment_ids": np.zeros_like(ids[at]), "token_ids": ids[at]}
        for at in (np.s_[:3, :16], np.s_[3:6, :8], np.s_[6:, :8])
    ]
    spec = {name: tf.TensorSpec((None, None), "int32") for name in batches[0]}
    seen, told = [], []

    def run(given):
        for batch in given:
            seen.append(batch["token_ids"].shape)
            yield [batch["token_ids"][:, :, None] * 2, batch["token_ids"].max(axis=1)]

    sort = ByLength(spec, pad={"token_ids": 1}, sizes=(2, 4, 16), batches=2)
    assert sort.helps
    # The first two batches are sorted: lengths 0, 1, 2 and 3, 8, 9. The third is alone.
    first, second = sort(run, batches, told.append)
    assert seen == [(3, 2), (3, 16), (2, 8)] and told == [3, 3, 2]
    np.testing.assert_array_equal(first[1], [10, 11, 12, 13, 14, 1])
    for row, length in enumerate(lengths[:6]):
        np.testing.assert_array_equal(first[0][row, :length, 0], [2 * (10 + row)] * length)
    assert first[0].shape == (6, 16, 1)
    np.testing.assert_array_equal(second[1], [16, 17])
    one = ByLength(spec, pad={}, sizes=(16,), batches=2)
    fixed = ByLength({"token_ids": tf.TensorSpec((None, 16))}, pad={}, sizes=(8, 16), batches=2)
    assert not one.helps and not fixed.helps


@pytest.mark.parametrize("precision", ["exact", "float32"])
def test_a_store_of_sorted_sequences_holds_what_the_trunk_gives(tmp_path, monkeypatch, precision):
    monkeypatch.setenv("FTKERAS_CACHE", str(tmp_path))
    model = chain(layers.LSTM(5, return_sequences=True), layers.LSTM(4))
    split, lines = split_model(model), []
    longer = np.concatenate([TOKENS, TOKENS[::-1], TOKENS])
    data = tf.data.Dataset.from_tensor_slices(longer).batch(2)
    varied = data.map(lambda x: tf.ensure_shape(x, (None, None)))
    part = Part(longer, lambda: varied, "plain", sizes=(2, LENGTH))
    layout = plan_layout(split.frontier, examples=len(longer))
    trunks = Trunks([split], batch_size=2, precision=precision)
    store = extract(trunks, part, [Outlet(layout, None)], report=lines.append)
    found = store.gather(tf.range(len(longer), dtype=tf.int64))
    expected = split.trunk(longer)
    used = (longer != 0)[:, :, None]
    for a, b in zip(found, expected, strict=True):
        a, b = (np.asarray(tf.cast(x, tf.float32)) for x in (a, b))
        both = [x * used if x.ndim == 3 else x * used[:, :, 0] for x in (a, b)]
        np.testing.assert_allclose(*both, atol=1e-5)


# -------------------------------------------------------------------------- dropout inside


def nested():
    """A nested model with dropout in it, which is called whole."""
    inner_in = keras.Input((LENGTH, WIDTH))
    x = layers.Dropout(0.5)(layers.Dense(WIDTH)(inner_in))

    class Whole(keras.Model):
        def call(self, inputs, training=None):
            return super().call(inputs, training=training)

    return Whole(inner_in, x)


@pytest.mark.parametrize(
    "make",
    [
        lambda: encoder(dropout=0.1),
        lambda: layers.MultiHeadAttention(2, 4, dropout=0.2),
        lambda: layers.LSTM(5, return_sequences=True, dropout=0.3),
        lambda: layers.Bidirectional(layers.GRU(3, return_sequences=True, recurrent_dropout=0.3)),
        nested,
    ],
)
def test_a_frozen_layer_with_dropout_inside_is_in_the_trunk_if_it_is_silenced(make):
    layer = make()
    model = chain(layer, layers.LSTM(4), mask_zero=False)
    assert split_model(model) is None
    reason = split_or_reason(model)
    assert reason.startswith(f"{layer.name} is frozen, but random in training")
    split = split_model(model, silence=True)
    assert split.silenced == (layer.name,)
    assert layer.name in names(split.trunk)
    np.testing.assert_array_equal(split.tail(split.trunk(TOKENS)), model(TOKENS))
    layer.trainable = True
    assert split_model(model, silence=True) is None


def test_a_layer_whose_dropout_is_zero_is_exact():
    for layer in (encoder(), layers.LSTM(5, return_sequences=True)):
        split = split_model(chain(layer, layers.LSTM(4), mask_zero=False), silence=True)
        assert split.silenced == ()


def test_silence_takes_no_layer_that_keeps_statistics():
    class Both(layers.Layer):
        def __init__(self):
            super().__init__()
            self.norm, self.drop = layers.BatchNormalization(), layers.Dropout(0.5)
            self.dense = layers.Dense(WIDTH)

        def call(self, x, training=None):
            return self.drop(self.norm(self.dense(x), training=training), training=training)

    layer = Both()
    model = chain(layer, layers.LSTM(4), mask_zero=False)
    assert split_model(model, silence=True) is not None
    layer.norm.trainable = True
    for variable in layer.trainable_variables:
        variable.trainable = False  # nothing trains, but the moving statistics would move
    assert split_model(model, silence=True) is None
    stateful = layers.LSTM(5, return_sequences=True, stateful=True, dropout=0.1)
    tokens = keras.Input(batch_shape=(3, LENGTH), dtype="int32")
    x = layers.Embedding(WORDS, WIDTH)(tokens)
    model = keras.Model(tokens, layers.LSTM(4)(stateful(x)))
    model.layers[1].trainable = stateful.trainable = False
    assert split_model(model, silence=True) is None


# ------------------------------------------------------------------------------------ cost


def cost(layer, *inputs, **call):
    model = keras.Model(list(inputs), layer(*inputs, **call))
    (step,) = flatten(model).steps
    return work(flatten(model)), step


def test_an_embedding_costs_what_it_reads_not_its_table():
    tokens = keras.Input((LENGTH,), dtype="int32")
    for words in (10, 100_000):
        assert cost(layers.Embedding(words, 8), tokens)[0] == 10 * LENGTH * 8
    reverse = layers.ReversibleEmbedding(50, 8)
    assert cost(reverse, tokens)[0] == 10 * LENGTH * 8
    scores = cost(reverse, keras.Input((LENGTH, 8)), reverse=True)[0]
    assert scores == LENGTH * 8 * 50 + 10 * LENGTH * 50


def test_sequence_layers_cost_their_products():
    t, d = LENGTH, 8
    x = keras.Input((t, d))
    assert cost(layers.Dense(5), x)[0] == t * d * 5 + 10 * t * 5
    assert cost(layers.EinsumDense("abc,cde->abde", (t, 2, 4)), x)[0] == t * d * 8 + 10 * t * 8
    assert cost(layers.LayerNormalization(), x)[0] == 10 * t * d
    for sequences in (True, False):  # each step is computed, whether or not it is put out
        found = cost(layers.LSTM(5, return_sequences=sequences), x)[0]
        assert found == t * (d * 20 + 5 * 20) + 10 * t * 20
    both = cost(layers.Bidirectional(layers.GRU(5)), x)[0]
    assert both > 2 * t * (d * 15 + 5 * 15)
    attention = cost(layers.MultiHeadAttention(2, 4), x, x)[0]
    projections, pairs = 4 * t * d * 8, t * t * 2 * (4 + 4 + 10)
    assert attention == projections + pairs + 10 * t * 4 * 8


def test_an_unknown_length_counts_as_a_nominal_one():
    known = cost(layers.Dense(5), keras.Input((64, 8)))[0]
    any_length = keras.Input((None, 8))
    graph = flatten(keras.Model(any_length, layers.Dense(5)(any_length)))
    assert work(graph, length=64) == known
    assert work(graph) == 2 * known


def test_layers_with_others_inside_cost_what_is_inside():
    from keras_hub.layers import TokenAndPositionEmbedding

    tokens, x = keras.Input((LENGTH,), dtype="int32"), keras.Input((LENGTH, 8))
    table = cost(TokenAndPositionEmbedding(100_000, LENGTH, 8), tokens)[0]
    assert table <= 3 * 10 * LENGTH * 8
    one = cost(encoder(), x)[0]
    parts = cost(layers.MultiHeadAttention(2, 4), x, x)[0] + LENGTH * 2 * 8 * 12
    assert parts < one < 1.5 * parts + 10 * LENGTH * 60
