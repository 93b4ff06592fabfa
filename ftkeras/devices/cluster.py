"""Who the workers of a run are, from `TF_CONFIG` or from Slurm."""

from __future__ import annotations

import contextlib
import json
import re
import socket
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from ftkeras.errors import UserError

_SEE = "See docs/distributed.md."
_FIRST_PORT, _PORTS = 20_000, 10_000  # below the ports that systems hand out by themselves


@dataclass(frozen=True)
class Cluster:
    """Several workers that train one model.

    Args:
        workers: Their addresses, HOST:PORT, the chief's first.
        index: Which of them this process is.
        source: What said so: TF_CONFIG or Slurm.
    """

    workers: tuple[str, ...]
    index: int
    source: str

    def as_tf_config(self) -> str:
        """Returns what TensorFlow reads from the environment variable `TF_CONFIG`.

        Example:
            >>> Cluster(("a:1", "b:1"), 1, "TF_CONFIG").as_tf_config()
            '{"cluster": {"worker": ["a:1", "b:1"]}, "task": {"type": "worker", "index": 1}}'
        """
        task = {"type": "worker", "index": self.index}
        return json.dumps({"cluster": {"worker": list(self.workers)}, "task": task})


def find_cluster(environ: Mapping[str, str]) -> Cluster | None:
    """Returns the cluster that the environment describes, or None if there is one process.

    Raises:
        UserError: The variables cannot be understood.
    """
    if environ.get("TF_CONFIG"):
        cluster = _from_tf_config(environ["TF_CONFIG"])
    elif int(environ.get("SLURM_STEP_NUM_TASKS") or 1) > 1:
        cluster = _from_slurm(environ)
    else:
        return None
    return cluster if cluster is not None and len(cluster.workers) > 1 else None


def _from_tf_config(text: str) -> Cluster | None:
    try:
        tree = json.loads(text)
    except json.JSONDecodeError as error:
        raise UserError(f"TF_CONFIG: not JSON ({error}). {_SEE}") from None
    if not isinstance(tree, dict) or not tree.get("cluster"):
        return None  # TensorFlow takes that for a single process, too
    try:
        chief, others = (_addresses(tree["cluster"], kind) for kind in ("chief", "worker"))
        kind, index = tree["task"]["type"], int(tree["task"]["index"])
    except (KeyError, TypeError, ValueError, AttributeError):
        raise UserError(
            'TF_CONFIG: expected {"cluster": {"worker": ["HOST:PORT", ...]}, "task": {"type": '
            f'"worker", "index": 0}}}}. {_SEE}'
        ) from None
    if kind not in ("chief", "worker"):
        raise UserError(f"TF_CONFIG: a task of type {kind!r}; only chief and worker train. {_SEE}")
    if not 0 <= index < len(chief if kind == "chief" else others):
        raise UserError(f"TF_CONFIG: there is no {kind} {index} in its own cluster. {_SEE}")
    rank = index + (len(chief) if kind == "worker" else 0)
    return Cluster((*chief, *others), rank, "TF_CONFIG")


def _addresses(jobs: Any, kind: str) -> tuple[str, ...]:
    addresses = jobs.get(kind, [])
    if not isinstance(addresses, list) or not all(":" in address for address in addresses):
        raise ValueError
    return tuple(addresses)


def _from_slurm(environ: Mapping[str, str]) -> Cluster:
    try:
        hosts = list(_expand_hosts(environ["SLURM_STEP_NODELIST"]))
        tasks = list(_expand_counts(environ["SLURM_STEP_TASKS_PER_NODE"]))
        rank = int(environ["SLURM_PROCID"])
        first = _FIRST_PORT + int(environ.get("SLURM_JOB_ID") or 0) % _PORTS
        workers = tuple(
            f"{host}:{first + local_rank}"
            for host, count in zip(hosts, tasks, strict=True)
            for local_rank in range(count)
        )
        if rank >= len(workers):
            raise ValueError
    except (KeyError, ValueError) as error:
        raise UserError(
            f"Slurm's SLURM_STEP_* variables cannot be understood ({error}). Set TF_CONFIG instead."
        ) from None
    return Cluster(workers, rank, "Slurm")


def _expand_hosts(text: str) -> Iterator[str]:
    """Yields host names in Slurm's own order, which is the order of its task numbers.

    Example:
        >>> list(_expand_hosts("gpu[08-10,12],login"))
        ['gpu08', 'gpu09', 'gpu10', 'gpu12', 'login']
    """
    for name in re.findall(r"(?:[^,\[]|\[[^\]]*\])+", text):
        match = re.fullmatch(r"([^\[\]]*)(?:\[([^\]]+)\](.*))?", name)
        if match is None:
            raise ValueError(text)
        prefix, ranges, suffix = match.groups()
        if ranges is None:
            yield prefix
            continue
        for part in ranges.split(","):
            first, _, last = part.partition("-")
            for number in range(int(first), int(last or first) + 1):
                for rest in _expand_hosts(suffix) if suffix else ("",):
                    yield f"{prefix}{number:0{len(first)}d}{rest}"


def _expand_counts(text: str) -> Iterator[int]:
    """Yields how many tasks each host has.

    Example:
        >>> list(_expand_counts("2(x3),1"))
        [2, 2, 2, 1]
    """
    for part in text.split(","):
        match = re.fullmatch(r"(\d+)(?:\(x(\d+)\))?", part)
        if match is None:
            raise ValueError(text)
        yield from [int(match[1])] * int(match[2] or 1)


def local_clusters(count: int) -> list[Cluster]:
    """Returns what each of `count` workers on this machine has to know; the ports are free now."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        workers = tuple(f"127.0.0.1:{one.getsockname()[1]}" for one in sockets)
    return [Cluster(workers, index, "TF_CONFIG") for index in range(count)]
