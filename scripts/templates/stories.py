"""The templates: a note, a graph, and which of its pictures show what it does. To add one, add a `Template`."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from .page import App, Output, Page

# Where ComfyUI looks for the file that a widget names.
FOLDERS = {
    "ckpt_name": "models/checkpoints",
    "unet_name": "models/diffusion_models",
    "clip_name": "models/text_encoders",
    "clip_name1": "models/text_encoders",
    "clip_name2": "models/text_encoders",
    "vae_name": "models/vae",
    "lora_name": "models/loras",
    "image": "input",
    "file": "input",
}
WIDTHS = (300, 320, 340, 300, 230, 400)  # of a page's columns: sources, prompts, inversion, edits, decoding, pictures
LINE, LETTERS = 20, 105  # of a note: a line's height, and how many letters it has room for

Step = tuple[str, dict[str, Any]]
"""A node's type and those of its widgets that are not as the node comes."""


def picture(thing: str, wall: str, hat: str = "", look: int = 0) -> Step:
    """A Demo Picture."""
    return "INV_DemoPicture", {"emoji": thing, "background": wall, "hat": hat or "none", "look": look}


def wording(thing: str, wall: str = "", hat: str = "") -> str:
    """The caption of a scene, as the demo's `scenes.wording` has it."""
    article = "an" if thing[0] in "aeio" else "a"
    return f"{article} {thing}{f' with a {hat}' if hat else ''}{f', {wall} wall' if wall else ''}"


FIRST, BEFORE = picture("koala", "yellow", look=24), wording("koala", "yellow")  # as the node Demo Picture comes
AFTER = wording("koala", "yellow", "hat")
FOX = picture("fox", "green", look=4)


@dataclass
class Scene:
    """What every story begins with, on its page."""

    page: Page
    model: Output
    clip: Output
    vae: Output
    images: list[Output]

    def prompt(self, title: str, text: str | Output, column: int = 1) -> Output:
        return self.page.add("CLIPTextEncode", column, title, clip=self.clip, text=text)["CONDITIONING"]

    def guidance(self, title: str, prompt: Output, strength: float) -> Output:
        return self.page.add("FluxGuidance", 1, title, conditioning=prompt, guidance=strength)["CONDITIONING"]

    def scale(self, title: str, image: Output, how: str, size: int, crop: str = "disabled") -> Output:
        """To a square."""
        square: dict[str, Any] = {"upscale_method": how, "width": size, "height": size, "crop": crop}
        return self.page.add("ImageScale", 1, title, image=image, **square)["IMAGE"]

    def encode(self, image: Output, column: int = 1) -> Output:
        return self.page.add("VAEEncode", column, pixels=image, vae=self.vae)["LATENT"]

    def decode(self, latent: Output, column: int = -2) -> Output:
        return self.page.add("VAEDecode", column, samples=latent, vae=self.vae)["IMAGE"]

    def show(self, title: str, image: Output, column: int = -1) -> None:
        self.page.add("PreviewImage", column, title, images=image)

    def restore(
        self, original: Output, edited: Output, mask: Output, near: int | Output = 16, column: int = -2
    ) -> Output:
        """The edit, with the original's own pixels further than `near` from the mask."""
        given: dict[str, Any] = {"original": original, "edited": edited, "mask": mask, "grow": near, "feather": near}
        return self.page.add("INV_RestoreBackground", column, **given)["IMAGE"]

    def compare(self, before: Output, after: Output, column: int = -1) -> None:
        """The host's slider between two pictures, which newer frontends draw in their Nodes 2.0 only."""
        title = "Slider: before and after (with Nodes 2.0)"
        self.page.add("ImageCompare", column, title, image_a=before, image_b=after)

    def invert(self, step: Step, positive: Output, latent: Output, column: int = 2) -> dict[str, Output]:
        kind, widgets = step
        return self.page.add(kind, column, model=self.model, positive=positive, latent=latent, **widgets)


@dataclass(frozen=True)
class Template:
    """What differs between the workflows.

    Arguments:
        draw: adds what comes after the loaders and the pictures.
        shows: titles of the nodes whose pictures are its thumbnail: the first of each, or all of the only one.
        pictures: the nodes that pictures come from.
        widths: of the page's columns.
        tried_on: for one that needs checkpoints: the demo model's version, the Demo Picture and the target prompt that
            stand in for them and for its picture.
        app: what it shows in App mode, in which it opens then.
        needs: a node that older hosts lack.
    """

    name: str
    note: str
    draw: Callable[[Scene], None]
    shows: tuple[str, ...]
    loaders: Sequence[Step] = (("INV_DemoModel", {"version": "flow"}),)
    pictures: Sequence[Step] = (FIRST,)
    widths: tuple[int, ...] = WIDTHS
    tried_on: tuple[str, Step, str] | None = None
    app: App | None = None
    needs: str = ""

    @property
    def demo(self) -> bool:
        return self.tried_on is None


