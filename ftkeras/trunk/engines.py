"""The engines that run the trunk: TensorFlow, or OpenVINO, which is faster on a CPU.

An engine takes batches of the model's inputs: a tensor, or several in a tuple or a dict by name. It
yields the frontier of each, in order.
"""

from __future__ import annotations

import collections
import contextlib
import functools
import importlib
import importlib.util
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, TypeAlias

import keras
import numpy as np
import tensorflow as tf

from ftkeras.errors import first_line
from ftkeras.graph import GraphModel
from ftkeras.imports import hidden

Frontier: TypeAlias = list[np.ndarray]
Inputs: TypeAlias = Any  # a tensor, or a list, tuple or dict of tensors
Engine: TypeAlias = Callable[[Iterable[Inputs]], Iterator[Frontier]]

_CHECKED = 8  # examples on which OpenVINO is compared with TensorFlow
# Differences that rounding explains in a deep network, and the norm that measures them. In
# bfloat16 they come from the precision, not from the engine: Keras's own `mixed_bfloat16` also
# changes MobileNetV2's features by 0.14, and single numbers by much more.
_TOLERANCE = {"float32": 1e-4, "bfloat16": 0.25}
_NORM = {"float32": math.inf, "bfloat16": 2}
_LARGEST_FROZEN = 1 << 30  # bytes; a graph with constants of two gigabytes cannot be stored


def best_precision(asked: str) -> str:
    """Returns the precision to compute in: bfloat16 only if the CPU has instructions for it."""
    if asked == "exact":
        return asked
    return "bfloat16" if asked == "bfloat16" and "BF16" in _capabilities() else "float32"


def make_engine(
    trunk: GraphModel,
    sample: Inputs,
    *,
    batch_size: int,
    engine: str = "auto",
    precision: str = "float32",
    strategy: tf.distribute.Strategy | None = None,
) -> tuple[Engine, str]:
    """Returns the fastest engine whose result is right on a sample, and a line that names it.

    Args:
        trunk: The model to run.
        sample: A batch; a few of its examples are run through both engines.
        batch_size: The largest batch that will come.
        engine: "tensorflow", "openvino", or "auto": OpenVINO if it is installed and there is one
            CPU device, otherwise TensorFlow.
        precision: "exact": TensorFlow's operations as in the model, to the bit. "float32":
            operations may be folded, fused, or OpenVINO's, and round differently. "bfloat16":
            OpenVINO's; see `best_precision`.
        strategy: The run's strategy; TensorFlow divides batches among its replicas.
    """
    if precision == "exact":
        return tensorflow_engine(trunk, strategy, fold=False), "TensorFlow, to the bit"
    replicas = 1 if strategy is None else strategy.num_replicas_in_sync
    single_cpu = replicas == 1 and not tf.config.list_logical_devices("GPU")
    installed = importlib.util.find_spec("openvino") is not None
    if engine == "tensorflow" or (engine == "auto" and not (installed and single_cpu)):
        return tensorflow_engine(trunk, strategy), "TensorFlow"
    if not installed:
        return tensorflow_engine(trunk, strategy), "TensorFlow (OpenVINO is not installed)"
    few = tf.nest.map_structure(lambda part: part[: min(_CHECKED, batch_size)], sample)
    try:
        run = openvino_engine(trunk, batch_size=min(batch_size, 32), precision=precision)
        (outputs,) = run([few])
    except Exception as error:  # TensorFlow runs everything that OpenVINO cannot
        reason = first_line(error)
        if reason.startswith("Check "):  # a line of OpenVINO's source does not help users
            reason = "it cannot convert a layer"
        return tensorflow_engine(trunk, strategy), f"TensorFlow (OpenVINO: {reason})"
    expected = [tensor.numpy() for tensor in _flat(trunk(few, training=False))]
    norm = _NORM[precision]
    off = max(relative_difference(a, b, norm) for a, b in zip(outputs, expected, strict=True))
    if not off <= _TOLERANCE[precision]:
        return tensorflow_engine(trunk, strategy), f"TensorFlow (OpenVINO is off by {off:.1e})"
    return run, f"OpenVINO in {precision} (differs from TensorFlow by {off:.0e})"


