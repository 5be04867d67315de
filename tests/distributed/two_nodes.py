"""Run as a process of its own: a cluster of a node; another one comes, and is taken away again."""

import sys

import ray
from ray.cluster_utils import Cluster

from tests.distributed import join_a_node, lose_a_node, place_on_gpus


def main():
    head = {"num_cpus": 2, "num_gpus": 2, "include_dashboard": False}
    cluster = Cluster(initialize_head=True, head_node_args=head)
    ray.init(address=cluster.address, log_to_driver=False, logging_level="ERROR")
    try:
        join_a_node.check(cluster)
        sys.stdout.write("the node that joined was used\n")
        place_on_gpus.check()
        sys.stdout.write("all GPUs placed\n")
        (second,) = cluster.worker_nodes
        lose_a_node.check(cluster, second)
        sys.stdout.write("identical after losing a node\n")
    finally:
        ray.shutdown()
        cluster.shutdown()


if __name__ == "__main__":
    main()
