"""A cluster of two nodes on this machine, one of which goes away in the middle of a run."""

import threading
from pathlib import Path

import pytest
import ray
from catalogue import files, settings
from ray.cluster_utils import Cluster

from inversion.many import Job, Workers, run
from inversion.many.output import Output
from inversion.many.worker import Done

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("ray_path")]


def test_a_node_that_is_removed_changes_nothing(
    pictures: Path, pipeline: Path, undisturbed: Output, tmp_path: Path
) -> None:
    node = {"num_cpus": 1, "object_store_memory": 100_000_000, "include_dashboard": False}
    cluster = Cluster(initialize_head=True, head_node_args=node)
    try:
        second = cluster.add_node(num_cpus=1, object_store_memory=100_000_000)
        ray.init(address=cluster.address, log_to_driver=False, logging_level="error")
        job = Job(pictures, tmp_path / "out", pipeline, settings(records=True))
        seen: list[Done] = []
        removal = threading.Thread(target=cluster.remove_node, args=(second,))

        def watch(done: Done) -> None:
            seen.append(done)
            if not removal.ident and len({each.worker for each in seen}) == 2:  # both are at work
                removal.start()

        run(job, Workers(count=2), watch)
        assert removal.ident, "one worker did it all before the other was there"
        removal.join()
        assert len(seen) < 2 * len(undisturbed.done())
        assert files(Output(job.output)) == files(undisturbed)
    finally:
        ray.shutdown()
        cluster.shutdown()
