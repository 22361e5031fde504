"""A pipeline and a catalogue on disk, and a local Ray."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import ray
import torch
from catalogue import save_catalogue, save_pipeline, settings, write_without_ray

from inversion.many import Job
from inversion.many.output import Output

REPOSITORY = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="session")
def pipeline(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_pipeline(tmp_path_factory.mktemp("pipeline") / "sd")


@pytest.fixture(scope="session")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_catalogue(tmp_path_factory.mktemp("catalogue") / "pictures")


@pytest.fixture(scope="session")
def undisturbed(pipeline: Path, pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> Output:
    """All of the catalogue, inverted with records, one picture at a time."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    job = Job(pictures, tmp_path_factory.mktemp("undisturbed") / "out", pipeline, settings(records=True))
    output = write_without_ray(job)
    torch.set_num_threads(threads)
    return output


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """As many as a worker has: another number rounds otherwise."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def ray_path() -> Iterator[None]:
    """Ray's processes find the library, and Ray itself where it lies in a folder that only pytest was told of."""
    path = os.environ.get("PYTHONPATH")
    found = [str(REPOSITORY), str(Path(ray.__file__).parents[1]), path]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", os.pathsep.join(filter(None, found)))
        yield


@pytest.fixture(scope="module")
def local_ray(ray_path: None) -> Iterator[None]:
    """A Ray with room for two workers, whatever the machine has."""
    ray.init(
        address="local",
        num_cpus=2,
        object_store_memory=200_000_000,
        include_dashboard=False,
        log_to_driver=False,
        logging_level="error",
    )
    yield
    ray.shutdown()
