"""The pack installs and goes away again as a registry's zip and as a git clone, through the real ComfyUI-Manager."""

import asyncio
import json
import os
import re
import shutil
import subprocess
import tomllib
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import manager
import pytest
from client import Client, api_graph
from host import PACK, PACKAGES, REPOSITORY, Host, prepare
from manager import Manager
from PIL import Image

LARGEST = 40e6  # bytes of the zip
NEEDED = (
    "__init__.py",
    "pyproject.toml",
    "requirements.txt",
    "README.md",
    "LICENSE",
    "demo/sprites.webp",
    "demo/sprites.json",
    "demo/LICENSE.txt",
)
NOT_NEEDED = ("tests", "benchmarks", "scripts", "assets", "shared", "output")


@dataclass(frozen=True)
class Published:
    """What a registry has of the pack as it stands: `folder` holds pack.zip and PACK.git."""

    folder: Path
    packages: Path
    configuration: dict[str, Any]
    said: str

    @property
    def archive(self) -> Path:
        return self.folder / "pack.zip"


@pytest.fixture(scope="module")
def published(host: Host, tmp_path_factory: pytest.TempPathFactory) -> Published:
    packages, place = manager.install(host), tmp_path_factory.mktemp("published")
    repository = manager.checkout(tmp_path_factory.mktemp("repository"))
    manager.git("clone", "--quiet", "--bare", str(repository), f"{place}/{PACK}.git", at=place)
    manager.git("update-server-info", at=place / f"{PACK}.git")
    return Published(place, packages, *manager.pack(host, packages, repository, place / "pack.zip"))


@pytest.fixture(scope="module")
def node_ids(pack: ModuleType) -> set[str]:
    nodes = asyncio.run(asyncio.run(pack.comfy_entrypoint()).get_node_list())
    return {node.GET_SCHEMA().node_id for node in nodes}


# --- metadata ---------------------------------------------------------------------------------------------------------


def test_the_registry_and_the_host_read_the_metadata_alike(published: Published) -> None:
    from comfy_config import config_parser

    read, said = published.configuration, published.said
    assert not said, "the packer warns"
    project, comfy = read["project"], read["tool_comfy"]
    assert config_parser.extract_node_configuration(str(REPOSITORY)).project.model_dump() == project
    assert re.fullmatch(r"[A-Za-z]+([-_.]?[A-Za-z0-9])*", project["name"])
    assert len(project["name"]) < 100
    assert re.fullmatch(r"\d+\.\d+\.\d+", project["version"])
    assert (REPOSITORY / project["license"]["file"]).is_file()
    # A wrong classifier or version empties these.
    assert project["supported_os"] == ["OS Independent"]
    assert project["supported_accelerators"] == []
    oldest = min(PACKAGES, key=lambda version: [int(part) for part in version.split(".")])
    assert project["supported_comfyui_version"] == f">={oldest}", "the oldest that the tests run on"
    assert comfy["publisher_id"]
    assert comfy["display_name"]


def test_requirements_are_those_of_the_project() -> None:
    lines = (REPOSITORY / "requirements.txt").read_text(encoding="utf-8").splitlines()
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert [line for line in lines if line.strip() and not line.startswith("#")] == project["dependencies"]


@pytest.mark.parametrize(("name", "size"), [("icon.png", (400, 400)), ("banner.png", (798, 342))])
def test_pictures_for_the_registry(name: str, size: tuple[int, int]) -> None:
    with Image.open(REPOSITORY / "assets" / name) as picture:
        assert (picture.format, picture.size) == ("PNG", size)  # the registry takes up to 800 x 400


# --- the zip ----------------------------------------------------------------------------------------------------------


def test_the_zip_holds_what_running_takes_and_no_more(published: Published) -> None:
    with zipfile.ZipFile(published.archive) as archive:
        held = {item.filename: item.compress_size for item in archive.infolist()}
    size = published.archive.stat().st_size
    weights = sum(count for name, count in held.items() if name.startswith("demo/weights/"))
    print(f"{len(held)} files, {size / 1e6:.1f} MB, of which the demo model's weights are {weights / 1e6:.1f} MB")
    assert size < LARGEST
    needed = [*NEEDED, *(f"demo/weights/{name}.safetensors" for name in ("shared", "flow", "v-prediction", "turbo"))]
    for pattern in ("nodes/**/*.py", "inversion/**/*.py", "workflows/*", "subgraphs/*", "web/**/*", "locales/**/*"):
        needed += [path.relative_to(REPOSITORY).as_posix() for path in REPOSITORY.glob(pattern) if path.is_file()]
    assert not set(needed) - set(held)
    assert "demo/weights/judge.safetensors" not in held
    assert not [name for name in held if name.startswith((".", *(f"{folder}/" for folder in NOT_NEEDED)))]


