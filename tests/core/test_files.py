"""A record as a file: nothing is overwritten or half written, and only what is whole is read."""

import errno
import itertools
import json
import os
import random
import struct
import threading
import tracemalloc
from pathlib import Path
from typing import Any

import pytest
import torch
from mutants import tried
from problems import Gaussian, grid
from safetensors.torch import load_file, save_file

from inversion import EasyInv, Inversion, InversionError, files, invert, sample
from inversion.errors import TakenError
from inversion.files import read_record, write_record
from inversion.record import MOST_CALLS


@pytest.fixture(scope="module")
def inversion() -> Inversion:
    x0 = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    return invert(Gaussian(), x0, grid("flow", 4), EasyInv())


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "one.safetensors"


def refused(path: Path, message: str) -> None:
    with pytest.raises(InversionError, match=message):
        Inversion.load(path)


def with_header(content: bytes, change: dict[str, Any]) -> bytes:
    """The file with another header."""
    length = struct.unpack("<Q", content[:8])[0]
    header = json.dumps(json.loads(content[8 : 8 + length]) | change).encode()
    return struct.pack("<Q", len(header)) + header + content[8 + length :]


def test_what_is_written_is_read_and_any_reader_of_the_format_reads_it(inversion: Inversion, path: Path) -> None:
    types = [torch.float64, torch.bfloat16, torch.float16, torch.int64, torch.uint8, torch.bool, torch.float8_e4m3fn]
    beside = {f"beside.{dtype}": torch.tensor([[0, 1, 1]]).to(dtype) for dtype in types}
    beside |= {"beside.empty": torch.empty(0, 3), "beside.one": torch.tensor(2.5), "view": inversion.trajectory[-1]}
    record = inversion.to_dict() | beside
    write_record(path, record | {"words": ["é", 1, None]}, {"workflow": "{}"})
    read, theirs = read_record(path), load_file(path)
    assert read["words"] == ["é", 1, None]
    for name in (name for name, value in record.items() if isinstance(value, torch.Tensor)):
        assert read[name].dtype == theirs[name].dtype == record[name].dtype
        assert read[name].shape == theirs[name].shape == record[name].shape
        assert torch.equal(read[name].double(), record[name].double())
        assert torch.equal(theirs[name].double(), record[name].double())
    again = Inversion.load(path)
    assert torch.equal(sample(Gaussian(), again.latent, again.grid, source=again), inversion.trajectory[0])


def test_a_file_of_format_2_still_opens(inversion: Inversion, path: Path) -> None:
    old = inversion.to_dict() | {"format": 2, "residuals": inversion.worst}
    tensors = {name: value for name, value in old.items() if isinstance(value, torch.Tensor)}
    save_file(tensors, path, {"inversion": json.dumps({n: v for n, v in old.items() if n not in tensors})})
    assert torch.equal(Inversion.load(path).worst, inversion.worst)


def test_ten_thousand_steps_fit(path: Path) -> None:
    levels = grid("flow", 10_000, noisiest=1e6)
    states = torch.zeros(10_001, 1, 1, 2)
    calls = (MOST_CALLS,) * 10_000
    Inversion(levels, states, states[1:], states[1:], states[1:, 0, 0, :1], calls, "DDIM", torch.zeros(1)).save(path)
    assert Inversion.load(path).grid == levels


# Writing.


