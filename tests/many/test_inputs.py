"""Pictures in folders, Parquet and tar files: found in the same order, with their captions, and read again."""

import io
import json
import tarfile
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from catalogue import picture
from PIL import Image, ImageOps

from inversion import InversionError
from inversion.many.inputs import (
    UPRIGHT,
    NoPicture,
    Picture,
    Reader,
    chunks,
    decoded,
    look,
    measured,
    opened,
    prompts,
    root,
)
from inversion.many.plan import to_table

CAPTIONS = ("a red heart", "a green heart", None)


def encoded(i: int, kind: str = "PNG", **options: Any) -> bytes:
    file = io.BytesIO()
    picture(i, (24, 16)).save(file, kind, **options)
    return file.getvalue()


def folder(place: Path) -> Path:
    (place / "deeper").mkdir(parents=True)
    for i, caption in enumerate(CAPTIONS):
        path = place / "deeper" / f"{i}.png"
        path.write_bytes(encoded(i))
        if caption:
            path.with_suffix(".txt").write_text(caption + "\n")
    (place / "notes.md").write_text("not a picture")
    return place


def parquet(place: Path, struct: bool = True) -> Path:
    """Two groups of rows."""
    place.mkdir()
    cells = [{"bytes": encoded(i), "path": f"{i}.png"} if struct else encoded(i) for i in range(3)]
    table = pa.table({"image": cells, "caption": pa.array(CAPTIONS, pa.string()), "target": ["x", None, "y"]})
    pq.write_table(table, place / "pictures.parquet", row_group_size=2)
    return place


def tar(place: Path) -> Path:
    place.mkdir()
    with tarfile.open(place / "pictures.tar", "w") as archive:

        def add(name: str, data: bytes) -> None:
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))

        for i, caption in enumerate(CAPTIONS):
            add(f"some/{i}.png", encoded(i))
            if i == 0:
                add(f"some/{i}.txt", str(caption).encode())
            elif caption:
                add(f"some/{i}.json", json.dumps({"caption": caption, "target": "x"}).encode())
    return place


def found(place: Path) -> list[Picture]:
    return [picture for chunk in chunks(place) for picture in look(chunk)]


@pytest.mark.parametrize("make", [folder, parquet, tar])
def test_pictures_are_found_with_their_captions_and_read_again(make: Any, tmp_path: Path) -> None:
    pictures = found(make(tmp_path / "input"))
    assert [(each.prompt, each.width, each.height, each.problem) for each in pictures] == [
        (caption, 24, 16, None) for caption in CAPTIONS
    ]
    (tmp_path / "input").rename(tmp_path / "moved")
    assert pictures == found(tmp_path / "moved")
    reader = Reader(root(tmp_path / "moved"))
    for i, row in enumerate(to_table(pictures).to_pylist()):
        assert reader.read(row) == encoded(i)


def test_names_and_targets_are_those_that_stand_there(tmp_path: Path) -> None:
    assert [each.name for each in found(folder(tmp_path / "a"))] == ["deeper/0.png", "deeper/1.png", "deeper/2.png"]
    assert [(each.name, each.target) for each in found(parquet(tmp_path / "b"))] == [
        ("0.png", "x"),
        ("1.png", None),
        ("2.png", "y"),
    ]
    assert [each.name for each in found(parquet(tmp_path / "c", struct=False))] == [
        f"pictures.parquet:{i}" for i in range(3)
    ]
    assert [(each.name, each.target) for each in found(tar(tmp_path / "d"))] == [
        ("some/0.png", None),
        ("some/1.png", "x"),
        ("some/2.png", None),
    ]