def build(template: Template, info: dict[str, Any]) -> str:
    """The workflow file of a template, by what a server's /object_info says."""
    page = Page(info, template.widths)
    wires: dict[str, Output] = {}
    for kind, widgets in template.loaders:
        wires |= page.add(kind, 0, **widgets)
    images = []
    for kind, widgets in template.pictures:
        wire = page.add(kind, 0, **widgets)
        images.append(
            page.add("GetVideoComponents", 0, video=wire["VIDEO"])["IMAGE"] if "VIDEO" in wire else wire["IMAGE"]
        )
    template.draw(Scene(page, wires["MODEL"], wires["CLIP"], wires["VAE"], images))
    needed = [file for file in files(page.nodes) if file.startswith("models/")]  # the pictures are the user's own
    note = template.note.format(files="\n".join(f"- `{file}`" for file in needed))
    page.note(note, LINE * (3 + sum(math.ceil(len(line) / LETTERS) for line in note.splitlines())))
    return page.text(template.name, template.app)


def files(nodes: list[dict[str, Any]]) -> Iterator[str]:
    """The files that the widgets of a workflow's nodes name, relative to ComfyUI's folder."""
    for node in nodes:
        widgets = [slot["name"] for slot in node["inputs"] if "widget" in slot]
        for name, value in zip(widgets, node["widgets_values"], strict=False):  # a note has a value, and no such slot
            if name in FOLDERS:
                yield f"{FOLDERS[name]}/{value}"


# --- the graphs -------------------------------------------------------------------------------------------------------

EDIT = "INV_Edit"
EASYINV: Step = ("INV_EasyInv", {})
SMALL = 8  # pixels around the mask that stay from the edit of a demo picture, one latent cell


def edit(
    source: str,
    target: str,
    invert: Step,
    *,
    strength: float = 1.0,
    size: int | None = None,
    guidance: tuple[float, float] | None = None,
    titles: tuple[str, str] = ("Reconstruction (same prompt)", "Edited"),
    saved: str = "",
) -> Callable[[Scene], None]:
    """A picture, its reconstruction and its edit.

    Arguments:
        size: crop and scale the picture to a square of it.
        guidance: Flux's own, of the inversion and of the edit.
        saved: save the edit under this name, in place of a preview.
    """

    def draw(scene: Scene) -> None:
        page, image = scene.page, scene.images[0]
        if not saved:
            scene.show("Original", image, column=0)
        before, after = scene.prompt("Source prompt", source), scene.prompt("Target prompt", target)
        if guidance:
            before = scene.guidance("Guidance of the inversion", before, guidance[0])
            after = scene.guidance("Guidance of the edit", after, guidance[1])
        if size:
            image = scene.scale("Crop and scale", image, "lanczos", size, "center")
        inverted = scene.invert(invert, before, scene.encode(image))
        common: dict[str, Any] = {"model": scene.model, "latent": inverted["LATENT"]}
        same = page.add(EDIT, 3, "Edit From Latent: same prompt", positive=before, strength=1.0, **common)["LATENT"]
        changed = page.add(EDIT, 3, "Edit From Latent: new prompt", positive=after, strength=strength, **common)
        back, edited = scene.decode(same), scene.decode(changed["LATENT"])
        edited = scene.restore(image, edited, changed["MASK"], 16 if saved else SMALL)
        scene.show(titles[0], back)
        if saved:
            page.add("SaveImage", -1, titles[1], images=edited, filename_prefix=saved)
        else:
            scene.show(titles[1], edited)
            scene.show("May change (white)", page.add("MaskToImage", -2, mask=changed["MASK"])["IMAGE"])
        scene.compare(image, edited)
        page.add("PreviewAny", 2, "Report", source=inverted["STRING"])

    return draw


def app(scene: Scene) -> None:
    """As little as App mode needs: one edit, and the original beside it."""
    page = scene.page
    source, target = scene.prompt("Source prompt", PINK), scene.prompt("Target prompt", RED)
    image = scene.scale("Crop and scale", scene.images[0], "lanczos", 1024, "center")
    inverted = scene.invert(EASYINV, source, scene.encode(image))
    given: dict[str, Any] = {"model": scene.model, "latent": inverted["LATENT"]}
    edited = page.add(EDIT, 3, "Edit From Latent: new prompt", positive=target, strength=6.0, **given)
    after = scene.restore(image, scene.decode(edited["LATENT"]), edited["MASK"])
    beside: dict[str, Any] = {"image1": image, "image2": after, "spacing_width": 8}
    scene.show("Original and edit", page.add("ImageStitch", -2, **beside)["IMAGE"])
    page.add("SaveImage", -1, "Edit", images=after, filename_prefix="edit_app")


def exact_background(scene: Scene) -> None:
    page = scene.page
    scene.show("Original", scene.images[0], column=0)
    source = scene.prompt("Source prompt", BEFORE)
    target = scene.prompt("Target prompt", AFTER)
    inverted = scene.invert(EASYINV, source, scene.encode(scene.images[0]))["LATENT"]
    kept = page.add("SolidMask", 2, "Black: stays as it is", value=0.0, width=128, height=128)["MASK"]
    changing = page.add("SolidMask", 2, "White: may change", width=64, height=128)["MASK"]
    where: dict[str, Any] = {"destination": kept, "source": changing, "x": 64, "operation": "add"}
    mask = page.add("MaskComposite", 2, "Mask: the right half", **where)["MASK"]
    given: dict[str, Any] = {"positive": target, "mask": mask}
    edited = page.add(EDIT, 3, model=scene.model, latent=inverted, **given)
    image = scene.restore(scene.images[0], scene.decode(edited["LATENT"]), mask, 0)
    scene.show("Edited", image)
    scene.show("May change (white)", page.add("MaskToImage", -2, mask=edited["MASK"])["IMAGE"])
    scene.compare(scene.images[0], image)
    page.add("PreviewAny", -1, "Report", source=edited["STRING"])