def relative_difference(actual: np.ndarray, expected: np.ndarray, norm: float = math.inf) -> float:
    """Returns the size of the differences, relative to that of the expected numbers.

    Args:
        actual: Numbers of any shape.
        expected: The expected numbers.
        norm: Infinity: the largest of each. 2: the root mean square.
    """
    if actual.shape != expected.shape:
        return float("inf")
    wanted = expected.astype(np.float32).ravel()
    off = float(np.linalg.norm(actual.astype(np.float32).ravel() - wanted, norm))
    return off / max(float(np.linalg.norm(wanted, norm)), 1e-6)


def tensorflow_engine(
    trunk: GraphModel, strategy: tf.distribute.Strategy | None = None, *, fold: bool = True
) -> Engine:
    """Returns an engine that runs the trunk through TensorFlow, in the precision of its layers.

    Folding batch norms into convolutions makes it faster and rounds differently.
    """
    if strategy is not None and strategy.num_replicas_in_sync > 1:
        return _replicated_engine(trunk, strategy)
    run = _frozen(trunk, fold)

    def engine(batches: Iterable[Inputs]) -> Iterator[Frontier]:
        for batch in batches:
            yield [tensor.numpy() for tensor in run(*trunk.graph.in_order(batch))]

    return engine


def _replicated_engine(trunk: GraphModel, strategy: tf.distribute.Strategy) -> Engine:
    def run_part(part: Inputs) -> tuple[tf.Tensor, ...]:
        # A replica's part may be empty; on a CPU a convolution may return the wrong shape for it.
        tensors = trunk.graph.in_order(part)
        count = tf.shape(tensors[0])[0]
        more = [(0, tf.cast(count == 0, tf.int32))]
        filled = [tf.pad(x, more + [(0, 0)] * (len(x.shape) - 1)) for x in tensors]
        return tuple(tensor[:count] for tensor in _flat(trunk(filled, training=False)))

    @tf.function(autograph=False)
    def run(batch: Any) -> Any:
        return strategy.run(run_part, (batch,))

    def engine(batches: Iterable[Inputs]) -> Iterator[Frontier]:
        data = batches
        if not isinstance(data, tf.data.Dataset):
            data = tf.data.Dataset.from_generator(
                lambda: (tuple(trunk.graph.in_order(batch)) for batch in batches),
                output_signature=tuple(_input_specs(trunk)),
            )
        for batch in strategy.experimental_distribute_dataset(data):
            per_tensor = (strategy.experimental_local_results(x) for x in run(batch))
            yield [np.concatenate([part.numpy() for part in parts]) for parts in per_tensor]

    return engine


def openvino_engine(trunk: GraphModel, *, batch_size: int, precision: str) -> Engine:
    """Returns an engine that runs the trunk through OpenVINO on the CPU.

    Batches have one size, which OpenVINO plans memory for; a smaller one is padded. Several run at
    once.
    """
    openvino = import_openvino()
    model = openvino.convert_model(_frozen(trunk).graph)
    for result in model.get_results():  # unused tensors count as outputs, too
        if _number(result.output(0), "frontier_") is None:
            model.remove_result(result)
    specs, inputs = _input_specs(trunk), _in_order(model.inputs, "input_")
    model.reshape(
        {
            x: [batch_size, *(-1 if size is None else size for size in spec.shape[1:])]
            for x, spec in zip(inputs, specs, strict=True)
        }
    )
    hints = {"float32": "f32", "bfloat16": "bf16"}
    config = {"INFERENCE_PRECISION_HINT": hints[precision], "PERFORMANCE_HINT": "THROUGHPUT"}
    compiled = openvino_core().compile_model(model, "CPU", config)
    inputs = _in_order(compiled.inputs, "input_")
    ports = {_number(port, "frontier_"): port for port in compiled.outputs}
    # OpenVINO drops tensors that pass through unchanged, such as the padding mask of the tail.
    given = trunk.graph.inputs
    passing = {i: given.index(x) for i, x in enumerate(trunk.graph.outputs) if x in given}

    at_once = compiled.get_property("OPTIMAL_NUMBER_OF_INFER_REQUESTS")

    def collect(request: Any, parts: list[np.ndarray]) -> Frontier:
        request.wait()
        return [
            parts[passing[number]]
            if number in passing
            else request.get_tensor(ports[number]).data[: len(parts[0])].copy()
            for number in range(len(trunk.graph.outputs))
        ]

    def engine(batches: Iterable[Inputs]) -> Iterator[Frontier]:
        idle = [compiled.create_infer_request() for _ in range(at_once)]
        running: collections.deque[tuple[Any, list[np.ndarray]]] = collections.deque()
        for parts in _divided(map(trunk.graph.in_order, batches), batch_size):
            if not idle:
                request, its_parts = running.popleft()
                idle.append(request)
                yield collect(request, its_parts)
            more = [(0, batch_size - len(parts[0]))]
            filled = [np.pad(x, more + [(0, 0)] * (x.ndim - 1)) if more[0][1] else x for x in parts]
            running.append((idle.pop(), parts))
            running[-1][0].start_async(dict(zip(inputs, filled, strict=True)))
        while running:
            yield collect(*running.popleft())

    return engine


