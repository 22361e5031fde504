"""Save Inversion and Load Inversion: what comes back, what is refused, and what the server makes of them."""

import io
import json
import os
import re
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import folder_paths
import pytest
import torch
from client import Client, Graph, QueueError
from graphs import Bench, defaults, demo, node_of
from host import Server
from mutants import tried
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file, save_file

import nodes

SUFFIX = ".inversion.safetensors"


@pytest.fixture(scope="module", params=["v-prediction", "flow"])
def bench(request: pytest.FixtureRequest, pack: Any) -> Bench:
    return demo(pack, request.param)


@pytest.fixture(scope="module")
def flow(pack: Any) -> Bench:
    return demo(pack, "flow")


@pytest.fixture(autouse=True)
def folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Folders of the test's own: in them, `output` and `input`."""
    for name in ("output", "input"):
        (tmp_path / name).mkdir()
        monkeypatch.setattr(folder_paths, f"{name}_directory", str(tmp_path / name))
    return tmp_path


def path_of(file: str) -> Path:
    return Path(folder_paths.get_annotated_filepath(file))


def header(path: Path) -> dict[str, str]:
    with safe_open(path, "pt") as file:
        return file.metadata()


def same(a: Any, b: Any) -> bool:
    """Equal to the last bit, with equal types."""
    if isinstance(a, torch.Tensor):
        return isinstance(b, torch.Tensor) and a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, dict):
        return isinstance(b, dict) and a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    return type(a) is type(b) and a == b


@pytest.mark.parametrize(
    ("method", "inputs"),
    [
        ("EasyInv", {"steps": 5}),
        ("FixedPoint", {"steps": 4, "cfg": 1.5}),
        ("GuidedNR", {"steps": 3, "sampler": "euler_ancestral", "seed": 7}),
    ],
)
def test_an_edit_after_load_is_bit_identical(bench: Bench, method: str, inputs: dict) -> None:
    latent, _, sigmas, report = bench.invert(method, negative=bench.negative, **inputs)
    loaded, loaded_sigmas, loaded_report = bench.load(bench.save(latent))
    assert torch.equal(loaded_sigmas, sigmas)
    assert "Residual per step" in loaded_report
    assert next(line for line in report.splitlines() if "Residual" in line) in loaded_report
    # Lists where there were pairs is all that a file may change.
    plain = json.loads(json.dumps({k: v for k, v in latent["inversion"].items() if not isinstance(v, torch.Tensor)}))
    assert same(loaded, {**latent, "inversion": latent["inversion"] | plain})
    for edit in ({}, {"positive": bench.other, "cfg": 3.0, "preserve": 0.6, "negative": bench.negative}):
        assert torch.equal(
            bench.edit(latent=loaded, **edit)[0]["samples"], bench.edit(latent=latent, **edit)[0]["samples"]
        )


def test_what_else_a_latent_holds_comes_back(flow: Bench, caplog: pytest.LogCaptureFixture) -> None:
    samples = flow.latent["samples"].repeat(3, 1, 1, 1)
    mask = (torch.arange(3 * 64 * 64).reshape(3, 64, 64) % 3 == 0).float()
    beside = {"noise_mask": mask, "batch_index": [4, 1, 9], "type": "image"}
    latent, _, _, _ = flow.invert(latent={"samples": samples, **beside}, steps=2)
    loaded, _, _ = flow.load(flow.save({**latent, "pipe": object()}))
    assert same({key: loaded[key] for key in beside}, beside)
    assert loaded.keys() == latent.keys()
    assert "leaves out the LATENT's 'pipe'" in caplog.text


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_samples_keep_their_type_and_views_are_written_whole(flow: Bench, dtype: torch.dtype) -> None:
    latent, _, _, _ = flow.invert(steps=2)
    twice = latent["samples"].repeat(2, 1, 1, 1)
    of_type = {**latent, "samples": latent["samples"].to(dtype)}
    view = {**latent, "samples": twice[1:], "beside": twice[1:]}
    strided = {**latent, "samples": latent["samples"].mT.contiguous().mT}
    for given in (of_type, view, strided):
        file = flow.save(given)
        assert same(flow.load(file)[0]["samples"], given["samples"])
        assert same(load_file(path_of(file))["latent.samples"], given["samples"])  # as any reader of the format has it


