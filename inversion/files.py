"""A record as one file: safetensors, written whole or not at all, and looked at closely before it is read.

    8 bytes    length of the header
    header     JSON: the type, shape and place of each tensor, and texts under "__metadata__": "inversion" has the
               record's plain values as JSON, "checksum" stands for these and for all tensors; the rest is the caller's
    tensors    one after the other

A file is never mapped: one that is written to meanwhile would end the process. And it is read in the order in which it
can be refused: sizes first, then names, and tensors last.
"""

import contextlib
import errno
import hashlib
import json
import math
import os
import re
import secrets
import stat
import struct
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor

from .errors import InversionError, TakenError

LARGEST_HEADER = 1 << 24  # bytes; a workflow beside the record may have millions
LARGEST_TEXT = 1 << 20  # characters of the record's plain values; 10,000 steps have 700 thousand
MOST_NAMES = 64  # tensors, and texts beside the record
LONGEST_NAME = 200  # characters
DEEPEST = 16  # lists within lists
NEEDED = ("trajectory", "residuals")

TYPES = {
    "F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn, "F8_E5M2": torch.float8_e5m2,
    "I64": torch.int64, "I32": torch.int32, "I16": torch.int16, "I8": torch.int8, "U8": torch.uint8, "BOOL": torch.bool,
}  # fmt: skip
CODES = {dtype: code for code, dtype in TYPES.items()}


@dataclass(frozen=True)
class Place:
    """One tensor of a file: its name, the code of its type, its shape, and where it begins and ends among them."""

    name: str
    code: str
    shape: tuple[int, ...]
    begin: int
    end: int


def write_record(path: str | Path, record: Mapping[str, Any], metadata: Mapping[str, str] | None = None) -> None:
    """Write a record as one safetensors file.

    The file has its name only when it is complete and on the disk. An existing one is never replaced.

    Arguments:
        record: that of `Inversion.to_dict`, with any other tensors and plain values beside it.
        metadata: more texts for the header.

    Raises:
        TakenError: there is such a file.
        InversionError: it would be larger than `read_record` takes, or cannot be written; says why.
    """
    text = _text({name: value for name, value in record.items() if not isinstance(value, Tensor)})
    tensors = {name: value for name, value in record.items() if isinstance(value, Tensor)}
    unknown = [f"{name} ({value.dtype})" for name, value in tensors.items() if value.dtype not in CODES]
    if unknown:
        raise InversionError(f"A file cannot hold {_some(unknown)}. Convert to float32, or leave it out.")
    largest_first = sorted(tensors, key=lambda name: -tensors[name].element_size())  # so that each stays aligned
    parts = [_bytes(tensors[name]) for name in largest_first]
    places, begin = [], 0
    for name, part in zip(largest_first, parts, strict=True):
        places.append(Place(name, CODES[tensors[name].dtype], tuple(tensors[name].shape), begin, begin + len(part)))
        begin += len(part)
    texts = {**(metadata or {}), "inversion": text, "checksum": checksum(text, places, parts)}
    for name in [*texts, *texts.values(), *tensors]:
        if name != name.encode("utf-8", "replace").decode():
            raise InversionError(f"{_short(name, 60)} holds half a character (a lone surrogate). Leave it out.")
    start = header(places, texts)
    if len(start) > LARGEST_HEADER or max(len(places), len(texts)) > MOST_NAMES:
        raise InversionError(
            f"What is to be written beside the tensors takes {len(start) / 1e6:.0f} MB under {len(texts)} names, more "
            f"than the {LARGEST_HEADER / 1e6:.0f} MB under {MOST_NAMES} that are read back. Leave out some of "
            f"{_some(list(metadata or {}))}."
        )
    path = Path(path)
    try:
        if _is_there(path):
            raise FileExistsError
        _written(path, start, parts)
    except FileExistsError as error:
        raise TakenError(f"{_named(path)} exists already and is left as it is. Give another name.") from error
    except (OSError, ValueError) as error:
        raise InversionError(_why_not_written(path, begin + len(start), error)) from error


