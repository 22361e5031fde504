"""Where pictures lie: in a folder, in Parquet files or in WebDataset tar files; and whether they are any."""

import csv
import hashlib
import io
import json
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any, Literal

import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image, UnidentifiedImageError

from .. import InversionError

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff")
MODES = ("RGB", "L", "P")  # what is one RGB picture without a doubt
UPRIGHT = dict(  # what undoes an orientation
    zip(
        range(2, 9),
        (
            Image.Transpose.FLIP_LEFT_RIGHT,
            Image.Transpose.ROTATE_180,
            Image.Transpose.FLIP_TOP_BOTTOM,
            Image.Transpose.TRANSPOSE,
            Image.Transpose.ROTATE_270,
            Image.Transpose.TRANSVERSE,
            Image.Transpose.ROTATE_90,
        ),
        strict=True,
    )
)
FILES = 64  # that a task looks at
# The names that columns and keys have in the datasets there are, the first one found is taken.
IMAGE, NAME = ("image", "picture", "jpg", "png"), ("picture_name", "name", "file_name", "__key__", "id")
PROMPT, TARGET = ("prompt", "caption", "text"), ("target", "target_prompt", "edit_prompt")


@dataclass(frozen=True)
class Picture:
    """A picture as it was found, by reference.

    Arguments:
        name: its path in the folder or tar file; in a Parquet file the row's name, or the file's and the row's number.
        path: the file that it is in, below the input's root.
        offset: where in the file: bytes in a tar file, rows in a Parquet file.
        length: bytes of it in a tar file; 0 elsewhere.
        prompt, target: as they stand beside it.
        digest: of its bytes.
        width, height: once it is the right way up; 0 where it is no picture.
        problem: why it is none.
    """

    name: str
    path: str
    offset: int = 0
    length: int = 0
    prompt: str | None = None
    target: str | None = None
    digest: str = ""
    width: int = 0
    height: int = 0
    problem: str | None = None

    def seen(self, data: bytes) -> "Picture":
        """With what its bytes say."""
        digest = hashlib.sha256(data).hexdigest()
        try:
            width, height = measured(opened(data))
        except NoPicture as error:
            return replace(self, digest=digest, problem=str(error))
        return replace(self, digest=digest, width=width, height=height)


class NoPicture(Exception):
    """Bytes that are no picture, or none of a kind that is taken; says why."""


def opened(data: bytes) -> Image.Image:
    """The picture, its header read and its kind checked."""
    if not data:
        raise NoPicture("The file is empty.")
    try:
        image = Image.open(io.BytesIO(data))
    except UnidentifiedImageError:
        raise NoPicture("It is of no format that Pillow knows.") from None
    except Exception as error:  # Pillow's formats raise what they like
        raise NoPicture(f"Pillow cannot open it: {error}") from error
    if image.mode not in MODES or "transparency" in image.info:
        kind = f"mode {image.mode}" + (" with transparency" if "transparency" in image.info else "")
        raise NoPicture(f"It has {kind}; {', '.join(MODES)} without transparency are taken. Save it as RGB.")
    return image


def measured(image: Image.Image) -> tuple[int, int]:
    """(width, height) once it is the right way up."""
    return (image.height, image.width) if _orientation(image) >= 5 else (image.width, image.height)


def decoded(data: bytes) -> Image.Image:
    """The picture as RGB, the right way up."""
    image = opened(data)
    turn = UPRIGHT.get(_orientation(image))
    try:
        return (image if turn is None else image.transpose(turn)).convert("RGB")
    except Exception as error:  # a file that is cut off, for one
        raise NoPicture(f"Pillow cannot decode it: {error}") from error


def _orientation(image: Image.Image) -> int:
    """As its EXIF says, 1 to 8; 1, upright, where that is broken."""
    try:
        # The base class's, because that of PNG files decodes them first, to look behind the pixels too.
        return int(Image.Image.getexif(image).get(0x0112, 1))
    except Exception:
        return 1


# --- finding ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Chunk:
    """What one task looks at: some files of a folder, a group of rows of a Parquet file, or a tar file."""

    kind: Literal["folder", "parquet", "tar"]
    root: Path
    paths: tuple[str, ...]  # below the root
    group: int = 0


def root(source: str | Path) -> Path:
    """The folder that the pictures' paths start from."""
    source = Path(source).absolute()
    return source if source.is_dir() else source.parent


