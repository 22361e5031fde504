"""Save Inversion and Load Inversion: an inverted LATENT with its record, and how it was made, as one file."""

import json
import logging
import os
from collections import deque
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import comfy.model_management
import folder_paths
import torch
from comfy.cli_args import args
from comfy_api.latest import io, ui
from torch import Tensor

from ..inversion import InversionError
from ..inversion import fields as checked
from ..inversion.errors import TakenError
from ..inversion.files import read_record, write_record
from .host import lasting_sigmas, record
from .invert import OUTPUTS
from .schema import CATEGORY, report_text, schema

# By its last part the browser knows a file that may hold a workflow, by both the Load node knows ours without a look
# inside: an output folder holds thousands of files, and checkpoints too.
SUFFIX = ".inversion.safetensors"
BESIDE = "latent"  # the record's key for what else the LATENT holds, and the first part of its tensors' names
MOST_ENTRIES = 20_000  # of a folder and all below it, that the list of files is made from
MOST_TRIES = 1000  # at a number that no other file has


class SaveInversion(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="INV_Save",
            display_name="Save Inversion",
            category=CATEGORY,
            description="Saves an inverted latent with its record in the output folder. With Load Inversion the "
            "picture can be edited later, without inverting it again. Drop the file on the canvas to open its "
            "workflow.",
            search_aliases=["save latent", "export inversion", "save noise", "cache inversion"],
            is_output_node=True,
            hidden=[io.Hidden.prompt, io.Hidden.extra_pnginfo],
            inputs=[
                io.Latent.Input("latent", tooltip="From an Invert Image node."),
                io.String.Input(
                    "filename_prefix",
                    default="inversions/inversion",
                    tooltip=f"Folder and name in the output folder. A number and {SUFFIX} are added.",
                ),
            ],
            outputs=[io.Latent.Output("latent_out", display_name="latent", tooltip="The same latent, unchanged.")],
        )

    @classmethod
    def execute(cls, latent: dict, filename_prefix: str) -> io.NodeOutput:
        record.require(latent, "Connect it straight from an Invert Image node, or use Save Latent.")
        packed, made = _packed(latent), _how_it_was_made(cls.hidden)
        folder, name, counter, subfolder = _place(filename_prefix)
        for number in range(counter, counter + MOST_TRIES):
            file = f"{name}_{number:05}_{SUFFIX}"
            try:
                write_record(Path(folder) / file, packed, made)
                return io.NodeOutput(latent, ui={"latents": [ui.SavedResult(file, subfolder, io.FolderType.output)]})
            except TakenError:  # by another host on the same folder, since the host counted
                continue
        raise InversionError(f"{folder} has {MOST_TRIES} files named {name} from number {counter}. Use another name.")


class LoadInversion(io.ComfyNode):
    """Needs no model; a NOISE does, and Noise From Latent makes it from what this gives."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        latent, _, sigmas, report = OUTPUTS
        return schema(
            node_id="INV_Load",
            display_name="Load Inversion",
            category=CATEGORY,
            description="Loads an inversion that Save Inversion saved. Edits are the same as with the Invert node "
            "itself. For SamplerCustomAdvanced add Noise From Latent.",
            search_aliases=["load latent", "import inversion", "open inversion"],
            inputs=[
                io.Combo.Input(
                    "file",
                    options=_listed(),
                    tooltip=f"A file of Save Inversion in the output or input folder (*{SUFFIX}). Press R to list new "
                    "files.",
                )
            ],
            outputs=[latent, sigmas, report],
        )

    @classmethod
    def validate_inputs(cls, file: str) -> bool | str:
        try:
            _located(file)
        except InversionError as error:
            return str(error)
        return True

    @classmethod
    def fingerprint_inputs(cls, file: str) -> str:
        try:
            facts = _located(file).stat()
        except (InversionError, OSError):  # validation and execution say what is wrong
            return "missing"
        return f"{facts.st_mtime_ns} {facts.st_size}"

    @classmethod
    def execute(cls, file: str) -> io.NodeOutput:
        path = _located(file)
        try:
            free = int(comfy.model_management.get_free_memory(torch.device("cpu")))
            latent = _unpacked(read_record(path, free))
            found = record.require(latent, "")
        except InversionError as error:
            raise InversionError(
                f"{error} Load Inversion reads files of Save Inversion. For files of Save Latent use Load Latent."
            ) from error
        inversion = found.inversion
        where = f"Made with {found.model['model class']} at cfg {found.cfg:g}. Read from {record.escaped(file)}."
        text = report_text([inversion.verdict, inversion.report(), where])
        return io.NodeOutput(latent, lasting_sigmas(inversion.grid), text)


def _packed(latent: dict) -> dict[str, Any]:
    """The LATENT's record, with what else the LATENT holds beside it."""
    packed, plain = dict(latent[record.KEY]), {}
    for key, value in latent.items():
        if key == record.KEY:
            continue
        if isinstance(value, Tensor):
            packed[f"{BESIDE}.{key}"] = value
        elif _is_plain(value):
            plain[key] = value
        else:
            logging.warning("Save Inversion leaves out the LATENT's %r: a file cannot hold a %s.", key, type(value))
    return packed | {BESIDE: plain}


