"""Who the workers are: TF_CONFIG and Slurm's variables."""

from __future__ import annotations

import json

import pytest

from ftkeras.devices.cluster import Cluster, find_cluster
from ftkeras.errors import UserError


def tf_config(cluster: object, task: object) -> dict[str, str]:
    return {"TF_CONFIG": json.dumps({"cluster": cluster, "task": task})}


def test_a_chief_comes_before_the_workers():
    jobs = {"chief": ["a:1"], "worker": ["b:1", "c:1"]}
    cluster = find_cluster(tf_config(jobs, {"type": "worker", "index": 1}))
    assert cluster == Cluster(("a:1", "b:1", "c:1"), 2, "TF_CONFIG")
    assert find_cluster(tf_config(jobs, {"type": "chief", "index": 0})).index == 0
    again = find_cluster({"TF_CONFIG": cluster.as_tf_config()})
    assert again == cluster


def test_one_worker_is_no_cluster():
    assert find_cluster({}) is None
    assert find_cluster({"SLURM_STEP_NUM_TASKS": "1"}) is None
    alone = tf_config({"worker": ["a:1"]}, {"type": "worker", "index": 0})
    assert find_cluster(alone) is None


@pytest.mark.parametrize(
    ("cluster", "task", "message"),
    [
        ({"worker": ["a:1", "b:1"]}, {"type": "worker", "index": 2}, "there is no worker 2"),
        ({"worker": ["a:1", "b:1"]}, {"type": "ps", "index": 0}, "'ps'; only chief and worker"),
        ({"worker": ["a:1", "b:1"]}, None, "expected"),
        ({"worker": ["a", "b"]}, {"type": "worker", "index": 0}, "expected"),
        (["a:1"], {"type": "worker", "index": 0}, "expected"),
    ],
)
def test_a_wrong_tf_config_says_what_is_expected(cluster, task, message):
    with pytest.raises(UserError, match=message):
        find_cluster(tf_config(cluster, task))


def test_slurm_tasks_are_numbered_host_by_host():
    environ = {
        "SLURM_STEP_NUM_TASKS": "6",
        "SLURM_STEP_NODELIST": "gpu[2-3,10],big",
        "SLURM_STEP_TASKS_PER_NODE": "2,1(x2),2",
        "SLURM_PROCID": "4",
        "SLURM_JOB_ID": "70123",
    }
    cluster = find_cluster(environ)
    assert cluster.workers == (
        "gpu2:20123", "gpu2:20124", "gpu3:20123", "gpu10:20123", "big:20123", "big:20124"
    )  # fmt: skip
    assert (cluster.index, cluster.source) == (4, "Slurm")
    with pytest.raises(UserError, match="SLURM_STEP"):
        find_cluster({**environ, "SLURM_PROCID": "6"})
    with pytest.raises(UserError, match="SLURM_STEP"):
        find_cluster({**environ, "SLURM_STEP_NODELIST": "gpu[2-"})