def test_importing_the_zip_costs_nothing_and_touches_nothing(
    host: Host, published: Published, node_ids: set[str], tmp_path: Path
) -> None:
    folder = tmp_path / PACK
    with zipfile.ZipFile(published.archive) as archive:
        archive.extractall(folder)
    shutil.rmtree(folder / "demo" / "weights")  # the import would miss them if it opened them
    environment = host.environment()
    environment["PYTHONPATH"] += os.pathsep + str(REPOSITORY / "scripts")
    command = [str(host.python), str(REPOSITORY / "tests" / "host" / "fresh_import.py"), str(folder)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout.splitlines()[-1])
    expected = {"loaded": True, "nodes": sorted(node_ids), "imported": [], "reached": [], "said": ""}
    assert result == expected


# --- installing -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class State:
    """What a user sees of a running ComfyUI: nodes by id, and the pack's templates."""

    nodes: dict[str, Any]
    templates: list[str]

    @property
    def ours(self) -> set[str]:
        return {name for name, node in self.nodes.items() if node["python_module"] == f"custom_nodes.{PACK}"}

    @property
    def others(self) -> dict[str, Any]:
        return {name: node for name, node in self.nodes.items() if name not in self.ours}


def state(client: Client) -> State:
    templates = json.loads(client.get("/api/workflow_templates"))
    assert set(templates) <= {PACK}
    return State(client.object_info(), templates.get(PACK, []))


def files(place: Path) -> set[str]:
    return {path.relative_to(place).as_posix() for path in place.rglob("*") if not path.is_dir()}


def left_behind(base: Path) -> set[str]:
    """Files of a base directory, without the Manager's own and the log that `serve` writes."""
    return {name for name in files(base) if not name.startswith("user/__manager/")} - {"server.log"}


@pytest.fixture
def base(tmp_path: Path) -> Path:
    """The folders of a ComfyUI without packs."""
    place = tmp_path / "base"
    prepare(place, with_pack=False)
    (place / "input" / "3d").mkdir()  # the host makes it as it first describes its nodes, and then lists it there
    return place


@pytest.fixture
def cm_cli(host: Host, published: Published, base: Path) -> Iterator[Manager]:
    with manager.registry(published.folder, published.configuration["project"]) as address:
        yield Manager(host, published.packages, base, address)


def test_from_the_registry(host: Host, base: Path, cm_cli: Manager, node_ids: set[str]) -> None:
    """Install the zip, run it, disable it, enable it, uninstall it."""
    had, place = manager.distributions(host), base / "custom_nodes" / PACK
    assert "[INSTALLED]" in cm_cli("install", PACK, "--mode", "remote")
    installed = files(place)
    with host.serve(base, with_pack=False) as server:
        client = Client(server.url)
        with_pack = state(client)
        assert with_pack.ours == node_ids, server.log.read_text(encoding="utf-8")
        workflow = json.loads(client.get(f"/api/workflow_templates/{PACK}/guided_nr_4_steps.json"))
        assert client.run(api_graph(workflow))

    assert "[DISABLED]" in cm_cli("disable", PACK)
    with host.serve(base, with_pack=False) as server:
        without = state(Client(server.url))
    assert not without.ours
    assert not without.templates
    assert without.others == with_pack.others

    assert "[ENABLED]" in cm_cli("enable", PACK)
    assert files(place) >= installed
    assert "[UNINSTALLED]" in cm_cli("uninstall", PACK)
    assert not place.exists()
    assert not left_behind(base)
    assert manager.distributions(host) == had


def test_from_git(host: Host, base: Path, cm_cli: Manager, node_ids: set[str]) -> None:
    """Clone the repository, disable and enable it, run it, uninstall it."""
    had, place = manager.distributions(host), base / "custom_nodes" / PACK
    assert "[INSTALLED]" in cm_cli("install", f"{cm_cli.registry}/{PACK}.git", "--exit-on-fail")
    assert "[DISABLED]" in cm_cli("disable", PACK)
    assert not place.exists()
    assert "[ENABLED]" in cm_cli("enable", PACK)
    with host.serve(base, with_pack=False) as server:
        assert state(Client(server.url)).ours == node_ids, server.log.read_text(encoding="utf-8")
    assert not manager.git("status", "--porcelain", at=place), "running it changes its repository"
    assert "[UNINSTALLED]" in cm_cli("uninstall", PACK)
    assert not place.exists()
    assert not left_behind(base)
    assert manager.distributions(host) == had