def _divided(batches: Iterable[list[Any]], largest: int) -> Iterator[list[np.ndarray]]:
    for batch in batches:
        arrays = [np.asarray(tensor) for tensor in batch]
        for start in range(0, len(arrays[0]), largest):
            yield [array[start : start + largest] for array in arrays]


def _in_order(ports: Sequence[Any], prefix: str) -> list[Any]:
    """Sorts OpenVINO's inputs or outputs by the number that `_frozen` gave them."""
    return sorted(ports, key=lambda port: _number(port, prefix) or 0)


def _number(port: Any, prefix: str) -> int | None:
    names = [name for name in port.get_names() if name.startswith(prefix)]
    return int(names[0].split("_")[1].split(":")[0]) if names else None


def _frozen(trunk: GraphModel, fold: bool = True) -> Any:
    """Returns the trunk as a function of its inputs in order; `fold` makes weights constants."""
    size = sum(math.prod(v.shape) * tf.as_dtype(v.dtype).size for v in trunk.weights)
    folded = trunk.weights if fold and size <= _LARGEST_FROZEN else []
    values = [(variable, keras.ops.convert_to_numpy(variable)) for variable in folded]

    @tf.function(autograph=False, input_signature=_input_specs(trunk))
    def run(*inputs: tf.Tensor) -> list[tf.Tensor]:
        # Constants instead of variables: freezing the traced graph would take twice as long.
        constants = [(variable, tf.constant(value)) for variable, value in values]
        with keras.StatelessScope(constants) if constants else contextlib.nullcontext():
            tensors = _flat(trunk(list(inputs), training=False))
        return [tf.identity(x, name=f"frontier_{i}") for i, x in enumerate(tensors)]

    return run.get_concrete_function()


def _input_specs(trunk: GraphModel) -> list[tf.TensorSpec]:
    inputs = enumerate(trunk.graph.inputs)
    return [tf.TensorSpec(x.shape, x.dtype, name=f"input_{number}") for number, x in inputs]


def _flat(tensors: Any) -> list[tf.Tensor]:
    return list(tensors) if isinstance(tensors, (list, tuple)) else [tensors]


def import_openvino() -> Any:
    """Returns the module `openvino`, without its telemetry.

    By default its converter reports each import and conversion to Google Analytics, from processes
    of its own, which takes longer than the conversion. Without that module it does not.
    """
    with hidden("openvino_telemetry"):
        return importlib.import_module("openvino")


@functools.cache
def openvino_core() -> Any:
    """Returns the process's only `openvino.Core`, which is kept until the end.

    On CPUs with large registers (seen with AMX) a core sets its thread's signal stack, and restores
    the former one when it ends. If two cores end in the order in which they began, the thread is
    left with a freed stack (seen in OpenVINO 2026.4). The same happens if one ends in another
    thread. The next signal that Python handles, such as Ctrl-C, is then a segmentation fault.
    """
    return import_openvino().Core()


def _capabilities() -> list[str]:
    if importlib.util.find_spec("openvino") is None:
        return []
    capabilities: list[str] = openvino_core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    return capabilities