def any_sampler(scene: Scene) -> None:
    page = scene.page
    scene.show("Original", scene.images[0], column=0)
    source = scene.prompt("Source prompt", wording("panda", "orange"))
    target = scene.prompt("Target prompt", wording("panda", "orange", "hat"))
    inverted = scene.invert(EASYINV, source, scene.encode(scene.images[0]))["LATENT"]
    common: dict[str, Any] = {"model": scene.model, "latent": inverted}
    for title, prompt, name in (
        ("Same prompt, er_sde", source, "er_sde"),
        ("New prompt, er_sde", target, "er_sde"),
        ("New prompt, dpmpp_2m", target, "dpmpp_2m"),
    ):
        guider = page.add("INV_EditGuider", 3, f"Edit Guider: {title}", positive=prompt, **common)
        given: dict[str, Any] = {"guider": guider["GUIDER"], "noise": guider["NOISE"], "sigmas": guider["SIGMAS"]}
        sampler = page.add("KSamplerSelect", 3, f"Sampler: {title}", sampler_name=name)["SAMPLER"]
        drawn = page.add("SamplerCustomAdvanced", 3, title, sampler=sampler, latent_image=guider["LATENT"], **given)
        scene.show(title, scene.decode(drawn["LATENT"]))


METHODS: dict[str, Step] = {
    "EasyInv": EASYINV,
    "DDIM": ("INV_FixedPoint", {"iterations": 1, "tolerance": 0.0, "start": "native"}),
    "Guided NR": ("INV_GuidedNR", {"steps": 20}),
    "Fixed Point": ("INV_FixedPoint", {}),
}


def compare_methods(scene: Scene) -> None:
    image = scene.images[0]
    scene.show("Original", image, column=0)
    prompt = scene.prompt("Source prompt", BEFORE)
    latent = scene.encode(image)
    for column, (name, step) in enumerate(METHODS.items(), start=2):
        kind, widgets = step
        common: dict[str, Any] = {"model": scene.model, "positive": prompt}
        inverted = scene.page.add(kind, column, f"Invert Image: {name}", latent=latent, **common, **widgets)
        seen: dict[str, Any] = {"latent": inverted["LATENT"], "vae": scene.vae, "image": image}
        scene.page.add("INV_Report", column, f"Inversion Report: {name}", **common, **seen)


def partial_upscale(scene: Scene) -> None:
    page = scene.page
    small: dict[str, Any] = {"image": scene.images[0], "upscale_method": "area", "scale_by": 0.25}
    image = page.add("ImageScaleBy", 0, "A small picture", **small)["IMAGE"]
    scene.show("Small", image, column=0)
    prompt = scene.prompt("Prompt", wording("tiger", "yellow"))
    negative = scene.prompt("Negative prompt", "")
    upscaled = scene.scale("Upscale", image, "bicubic", 128)
    latent = scene.encode(upscaled)
    inverted = scene.invert(("INV_EasyInv", {"denoise": 0.6}), prompt, latent)
    guided: dict[str, Any] = {"model": scene.model, "positive": prompt, "negative": negative, "cfg": 3.0}
    down: dict[str, Any] = {
        "noise": inverted["NOISE"],
        "sigmas": inverted["SIGMAS"],
        "guider": page.add("CFGGuider", 3, **guided)["GUIDER"],
        "sampler": page.add("KSamplerSelect", 3, sampler_name="euler_ancestral")["SAMPLER"],
    }
    redrawn = page.add("SamplerCustomAdvanced", 3, latent_image=latent, **down)["LATENT"]
    image = scene.decode(redrawn)
    scene.show("Upscaled", upscaled)
    scene.show("Redrawn", image)
    scene.compare(upscaled, image)
    page.add("PreviewAny", 2, "Report", source=inverted["STRING"])


def style_lora(scene: Scene) -> None:
    page = scene.page
    prompt = scene.prompt("Source prompt", DRAWING.format("pink"))
    image = scene.scale("Crop and scale", scene.images[0], "lanczos", 512, "center")
    inverted = scene.invert(EASYINV, prompt, scene.encode(image))
    styled = page.add("LoraLoaderModelOnly", 3, "The style, for the edit alone", model=scene.model, lora_name=STYLE)
    settings = page.add("INV_EditSettings", 3, "Edit Settings: the whole picture may change", background=0.0)
    given: dict[str, Any] = {"positive": prompt, "strength": 1.0, "latent": inverted["LATENT"]}
    edited = page.add(EDIT, 3, model=styled["MODEL"], settings=settings["INV_EDIT_SETTINGS"], **given)
    before, image = image, scene.decode(edited["LATENT"])
    page.add("SaveImage", -1, "In the new style", images=image, filename_prefix="style_lora")
    scene.compare(before, image)
    page.add("PreviewAny", -1, "Report", source=edited["STRING"])