def chunks(source: str | Path) -> list[Chunk]:
    """The input in an order that is always the same.

    Raises:
        InversionError: there are no pictures, or of more kinds than one.
    """
    place, start = Path(source).absolute(), root(source)
    if not place.exists():
        raise InversionError(f"{place} is not there. INPUT is a folder of pictures, Parquet files or tar files.")
    files = sorted(path for path in place.rglob("*") if path.is_file()) if place.is_dir() else [place]
    kinds = {
        "parquet": [path for path in files if path.suffix == ".parquet"],
        "tar": [path for path in files if path.suffix == ".tar"],
        "folder": [path for path in files if path.suffix.lower() in SUFFIXES] if place.is_dir() else [],
    }
    found = [kind for kind, paths in kinds.items() if paths]
    if len(found) != 1:
        counts = ", ".join(f"{len(kinds[kind])} of kind {kind}" for kind in found) or "none"
        raise InversionError(
            f"{place} should hold pictures ({' '.join(SUFFIXES)}), .parquet files or .tar files, of one kind; "
            f"there are {counts}."
        )
    below = {kind: [path.relative_to(start).as_posix() for path in paths] for kind, paths in kinds.items()}
    if below["folder"]:
        paths = below["folder"]
        return [Chunk("folder", start, tuple(paths[i : i + FILES])) for i in range(0, len(paths), FILES)]
    if below["tar"]:
        return [Chunk("tar", start, (path,)) for path in below["tar"]]
    groups = []
    for path in below["parquet"]:
        file = _parquet(start / path)
        groups += [Chunk("parquet", start, (path,), group) for group in range(file.num_row_groups)]
    return groups


def look(chunk: Chunk) -> Iterator[Picture]:
    """The pictures of a chunk, in their order. Reads their bytes, but decodes none."""
    match chunk.kind:
        case "folder":
            return (_look_at_file(chunk.root, path) for path in chunk.paths)
        case "tar":
            return _look_at_tar(chunk.root, chunk.paths[0])
        case "parquet":
            return _look_at_rows(chunk.root, chunk.paths[0], chunk.group)


def _look_at_file(root: Path, path: str) -> Picture:
    caption = (root / path).with_suffix(".txt")
    try:
        prompt = caption.read_text(encoding="utf-8").strip() if caption.exists() else None
        return Picture(path, path, prompt=prompt).seen((root / path).read_bytes())
    except (OSError, UnicodeDecodeError) as error:
        return Picture(path, path, problem=f"It, or its caption, cannot be read: {error}")


def _look_at_tar(root: Path, path: str) -> Iterator[Picture]:
    last = "its beginning"
    try:
        with tarfile.open(root / path, "r:") as archive:
            for sample in _samples(archive):
                image = next((sample[suffix] for suffix in sample if f".{suffix}" in SUFFIXES), None)
                if image is not None:
                    last = image.name
                    yield _in_tar(archive, path, image, sample)
    except (OSError, tarfile.TarError) as error:
        yield Picture(f"{path} after {last}", path, problem=f"The tar file cannot be read from here on: {error}")


def _samples(archive: tarfile.TarFile) -> Iterator[dict[str, tarfile.TarInfo]]:
    """Members that follow one another and share a name up to its first dot, by what comes after the dot."""
    sample: dict[str, tarfile.TarInfo] = {}
    current: PurePosixPath | None = None
    for member in archive:
        if member.isfile():
            file = PurePosixPath(member.name)
            stem, _, suffix = file.name.partition(".")
            if file.with_name(stem) != current:
                yield sample
                sample, current = {}, file.with_name(stem)
            sample[suffix.lower()] = member
    yield sample


def _in_tar(archive: tarfile.TarFile, path: str, image: tarfile.TarInfo, sample: dict[str, tarfile.TarInfo]) -> Picture:
    picture = Picture(image.name, path, image.offset_data, image.size)
    try:
        beside = dict(json.loads(_member(archive, sample["json"]))) if "json" in sample else {}
        if "txt" in sample:
            beside["prompt"] = _member(archive, sample["txt"]).decode().strip()
        picture = replace(picture, prompt=_first(beside, PROMPT), target=_first(beside, TARGET))
        return picture.seen(_member(archive, image))
    except (OSError, TypeError, ValueError, tarfile.TarError) as error:
        return replace(picture, problem=f"It, or what stands beside it, cannot be read: {error}")


def _look_at_rows(root: Path, path: str, group: int) -> Iterator[Picture]:
    file = _parquet(root / path)
    first = sum(file.metadata.row_group(i).num_rows for i in range(group))
    columns = file.schema_arrow.names
    image = _image_column(columns)
    beside = [name for name in columns if name in (*NAME, *PROMPT, *TARGET)]
    try:
        rows = file.read_row_group(group, columns=[image, *beside]).to_pylist()
    except (OSError, pa.ArrowException) as error:
        yield Picture(f"{path}:{first}", path, first, problem=f"The rows from here on cannot be read: {error}")
        return
    for i, row in enumerate(rows):
        data, given = _bytes(row[image])
        name = _first(row, NAME) or given or f"{path}:{first + i}"
        picture = Picture(name, path, first + i, 0, _first(row, PROMPT), _first(row, TARGET))
        yield replace(picture, problem="The row has no bytes of a picture.") if data is None else picture.seen(data)


