"""Save Inversion and Load Inversion: an inverted LATENT with its record, and how it was made, as one file."""

import json
import logging
import os
from pathlib import Path
from typing import Any

import folder_paths
from comfy.cli_args import args
from comfy_api.latest import io, ui
from torch import Tensor

from ..inversion import InversionError
from ..inversion.record import read_record, write_record
from .host import lasting_sigmas, record
from .invert import OUTPUTS
from .schema import CATEGORY, report_text, schema

# By its last part the browser knows a file that may hold a workflow, by both the Load node knows ours without a look
# inside: an output folder holds thousands of files, and checkpoints too.
SUFFIX = ".inversion.safetensors"
BESIDE = "latent"  # the record's key for what else the LATENT holds, and the first part of its tensors' names


class SaveInversion(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="INV_Save",
            display_name="Save Inversion",
            category=CATEGORY,
            description="Saves an inverted latent with its record in the output folder, for Load Inversion, so that "
            "the picture can be edited later without inverting it again. The file holds the workflow too: drop it on "
            "the canvas to see how it was made.",
            search_aliases=["save latent", "export inversion", "save noise", "cache inversion"],
            is_output_node=True,
            hidden=[io.Hidden.prompt, io.Hidden.extra_pnginfo],
            inputs=[
                io.Latent.Input("latent", tooltip="From an Invert Image node."),
                io.String.Input(
                    "filename_prefix",
                    default="inversions/inversion",
                    tooltip=f"Folder and name within the output folder; a number and {SUFFIX} are added.",
                ),
            ],
            outputs=[io.Latent.Output("latent_out", display_name="latent", tooltip="The same latent, to go on with.")],
        )

    @classmethod
    def execute(cls, latent: dict, filename_prefix: str) -> io.NodeOutput:
        record.require(latent, "Connect it straight from an Invert Image node, or save its values with Save Latent.")
        output = folder_paths.get_output_directory()
        folder, name, counter, subfolder, _ = folder_paths.get_save_image_path(filename_prefix, output)
        file = f"{name}_{counter:05}_{SUFFIX}"
        write_record(Path(folder) / file, _packed(latent), _how_it_was_made(cls.hidden))
        return io.NodeOutput(latent, ui={"latents": [ui.SavedResult(file, subfolder, io.FolderType.output)]})


class LoadInversion(io.ComfyNode):
    """Needs no model; a NOISE does, and Noise From Latent makes it from what this gives."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        latent, _, sigmas, report = OUTPUTS
        return schema(
            node_id="INV_Load",
            display_name="Load Inversion",
            category=CATEGORY,
            description="Loads what Save Inversion saved, in place of an Invert Image node: edits come out the same. "
            "For SamplerCustomAdvanced make its NOISE with Noise From Latent.",
            search_aliases=["load latent", "import inversion", "open inversion"],
            inputs=[
                io.Combo.Input(
                    "file",
                    options=_listed(),
                    tooltip=f"A file of Save Inversion in the output or input folder (*{SUFFIX}). Press R to see files "
                    "saved since.",
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
        facts = _located(file).stat()
        return f"{facts.st_mtime_ns} {facts.st_size}"

    @classmethod
    def execute(cls, file: str) -> io.NodeOutput:
        path = _located(file)
        try:
            latent = _unpacked(read_record(path))
            found = record.require(latent, "")
        except InversionError as error:
            raise InversionError(
                f"{error} Load Inversion reads what Save Inversion wrote; for files of Save Latent take Load Latent."
            ) from error
        inversion = found.inversion
        where = f"Made with {found.model.get('model class')} at cfg {found.cfg:g}; read from {file}."
        return io.NodeOutput(
            latent, lasting_sigmas(inversion.grid), report_text([inversion.verdict, inversion.report(), where])
        )


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
    tensors = {key: packed.pop(key) for key in list(packed) if key.startswith(f"{BESIDE}.")}
    samples = tensors.get(f"{BESIDE}.samples")
    if samples is None or not isinstance(plain, dict):
        raise InversionError("This file holds no LATENT beside the inversion; Inversion.save writes such files.")
    if not samples.is_floating_point() or samples.element_size() < 2:
        raise InversionError(
            f"This file is damaged: its samples are {samples.dtype}, not floating point with 16 bits or more."
        )
    return {**plain, **{key.removeprefix(f"{BESIDE}."): value for key, value in tensors.items()}, record.KEY: packed}


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
    made = {"prompt": hidden.prompt, **(hidden.extra_pnginfo or {})}
    return {name: json.dumps(value) for name, value in made.items() if value is not None}


def _listed() -> list[str]:
    """The files to choose from, as the host names them: relative to the input folder, others with their folder."""
    inputs = _found(folder_paths.get_input_directory())
    return inputs + [f"{name} [output]" for name in _found(folder_paths.get_output_directory())]


def _found(folder: str) -> list[str]:
    walked = os.walk(folder, followlinks=True)
    paths = (Path(place, name) for place, _, names in walked for name in names if name.endswith(SUFFIX))
    return sorted(path.relative_to(folder).as_posix() for path in paths)


def _located(file: str) -> Path:
    """Where a file of the list is.

    Raises:
        InversionError: it is missing, or its name leads out of the host's folders.
    """
    name, folder = folder_paths.annotated_filepath(file)
    base = Path(os.path.abspath(folder or folder_paths.get_input_directory()))
    path = Path(os.path.abspath(base / name))
    if not path.is_relative_to(base):
        raise InversionError(f"{file} is not within the {base.name} folder. Choose a file from the list.")
    if not path.is_file():
        raise InversionError(
            f"There is no file {name} in the {base.name} folder. Press R to read the list again, and choose from it."
        )
    return path