def _unpacked(packed: dict[str, Any]) -> dict[str, Any]:
    """The LATENT that `_packed` took apart.

    Raises:
        InversionError: an inversion without a LATENT, or samples that are none.
    """
    plain = packed.pop(BESIDE, {})
    tensors = {key.removeprefix(f"{BESIDE}."): packed.pop(key) for key in list(packed) if key.startswith(f"{BESIDE}.")}
    samples = tensors.get("samples")
    if samples is None or not isinstance(plain, dict):
        raise InversionError(
            "This file holds an inversion but no LATENT. Inversion.save of the library writes such files."
        )
    latent = {**plain, **tensors}
    checked.floats("its samples", samples, tuple(samples.shape))
    if "noise_mask" in latent:
        mask = latent["noise_mask"]
        fits = isinstance(mask, Tensor) and 2 <= mask.ndim <= 5
        checked.floats("its noise_mask", mask, tuple(mask.shape) if fits else (len(samples), 1, *samples.shape[2:]))
    if "batch_index" in latent:
        for index in checked.items("its batch_index", latent["batch_index"], len(samples), len(samples)):
            checked.whole("its batch_index", index, 1 << 32)
    return latent | {record.KEY: packed}


def _place(prefix: str) -> tuple[str, str, int, str]:
    """(folder, name, next number, folder within the output folder) for a new file, as the host names its own.

    Raises:
        InversionError: the prefix has no name, leads out of the output folder, or no folder can be made of it.
    """
    prefix = prefix.strip()
    if prefix.strip("./\\ ") and prefix.endswith(("/", os.sep)):
        prefix += "inversion"  # the host counts no files whose name is a folder's, and would begin at 1 each time
    normal = os.path.normpath(prefix)
    if not os.path.basename(normal).strip(". \\"):
        raise InversionError(
            f"filename_prefix is {checked.shown(prefix)}, which is not the name of a file. Give a name such as "
            "inversions/inversion."
        )
    try:
        if "\0" in normal:
            raise ValueError
        output = folder_paths.get_output_directory()
        folder, name, counter, subfolder, _ = folder_paths.get_save_image_path(normal, output)
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) else "it holds characters that no file name has"
        raise InversionError(
            f"No folder can be made for filename_prefix {checked.shown(prefix)}: {why}. Give a short, plain name."
        ) from error
    except Exception as error:  # the host has no class of its own for this
        raise InversionError(
            f"filename_prefix {checked.shown(prefix)} leads outside the output folder. Give a name within it."
        ) from error
    return folder, name, counter, subfolder


def _is_plain(value: Any) -> bool:
    """Whether JSON gives the value back as it is."""
    try:
        return json.loads(json.dumps(value)) == value
    except (TypeError, ValueError):
        return False


def _how_it_was_made(hidden: Any) -> dict[str, str]:
    """The workflow, as the host writes it into its own files; nothing where it was started with --disable-metadata."""
    if args.disable_metadata or hidden is None:
        return {}
    beside = hidden.extra_pnginfo or {}
    if not isinstance(beside, dict):
        logging.warning(
            "Save Inversion leaves out the workflow: extra_pnginfo is %s, not values by name.", type(beside)
        )
        beside = {}
    made, texts = {"prompt": hidden.prompt, **beside}, {}
    for name, value in made.items():
        try:
            if value is not None:
                texts[str(name).encode("utf-8", "replace").decode()] = json.dumps(value)
        except (TypeError, ValueError, RecursionError) as error:
            logging.warning("Save Inversion leaves out %r of the workflow: %s", name, error)
    return texts


def _listed() -> list[str]:
    """The files to choose from, as the host names them: relative to the input folder, others with their folder."""
    inputs = _found(folder_paths.get_input_directory())
    return inputs + [f"{name} [output]" for name in _found(folder_paths.get_output_directory())]


def _found(folder: str) -> list[str]:
    """Ours among the files of a folder and those below it, nearest first looked at. No link is followed out of it."""
    base = Path(folder).resolve()
    entries = list(islice(_entries(base), MOST_ENTRIES))
    ours = [Path(entry.path) for entry in entries if entry.name.endswith(SUFFIX)]
    if len(entries) == MOST_ENTRIES:
        logging.warning(
            "Load Inversion looked at %d files in %s and lists what it found there. Move old files elsewhere, or put "
            "inversions in folders higher up.",
            MOST_ENTRIES,
            folder,
        )
    return sorted(path.relative_to(base).as_posix() for path in ours if _within(path, base))


def _within(path: Path, base: Path) -> bool:
    """Whether a path is still in a folder when all links are followed."""
    return Path(os.path.realpath(path)).is_relative_to(os.path.realpath(base))


def _entries(base: Path) -> Iterator[os.DirEntry]:
    """The files of a folder, then those of the folders in it, and so on; folders that are links are left out."""
    waiting = deque([str(base)])
    while waiting:
        try:
            with os.scandir(waiting.popleft()) as entries:
                for entry in entries:
                    if entry.is_dir(follow_symlinks=False):
                        waiting.append(entry.path)
                    yield entry
        except OSError:  # gone meanwhile, or not for this program to read
            continue


def _located(file: str) -> Path:
    """Where a file of the list is.

    Raises:
        InversionError: it is missing, or its name or a link leads out of the host's folders.
    """
    name, folder = folder_paths.annotated_filepath(file)
    base = Path(os.path.abspath(folder or folder_paths.get_input_directory()))
    path = Path(os.path.abspath(base / name))
    called = checked.shown(name)[1:-1]
    try:
        inside, there = path.is_relative_to(base) and _within(path, base), path.is_file()
    except (OSError, ValueError):  # no name for a file: too long, or with NUL
        inside, there = True, False
    if not inside:
        raise InversionError(f"{called} is not within the {base.name} folder. Choose a file from the list.")
    if not there:
        raise InversionError(
            f"There is no file {called} in the {base.name} folder. Press R to read the list again, and choose from it."
        )
    return path
