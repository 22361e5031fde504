"""The plan, what it costs, and the folder that is written; without Ray."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pytest
from catalogue import BROKEN, COUNT, rows_of, save_pipeline, settings

from inversion import DDIM, EasyInv, FixedPoint, GuidedNewton, InversionError
from inversion.many import Job, Workers, extra, record
from inversion.many.cli import main, method
from inversion.many.engine import connect
from inversion.many.inputs import Picture
from inversion.many.model import inspect
from inversion.many.output import Output, schema
from inversion.many.plan import PLAN, cost, laid_out, size, with_prompts

REPOSITORY = Path(__file__).resolve().parents[2]
MODEL = {"sd": (4, 2, 1), "sdxl": (4, 2, 1), "sd3": (16, 2, 2), "flux": (16, 2, 2)}


def named(*sizes: tuple[int, int]) -> list[Picture]:
    return [Picture(f"{i}.png", f"/{i}.png", digest=str(i), width=w, height=h) for i, (w, h) in enumerate(sizes)]


@pytest.mark.parametrize("name", MODEL)
def test_a_pipelines_folder_says_what_latents_it_has(name: str, tmp_path: Path) -> None:
    model = inspect(save_pipeline(tmp_path / name, name))
    channels, pixels, patch = MODEL[name]
    assert (model.channels, model.pixels, model.patch) == MODEL[name]
    assert model.size(19, 18) == (19 // (pixels * patch) * pixels * patch, 18 // (pixels * patch) * pixels * patch)
    assert model.latent(16, 24) == (channels, 12, 8)


def test_other_folders_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InversionError, match="Give the folder of a diffusers pipeline"):
        inspect(tmp_path)


def test_the_fingerprint_is_that_of_the_files(pipeline: Path, tmp_path: Path) -> None:
    model = inspect(pipeline)
    assert model.fingerprint() == model.fingerprint()
    other = inspect(save_pipeline(tmp_path / "other"))
    assert other.fingerprint() == model.fingerprint()
    about = tmp_path / "other" / "scheduler" / "scheduler_config.json"
    about.write_text(about.read_text().replace("0.012", "0.013"))
    assert other.fingerprint() != model.fingerprint()


def test_shards_have_pictures_of_one_size_in_the_inputs_order(pipeline: Path) -> None:
    pictures = named((16, 16), (24, 16), (16, 17), (1, 9), (24, 17), (16, 16))
    table = laid_out(pictures, inspect(pipeline), {}, 3, 2)
    assert [(row["shard"], row["name"], row["width"], row["height"]) for row in table.to_pylist()] == [
        (3, "0.png", 16, 16),
        (3, "2.png", 16, 16),
        (4, "5.png", 16, 16),
        (5, "1.png", 24, 16),
        (5, "4.png", 24, 16),
        (6, "3.png", 0, 8),
    ]
    assert table["problem"].to_pylist()[-1] == "It is 1 x 9; the model's smallest is a side of 2"


def test_keys_depend_on_picture_prompts_and_settings(pipeline: Path) -> None:
    def key(identity: Any = 1, **changes: Any) -> str:
        picture = Picture("a", "/a", **{"digest": "x", "width": 8, "height": 8, "prompt": "p", **changes})
        return str(laid_out([picture], inspect(pipeline), {"": identity}, 0, 1)["key"][0].as_py())

    assert key() == key(width=9)
    assert len({key(), key(2), key(digest="y"), key(prompt="q"), key(target="t")}) == 5


def test_prompts_of_the_table_win_over_those_beside_the_picture(tmp_path: Path) -> None:
    job = Job("in", "out", "pipe", settings(task="edit"), prompt="p0", target="t0")
    pictures = [Picture("a", "/a", prompt="own"), Picture("b", "/b"), Picture("c", "/c", target="own target")]
    made, notes = with_prompts(pictures, job, {"a": ("table", "table target"), "z": ("x", None)})
    assert [(each.prompt, each.target) for each in made] == [
        ("table", "table target"),
        ("p0", "t0"),
        ("p0", "own target"),
    ]
    assert notes == ["1 pictures of the table of prompts are not there, such as z."]
    with pytest.raises(InversionError, match=r"2 of 3 pictures have no target prompt, the first is a\."):
        with_prompts(pictures, Job("in", "out", "pipe", settings(task="edit")), {})
    _, notes = with_prompts(pictures, Job("in", "out", "pipe", settings()), {})
    assert notes == ["2 pictures have no prompt of their own: they are inverted under the empty one."]


@pytest.mark.parametrize(
    ("chosen", "up"),
    [(DDIM(), 5), (EasyInv(), 5), (FixedPoint(iterations=3), 15), (EasyInv(base=GuidedNewton(iterations=2)), 10)],
)
def test_model_calls_are_counted_by_the_method(chosen: Any, up: int, pipeline: Path) -> None:
    asked = settings(task="edit", method=chosen, guidance=3.0)
    table = laid_out(named((16, 16), (24, 16)), inspect(pipeline), {}, 0, 2)
    found = cost(table, asked, inspect(pipeline))
    assert (found.calls, found.shown) == (2 * (up + 5), 2 * (up + 2 * 5))
    assert found.latents == 4 * 4 * (8 * 8 + 12 * 8)


def test_the_sizes_that_are_said_are_those_that_are_written(undisturbed: Output, pipeline: Path) -> None:
    rows = [row for row in rows_of(undisturbed) if row["problem"] is None]
    names = [row["name"] for row in rows]
    planned = undisturbed.planned().filter(pc.is_in(pc.field("name"), pa.array(names)))
    said = cost(planned, settings(records=True), inspect(pipeline))
    assert len(rows) == COUNT - len(BROKEN)
    assert said.latents == sum(4 * len(row["latent"]) for row in rows)
    headers = 2000 * len(rows)  # bytes, of the records' files
    assert said.records < sum(len(row["record"]) for row in rows) < said.records + headers


def test_a_record_is_read_again(undisturbed: Output) -> None:
    row = next(row for row in rows_of(undisturbed) if row["problem"] is None)
    again = record(row)
    assert again.latent.flatten().tolist() == row["latent"]
    assert again.verdict == row["verdict"]
    with pytest.raises(InversionError, match="has no record"):
        record({"name": "a.png"})


def test_an_output_of_other_settings_is_refused(tmp_path: Path) -> None:
    output = Output(tmp_path / "out")
    output.check({"steps": 20, "method": "DDIM()"})
    output.begin({"steps": 20, "method": "DDIM()"})
    output.check({"steps": 20, "method": "DDIM()"})
    with pytest.raises(InversionError, match=r"steps: 20 there, 10 asked\. Ask for the same, or give another output"):
        output.check({"steps": 10, "method": "DDIM()"})


def test_a_folder_that_is_no_output_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "precious").write_text("x")
    with pytest.raises(InversionError, match=r"no output of inversion\.many"):
        Output(tmp_path).check({})
    assert [path.name for path in tmp_path.iterdir()] == ["precious"]


def test_a_run_that_was_cut_off_as_it_began_is_begun_again(tmp_path: Path) -> None:
    Output(tmp_path / "out").begin({})
    (tmp_path / "out" / "run.json").unlink()
    Output(tmp_path / "out").check({"steps": 5})


def test_an_output_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    for place in (tmp_path / "file", tmp_path / "file" / "out"):
        with pytest.raises(InversionError, match="cannot be written"):
            Output(place).check({})
    with pytest.raises(InversionError, match="cannot be written"):
        Output(tmp_path / "file" / "out").begin({})


def test_a_shard_is_there_when_it_is_whole(tmp_path: Path) -> None:
    output = Output(tmp_path / "out")
    output.begin({})
    columns = schema(settings())
    row = dict.fromkeys(columns.names)

    def cut_off() -> Iterator[dict[str, Any]]:
        for _ in range(20):
            yield row
        raise KeyError

    assert output.try_again(3) == 1
    with pytest.raises(KeyError):
        output.write(3, cut_off(), settings())
    assert output.done() == set()
    assert output.try_again(3) == 2
    output.write(3, [row] * 20, settings())
    assert output.done() == {3}
    assert list(output.begun.iterdir()) == []
    assert output.try_again(3) == 1
    output.end()
    assert sorted(path.name for path in output.folder.iterdir()) == ["plan", "run.json", "shards"]


def test_plans_add_up(tmp_path: Path, pipeline: Path) -> None:
    output = Output(tmp_path / "out")
    output.begin({})
    assert output.planned().schema == PLAN
    for i in range(2):
        output.add(laid_out(named((16, 16), (16, 16)), inspect(pipeline), {}, i, 2))
    assert output.planned()["shard"].to_pylist() == [0, 0, 1, 1]
    assert [row["name"] for row in output.pictures(1)] == ["0.png", "1.png"]


@pytest.mark.parametrize(
    ("wrong", "said"),
    [({"steps": 0}, "1 or more"), ({"anchor": 2.0}, "between 0 and 1"), ({"task": "x"}, "task is one of")],
)
def test_settings_are_checked(wrong: dict[str, Any], said: str) -> None:
    with pytest.raises(InversionError, match=said):
        settings(**wrong)


def test_workers_are_checked() -> None:
    with pytest.raises(InversionError, match="count is 1 or more"):
        Workers(count=0)
    with pytest.raises(InversionError, match="gpus is 0 or more"):
        Workers(gpus=-1)


def test_a_methods_options() -> None:
    assert method("FixedPoint", ["iterations=3", "warm_start=last"]) == FixedPoint(3, warm_start="last")
    with pytest.raises(InversionError, match="FixedPoint takes the options iterations, tolerance"):
        method("FixedPoint", ["depth=3"])
    with pytest.raises(InversionError, match="iterations >= 1"):
        method("FixedPoint", ["iterations=0"])


def test_sizes_in_words() -> None:
    assert [size(n) for n in (12, 1500, 4.2e6, 3e9)] == ["12 bytes", "1.5 kB", "4.2 MB", "3.0 GB"]


def test_a_missing_extra_is_named(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(extra, "PACKAGES", ("torch", "no_such_package"))
    assert main(["invert", "in", "out", "--pipeline", "p"]) == 1
    assert "no_such_package. Install the extra: pip install '.[many]'" in capsys.readouterr().err


def test_an_address_where_nothing_listens_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InversionError, match=r"No Ray cluster answers at 127\.0\.0\.1:9"):
        connect("127.0.0.1:9")
    with pytest.raises(InversionError, match="Ray Client"):
        connect("ray://127.0.0.1:10001")
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:9")
    with pytest.raises(InversionError, match=r"No Ray cluster answers at 127\.0\.0\.1:9"):
        connect(None)


def test_importing_the_library_and_this_package_loads_no_ray() -> None:
    code = "import sys, inversion, inversion.many; print('\\n'.join(sys.modules))"
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
    loaded = done.stdout.split()
    assert "inversion.many" in loaded
    assert not {"ray", "pyarrow", "diffusers", "PIL"} & set(loaded)


def test_metadata_is_what_datasets_reads(pipeline: Path) -> None:
    columns = schema(settings(task="edit", records=True))
    features = json.loads(columns.metadata[b"huggingface"])["info"]["features"]
    assert list(features) == columns.names
    assert features["edited"] == {"_type": "Image"}
    assert features["latent"] == {"feature": {"dtype": "float32", "_type": "Value"}, "_type": "List"}
    assert pa.types.is_binary(columns.field("record").type)