# --- reading ----------------------------------------------------------------------------------------------------------


class Reader:
    """Reads pictures by reference. Holds the last group of rows of a Parquet file, as the next picture is there too.

    Arguments:
        root: of the input.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self._held: tuple[Path, int, list[Any]] | None = None

    def read(self, picture: dict[str, Any]) -> bytes:
        """The bytes that were seen.

        Raises:
            NoPicture: they are not there any more, or are others.
        """
        path = self.root / picture["path"]
        try:
            if path.suffix == ".parquet":
                data = self._row(path, picture["offset"])
            elif path.suffix == ".tar":
                with path.open("rb") as file:
                    file.seek(picture["offset"])
                    data = file.read(picture["length"])
            else:
                data = path.read_bytes()
        except (OSError, pa.ArrowException, InversionError, IndexError) as error:
            raise NoPicture(f"It cannot be read: {error}") from error
        if picture["digest"] and hashlib.sha256(data).hexdigest() != picture["digest"]:
            raise NoPicture("It is another picture than when the run was planned. Run again: it is then a new one.")
        return data

    def _row(self, path: Path, row: int) -> bytes:
        if self._held is None or self._held[0] != path or not 0 <= row - self._held[1] < len(self._held[2]):
            file, first, group = _parquet(path), 0, 0
            while row >= first + file.metadata.row_group(group).num_rows:
                first, group = first + file.metadata.row_group(group).num_rows, group + 1
            image = _image_column(file.schema_arrow.names)
            self._held = path, first, file.read_row_group(group, columns=[image])[image].to_pylist()
        return _bytes(self._held[2][row - self._held[1]])[0] or b""


# --- prompts ----------------------------------------------------------------------------------------------------------


def prompts(path: str | Path) -> dict[str, tuple[str | None, str | None]]:
    """The table of --prompts: a picture's name -> (prompt, target).

    Raises:
        InversionError: it cannot be read, or has no such columns.
    """
    path = Path(path)
    try:
        match path.suffix:
            case ".csv":
                with path.open(encoding="utf-8-sig", newline="") as file:
                    rows: list[dict[str, Any]] = list(csv.DictReader(file))
            case ".jsonl":
                rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
            case ".parquet":
                rows = pq.read_table(path).to_pylist()
            case _:
                raise InversionError(f"The table of prompts is a .csv, .jsonl or .parquet file, got {path}.")
    except (OSError, UnicodeDecodeError, json.JSONDecodeError, csv.Error, pa.ArrowException) as error:
        raise InversionError(f"The table of prompts {path} cannot be read: {error}") from error
    for row in rows:
        if not isinstance(row, dict) or not row.get("picture"):
            raise InversionError(
                f"Each row of {path} names its picture in a column `picture`, beside `prompt` and `target`; one has "
                f"{', '.join(map(str, row))}."
            )
    return {str(row["picture"]): (row.get("prompt") or None, row.get("target") or None) for row in rows}


def _first(row: dict[str, Any], names: tuple[str, ...]) -> str | None:
    found = next((row[name] for name in names if row.get(name) not in (None, "")), None)
    return None if found is None else str(found)


def _member(archive: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    file = archive.extractfile(member)
    data = b"" if file is None else file.read()
    if len(data) != member.size:
        raise OSError(f"the tar file ends after {len(data)} of its {member.size} bytes")
    return data


def _parquet(path: Path) -> pq.ParquetFile:
    """The file, if there are pictures in it."""
    try:
        file = pq.ParquetFile(path)
    except (OSError, pa.ArrowException) as error:
        raise InversionError(f"{path} cannot be read as Parquet: {error}") from error
    columns = file.schema_arrow.names
    if not set(IMAGE) & set(columns):
        raise InversionError(
            f"{path} has the columns {', '.join(columns)}; pictures are looked for in {', '.join(IMAGE)}. Rename it."
        )
    return file


def _image_column(columns: list[str]) -> str:
    return next(name for name in IMAGE if name in columns)


def _bytes(value: Any) -> tuple[bytes | None, str | None]:
    """(bytes, name) of a cell: bytes, or a struct of bytes and path as `datasets` writes it."""
    if isinstance(value, dict):
        return value.get("bytes"), value.get("path")
    return value if isinstance(value, bytes) else None, None