def invert_once_edit_many(scene: Scene) -> None:
    page = scene.page
    scene.show("Original", scene.images[0], column=0)
    source = scene.prompt("Source prompt", wording("pig", "green"))
    inverted = scene.invert(EASYINV, source, scene.encode(scene.images[0]))
    page.add("INV_Save", 2, latent=inverted["LATENT"])
    file = "inversions/inversion_00001_.inversion.safetensors [output]"
    page.add("INV_Load", 2, "Load Inversion (unmute it after a restart)", muted=True, file=file)
    targets = {
        "A crown": wording("pig", "green", "crown"),
        "A hat": wording("pig", "green", "hat"),
        "Another wall": wording("pig", "blue"),
    }
    for column, (title, text) in enumerate(targets.items(), start=3):
        target = scene.prompt(f"Target prompt: {title.lower()}", text, column)
        common: dict[str, Any] = {"model": scene.model, "latent": inverted["LATENT"]}
        edited = page.add(EDIT, column, positive=target, **common)["LATENT"]
        scene.show(title, scene.decode(edited, column), column)


def interactive_edit(scene: Scene) -> None:
    page, image = scene.page, scene.images[0]
    scene.show("Original", image, column=0)
    source = scene.prompt("Source prompt", wording("dog", "blue"))
    target = scene.prompt("Target prompt: type here", wording("dog", "yellow"))
    inverted = scene.invert(("INV_GuidedNR", {"scheduler": "simple"}), source, scene.encode(image))
    edited = page.add(EDIT, 3, model=scene.model, positive=target, latent=inverted["LATENT"], strength=1.0)
    scene.show("Edited", scene.decode(edited["LATENT"]))
    page.add("PreviewAny", -1, "Report of the edit", source=edited["STRING"])


def interpolate(scene: Scene) -> None:
    page = scene.page
    sides: dict[str, Any] = {}
    titles = {"from": "first", "to": "last"}
    words = {"from": wording("panda", "orange"), "to": wording("tiger", "yellow")}
    for (side, title), image in zip(titles.items(), scene.images, strict=True):
        prompt = scene.prompt(f"Prompt of the {title} picture", words[side])
        inverted = scene.invert(EASYINV, prompt, scene.encode(image))
        sides |= {f"latent_{side}": inverted["LATENT"], f"positive_{side}": prompt}
    frames = page.add("INV_Interpolate", 3, model=scene.model, **sides)
    common: dict[str, Any] = {"model": scene.model, "positive": frames["CONDITIONING"], "latent": frames["LATENT"]}
    scene.show("Frames", scene.decode(page.add(EDIT, 3, strength=1.0, **common)["LATENT"]))
    page.add("PreviewAny", -1, "Report", source=frames["STRING"])


def mask_from_words(scene: Scene) -> None:
    page = scene.page
    image = scene.scale("Crop and scale", scene.images[0], "lanczos", 1024, "center")
    finder = page.add("CheckpointLoaderSimple", 0, "Load SAM 3", ckpt_name="sam3.1_multiplex_fp16.safetensors")
    words = page.add("CLIPTextEncode", 1, "What may change", clip=finder["CLIP"], text="dress")["CONDITIONING"]
    found: dict[str, Any] = {"model": finder["MODEL"], "image": image, "conditioning": words}
    mask = page.add("SAM3_Detect", 2, **found)["MASK"]
    source, target = scene.prompt("Source prompt", PINK), scene.prompt("Target prompt", RED)
    inverted = scene.invert(EASYINV, source, scene.encode(image))
    settings = page.add("INV_EditSettings", 3, "Edit Settings: all of the mask may change", background=0.0)
    given: dict[str, Any] = {"model": scene.model, "latent": inverted["LATENT"], "mask": mask}
    edited = page.add(EDIT, 3, positive=target, strength=6.0, settings=settings["INV_EDIT_SETTINGS"], **given)
    after = scene.restore(image, scene.decode(edited["LATENT"]), mask)
    page.add("SaveImage", -1, "Edited", images=after, filename_prefix="edit_words")
    scene.show("May change (white)", page.add("MaskToImage", -2, mask=mask)["IMAGE"])
    scene.compare(image, after)


def video(scene: Scene) -> None:
    page = scene.page
    first = page.add("ImageFromBatch", 1, "The first frames", image=scene.images[0], batch_index=0, length=33)["IMAGE"]
    sized: dict[str, Any] = {"upscale_method": "lanczos", "width": 832, "height": 480, "crop": "center"}
    frames = page.add("ImageScale", 1, "Crop and scale", image=first, **sized)["IMAGE"]
    source = scene.prompt("Source prompt", "a white cat walks on grass")
    target = scene.prompt("Target prompt", "a black cat walks on grass")
    inverted = scene.invert(("INV_EasyInv", {"scheduler": "simple"}), source, scene.encode(frames))
    edited = page.add(EDIT, 3, model=scene.model, positive=target, strength=4.0, latent=inverted["LATENT"])
    after = scene.restore(frames, scene.decode(edited["LATENT"]), edited["MASK"])
    scene.show("Edited frames", after)
    page.add("SaveWEBM", -1, "Edited video", images=after, filename_prefix="edit_wan", fps=16.0)
    page.add("PreviewAny", 2, "Report", source=edited["STRING"])