def read_record(path: str | Path, most: int | None = None) -> dict[str, Any]:
    """The record that `write_record` wrote, with what stood beside it; `Inversion.from_dict` checks its parts.

    Arguments:
        most: bytes of tensors to take; None for as many as there are.

    Raises:
        InversionError: any other file, with what was found.
    """
    called = _named(Path(path))
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):
            raise InversionError(f"{called} is no file. Give a file that Inversion.save wrote.")
        with open(path, "rb") as file:
            return _record(file, called, most)
    except InversionError:
        raise
    except OSError as error:
        raise InversionError(f"{called} cannot be read: {error.strerror}.") from error
    except MemoryError as error:
        raise InversionError(f"{called} is too large for the memory that is free. Close other programs.") from error
    except (ValueError, TypeError, RecursionError) as error:
        raise InversionError(
            f"{called} cannot be read as an inversion, it may be cut off or damaged: {_short(str(error), 200)}. "
            "Copy it again, or invert the picture again."
        ) from error


def checksum(text: str, places: Iterable[Place], parts: Iterable[Any]) -> str:
    """Of all that makes a record: its plain values, and its tensors with their names, types and shapes."""
    names = [[place.name, place.code, place.shape] for place in places]
    digest = hashlib.blake2b(json.dumps([text, names]).encode(), digest_size=32)
    for part in parts:
        digest.update(part)
    return digest.hexdigest()


def header(places: Iterable[Place], texts: Mapping[str, str]) -> bytes:
    """The file up to its tensors."""
    entries: dict[str, Any] = {"__metadata__": dict(texts)}
    for place in places:
        offsets = [place.begin, place.end]
        entries[place.name] = {"dtype": place.code, "shape": list(place.shape), "data_offsets": offsets}
    content = json.dumps(entries).encode()
    content += b" " * (-len(content) % 8)
    return struct.pack("<Q", len(content)) + content


def _text(plain: dict[str, Any]) -> str:
    """A record's plain values as JSON that is read back.

    Raises:
        InversionError: they are no plain values, too many or too deep.
    """
    try:
        text = json.dumps(plain, allow_nan=False)
        _check_depth(plain)
    except (TypeError, ValueError, RecursionError) as error:
        raise InversionError(f"The values beside the tensors cannot be written: {_short(str(error), 200)}.") from error
    if len(text) > LARGEST_TEXT:
        largest = max(plain, key=lambda name: len(json.dumps(plain[name])))
        raise InversionError(
            f"The values beside the tensors take {len(text):,} characters, more than the {LARGEST_TEXT:,} that are "
            f"read back. Most of it is {_short(largest, 40)}: leave it out."
        )
    return text


def _bytes(tensor: Tensor) -> memoryview:
    flat = tensor.detach().cpu().contiguous().reshape(-1)
    return memoryview(flat.view(torch.uint8).numpy())  # type: ignore[arg-type]


def _is_there(path: Path) -> bool:
    """Whether anything has this name; OSError or ValueError where nothing can."""
    try:
        os.lstat(path)
    except FileNotFoundError:
        return False
    return True


def _written(path: Path, start: bytes, parts: Iterable[memoryview]) -> None:
    """Write beside `path`, and give the file its name when it is complete."""
    beside = path.parent / f".{secrets.token_hex(8)}.part"
    try:
        with open(beside, "xb") as file:
            file.write(start)
            for part in parts:
                file.write(part)
            file.flush()
            os.fsync(file.fileno())
        _name(beside, path)
    finally:
        with contextlib.suppress(OSError):
            beside.unlink(missing_ok=True)


def _name(beside: Path, path: Path) -> None:
    """Give a file its name, unless another has it: of two that try at once, one gets a FileExistsError."""
    try:
        os.link(beside, path)
    except FileExistsError:
        raise
    except OSError:  # some file systems have no links: there the name is taken first, empty, and then filled
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
        try:
            os.replace(beside, path)
        except BaseException:
            path.unlink()
            raise
    if os.name == "posix":  # the name, too, is to outlast a power cut
        with contextlib.suppress(OSError):
            folder = os.open(path.parent, os.O_RDONLY)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)