def test_a_tar_file_that_is_cut_off_gives_what_it_has_and_says_so(tmp_path: Path) -> None:
    path = tar(tmp_path / "input") / "pictures.tar"
    pictures = found(path)
    path.write_bytes(path.read_bytes()[: pictures[2].offset + 40])
    names = [(each.name, each.problem is None) for each in found(path)]
    assert names[:2] == [("some/0.png", True), ("some/1.png", True)]
    assert [good for _, good in names[2:]] == [False] * len(names[2:])
    assert names[2:]
    path.write_bytes(b"no tar file")
    (picture,) = found(path)
    assert "cannot be read from here on" in str(picture.problem)


def test_a_picture_that_changed_is_not_taken_for_the_one_that_was_planned(tmp_path: Path) -> None:
    rows = to_table(found(folder(tmp_path / "input"))).to_pylist()
    (tmp_path / "input" / rows[0]["path"]).write_bytes(encoded(7))
    (tmp_path / "input" / rows[1]["path"]).unlink()
    with pytest.raises(NoPicture, match="another picture than when the run was planned"):
        Reader(tmp_path / "input").read(rows[0])
    with pytest.raises(NoPicture, match="cannot be read"):
        Reader(tmp_path / "input").read(rows[1])


@pytest.mark.parametrize("orientation", range(1, 9))
def test_pictures_are_turned_upright_as_pillow_does(orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encoded(0, "JPEG", exif=exif)
    upright = ImageOps.exif_transpose(Image.open(io.BytesIO(data)))
    assert measured(opened(data)) == upright.size
    assert decoded(data).tobytes() == upright.convert("RGB").tobytes()
    assert (orientation in UPRIGHT) == (orientation > 1)


@pytest.mark.parametrize("mode", ["RGBA", "LA", "CMYK", "I;16", "F", "1"])
def test_modes_that_are_not_one_rgb_picture_are_refused(mode: str) -> None:
    file = io.BytesIO()
    Image.new(mode, (8, 8)).save(file, "TIFF")
    with pytest.raises(NoPicture, match="Save it as RGB"):
        opened(file.getvalue())


def test_grey_pictures_and_palettes_are_taken() -> None:
    for mode in ("L", "P"):
        file = io.BytesIO()
        picture(0, (8, 8)).convert(mode).save(file, "PNG")
        assert decoded(file.getvalue()).mode == "RGB"


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("p.csv", "picture,prompt,target\na.png,a red heart,\nb.png,,a green heart\n"),
        (
            "p.jsonl",
            '{"picture": "a.png", "prompt": "a red heart"}\n\n{"picture": "b.png", "target": "a green heart"}\n',
        ),
    ],
)
def test_tables_of_prompts(name: str, text: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(text)
    assert prompts(tmp_path / name) == {"a.png": ("a red heart", None), "b.png": (None, "a green heart")}


def test_a_table_of_prompts_in_parquet(tmp_path: Path) -> None:
    pq.write_table(pa.table({"picture": ["a.png"], "prompt": ["x"], "target": ["y"]}), tmp_path / "p.parquet")
    assert prompts(tmp_path / "p.parquet") == {"a.png": ("x", "y")}


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("p.txt", "", "a .csv, .jsonl or .parquet file"),
        ("p.csv", "name,prompt\na,b\n", "in a column `picture`"),
        ("p.jsonl", "{", "cannot be read"),
        ("p.parquet", "nothing", "cannot be read"),
    ],
)
def test_other_tables_are_refused(name: str, text: str, said: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(InversionError, match=said):
        prompts(tmp_path / name)


def test_inputs_without_pictures_or_of_two_kinds_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InversionError, match="is not there"):
        chunks(tmp_path / "nothing")
    with pytest.raises(InversionError, match="there are none"):
        chunks(tmp_path)
    folder(tmp_path / "both")
    tar(tmp_path / "both" / "tars")
    with pytest.raises(InversionError, match="1 of kind tar, 3 of kind folder"):
        chunks(tmp_path / "both")
    pq.write_table(pa.table({"pixels": [b""]}), tmp_path / "p.parquet")
    with pytest.raises(InversionError, match="has the columns pixels"):
        found(tmp_path / "p.parquet")