def test_a_file_that_changes_leaves_what_was_loaded_alone(flow: Bench) -> None:
    latent, _, _, _ = flow.invert(steps=2)
    file = flow.save(latent)
    loaded, _, _ = flow.load(file)
    content = path_of(file).read_bytes()
    with path_of(file).open("r+b") as open_file:
        open_file.write(b"\0" * len(content))
    assert torch.equal(loaded["samples"], latent["samples"])
    assert torch.equal(loaded["inversion"]["points"], latent["inversion"]["points"])


def test_the_library_reads_the_same_file(flow: Bench) -> None:
    latent, _, _, _ = flow.invert(steps=2)
    inversion = flow.pack.inversion.Inversion.load(path_of(flow.save(latent)))
    assert torch.equal(inversion.trajectory, latent["inversion"]["trajectory"])


def test_files_are_numbered_and_named_like_the_hosts(flow: Bench, folders: Path) -> None:
    latent, _, _, _ = flow.invert(steps=2)
    for prefix in ("inversions/inversion", "inversions/inversion", "heart", "a/b/%width%x"):
        flow.save(latent, prefix)
    (folders / "input" / "mine").mkdir()
    for name in (f"shared{SUFFIX}", f"mine/own{SUFFIX}", "other.safetensors", "picture.png"):
        (folders / "input" / name).touch()
    (folders / "output" / "checkpoint.safetensors").touch()
    (file,) = flow.pack.nodes.files.LoadInversion.define_schema().inputs
    assert file.options == [
        f"mine/own{SUFFIX}",
        f"shared{SUFFIX}",
        f"a/b/0x_00001_{SUFFIX} [output]",
        f"heart_00001_{SUFFIX} [output]",
        f"inversions/inversion_00001_{SUFFIX} [output]",
        f"inversions/inversion_00002_{SUFFIX} [output]",
    ]