RARE = "rocket"  # one of those that training showed 20 times more seldom than others


def rare_seeds(scene: Scene) -> None:
    page = scene.page
    examples = scene.images[0]
    for image in scene.images[
        1:
    ]:  # newer hosts call the node deprecated, but what they have in its place older ones lack
        examples = page.add("ImageBatch", 1, image1=examples, image2=image)["IMAGE"]
    latent = scene.encode(examples)
    shown = scene.prompt("What all examples show", wording(RARE))
    wanted = scene.prompt("What to draw", wording(RARE, "blue"))
    negative = scene.prompt("Negative prompt", "")
    inverted = scene.invert(EASYINV, shown, latent)
    guided: dict[str, Any] = {"model": scene.model, "positive": wanted, "negative": negative, "cfg": 3.0}
    guider = page.add("CFGGuider", 2, **guided)["GUIDER"]
    sampler = page.add("KSamplerSelect", 2)["SAMPLER"]
    for title, widgets in (("From examples", {}), ("From random noise", {"fresh": 1.0})):
        given: dict[str, Any] = {"model": scene.model, "latent": inverted["LATENT"], **widgets}
        seeds = page.add("INV_Seeds", 3, f"Seeds: {title.lower()}", **given)
        down: dict[str, Any] = {"noise": seeds["NOISE"], "sigmas": seeds["SIGMAS"], "latent_image": seeds["LATENT"]}
        drawn = page.add("SamplerCustomAdvanced", 3, guider=guider, sampler=sampler, **down)["LATENT"]
        scene.show(title, scene.decode(drawn))


# --- their notes ------------------------------------------------------------------------------------------------------

# What ComfyUI's example.png shows.
DRAWING = "a drawing of a girl with yellow hair and a {} dress on a green hill, blue sky with clouds"
PINK, RED = DRAWING.format("pink"), DRAWING.format("red")
EXAMPLE: Step = ("LoadImage", {"image": "example.png"})
STYLE = "style.safetensors"

QUEUE = "Press **Run**. Nothing has to be downloaded."
FILES = """\
Put these files into ComfyUI's folder, if they are not there. ComfyUI's own templates link to most of them.

{files}

"""
YOURS = (
    FILES
    + """\
Choose your picture in **Load Image**. Write in **Source prompt** what it shows. Copy these words into **Target \
prompt**, and change the words for your edit. **Crop and scale** cuts the middle of your picture to a square of SIZE x \
SIZE pixels, which suits the model. For a tall or wide picture change **width** and **height** there, in steps of 64."""
)
BACK = """\
**Edit From Latent** draws the picture again: with the *target prompt* for your edit, and with the *source prompt* to \
show what is kept."""
MORE = """\
If the picture changes too little, raise **strength** of the edit by 1 or 2. If it changes too much, lower \
**strength**."""


def yours(size: int) -> str:
    return YOURS.replace("SIZE", str(size))


def checkpoint(name: str) -> list[Step]:
    return [("CheckpointLoaderSimple", {"ckpt_name": name})]