@pytest.mark.parametrize("links", [True, False])
def test_an_existing_file_is_left_alone(
    inversion: Inversion, path: Path, links: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not links:
        monkeypatch.setattr(os, "link", fails(errno.EPERM))
    path.write_text("mine")
    with pytest.raises(TakenError, match="exists already and is left as it is"):
        inversion.save(path)
    monkeypatch.setattr(files, "_is_there", lambda path: False)  # it came while we wrote
    with pytest.raises(TakenError, match="exists already"):
        inversion.save(path)
    assert path.read_text() == "mine"
    assert os.listdir(path.parent) == [path.name]


def fails(code: int) -> Any:
    def fail(*_: Any, **__: Any) -> None:
        raise OSError(code, os.strerror(code))

    return fail


@pytest.mark.parametrize("links", [True, False])
def test_many_at_once_lose_nothing(
    inversion: Inversion, tmp_path: Path, links: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not links:
        monkeypatch.setattr(os, "link", fails(errno.EPERM))
    written: list[tuple[Path, int]] = []

    def write(who: int) -> None:
        for _ in range(5):
            for number in itertools.count():
                try:
                    path = tmp_path / f"{number}.safetensors"
                    write_record(path, inversion.to_dict() | {"who": who})
                    written.append((path, who))
                    break
                except TakenError:
                    continue

    threads = [threading.Thread(target=write, args=(who,)) for who in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({path for path, _ in written}) == len(os.listdir(tmp_path)) == 20
    for path, who in written:
        assert read_record(path)["who"] == who


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("a" * 3000, "name has 3000 characters, more than the disk takes. Give a shorter one"),
        ("a\0b", "characters that no file name has"),
        ("a\ud800b", "characters that no file name has"),
        ("no/folder", "there is no folder .*no. Make it"),
        ("file/below", "there is no folder .*file. Make it"),
    ],
)
def test_a_name_that_no_file_can_have_is_refused(inversion: Inversion, tmp_path: Path, name: str, message: str) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(InversionError, match=message) as refusal:
        inversion.save(tmp_path / name)
    str(refusal.value).encode()
    assert len(str(refusal.value)) < 700
    assert os.listdir(tmp_path) == ["file"]


@pytest.mark.parametrize(
    ("call", "code", "message"),
    [
        ("fsync", errno.ENOSPC, r"the disk is full, and the file takes 0\.\d MB. Free some space"),
        ("lstat", errno.EROFS, "is read-only for this program"),
        ("lstat", errno.EACCES, "is read-only for this program"),
        ("fsync", errno.EIO, "Try another folder"),
        ("link", errno.EEXIST, "exists already"),
    ],
)
def test_a_disk_that_does_not_take_it_is_named_and_nothing_is_left(
    inversion: Inversion, path: Path, call: str, code: int, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(files.os, call, fails(code))
        with pytest.raises(InversionError, match=message):
            inversion.save(path)
    assert not os.listdir(path.parent)


@pytest.mark.parametrize(
    ("beside", "metadata", "message"),
    [
        (
            {"words": "a" * (1 << 20)},
            {},
            r"take 1,04[0-9],[0-9]{3} characters, more than the 1,048,576 .*Most of it is words",
        ),
        ({"deep": [[[[[[[[[[[[[[[[[[]]]]]]]]]]]]]]]]]]}, {}, "nested more than 16 deep"),
        ({"thing": object()}, {}, "not JSON serializable"),
        ({"number": float("nan")}, {}, "not JSON compliant"),
        ({"complex": torch.zeros(1, dtype=torch.complex64)}, {}, r"cannot hold complex \(torch\.complex64\)"),
        ({}, {"workflow": "a" * (1 << 24)}, "takes 17 MB .* Leave out some of workflow"),
        ({}, {str(i): "" for i in range(70)}, "under 72 names"),
        ({}, {"\ud800": ""}, "lone surrogate"),
    ],
)
def test_what_could_not_be_read_back_is_not_written(
    inversion: Inversion, path: Path, beside: dict[str, Any], metadata: dict[str, str], message: str
) -> None:
    with pytest.raises(InversionError, match=message):
        write_record(path, inversion.to_dict() | beside, metadata)
    assert not os.listdir(path.parent)


# Reading.


def test_every_flip_of_what_makes_the_record_is_noticed(inversion: Inversion, path: Path) -> None:
    inversion.save(path)
    content, chance = path.read_bytes(), random.Random(0)
    length = 8 + struct.unpack("<Q", content[:8])[0]
    text = content.index(b'\\"levels\\"')
    for at in [*(chance.randrange(length, len(content)) for _ in range(60)), *range(text + 15, text + 200)]:
        changed = bytearray(content)
        changed[at] ^= 1 << chance.randrange(8)
        path.write_bytes(changed)
        refused(path, "damaged")


def test_a_file_that_is_written_to_while_it_is_read_is_refused(
    inversion: Inversion, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A mapped one would end the process."""
    inversion.save(path)
    content, looked = path.read_bytes(), files._in_order

    def when_looked_at(action: Any) -> None:
        def look(*given: Any) -> Any:
            action()
            return looked(*given)

        monkeypatch.setattr(files, "_in_order", look)

    when_looked_at(lambda: os.truncate(path, 5000))
    refused(path, "became shorter while it was read")
    path.write_bytes(content)
    when_looked_at(lambda: path.write_bytes(b"\0" * len(content)))
    refused(path, "content has changed since it was written")


@pytest.mark.parametrize("part", ["[],", '{"a":', '"a",', '"":"",', '\\"', "1,", "[[1],{}],", "\N{GRINNING FACE}"])
@pytest.mark.parametrize("start", ["", "{", '{"a":[', '{"__metadata__":{"inversion":"', '{"__metadata__":{"a":"'])
def test_a_large_header_costs_a_few_times_its_size(path: Path, start: str, part: str) -> None:
    size = 4_000_000
    header = (start + part * (size // len(part.encode()))).encode()
    path.write_bytes(struct.pack("<Q", len(header)) + header)
    tracemalloc.start()
    refused(path, "damaged|not an inversion")
    assert tracemalloc.get_traced_memory()[1] < 12 * size
    tracemalloc.stop()


def test_the_largest_text_costs_little(inversion: Inversion, path: Path) -> None:
    inversion.save(path)
    text = "[" + "[]," * ((1 << 20) // 3)
    path.write_bytes(with_header(path.read_bytes(), {"__metadata__": {"inversion": text}}))
    tracemalloc.start()
    refused(path, "damaged")
    assert tracemalloc.get_traced_memory()[1] < 50_000_000
    tracemalloc.stop()


def test_headers_are_bounded_before_they_are_read(path: Path) -> None:
    with path.open("wb") as file:
        file.write(struct.pack("<Q", 1 << 25))
        file.truncate(1 << 26)
    tracemalloc.start()
    refused(path, "does not start like one of this pack's files")
    assert tracemalloc.get_traced_memory()[1] < 1_000_000
    tracemalloc.stop()


def entry(**changes: Any) -> dict[str, Any]:
    return {"points": {"dtype": "F32", "shape": [4, 2, 3, 8, 8], "data_offsets": [0, 6144]} | changes}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (entry(data_offsets=[0, 4]), "points has 4 bytes, which its shape"),
        (entry(data_offsets=[2**62, 2**62 + 6144]), "no entry"),
        (entry(data_offsets=[-6144, 0]), "no entry"),
        (entry(data_offsets=[0, 6144.0]), "no entry"),
        (entry(data_offsets=[6144, 0]), "points has -6144 bytes"),
        (entry(data_offsets=[0]), "no entry"),
        (entry(shape=[2**40, 0, 2**40]), "points has 6144 bytes"),
        (entry(shape=[1] * 100), "no entry"),
        (entry(shape="4"), "no entry"),
        (entry(dtype="F4"), "points is of an unknown type, 'F4'"),
        (entry(dtype=["F32"]), "unknown type"),
        ({"points": 7}, "no entry"),
        ({"points": None}, "no entry"),
        ({"a" * 201: None}, "too long"),
        ({"other": entry()["points"]}, "overlap, or leave gaps"),
        ({"__metadata__": {"inversion": 7}}, "no text"),
        ({"__metadata__": None}, "damaged"),
        ({"__metadata__": {}}, "not an inversion: it holds .*, and in its header nothing"),
        ({"__metadata__": {"inversion": "{}"}}, "no checksum"),
        ({"__metadata__": {"inversion": "{}", "checksum": ""}}, "the checksum differs"),
        ({f"layer.{i}": entry()["points"] for i in range(100)}, "not an inversion: it holds .* and 60 more and more"),
    ],
)
def test_headers_that_do_not_fit_are_refused(
    inversion: Inversion, path: Path, change: dict[str, Any], message: str
) -> None:
    inversion.save(path)
    path.write_bytes(with_header(path.read_bytes(), change))
    refused(path, message)


def test_names_are_looked_at_before_tensors_are_read(inversion: Inversion, path: Path) -> None:
    write_record(path, {"format": 3, "large": torch.zeros(1_000_000)})
    tracemalloc.start()
    refused(path, "it has no trajectory and no residuals")
    assert tracemalloc.get_traced_memory()[1] < 1_000_000
    tracemalloc.stop()


def test_a_record_that_memory_does_not_take_is_refused(inversion: Inversion, path: Path) -> None:
    inversion.save(path)
    with pytest.raises(InversionError, match=r"takes 0 MB of memory, and 0 MB are free. Close other programs"):
        read_record(path, most=1000)


def test_what_is_no_file_is_refused(tmp_path: Path) -> None:
    if hasattr(os, "mkfifo"):
        os.mkfifo(tmp_path / "pipe")  # which would have to be waited for
        refused(tmp_path / "pipe", "is no file")
    for name, message in (
        (".", "is no file"),
        ("none", "cannot be read: No such file"),
        ("a" * 3000, "cannot be read: File name too long"),
        ("a\0", "cannot be read"),
    ):
        refused(tmp_path / name, message)


def test_mutants_are_refused_or_work(inversion: Inversion, path: Path) -> None:
    inversion.save(path)

    def use(path: Path) -> None:
        read = Inversion.load(path)
        came = sample(lambda x, level: x / 2, read.latent, read.grid, source=read)
        assert came.isfinite().all()

    outcome = tried(path.read_bytes(), 300, 0, files, path, use, InversionError)
    assert not outcome.other, "\n".join(outcome.other)
    assert outcome.memory < 100_000_000, outcome.costliest
    assert outcome.refused.total() > 200
    assert outcome.worked.total() > 5  # the rest of a mutant is in order
