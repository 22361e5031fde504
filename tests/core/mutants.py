"""Damaged and forged files of an inversion, for the tests in small and for `scripts/fuzz.py` in large."""

import json
import math
import random
import struct
import traceback
import tracemalloc
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

# What takes the place of a value: of every type, at every edge.
VALUES: tuple[Any, ...] = (
    None, True, 0, -1, 1, 2, 3, 2**31, 2**64, 10**400, 0.5, -0.5, 1e-320, 1e308, math.nan, math.inf, "", "ve", "7",
    "\0", "é" * 300, "\ud800", "a" * 1_000_000, [], [1], [[1.0, 2.0, None]],
    [None] * 20_000, {}, {"a": {"b": []}}, "[x](y)",
)  # fmt: skip
NUMBERS = (0, 1, 7, 255, 2**16, 2**31, 2**40, 2**63, 2**64 - 1, -1, -(2**63), 10**30)
TYPES = ("F64", "F32", "F16", "BF16", "F8_E4M3", "F8_E5M2", "I64", "I32", "U8", "BOOL", "C64", "F4", "", None, 7)
NOT_FINITE = (math.nan, math.inf, -math.inf)


@dataclass
class Outcome:
    """What came of mutants: how many were refused and how many worked, by kind; what else happened; and at what cost.

    Arguments:
        other: what was done and the end of the traceback, of each that did neither.
        memory: the most bytes that one took while it was used, beyond its own size.
        costliest: which that was.
    """

    refused: Counter[str] = field(default_factory=Counter)
    worked: Counter[str] = field(default_factory=Counter)
    other: list[str] = field(default_factory=list)
    memory: int = 0
    costliest: str = ""

    def add(self, more: "Outcome") -> None:
        """Take in what came of others."""
        self.refused += more.refused
        self.worked += more.worked
        self.other += more.other
        if more.memory > self.memory:
            self.memory, self.costliest = more.memory, more.costliest


def tried(
    saved: bytes, count: int, seed: int, files: ModuleType, path: Path, use: Callable[[Path], None], refusal: type
) -> Outcome:
    """Have `use` read `count` mutants of a saved inversion from `path`. It may raise `refusal`, and nothing else."""
    outcome = Outcome()
    tracemalloc.start()
    for what, content in mutants(saved, count, seed, files):
        path.write_bytes(content)
        kind = what.split()[0].strip("_")
        tracemalloc.reset_peak()
        before = tracemalloc.get_traced_memory()[0]
        try:
            use(path)
            outcome.worked[kind] += 1
        except refusal:
            outcome.refused[kind] += 1
        except Exception:
            outcome.other.append(f"{what}: {traceback.format_exc()[-500:]}")
        took = tracemalloc.get_traced_memory()[1] - before - len(content)
        if took > outcome.memory:
            outcome.memory, outcome.costliest = took, what
    tracemalloc.stop()
    return outcome


def mutants(saved: bytes, count: int, seed: int, files: ModuleType) -> Iterator[tuple[str, bytes]]:
    """(what was done, the file) of `count` mutants of a saved inversion. About half have a checksum that fits.

    Arguments:
        files: the module `inversion.files`, whose checksum forged files get.
    """
    for index in range(count):
        chance = random.Random(f"{seed} {index}")
        what = chance.choice(KINDS)
        yield f"{what.__name__} (seed {seed}, number {index})", what(saved, chance, files)


def _flipped(saved: bytes, chance: random.Random, _: ModuleType) -> bytes:
    changed, length = bytearray(saved), 8 + struct.unpack("<Q", saved[:8])[0]
    for _ in range(chance.choice((1, 1, 2, 8, 64))):
        end = chance.choice((8, length, len(saved)))
        changed[chance.randrange(end)] ^= 1 << chance.randrange(8)
    return bytes(changed)


def _cut(saved: bytes, chance: random.Random, _: ModuleType) -> bytes:
    at = chance.choice((chance.randrange(len(saved)), chance.randrange(4000), len(saved) - 1))
    return saved[:at] + chance.choice((b"", b"", b"\0" * 16, saved))


def _header_field(saved: bytes, chance: random.Random, _: ModuleType) -> bytes:
    header, tensors = _split(saved)
    name = chance.choice(list(header))
    if name != "__metadata__":
        field = chance.choice(("dtype", "shape", "data_offsets", "whole", "other"))
        if field == "dtype":
            header[name]["dtype"] = chance.choice(TYPES)
        elif field in ("shape", "data_offsets"):
            numbers = header[name][field]
            numbers[chance.randrange(len(numbers))] = chance.choice(NUMBERS)
        elif field == "whole":
            header[name] = chance.choice(VALUES)
        else:
            header[name] = header[chance.choice(list(header))]  # two tensors in one place
    else:
        header[name][chance.choice(("inversion", "checksum", "prompt"))] = chance.choice(VALUES)
    return _joined(header, tensors)