TEMPLATES = [
    Template(
        "first_edit",
        f"""\
# First edit

{QUEUE}

1. **Demo Picture** is the picture to edit. The *source prompt* says what it shows.
2. **Invert Image** finds the noise from which the model draws this picture.
3. **Edit From Latent** draws the picture again. With the source prompt it gives the *reconstruction*. With the \
*target prompt* it gives the *edit*.
4. White in *May change* is where the edit may change the picture. **strength** says how far the edit goes from \
the source prompt to the target prompt.
5. **Restore Original Background** puts the picture's own pixels back outside the white.

Change the target prompt and press **Run** again: only the edit runs.

For your own picture open the template of your model, such as *sd15*, *sdxl*, *sd3* or *flux*.""",
        edit(
            BEFORE,
            AFTER,
            EASYINV,
            strength=6.0,
            titles=("Reconstruction", "Edit"),
        ),
        shows=("Original", "Reconstruction", "Edit", "May change (white)"),
    ),
    Template(
        "app",
        f"""\
# Your picture, as an app

This workflow opens in App mode, which shows the inputs and the edit. This is the graph behind it.

{yours(1024)} {MORE} Any SDXL checkpoint will do. For SD 1.x set **width** and **height** of **Crop and scale** to \
512.""",
        app,
        shows=("Original and edit",),
        loaders=checkpoint("sd_xl_base_1.0.safetensors"),
        pictures=[EXAMPLE],
        tried_on=("flow", FIRST, AFTER),
        app=App(
            (
                ("CheckpointLoaderSimple", "ckpt_name", "Your model (any SDXL checkpoint)"),
                ("LoadImage", "image", "Your picture"),
                ("Source prompt", "text", "What the picture shows"),
                ("Target prompt", "text", "What it should show"),
                ("Edit From Latent: new prompt", "strength", "Strength (more changes more)"),
            ),
            ("Original and edit", "Edit"),
        ),
    ),
    Template(
        "exact_background",
        f"""\
# Exact background

{QUEUE}

White in the **mask** is where the picture may change: here the right half. **Restore Original Background** puts the \
original's pixels back in the left half, so they stay exactly the same. To soften the border, connect **Edit \
Settings** and raise **feather** there.

For your own picture open the template of your model, such as *sdxl*. Right-click **Load Image** there, choose *Open \
in MaskEditor*, and paint what may change. Connect *mask* of **Load Image** to *mask* of the edit.

The edit also finds a mask by itself, and changes only what is white in both. To change all that you painted, \
connect **Edit Settings** with **background** 0.""",
        exact_background,
        shows=("Original", "Edited"),
    ),
    Template(
        "guided_nr_4_steps",
        f"""\
# Four steps

{QUEUE}

**Invert Image (Guided NR)** works with few steps: 4 here. The report says how accurate the inversion is. **check** \
measures it. For SDXL Turbo open the template *sdxl_turbo*: its settings differ.

The *reconstruction* uses the source prompt, and the *edit* the target prompt. Change the target prompt and press \
**Run** again: only the edit runs.""",
        edit(
            wording("fox", "green"),
            wording("fox", "purple"),
            ("INV_GuidedNR", {"check": True}),
            strength=2.0,
            titles=("Reconstruction (same prompt)", "Edited: purple wall"),
        ),
        shows=("Original", "Edited: purple wall"),
        pictures=[FOX],
    ),
    Template(
        "interactive_edit",
        f"""\
# Interactive edit

{QUEUE}

This version of the demo model draws in 4 steps, as Turbo and schnell models do. Open the menu beside **Run**, and \
choose *Run (On Change)*. Then type another target prompt: another wall, another animal.

Only the prompt and the edit run again. The inversion stays in ComfyUI's cache. The report says how many model calls \
the edit took: one for each step, as long as **strength** is 1. With **start** of **Invert Image** at *native* more of \
the picture is kept.""",
        interactive_edit,
        shows=("Original", "Edited"),
        loaders=(("INV_DemoModel", {"version": "turbo-flow"}),),
        pictures=[picture("dog", "blue")],
    ),
    Template(
        "invert_once_edit_many",
        f"""\
# Invert once, edit many times

{QUEUE}

One inversion serves three edits. Change a target prompt and press **Run** again: only that edit runs.

**Save Inversion** keeps the inversion in the output folder. After a restart of ComfyUI: mute **Save \
Inversion** (Ctrl M), and unmute **Load Inversion**. Press R, choose the file, and connect its *latent* to the three \
edits. Then **Run** inverts nothing.""",
        invert_once_edit_many,
        shows=("Original", "A crown", "A hat", "Another wall"),
        pictures=[picture("pig", "green", look=27)],
        widths=(300, 320, 340, 300, 300, 300),
    ),
    Template(
        "any_sampler",
        f"""\
# Edit with your own sampler

{QUEUE}

**Edit Guider** makes an edit in **SamplerCustomAdvanced**. Connect all four of its outputs. Then choose a sampler in \
**KSamplerSelect**, or use the sampler of another pack.

With the source prompt almost every sampler gives the picture back exactly. With the target prompt the sampler makes \
the edit. A sampler that cannot do this stops with a message. \
**Edit From Latent** takes the same samplers from **Edit Settings**.""",
        any_sampler,
        shows=("Original", "New prompt, er_sde"),
        pictures=[picture("panda", "orange", look=2)],
        widths=(300, 320, 340, 320, 170, 300),
    ),
    Template(
        "compare_methods",
        f"""\
# Four ways to invert

{QUEUE}

An inverted latent carries a record of its inversion, which **Edit From Latent** reads. **Inversion Report** samples \
without the record, and shows how accurate the inversion is then.

- *EasyInv* and *DDIM* take one model call per step. DDIM is **Fixed Point** with *iterations* 1 and *start* native.
- *Guided NR* takes two calls per step.
- *Fixed Point* takes as many calls as a step needs.

With the record **Edit From Latent** gives the picture back exactly after each of them. Try fewer steps, or another \
**cfg** of the inversion.""",
        compare_methods,
        shows=tuple(f"Inversion Report: {name}" for name in METHODS),
        widths=(300, 320, 340, 340, 340, 340),
    ),
    Template(
        "partial_upscale",
        f"""\
# Redraw an upscaled picture

{QUEUE}

1. A small picture is scaled up, which adds no detail.
2. **Invert Image** with a **denoise** below 1 goes only a part of the way to noise. So the layout stays.
3. ComfyUI's own sampler starts from the outputs *noise* and *sigmas* of **Invert Image**. The sampler is \
*euler_ancestral*. It adds noise of its own, and so draws new detail. (**Edit From Latent** would give the blurred \
picture back exactly.)

For your own picture use **Load Image** in place of **Demo Picture** and *A small picture*, and your model's loader. \
Set a size in **Upscale** that suits the model. Less **denoise** of **Invert Image** keeps more. More \
**cfg** of **CFGGuider** draws more.""",
        partial_upscale,
        shows=("Upscaled", "Redrawn"),
        pictures=[picture("tiger", "yellow")],
    ),
    Template(
        "interpolate",
        f"""\
# From one picture to another

{QUEUE}

Both pictures are inverted. **Interpolate Inversions** goes from the noise and the prompt of the first picture to \
those of the last. **Edit From Latent** draws the frames. The first and the last frame are exactly the two pictures.

For your own pictures use **Load Image** twice, and the loader of your model in place of **Load Demo Model**. Scale \
both pictures to a size that suits the model. Both need the same size, and the same settings in **Invert Image**. \
Leave **strength** of the edit at 1. More **frames** make smaller steps. If a frame falls apart, set \
**prompts** to *predictions*.""",
        interpolate,
        shows=("Frames",),
        pictures=[
            picture("panda", "orange"),
            picture("tiger", "yellow", look=1),
        ],
    ),
    Template(
        "rare_seeds",
        f"""\
# Rare things from examples

{QUEUE}

The demo model has seldom seen a rocket, and draws it badly from random noise. Here three pictures of rockets are \
inverted. **Seeds From Examples** makes new noise that is like theirs. From this noise ComfyUI's sampler draws rockets \
well, before a new wall too.

For your own pictures use **Load Image** in place of **Demo Picture**, and the loader of your model. Take a few \
pictures of one kind and one size, and write one prompt that fits them all. More **spread** and more \
**fresh** give more variety. The lower node has **fresh** at 1, which is random noise.""",
        rare_seeds,
        shows=("From random noise", "From examples"),
        pictures=[picture(RARE, wall, look=look) for look, wall in enumerate(("red", "purple", "white"))],
    ),
    Template(
        "style_lora",
        f"""\
# A style from a LoRA

**Invert Image** gets the plain model. **Edit From Latent** gets the model with a LoRA, and the same prompt. So the \
picture stays, in the style of the LoRA. Leave **strength** at 1, because both prompts are the same.

{FILES}Choose any SD 1.x checkpoint, a LoRA for it, and your picture. Write in the prompt what the picture shows, and \
the LoRA's trigger word, if it has one. More **strength_model** gives more of the style. With \
**background** 0 the whole picture may change. For more of the original raise **background**.""",
        style_lora,
        shows=("Original", "In the new style"),
        loaders=checkpoint("v1-5-pruned-emaonly-fp16.safetensors"),
        pictures=[EXAMPLE],
        tried_on=("v-prediction", picture("dog", "white", look=5), wording("dog", "white")),
    ),
    Template(
        "sd15",
        f"""\
# Edit a picture with Stable Diffusion 1.5

**Invert Image (EasyInv)** finds the noise from which the model draws your picture. {BACK}

{yours(512)} {MORE} Any SD 1.x checkpoint will do.""",
        edit(PINK, RED, EASYINV, strength=6.0, size=512, saved="edit_sd15"),
        shows=("Original", "Edited"),
        loaders=checkpoint("v1-5-pruned-emaonly-fp16.safetensors"),
        pictures=[EXAMPLE],
        tried_on=("v-prediction", picture("bear", "green", look=23), wording("bear", "green", "hat")),
    ),
    Template(
        "sdxl",
        f"""\
# Edit a picture with SDXL

**Invert Image (EasyInv)** finds the noise from which the model draws your picture. {BACK}

{yours(1024)} {MORE} Any SDXL checkpoint will do.""",
        edit(PINK, RED, EASYINV, strength=6.0, size=1024, saved="edit_sdxl"),
        shows=("Original", "Edited"),
        loaders=checkpoint("sd_xl_base_1.0.safetensors"),
        pictures=[EXAMPLE],
        tried_on=("v-prediction", FOX, wording("fox", "purple")),
    ),
    Template(
        "sdxl_turbo",
        f"""\
# Edit a picture with SDXL Turbo, in 4 steps

**Invert Image (Guided NR)** finds the noise from which the model draws your picture, with *euler_ancestral*, the \
sampler for Turbo. {BACK}

{yours(512)} Turbo takes no negative prompt, so leave **cfg** of the inversion at 1. If the picture changes too \
little, set **strength** of the edit to 2. Higher values edit worse. If the picture changes too much, lower \
**denoise** of the inversion.""",
        edit(
            PINK,
            RED,
            ("INV_GuidedNR", {"scheduler": "sgm_uniform", "sampler": "euler_ancestral"}),
            size=512,
            saved="edit_sdxl_turbo",
        ),
        shows=("Original", "Edited"),
        loaders=checkpoint("sd_xl_turbo_1.0_fp16.safetensors"),
        pictures=[EXAMPLE],
        tried_on=("turbo-ve", picture("pig", "green", look=5), wording("pig", "green", "hat")),
    ),
    Template(
        "sd3",
        f"""\
# Edit a picture with Stable Diffusion 3.5

**Invert Image (EasyInv)** finds the noise from which the model draws your picture. {BACK}

{yours(1024)} {MORE} A checkpoint without text encoders, such as *sd3.5_medium*, needs **TripleCLIPLoader** too.""",
        edit(PINK, RED, ("INV_EasyInv", {"scheduler": "sgm_uniform"}), strength=4.0, size=1024, saved="edit_sd3"),
        shows=("Original", "Edited"),
        loaders=checkpoint("sd3.5_large_fp8_scaled.safetensors"),
        pictures=[EXAMPLE],
        tried_on=("flow", picture("dog", "yellow", look=5), wording("dog", "blue")),
    ),
    Template(
        "flux",
        f"""\
# Edit a picture with Flux

**Invert Image (Fixed Point)** finds the noise from which the model draws your picture, with **FluxGuidance** at 1. \
{BACK}

{yours(1024)} Flux takes no negative prompt, so leave **cfg** of the inversion at 1. {MORE} More *Guidance of the \
edit* makes the edit stronger, too. For *flux1-schnell* set **steps** to 4, and leave **strength** at 1. Schnell \
ignores the guidance.""",
        edit(
            PINK,
            RED,
            ("INV_FixedPoint", {"scheduler": "simple"}),
            size=1024,
            guidance=(1.0, 3.5),
            saved="edit_flux",
        ),
        shows=("Original", "Edited"),
        loaders=[
            ("UNETLoader", {"unet_name": "flux1-dev.safetensors"}),
            (
                "DualCLIPLoader",
                {"clip_name1": "clip_l.safetensors", "clip_name2": "t5xxl_fp16.safetensors", "type": "flux"},
            ),
            ("VAELoader", {"vae_name": "ae.safetensors"}),
        ],
        pictures=[EXAMPLE],
        tried_on=("flow", FIRST, AFTER),
    ),
    Template(
        "z_image",
        f"""\
# Edit a picture with Z-Image Turbo, in 8 steps

**Invert Image (Fixed Point)** finds the noise from which the model draws your picture. {BACK}

{yours(1024)} Leave **strength** of the edit at 1: models of its kind edit worse at higher values.""",
        edit(
            PINK,
            RED,
            ("INV_FixedPoint", {"steps": 8, "scheduler": "simple"}),
            size=1024,
            saved="edit_z_image",
        ),
        shows=("Original", "Edited"),
        loaders=[
            ("UNETLoader", {"unet_name": "z_image_turbo_bf16.safetensors"}),
            ("CLIPLoader", {"clip_name": "qwen_3_4b.safetensors", "type": "lumina2"}),
            ("VAELoader", {"vae_name": "ae.safetensors"}),
        ],
        pictures=[EXAMPLE],
        tried_on=("flow", picture("pig", "green", look=27), wording("pig", "green", "hat")),
    ),
    Template(
        "flux2",
        f"""\
# Edit a picture with Flux.2

**Invert Image (EasyInv)** finds the noise from which the model draws your picture. {BACK}

{yours(1024)} {MORE} This is the small base model, *klein 4B*; other Flux.2 models take their own text encoder.""",
        edit(PINK, RED, ("INV_EasyInv", {"scheduler": "simple"}), strength=4.0, size=1024, saved="edit_flux2"),
        shows=("Original", "Edited"),
        loaders=[
            ("UNETLoader", {"unet_name": "flux-2-klein-base-4b-fp8.safetensors"}),
            ("CLIPLoader", {"clip_name": "qwen_3_4b.safetensors", "type": "flux2"}),
            ("VAELoader", {"vae_name": "flux2-vae.safetensors"}),
        ],
        pictures=[EXAMPLE],
        tried_on=("flow", picture("panda", "orange", look=2), wording("panda", "orange", "hat")),
    ),
    Template(
        "wan_video",
        f"""\
# Edit a short video with Wan

**Invert Image (EasyInv)** finds the noise from which the model draws your video. **Edit From Latent** draws it \
again with the *target prompt*.

{FILES}Choose your video in **Load Video**. Write in **Source prompt** what it shows. Copy these words into **Target \
prompt**, and change the words for your edit.

The node **The first frames** keeps 33 frames. You can set 17, 21, 25, 29, 33, 37 and so on. More frames need more \
memory: the inversion keeps about three latents for each step.""",
        video,
        shows=("Edited frames",),
        loaders=[
            ("UNETLoader", {"unet_name": "wan2.1_t2v_1.3B_fp16.safetensors"}),
            ("CLIPLoader", {"clip_name": "umt5_xxl_fp8_e4m3fn_scaled.safetensors", "type": "wan"}),
            ("VAELoader", {"vae_name": "wan_2.1_vae.safetensors"}),
        ],
        pictures=[("LoadVideo", {"file": "video.mp4"})],
        tried_on=("flow", FOX, wording("fox", "purple")),
    ),
    Template(
        "mask_from_words",
        f"""\
# The mask from words

Write in **What may change** what to look for, such as *dress*. **SAM3 Detect** finds it, and the edit may change the \
picture only there. **Restore Original Background** keeps every other pixel. **Edit Settings** turns the automatic \
mask off, so all that was found may change.

{yours(1024)} Any SDXL checkpoint will do. The SAM 3 nodes came with ComfyUI after 0.3.75.""",
        mask_from_words,
        shows=("Original", "Edited"),
        loaders=checkpoint("sd_xl_base_1.0.safetensors"),
        pictures=[EXAMPLE],
        tried_on=("v-prediction", picture("red heart", "white", look=33), wording("blue heart", "white")),
        needs="SAM3_Detect",
    ),
]