def _why_not_written(path: Path, size: int, error: Exception) -> str:
    code = error.errno if isinstance(error, OSError) else None
    folder = _short(str(path.parent), 200)
    if code in (errno.ENOSPC, errno.EDQUOT):
        why = f"the disk is full, and the file takes {size / 1e6:.1f} MB. Free some space, or use another folder"
    elif code in (errno.EROFS, errno.EACCES, errno.EPERM):
        why = f"{folder} is read-only for this program. Use another folder, or change its permissions"
    elif code == errno.ENAMETOOLONG:
        why = f"the name has {len(path.name)} characters, more than the disk takes. Give a shorter one"
    elif code in (errno.ENOENT, errno.ENOTDIR):
        why = f"there is no folder {folder}. Make it, or use another"
    elif isinstance(error, OSError):
        why = f"{error.strerror}. Try another folder"
    else:
        why = "its name holds characters that no file name has. Give a plain name"
    return f"{_named(path)} cannot be written: {why}."


def _record(file: BinaryIO, called: str, most: int | None) -> dict[str, Any]:
    whole = os.fstat(file.fileno()).st_size
    start = file.read(8)
    length = struct.unpack("<Q", start)[0] if len(start) == 8 else 0
    if not 2 <= length <= LARGEST_HEADER:
        raise InversionError(f"{called} is not an inversion: it does not start like one of this pack's files.")
    content = file.read(length)
    places, texts, others = _parsed(content.decode(), called)
    if "inversion" not in texts:
        raise InversionError(
            f"{called} is a safetensors file, but not an inversion: it holds {_some([p.name for p in places])}, and in "
            f"its header {_some(others)}. Give a file that Inversion.save wrote."
        )
    record = _plain(texts["inversion"])
    missing = [name for name in NEEDED if name not in {place.name for place in places}]
    if missing:
        raise ValueError(f"it has no {' and no '.join(missing)}")
    places = _in_order(places, whole - 8 - length)
    size = places[-1].end
    if most is not None and size > most:
        raise InversionError(
            f"{called} takes {size / 1e6:.0f} MB of memory, and {most / 1e6:.0f} MB are free. Close other programs or "
            "unload models, or invert again with fewer steps, smaller or fewer pictures."
        )
    parts = [bytearray(place.end - place.begin) for place in places]
    for part in parts:
        if file.readinto(part) != len(part):  # type: ignore[attr-defined]
            raise ValueError("it became shorter while it was read")
    if "checksum" in texts:
        if texts["checksum"] != checksum(texts["inversion"], places, parts):
            raise ValueError("its content has changed since it was written, the checksum differs")
    elif record.get("format") != 2:
        raise ValueError("it has no checksum")
    return record | {place.name: _tensor(place, part) for place, part in zip(places, parts, strict=True)}


def _parsed(text: str, called: str) -> tuple[list[Place], dict[str, str], list[str]]:
    """(the tensors, the record's own texts, the names of all texts) of a header.

    Read piece by piece, so that what is not needed costs nothing. ValueError where it is none.
    """
    places: list[Place] = []
    texts: dict[str, str] = {}
    others: list[str] = []

    def entry(name: str, at: int) -> int:
        if name == "__metadata__":
            return _members(text, at, words)
        if len(places) == MOST_NAMES:
            names = _some([place.name for place in places])
            raise InversionError(f"{called} is not an inversion: it holds {names} and more.")
        found = ENTRY.match(text, at)
        if not found:
            raise ValueError(f"the entry of {_short(name, 40)} is no entry")
        places.append(_place(name, json.loads(found[0])))
        return found.end()

    def words(name: str, at: int) -> int:
        if len(others) == MOST_NAMES:
            raise ValueError(f"it holds more than {MOST_NAMES} texts")
        value, at = _string(text, at)
        others.append(name)
        if name in ("inversion", "checksum"):
            texts[name] = value
        return at

    end = _members(text, 0, entry)
    if text[end:].strip():
        raise ValueError("its header goes on after its end")
    return places, texts, others


SPACE = re.compile(r"[ \t\n\r]*")
ENTRY = re.compile(r"\{[^{}]{1,1000}\}")
_decode = json.JSONDecoder().raw_decode