def _large_header(saved: bytes, chance: random.Random, _: ModuleType) -> bytes:
    """Headers that take much more memory once they are parsed than they have bytes."""
    size = chance.choice((10_000, 1_000_000, 15_000_000)) if chance.random() < 0.2 else 10_000
    part = chance.choice(('{"a":', "[", "[],", '{"a":{}},', '"a",', "1,", '\\"', '"":"",'))
    pattern = chance.choice(("{", '{"a":[', "")) + part * (size // len(part))
    whole = chance.choice((pattern, json.dumps({"__metadata__": {"inversion": pattern}})))
    return struct.pack("<Q", len(whole)) + whole.encode() + saved[-1000:]


def _field(saved: bytes, chance: random.Random, files: ModuleType) -> bytes:
    """A value of the record, somewhere in it, replaced; the checksum fits."""
    header, tensors = _split(saved)
    record = json.loads(header["__metadata__"]["inversion"])
    holder: Any = record
    while True:
        key = chance.choice(list(holder) if isinstance(holder, dict) else range(len(holder)))
        if not isinstance(holder[key], dict | list) or not holder[key] or chance.random() < 0.3:
            break
        holder = holder[key]
    change = chance.random()
    if change < 0.15 and isinstance(holder, dict):
        del holder[key]
    elif change < 0.3 and isinstance(holder[key], int | float):
        holder[key] = chance.choice((str(holder[key]), -holder[key], holder[key] * (1 + 1e-6), holder[key] + 1))
    elif change < 0.4:
        deep: Any = []
        for _ in range(chance.choice((10, 20, 900))):
            deep = [deep]
        holder[key] = deep
    else:
        holder[key] = chance.choice(VALUES)
    return _signed(header, record, tensors, files)


def _tensor(saved: bytes, chance: random.Random, files: ModuleType) -> bytes:
    """Values of a tensor replaced, or a tensor left out, renamed or given another shape or type; the checksum fits."""
    header, tensors = _split(saved)
    record = json.loads(header["__metadata__"]["inversion"])
    name = chance.choice([name for name in header if name != "__metadata__"])
    entry, changed = header[name], bytearray(tensors)
    begin, end = entry["data_offsets"]
    change = chance.random()
    if change < 0.5 and entry["dtype"] in ("F32", "F64"):
        code, size = ("<f", 4) if entry["dtype"] == "F32" else ("<d", 8)
        for _ in range(chance.choice((1, 1, 50))):
            value = chance.choice((*NOT_FINITE, 0.0, 1e38, -1e38, 1e-45))
            struct.pack_into(code, changed, begin + size * chance.randrange((end - begin) // size), value)
    elif change < 0.65:
        entry["shape"] = chance.choice((entry["shape"][::-1], [*entry["shape"], 1], [math.prod(entry["shape"])]))
    elif change < 0.8 and entry["dtype"] == "F32":
        entry["dtype"] = "I32"
    elif change < 0.9:
        header[chance.choice(("noise", "partner", "latent.noise_mask", "latent.other", "cfg", "x"))] = header.pop(name)
    else:
        zeros = bytes(end - begin)
        changed[begin:end] = zeros
    return _signed(header, record, bytes(changed), files)


KINDS: tuple[Callable[[bytes, random.Random, ModuleType], bytes], ...] = (
    _flipped, _cut, _header_field, _large_header, _field, _field, _field, _tensor, _tensor,
)  # fmt: skip


def _split(saved: bytes) -> tuple[dict[str, Any], bytes]:
    length = struct.unpack("<Q", saved[:8])[0]
    return json.loads(saved[8 : 8 + length]), saved[8 + length :]


def _joined(header: dict[str, Any], tensors: bytes) -> bytes:
    content = json.dumps(header).encode()
    return struct.pack("<Q", len(content)) + content + tensors


def _signed(header: dict[str, Any], record: Any, tensors: bytes, files: ModuleType) -> bytes:
    """The file with a checksum that fits, as someone would write it who knows how."""
    text = json.dumps(record)
    entries = sorted((e["data_offsets"], name, e) for name, e in header.items() if name != "__metadata__")
    places = [files.Place(name, e["dtype"], tuple(e["shape"]), *offsets) for offsets, name, e in entries]
    parts = [tensors[place.begin : place.end] for place in places]
    header["__metadata__"] = {"inversion": text, "checksum": files.checksum(text, places, parts)}
    return _joined(header, tensors)