def test_how_it_was_made_is_in_the_file(flow: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    latent, _, _, _ = flow.invert(steps=2)
    prompt, workflow = {"1": {"class_type": "INV_Save"}}, {"nodes": [], "extra": {"words": 'Füße, "quoted"'}}
    hidden = SimpleNamespace(prompt=prompt, extra_pnginfo={"workflow": workflow})
    monkeypatch.setattr(flow.pack.nodes.files.SaveInversion, "hidden", hidden, raising=False)
    made = header(path_of(flow.save(latent)))
    assert json.loads(made["prompt"]) == prompt
    assert json.loads(made["workflow"]) == workflow
    monkeypatch.setattr(flow.pack.nodes.files.args, "disable_metadata", True)
    file = flow.save(latent)
    assert header(path_of(file)).keys() == {"inversion", "checksum"}
    assert same(flow.load(file)[0]["samples"], latent["samples"])


def test_more_beside_the_tensors_than_can_be_read_back_is_not_written(
    flow: Bench, folders: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    latent, _, _, _ = flow.invert(steps=2)
    monkeypatch.setattr(flow.pack.inversion.files, "LARGEST_HEADER", 20_000)
    hidden = SimpleNamespace(prompt={"1": "x" * 20_000}, extra_pnginfo=None)
    monkeypatch.setattr(flow.pack.nodes.files.SaveInversion, "hidden", hidden, raising=False)
    with pytest.raises(flow.pack.inversion.InversionError, match="Leave out some of prompt"):
        flow.save(latent)
    assert not list((folders / "output").rglob(f"*{SUFFIX}"))
    hidden.prompt = {"1": "x" * 10_000}
    flow.load(flow.save(latent))


def test_a_latent_that_is_no_inversion_is_not_saved(flow: Bench, folders: Path) -> None:
    error = flow.pack.inversion.InversionError
    latent, _, _, _ = flow.invert(steps=2)
    with pytest.raises(error, match=r"no inversion record.*Save Latent"):
        flow.save(flow.latent)
    with pytest.raises(error, match=r"no longer what was inverted \(\(2, 32, 16, 16\), not \(1, 32, 16, 16\)\)"):
        flow.save({**latent, "samples": torch.cat([latent["samples"], latent["samples"].flip(-1)])})
    with pytest.raises(error, match="format 99"):
        flow.save({**latent, "inversion": {**latent["inversion"], "format": 99}})
    assert not list((folders / "output").rglob("*.safetensors"))


def test_other_files_are_refused_and_the_message_says_what_they_are(flow: Bench, folders: Path) -> None:
    latent, _, _, _ = flow.invert(steps=2)
    good = path_of(flow.save(latent))
    content, tensors, record = good.read_bytes(), load_file(good), header(good)["inversion"]
    path = folders / "input" / f"given{SUFFIX}"

    def refused(message: str) -> None:
        with pytest.raises(flow.pack.inversion.InversionError, match=message):
            flow.load(path.name)

    for cut in (len(content) - 1, len(content) // 2, 5000, 100):
        path.write_bytes(content[:cut])
        refused("cannot be read as an inversion, it may be cut off or damaged.*Copy it again")
    for cut in (7, 0):
        path.write_bytes(content[:cut])
        refused("does not start like one of this pack's files")
    for oversized in (b"\xff" * 64, (1 << 27).to_bytes(8, "little") + content[8:]):
        path.write_bytes(oversized)
        refused("does not start like one of this pack's files")
    path.write_bytes(b"\x80\x04\x95" + b"pickled" * 100)
    refused("does not start like one of this pack's files")

    nodes.SaveLatent().save(flow.latent)  # the host's own file
    (theirs,) = (folders / "output").rglob("*.latent")
    path.write_bytes(theirs.read_bytes())
    refused("not an inversion: it holds .*latent_tensor.*use Load Latent")
    save_file({f"layer.{i}": torch.zeros(1) for i in range(9)}, path, {"format": "pt"})
    refused(r"not an inversion: it holds layer\.0, .* and 5 more, and in its header format")
    path.unlink()
    flow.pack.inversion.Inversion.from_dict(latent["inversion"]).save(path)
    refused("an inversion but no LATENT")

    cases: list[tuple[dict[str, Any], dict[str, Any], str]] = [
        ({"latent.samples": tensors["latent.samples"].to(torch.int64)}, {}, r"samples is torch\.int64"),
        ({"latent.samples": tensors["latent.samples"].to(torch.float8_e4m3fn)}, {}, r"samples is torch\.float8"),
        ({"latent.samples": tensors["latent.samples"][:, :4].clone()}, {}, "no longer what was inverted"),
        ({"latent.samples": tensors["latent.samples"] * 1.1}, {}, "no longer what was inverted.*values were changed"),
        ({"latent.samples": tensors["latent.samples"] * torch.nan}, {}, "samples holds NaN"),
        ({"latent.samples": None}, {"latent": {"samples": [[1.0]]}}, "but no LATENT"),
        ({"latent.noise_mask": torch.ones(0, 4, 4)}, {}, r"noise_mask is .* of shape \(0, 4, 4\)"),
        ({"latent.noise_mask": torch.ones(4)}, {}, r"noise_mask is .* of shape \(4,\)"),
        ({}, {"latent": {"noise_mask": "all"}}, "noise_mask is 'all'"),
        ({}, {"latent": {"noise_mask": [[1.0]]}}, "noise_mask is"),
        ({}, {"latent": {"batch_index": ["one"]}}, "batch_index is 'one'"),
        ({"trajectory": tensors["trajectory"].to(torch.int32)}, {}, r"trajectory is torch\.int32"),
        ({"points": tensors["points"].to(torch.float8_e5m2)}, {}, r"points is torch\.float8"),
        ({"points": tensors["points"].half()}, {}, r"points is torch\.float16 .* not torch\.float32"),
        ({"slopes": tensors["slopes"][1:].clone()}, {}, "slopes is .* of shape"),
        ({"fingerprint": tensors["fingerprint"][:, 1:].clone()}, {}, "fingerprint is .* of shape"),
        ({"fingerprint": None}, {}, "fingerprint is missing"),
        ({}, {"format": 1}, "format 1"),
        ({}, {"kind": "other"}, "kind is 'other'"),
        ({}, {"levels": [[1.0, 2.0, None]]}, "at least two"),
        ({}, {"kind": "ve"}, "damaged"),  # whose levels are all on the scale of the clean latent, never 0
        ({}, {"model": ["ve"]}, "the model is"),
        ({}, {"model": {}}, "the latent format is missing"),
        ({}, {"model": json.loads(record)["model"] | {"model class": "[a](b)"}}, "the model class is"),
        ({}, {"model": json.loads(record)["model"] | {"state space": "ve"}}, "the state space is 've'"),
        ({}, {"model": json.loads(record)["model"] | {"sampling numbers": [1]}}, "sampling numbers is 1 values"),
        *(({}, {"cfg": cfg}, "cfg is ") for cfg in ("high", -5, 10**400, True, None)),
        ({}, {"latent": [1]}, "but no LATENT"),
    ]
    pack = flow.pack.inversion.files.write_record
    for of_tensors, of_record, message in cases:
        changed = {**json.loads(record), **of_record, **tensors, **of_tensors}
        path.unlink()
        pack(path, {name: value for name, value in changed.items() if value is not None})
        refused(message)
    for text in ("[" * 100_000, '{"format": ', "[1]", "9" * 5000, '{"cfg": NaN}', "[" * 990 + "]" * 990):
        save_file(tensors, path, {"inversion": text})
        refused("cut off or damaged")
    path.write_bytes(content)
    assert same(flow.load(path.name)[0]["samples"], latent["samples"])  # the rest of the file was in order


def test_names_lead_to_files_in_the_hosts_folders_only(flow: Bench, folders: Path) -> None:
    node = flow.pack.nodes.files.LoadInversion
    file = flow.save(flow.invert(steps=2)[0])
    secret = folders / f"secret{SUFFIX}"
    secret.write_bytes(path_of(file).read_bytes())
    assert node.validate_inputs(file) is True
    for outside in (f"../{secret.name}", f"x/../../{secret.name} [output]", str(secret), f"{secret} [input]"):
        assert "is not within the" in node.validate_inputs(outside)
        with pytest.raises(flow.pack.inversion.InversionError, match="is not within the"):
            flow.load(outside)
    assert "There is no file gone in the input folder. Press R" in node.validate_inputs("gone")
    assert "There is no file inversions in the output folder" in node.validate_inputs("inversions [output]")


@pytest.mark.parametrize("prefix", ["", " ", "/", ".", "./", "a/..", "..", "//", "\\"])
def test_a_prefix_without_a_name_is_refused(flow: Bench, folders: Path, prefix: str) -> None:
    latent, _, _, _ = flow.invert(steps=2)
    with pytest.raises(flow.pack.inversion.InversionError, match="filename_prefix"):
        flow.save(latent, prefix)
    assert not list(folders.rglob(f"*{SUFFIX}"))


def test_a_prefix_that_is_a_folder_overwrites_nothing(flow: Bench, folders: Path) -> None:
    latent, _, _, _ = flow.invert(steps=2)
    files = [flow.save(latent, prefix) for prefix in ("mine/", "mine/", "mine//", "./mine/", "mine/inversion")]
    assert files == [f"mine/inversion_{i:05}_{SUFFIX} [output]" for i in range(1, 6)]
    assert len(list(folders.rglob(f"*{SUFFIX}"))) == 5


def test_two_hosts_on_one_folder_lose_nothing(flow: Bench, folders: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both count before either has written."""
    latent, _, _, _ = flow.invert(steps=2)
    output = folders / "output"
    monkeypatch.setattr(folder_paths, "get_save_image_path", lambda *_: (str(output), "one", 1, "", "one"))
    files = [flow.save(latent, "one") for _ in range(3)]
    assert files == [f"/one_{i:05}_{SUFFIX} [output]" for i in (1, 2, 3)]
    assert len(list(output.iterdir())) == 3
    monkeypatch.setattr(flow.pack.nodes.files, "MOST_TRIES", 3)
    with pytest.raises(flow.pack.inversion.InversionError, match="has 3 files named one from number 1"):
        flow.save(latent, "one")


@pytest.mark.parametrize(
    ("prefix", "message"),
    [
        ("a" * 3000, "name has 30.. characters.*Give a shorter one"),
        ("a" * 3000 + "/b", "No folder can be made for filename_prefix 'aaa.*File name too long. Give a short"),
        ("a\0b", "characters that no file name has"),
        ("a\0b/c", "characters that no file name has"),
        ("a\ud800b", "characters that no file name has"),
        ("../elsewhere", "leads outside the output folder"),
    ],
)
def test_a_prefix_that_no_file_can_have_is_refused(flow: Bench, prefix: str, message: str) -> None:
    latent, _, _, _ = flow.invert(steps=2)
    with pytest.raises(flow.pack.inversion.InversionError, match=message) as refusal:
        flow.save(latent, prefix)
    assert len(str(refusal.value)) < 800


def test_no_link_is_followed_out_of_the_folder(flow: Bench, folders: Path) -> None:
    node = flow.pack.nodes.files.LoadInversion
    inside = path_of(flow.save(flow.invert(steps=2)[0], "a/one"))
    secret = folders / f"secret{SUFFIX}"
    secret.write_bytes(inside.read_bytes())
    (folders / "output" / "out").symlink_to(folders)
    (folders / "output" / f"link{SUFFIX}").symlink_to(secret)
    (folders / "output" / f"ring{SUFFIX}").symlink_to(folders / "output" / f"ring{SUFFIX}")
    (folders / "output" / f"fine{SUFFIX}").symlink_to(inside)
    (folders / "output" / "again").symlink_to(folders / "output")
    (file,) = node.define_schema().inputs
    listed = [option for option in file.options if "ring" not in option]
    assert listed == [f"a/one_00001_{SUFFIX} [output]", f"fine{SUFFIX} [output]"]
    for name in (f"out/secret{SUFFIX} [output]", f"link{SUFFIX} [output]"):
        assert "is not within the output folder" in node.validate_inputs(name)
        with pytest.raises(flow.pack.inversion.InversionError, match="is not within"):
            flow.load(name)
    assert node.validate_inputs(f"fine{SUFFIX} [output]") is True
    for name in (f"ring{SUFFIX} [output]", "a" * 3000, "a\0b", "a\ud800b", "out [output]"):
        said = node.validate_inputs(name)
        assert "There is no file" in said or "is not within" in said
        said.encode()
        assert len(said) < 400
        assert node.fingerprint_inputs(name) == "missing"


def test_the_list_of_files_is_bounded(
    flow: Bench, folders: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(flow.pack.nodes.files, "MOST_ENTRIES", 30)
    deep = folders / "input" / "a" / "b"
    deep.mkdir(parents=True)
    for i in range(40):
        (deep / f"{i}{SUFFIX}").touch()
    (folders / "input" / f"near{SUFFIX}").touch()
    (file,) = flow.pack.nodes.files.LoadInversion.define_schema().inputs
    assert len(file.options) == 28
    assert f"near{SUFFIX}" in file.options  # what is near the top is looked at first
    assert "looked at 30 files" in caplog.text
    assert flow.pack.nodes.files.LoadInversion.validate_inputs(f"a/b/39{SUFFIX}") is True


@pytest.mark.parametrize("beside", [[1], "words", {"a": object()}, {"\ud800": 1}, {"b": 10**5000}, {"a": float("nan")}])
def test_a_workflow_that_cannot_be_written_does_not_stop_it(
    flow: Bench, beside: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    latent, _, _, _ = flow.invert(steps=2)
    hidden = SimpleNamespace(prompt={"1": "é"}, extra_pnginfo=beside)
    monkeypatch.setattr(flow.pack.nodes.files.SaveInversion, "hidden", hidden, raising=False)
    file = flow.save(latent)
    assert json.loads(header(path_of(file))["prompt"]) == {"1": "é"}
    assert same(flow.load(file)[0]["samples"], latent["samples"])


def test_a_record_that_memory_does_not_take_is_not_loaded(flow: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    file = flow.save(flow.invert(steps=2)[0])
    monkeypatch.setattr("comfy.model_management.get_free_memory", lambda *_: 1000)
    with pytest.raises(flow.pack.inversion.InversionError, match="of memory, and 0 MB are free"):
        flow.load(file)


def test_mutants_are_refused_or_work(flow: Bench, folders: Path) -> None:
    pack = flow.pack.inversion
    saved = path_of(flow.save(flow.invert(steps=4)[0])).read_bytes()

    def use(path: Path) -> None:
        latent, _, _ = flow.load(path.name)
        assert latent["samples"].isfinite().all()

    path = folders / "input" / f"mutant{SUFFIX}"
    outcome = tried(saved, 300, 1, pack.files, path, use, pack.InversionError)
    assert not outcome.other, "\n".join(outcome.other)
    assert outcome.memory < 100_000_000, outcome.costliest
    assert outcome.refused.total() > 200
    assert outcome.worked.total() > 5


def test_the_fingerprint_changes_with_the_file(flow: Bench) -> None:
    node = flow.pack.nodes.files.LoadInversion
    latent = flow.invert(steps=2)[0]
    file, other = flow.save(latent), flow.save(latent)
    before = node.fingerprint_inputs(file)
    assert node.fingerprint_inputs(file) == before
    os.replace(path_of(other), path_of(file))
    assert node.fingerprint_inputs(file) != before


def graph_of(pack: Any, steps: int) -> Graph:
    """Inverts a picture, reports, saves and edits."""
    modules = pack.nodes
    wires = {"model": ["model", 0], "positive": ["was", 0]}
    inverter = {**defaults(node_of(pack, "INV_FixedPoint")), **wires, "latent": ["encoded", 0], "steps": steps}
    edit = {**defaults(modules.edit.EditFromLatent), **wires, "positive": ["is", 0], "latent": ["inverted", 0]}
    contents = {
        "model": ("INV_DemoModel", {"version": "flow"}),
        "picture": ("INV_DemoPicture", {"emoji": "fox", "background": "green", "look": 0}),
        "was": ("CLIPTextEncode", {"clip": ["model", 1], "text": "a fox, green wall"}),
        "is": ("CLIPTextEncode", {"clip": ["model", 1], "text": "a fox, purple wall"}),
        "encoded": ("VAEEncode", {"pixels": ["picture", 0], "vae": ["model", 2]}),
        "inverted": ("INV_FixedPoint", inverter),
        "saved": ("INV_Save", {"latent": ["inverted", 0], "filename_prefix": "inversions/inversion"}),
        "report": ("INV_Report", {**wires, "latent": ["inverted", 0], "vae": ["model", 2], "image": ["picture", 0]}),
        "edited": ("INV_Edit", edit),
        "decoded": ("VAEDecode", {"samples": ["edited", 0], "vae": ["model", 2]}),
        "shown": ("PreviewImage", {"images": ["decoded", 0]}),
    }
    return {name: {"class_type": kind, "inputs": inputs} for name, (kind, inputs) in contents.items()}


def after_load(graph: Graph, file: str) -> Graph:
    """The same edit, from a file."""
    left_out = ("picture", "was", "encoded", "inverted", "saved", "report")
    rest = {name: node for name, node in graph.items() if name not in left_out}
    rest["loaded"] = {"class_type": "INV_Load", "inputs": {"file": file}}
    inputs = graph["edited"]["inputs"] | {"latent": ["loaded", 0]}
    return rest | {"edited": {"class_type": "INV_Edit", "inputs": inputs}}


def run(client: Client, graph: Graph) -> tuple[dict[str, Any], set[str]]:
    """What came out, and which nodes came from the cache."""
    prompt_id = client.queue(graph)
    while (done := client.history(prompt_id)) is None:
        time.sleep(0.1)
    assert done["status"]["status_str"] == "success", done["status"]
    cached = [data["nodes"] for kind, data in done["status"]["messages"] if kind == "execution_cached"]
    return done["outputs"], set(cached[0])


def shown(client: Client, outputs: dict[str, Any]) -> bytes:
    """The pixels of the edited picture."""
    return Image.open(io.BytesIO(client.image(outputs["shown"]["images"][0]))).tobytes()


def test_the_server_saves_lists_loads_and_caches(server: Server, pack: Any) -> None:
    client = Client(server.url)
    graph = graph_of(pack, 3)
    outputs, _ = run(client, graph)
    assert outputs["report"]["text"][0].startswith(("Accurate:", "Fair:", "Inaccurate:"))
    with Image.open(io.BytesIO(client.image(outputs["report"]["images"][0]))) as drawn:
        assert drawn.size == (1248, 800)
    (saved,) = outputs["saved"]["latents"]
    assert saved["type"] == "output"
    file = f"{saved['subfolder']}/{saved['filename']} [output]"
    path = server.log.parent / "output" / saved["subfolder"] / saved["filename"]
    assert json.loads(header(path)["prompt"]) == graph
    (options,) = [options for kind, options in client.object_info()["INV_Load"]["input"]["required"].values()]
    assert file in options["options"]

    loading = after_load(graph, file)
    again, cached = run(client, loading)
    assert "loaded" not in cached
    assert shown(client, again) == shown(client, outputs)
    assert {"loaded", "edited"} <= run(client, loading)[1]
    path.touch()
    assert "loaded" not in run(client, loading)[1]

    for name, message in ((re.sub(r"\d{5}", "99999", file), "There is no file"), (f"../{path.name}", "is not within")):
        with pytest.raises(QueueError, match=message):
            client.queue(after_load(graph, name))
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(QueueError, match="cut off or damaged"):
        client.run(loading)