def _members(text: str, at: int, member: Callable[[str, int], int]) -> int:
    """Go through a JSON object: `member` gets each name and where its value begins, and says where that ends."""
    at = _after(text, at, "{")
    names: set[str] = set()
    if text.startswith("}", at):
        return at + 1
    while True:
        name, at = _string(text, at)
        if len(name) > LONGEST_NAME or name in names:
            raise ValueError(f"the name {_short(name, 40)} is there twice, or too long")
        names.add(name)
        at = SPACE.match(text, member(name, _after(text, at, ":"))).end()  # type: ignore[union-attr]
        if text.startswith("}", at):
            return at + 1
        at = _after(text, at, ",")


def _after(text: str, at: int, sign: str) -> int:
    """Where what follows `sign` begins."""
    at = SPACE.match(text, at).end()  # type: ignore[union-attr]
    if not text.startswith(sign, at):
        raise ValueError(f"its header has no {sign!r} at character {at}")
    return SPACE.match(text, at + 1).end()  # type: ignore[union-attr]


def _string(text: str, at: int) -> tuple[str, int]:
    if not text.startswith('"', at):
        raise ValueError(f"its header has no text at character {at}")
    return _decode(text, at)


def _place(name: str, entry: Any) -> Place:
    """A tensor's entry in the header; ValueError where it is none."""
    shape, offsets = (entry.get(key) for key in ("shape", "data_offsets"))
    numbers = [*shape, *offsets] if isinstance(shape, list) and isinstance(offsets, list) else [None]
    if len(numbers) > 16 or not all(type(n) is int and 0 <= n < 1 << 48 for n in numbers) or len(offsets) != 2:
        raise ValueError(f"the entry of {_short(name, 40)} is no entry")
    if not isinstance(entry.get("dtype"), str) or entry["dtype"] not in TYPES:
        raise ValueError(f"{_short(name, 40)} is of an unknown type, {_short(repr(entry.get('dtype')), 40)}")
    begin, end = offsets
    place = Place(name, entry["dtype"], tuple(shape), begin, end)
    if math.prod(shape) * TYPES[place.code].itemsize != end - begin:
        raise ValueError(f"{_short(name, 40)} has {end - begin} bytes, which its shape {shape} does not")
    return place


def _in_order(places: list[Place], size: int) -> list[Place]:
    """The tensors as they follow one another; ValueError where they overlap, leave gaps or are not all there."""
    places = sorted(places, key=lambda place: (place.begin, place.end))
    ends = [0, *(place.end for place in places)]
    if [place.begin for place in places] != ends[:-1]:
        raise ValueError("its tensors overlap, or leave gaps")
    if ends[-1] != size:
        raise ValueError(f"its tensors should take {ends[-1]} bytes, and take {size}")
    return places


def _tensor(place: Place, part: bytearray) -> Tensor:
    dtype = TYPES[place.code]
    if not part:
        return torch.empty(place.shape, dtype=dtype)
    if dtype is torch.bool:  # of a byte that is neither 0 nor 1 torch makes something that is neither
        return torch.frombuffer(part, dtype=torch.uint8).ne(0).reshape(place.shape)
    return torch.frombuffer(part, dtype=dtype).reshape(place.shape)


def _plain(text: str) -> dict[str, Any]:
    """The record's plain values; ValueError where they are none."""
    if len(text) > LARGEST_TEXT:
        raise ValueError(f"its values beside the tensors take {len(text) / 1e6:.0f} MB")

    def refused(name: str) -> None:
        raise ValueError(f"it holds {name}")

    values = json.loads(text, parse_constant=refused)
    if not isinstance(values, dict):
        raise ValueError("its values have no names")
    _check_depth(values)
    return values


def _check_depth(value: Any, depth: int = 0) -> None:
    if depth > DEEPEST:
        raise ValueError(f"its values are nested more than {DEEPEST} deep")
    for inner in value.values() if isinstance(value, dict) else value if isinstance(value, list | tuple) else ():
        _check_depth(inner, depth + 1)


def _some(names: list[str]) -> str:
    """The first names of a list that may be long."""
    first = ", ".join(_short(name, 40) for name in names[:4])
    return first + (f" and {len(names) - 4} more" if len(names) > 4 else "") or "nothing"


def _named(path: Path) -> str:
    return _short(str(path), 300)


def _short(text: str, longest: int) -> str:
    """A text for a message: without its middle where it is long, and with nothing that cannot be shown."""
    if len(text) > longest:
        text = f"{text[: longest // 2]} … {text[-longest // 2 :]}"
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)
