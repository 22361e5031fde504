"""A user's way through the workflows: the real frontend in Chromium opens, changes, queues and interrupts them."""

import contextlib
import itertools
import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import numpy as np
import pytest
from client import Client, Graph, api_graph
from host import PACK, REPOSITORY, Host, Server
from PIL import Image
from playwright.sync_api import (
    Browser,
    ConsoleMessage,
    ElementHandle,
    Locator,
    Page,
    TimeoutError,
    expect,
    sync_playwright,
)
from templates.blueprint import NAME
from templates.page import SAMPLES
from templates.stand_in import scene_of, scenes
from templates.stories import AFTER, BEFORE, FIRST, TEMPLATES, picture, wording
from test_workflows import pixels, psnr, stand_ins, truth  # noqa: F401  (a fixture)

from workflows import WORKFLOWS

pytestmark = pytest.mark.browser

FILES = sorted(WORKFLOWS.glob("*.json"))
DEMOS = [file for file in FILES if "INV_DemoModel" in file.read_text(encoding="utf-8")]  # they run without a download
NEEDS = {template.name: template.needs for template in TEMPLATES if template.needs}  # nodes that older hosts lack
FIRST_EDIT = WORKFLOWS / "first_edit.json"
APP = WORKFLOWS / "app.json"
MY_OWN = picture("pig", "green", look=27)  # the picture that a person uploads, and what they write
SHOWS, SHOULD_SHOW = wording("pig", "green"), wording("pig", "green", "hat")
STEPS = 6  # of the workflows that are run here
LIMIT = 120_000  # milliseconds; for a machine that does something else too

FLAGS = (
    "--no-sandbox",  # Chromium refuses to run as root without it
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
# Keeps what the server says to the page, in order, for conditions to wait on; counts previews, and a person's clicks.
LISTEN = """
window.heard = [];
window.previews = 0;
window.clicks = 0;
window.WebSocket = class extends WebSocket {
    constructor(...given) {
        super(...given);
        this.addEventListener("message", (event) => {
            if (typeof event.data === "string") window.heard.push(JSON.parse(event.data));
            else window.previews += 1;
        });
    }
};
addEventListener("pointerdown", (event) => { window.clicks += event.isTrusted; }, true);
"""
READY = "() => window.app?.extensionManager && 'PreviewImage' in (window.LiteGraph?.registered_node_types ?? {})"
STANDS_STILL = """
() => {
    const before = window.viewed;
    window.viewed = [app.canvas.ds.scale, ...app.canvas.ds.offset].join();
    return window.viewed === before;
}
"""
# A missing node is a dialog in frontend 1.32 and an overlay in 1.47; toasts carry all other errors.
COMPLAINTS = "[role=dialog], [data-testid=error-overlay], .p-toast-message-error, .p-toast-message-warn"


def named(files: list[Path]) -> Any:
    return pytest.mark.parametrize("file", files, ids=lambda file: file.stem)


def load(file: Path) -> dict[str, Any]:
    return json.loads(file.read_text(encoding="utf-8"))


def ids(workflow: dict[str, Any], condition: Callable[[dict[str, Any]], bool]) -> list[str]:
    return [str(node["id"]) for node in workflow["nodes"] if condition(node)]


def of_type(workflow: dict[str, Any], kind: str) -> list[str]:
    return ids(workflow, lambda node: node["type"] == kind)


def with_steps(workflow: dict[str, Any]) -> str:
    """The first node that has a steps widget: the one that inverts."""
    return ids(workflow, lambda node: any(slot["name"] == "steps" for slot in node.get("inputs", [])))[0]


def titles(workflow: dict[str, Any]) -> dict[str, str]:
    return {node["title"]: str(node["id"]) for node in workflow["nodes"] if "title" in node}


def downstream(graph: Graph, start: str) -> set[str]:
    """The node and all that depend on it."""
    found = {start}
    while True:
        uses = {name for name, node in graph.items() for value in node["inputs"].values() if linked(value, found)}
        if uses <= found:
            return found
        found |= uses


def linked(value: Any, nodes: set[str]) -> bool:
    return isinstance(value, list) and value[0] in nodes


@dataclass(frozen=True)
class Run:
    """A queued graph that has ended."""

    graph: Graph
    history: dict[str, Any]
    heard: list[dict[str, Any]]

    @property
    def end(self) -> str:
        """What the last message was: execution_success, execution_error or execution_interrupted."""
        return self.history["status"]["messages"][-1][0]

    @property
    def executed(self) -> set[str]:
        return {node for data in self._all("executing") if (node := data["node"]) is not None}

    @property
    def cached(self) -> set[str]:
        return {node for data in self._all("execution_cached") for node in data["nodes"]}

    def progress(self, node: str) -> list[tuple[int, int]]:
        """(value, max) in the order in which they came."""
        return [(data["value"], data["max"]) for data in self._all("progress") if data["node"] == node]

    def _all(self, kind: str) -> list[dict[str, Any]]:
        return [message["data"] for message in self.heard if message["type"] == kind]


class Frontend:
    """ComfyUI's page. Frontend 1.32 (ComfyUI 0.3.75) and 1.47 (0.30.0) are told apart in here or not at all."""

    def __init__(self, page: Page, client: Client) -> None:
        self.page = page
        self.client = client
        self.errors: list[str] = []
        self.lost_clicks = 0
        page.on("pageerror", lambda error: self.errors.append(str(error)))
        page.on("console", self._listen)
        self.page.goto(client.url)
        self.page.wait_for_function(READY, polling=100)

    def _listen(self, said: ConsoleMessage) -> None:
        # ComfyUI's own templates are not installed, and 1.32 cannot ask elsewhere what pack a node is from.
        harmless = "/templates/" in said.location["url"] or "Content Security Policy" in said.text
        if said.type == "error" and not harmless:
            self.errors.append(f"{said.text} {said.location.get('url', '')}".strip())

    def templates(self) -> Locator:
        """The template browser, which may be open, at this pack's."""
        dialog = self.page.get_by_role("dialog")
        category = dialog.get_by_text(PACK, exact=True).first
        if not category.is_visible():
            with contextlib.suppress(TimeoutError):  # it is open then, still empty, and covers the button
                self.page.get_by_role("button", name="Templates").first.click(timeout=LIMIT / 6)
        category.click()
        return dialog

    @property
    def has_app_mode(self) -> bool:
        """From 1.41 on. 1.32 has an early form of it, with all inputs of all nodes."""
        version = self.page.evaluate("window.__COMFYUI_FRONTEND_VERSION__")
        return tuple(map(int, version.split(".")[:2])) >= (1, 41)

    def leave_app_mode(self) -> None:
        """With the button that shows the graph, if there is one: 1.32 calls it Open Workflow."""
        leave = self.page.get_by_role("button", name=re.compile("^(Enter node graph|Open Workflow)$"))
        if leave.is_visible():
            leave.click()
            expect(leave).to_have_count(0, timeout=LIMIT)

    def open(self, file: Path) -> None:
        """Through the template browser, where a user finds it; what was amiss before is forgotten."""
        self.leave_app_mode()  # which hides the templates
        dialog = self.templates()
        self.errors.clear()
        tour = self.has_a_tour
        self.page.evaluate("app.graph.nodes.forEach((node) => { node.before = true; })")
        card = dialog.get_by_test_id(f"template-workflow-{file.stem}")
        card.scroll_into_view_if_needed()
        expect(card.locator("img").first).to_be_visible(timeout=LIMIT)  # comes late, and moves the card
        card.click()
        try:
            expect(card).to_have_count(0, timeout=LIMIT / 6)  # not the dialog: 1.49 may already show another
        except AssertionError:  # the page may lose a click while cards move; a person clicks again
            self.lost_clicks += 1
            card.click()
            expect(card).to_have_count(0, timeout=LIMIT)
        self.wait_for_nodes(ids(load(file), lambda _: True))
        if tour and self.in_app_mode:
            skip = self.page.get_by_role("button", name="Skip", exact=True)
            skip.click()
            expect(skip).to_have_count(0, timeout=LIMIT)

    @property
    def has_a_tour(self) -> bool:
        """1.49 welcomes who opens an app for the first time; older frontends have no such setting."""
        seen = self.page.evaluate("app.extensionManager.setting.get('Comfy.OnboardingCoachmarks.Seen') ?? null")
        return seen is not None and "appMode" not in seen

    def wait_for_nodes(self, wanted: list[str]) -> None:
        """Until the canvas has these and none from before, and holds still."""
        self.page.wait_for_function(
            """wanted => app.graph.nodes.every((node) => !node.before) &&
            app.graph.nodes.map((node) => String(node.id)).sort().join() === wanted.join()""",
            arg=sorted(wanted),
            polling=100,
        )
        self.page.wait_for_function(STANDS_STILL, polling=300)  # 1.47 zooms until all of it is in view

    def open_blank(self) -> None:
        self.page.get_by_role("button", name="Create a new blank workflow").click()
        self.page.wait_for_function("app.graph.nodes.length === 0", polling=100)
        self.page.mouse.move(800, 500)  # the new tab may lie under the mouse, and then shows its name in a dialog

    @property
    def in_app_mode(self) -> bool:
        return bool(self.page.evaluate("!!app.graph.extra?.linearMode"))

    def without_complaints(self) -> None:
        complaints = self.page.locator(COMPLAINTS)
        try:
            expect(complaints).to_have_count(0, timeout=LIMIT)
        except AssertionError as error:  # which does not say what stood there
            raise AssertionError(f"The page still shows: {complaints.all_inner_texts()}") from error
        assert self.errors == []

    def graph(self) -> Graph:
        return self.comparable(self.page.evaluate("async () => (await app.graphToPrompt()).output"))

    def comparable(self, graph: Graph) -> Graph:
        """Without titles, and without what the node does not declare: 1.32 queues Preview Any's own text too."""
        offered = self.client.object_info()
        kept: Graph = {}
        for name, node in graph.items():
            declared = offered[node["class_type"]]["input"]
            known = declared.get("required", {}) | declared.get("optional", {})
            inputs = {key: value for key, value in node["inputs"].items() if key in known}
            kept[name] = {"class_type": node["class_type"], "inputs": inputs}
        return kept

    def place(self, node: str, x: str, y: str) -> tuple[float, float]:
        """Where on the page a point of a node is, given from its corner in JavaScript."""
        point = f"[node.pos[0] + ({x}), node.pos[1] + ({y})]"
        place = f"id => {{ const node = app.graph.getNodeById(id); return [...app.canvasPosToClientPos({point})]; }}"
        return tuple(self.page.evaluate(place, int(node)))

    def type_number(self, node: str, widget: str, value: str) -> None:
        """Click on the widget in the canvas and type."""
        line = f"node.widgets.find((widget) => widget.name === {json.dumps(widget)}).last_y + 10"
        self.page.mouse.click(*self.place(node, "node.size[0] / 2", line))
        field = self.page.locator(".graphdialog input")
        field.fill(value)
        field.press("Enter")
        expect(field).to_have_count(0, timeout=LIMIT)

    def open_search(self) -> None:
        """Double-click on the canvas, once more if the page was too busy to see it."""
        for patience in (LIMIT / 6, LIMIT):
            self.page.mouse.dblclick(800, 500)
            with contextlib.suppress(TimeoutError):
                self.page.wait_for_function(
                    "document.activeElement?.tagName === 'INPUT'", timeout=patience, polling=100
                )
                return
        raise AssertionError("A double click on the canvas opens no search")

    def type_text(self, node: str, value: str) -> None:
        """Click into the text area of a prompt, and type."""
        handle = self.page.evaluate_handle("id => app.graph.getNodeById(id).widgets[0].element", int(node))
        area = handle.as_element()
        assert isinstance(area, ElementHandle)
        area.click()
        area.fill(value)

    def upload(self, node: str, file: Path) -> None:
        """With the button of Load Image, in the canvas."""
        button = "node.widgets.find((widget) => widget.type === 'button').last_y + 10"
        with self.page.expect_file_chooser() as chooser:
            self.page.mouse.click(*self.place(node, "node.size[0] / 2", button))
        with self.uploading():
            chooser.value.set_files(file)
        self.wait_for_choice(node, file)

    @contextlib.contextmanager
    def uploading(self) -> Iterator[None]:
        """Until the server has the file: 1.47 shows its name before."""
        with self.page.expect_response(lambda answer: answer.url.endswith("/upload/image")) as answer:
            yield
        assert answer.value.ok, answer.value.text()

    def wait_for_choice(self, node: str, file: Path) -> None:
        """Until Load Image has the file and shows it."""
        with Image.open(file) as image:
            width = image.width
        shown = """([id, name, width]) => {
            const node = app.graph.getNodeById(id);
            const [image] = node.imgs ?? [];
            return node.widgets[0].value === name && image?.naturalWidth === width &&
                new URL(image.src).searchParams.get("filename") === name;
        }"""
        self.page.wait_for_function(shown, arg=[int(node), file.name, width], polling=100)

    def forgive_the_early_look(self, file: Path) -> None:
        """A fault of 1.47 and 1.49: App mode shows a picture before its upload has ended, and may not find it."""
        look = f"/view?{urlencode({'filename': file.name})}&"
        self.errors = [error for error in self.errors if not ("404" in error and look in error)]

    def drop(self, file: Path, x: float, y: float) -> None:
        """Drag a file from another window to a point of the page, and let go."""
        session = self.page.context.new_cdp_session(self.page)
        carried = {"items": [], "files": [str(file)], "dragOperationsMask": 1}  # to be copied
        for step in ("dragEnter", "dragOver", "drop"):
            session.send("Input.dispatchDragEvent", {"type": step, "x": x, "y": y, "data": carried})
        session.detach()

    def press_run(self) -> tuple[str, Graph]:
        """Press the Run button; returns the run's id and the graph that was queued."""
        with self.page.expect_response(lambda answer: answer.url.endswith("/prompt")) as answer:
            self.page.get_by_role("button", name="Run", exact=True).first.click()
        assert answer.value.ok, answer.value.text()
        queued = json.loads(answer.value.request.post_data or "")
        return answer.value.json()["prompt_id"], self.comparable(queued["prompt"])

    def press_cancel(self) -> None:
        self.page.get_by_role("button", name="Cancel current run").click()

    def wait_for_end(self, prompt_id: str, graph: Graph) -> Run:
        mine = "(message) => message.data?.prompt_id === id"
        self.page.wait_for_function(
            f"id => heard.filter({mine}).some((m) => m.type === 'executing' && m.data.node === null)",
            arg=prompt_id,
            polling=100,
        )
        history = self.client.history(prompt_id)
        assert history
        return Run(graph, history, self.page.evaluate(f"id => heard.filter({mine})", prompt_id))

    def run(self) -> Run:
        run = self.wait_for_end(*self.press_run())
        assert run.end == "execution_success", run.history["status"]
        return run

    def wait_for_progress(self, node: str, prompt_id: str) -> None:
        """Until the node in the canvas has a progress bar; one that failed never gets it."""
        bar = "app.graph.getNodeById(id).progress > 0"
        ended = "heard.some((m) => m.type === 'execution_error' && m.data.prompt_id === run)"
        self.page.wait_for_function(f"([id, run]) => {bar} || {ended}", arg=[int(node), prompt_id], polling=100)
        assert self.page.evaluate(f"id => {bar}", int(node)), self.client.history(prompt_id)

    def picture(self, run: Run, node: str, shown: bool = True) -> np.ndarray:
        """What a run saved for a node, (height, width, 3).

        Arguments:
            shown: wait until the node shows that, not a preview of a step.
        """
        output = run.history["outputs"][node]
        if not shown:
            return pixels(self.client, output)
        is_there = """([id, file]) => app.graph.getNodeById(id).imgs?.some((image) =>
            image.naturalWidth > 0 && new URL(image.src).searchParams.get("filename") === file)"""
        file = output["images"][0]["filename"]
        self.page.wait_for_function(is_there, arg=[int(node), file], polling=100)
        return pixels(self.client, output)

    def preview_side(self, node: str) -> int:
        """How large the last preview of a step is, in pixels; the page keeps it on the node."""
        side = "id => Math.min(...app.graph.getNodeById(id).imgs.map((image) => image.naturalWidth))"
        self.page.wait_for_function(f"id => app.graph.getNodeById(id).imgs && ({side})(id) > 0", arg=int(node))
        return int(self.page.evaluate(side, int(node)))

    def wait_for_text(self, run: Run, node: str) -> None:
        """Until the first line of a node's text can be read: 1.32 shows it as Markdown, 1.47 in a text area."""
        (text,) = run.history["outputs"][node]["text"]
        self.page.wait_for_function(
            """line => document.body.innerText.includes(line) ||
            [...document.querySelectorAll("textarea")].some((t) => t.checkVisibility() && t.value.includes(line))""",
            arg=text.splitlines()[0],
            polling=100,
        )

    def screenshot(self, place: Path) -> None:
        self.page.evaluate("app.canvas.deselectAll()")  # and with the selection goes its toolbar
        self.page.mouse.move(5, 5)
        place.parent.mkdir(parents=True, exist_ok=True)
        self.page.screenshot(path=place)
        print(place)


@pytest.fixture(scope="module")
def browser(chromium: str) -> Iterator[Browser]:
    """For this module only: while Playwright runs, its event loop keeps other tests from `asyncio.run`."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, headless=True, args=FLAGS, timeout=LIMIT)
        yield browser
        browser.close()


@pytest.fixture(scope="session")
def server(host: Host, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """The server of this file: one that shows previews of the steps, as many people have set it."""
    with host.serve(tmp_path_factory.mktemp("comfyui"), arguments=("--preview-method", "latent2rgb")) as running:
        yield running


Pages = Callable[..., Frontend]


@pytest.fixture(scope="module")
def new_page(browser: Browser, server: Server, stand_ins: Path) -> Iterator[Pages]:  # noqa: F811
    """The page as a user sees it; no address but its own."""
    contexts = []

    def open_page(*, stranger: bool = False) -> Frontend:
        """To a stranger the template browser opens by itself, once."""
        context = browser.new_context(viewport={"width": 1920, "height": 1080})
        contexts.append(context)
        context.set_default_timeout(LIMIT)
        context.add_init_script(LISTEN)
        context.route(lambda url: not url.startswith(server.url), lambda route: route.abort())
        context.request.post(f"{server.url}/settings", data={"Comfy.TutorialCompleted": not stranger})
        return Frontend(context.new_page(), Client(server.url))

    yield open_page
    for context in contexts:
        context.close()


@pytest.fixture(scope="module")
def frontend(new_page: Pages) -> Frontend:
    """One page, a stranger's, for most tests: it takes many seconds to load, and then opens the templates by itself."""
    frontend = new_page(stranger=True)
    expect(frontend.page.get_by_role("dialog")).to_be_visible(timeout=LIMIT)
    return frontend


@pytest.fixture(scope="module")
def fresh(new_page: Pages) -> Frontend:
    """One that has had no nodes added and taken away: 1.47 may then lose the toolbar of nodes."""
    return new_page()


def picture_place(host: Host, name: str) -> Path:
    return REPOSITORY / "output" / "browser" / host.version / f"{name}.png"


def test_a_stranger_has_an_edited_picture_after_three_clicks(frontend: Frontend, host: Host) -> None:
    """Without a download: the pack's templates, the first of them, Run. The new user sees the templates at once."""
    expect(frontend.page.get_by_role("dialog").get_by_text(PACK)).to_be_visible(timeout=LIMIT)
    frontend.open(FIRST_EDIT)
    run = frontend.run()
    assert frontend.page.evaluate("clicks") - frontend.lost_clicks == 3

    workflow = load(FIRST_EDIT)
    (inverter,), edits = of_type(workflow, "INV_EasyInv"), of_type(workflow, "INV_Edit")
    for node in (inverter, *edits):
        assert run.progress(node)[-1] == (20, 20)
    assert frontend.page.evaluate("previews") >= 3
    for node in (inverter, *edits):
        assert frontend.preview_side(node) >= 256  # of a latent of 16 x 16
    shown = frontend.picture(run, titles(workflow)["Edit"])
    before, after = (truth(FIRST, caption) for caption in (BEFORE, AFTER))
    assert psnr(shown, after) > psnr(shown, before) + 1.5
    frontend.without_complaints()
    frontend.screenshot(picture_place(host, FIRST_EDIT.stem))


@pytest.fixture
def my_own(tmp_path: Path) -> Path:
    """A picture of no special size, as a person has it on disk."""
    pixels = (scenes.picture(scene_of(MY_OWN)) * 255).round().astype(np.uint8)
    file = tmp_path / "my own picture.png"
    Image.fromarray(pixels).resize((500, 500), Image.Resampling.LANCZOS).save(file)
    return file


def with_the_demo_model(frontend: Frontend) -> None:
    """In the place of a checkpoint, which is all that a person's way leaves out here."""
    frontend.page.evaluate(
        """() => {
            const loader = app.graph.nodes.find((node) => node.type === "CheckpointLoaderSimple");
            const demo = LiteGraph.createNode("INV_DemoModel");
            demo.pos = [loader.pos[0], loader.pos[1] + 560];  // below the picture
            app.graph.add(demo);
            for (const [from, output] of loader.outputs.entries())
                for (const link of [...(output.links ?? [])].map((id) => app.graph.getLink(id)))
                    demo.connect(from, app.graph.getNodeById(link.target_id), link.target_slot);
            const suits = {version: "flow", width: 128, height: 128, steps: 10, strength: 3, grow: 8, feather: 8};
            for (const node of app.graph.nodes)
                for (const widget of node.widgets ?? [])
                    if (!node.title.includes("same prompt")) widget.value = suits[widget.name] ?? widget.value;
        }"""
    )


def is_my_edit(edit: np.ndarray) -> None:
    before, after = truth(MY_OWN, SHOWS), truth(MY_OWN, SHOULD_SHOW)
    assert edit.shape == after.shape
    assert psnr(edit, after) > psnr(edit, before) + 1
    assert psnr(edit, after) > 22


def test_an_own_picture_takes_an_upload_two_prompts_and_run(new_page: Pages, host: Host, my_own: Path) -> None:
    """Six clicks: two for the template, one for the file, one into each prompt, Run."""
    frontend, file = new_page(), WORKFLOWS / "sd15.json"
    nodes = titles(load(file))
    frontend.open(file)
    with_the_demo_model(frontend)
    (picture,) = of_type(load(file), "LoadImage")
    frontend.page.evaluate("clicks = 0")
    frontend.upload(picture, my_own)
    frontend.type_text(nodes["Source prompt"], SHOWS)
    frontend.type_text(nodes["Target prompt"], SHOULD_SHOW)
    run = frontend.run()
    assert frontend.page.evaluate("clicks") == 4  # after the two that open the template
    is_my_edit(frontend.picture(run, nodes["Edited"]))
    frontend.without_complaints()
    frontend.screenshot(picture_place(host, "own_picture"))


@pytest.fixture
def nodes_2(new_page: Pages) -> Iterator[Frontend]:
    """A page whose nodes are elements of the page: *Modern Node Design (Nodes 2.0)* in the settings."""
    frontend, chosen = new_page(), "app.extensionManager.setting.set('Comfy.VueNodes.Enabled', {})"
    if not frontend.has_app_mode:
        pytest.skip("Its Nodes 2.0 is an early form.")
    frontend.page.evaluate(chosen.format("true"))
    yield frontend
    frontend.page.evaluate(chosen.format("false"))


def test_nodes_2_shows_inputs_pictures_and_texts(nodes_2: Frontend, host: Host) -> None:
    frontend, workflow = nodes_2, load(FIRST_EDIT)
    frontend.open(FIRST_EDIT)
    run = frontend.run()
    named = titles(workflow)

    def element(node: str) -> Locator:
        return frontend.page.locator(f"[data-node-id='{node}']")

    edit = element(named["Edit From Latent: new prompt"])
    for name in ("model", "positive", "latent", "strength", "mask", "settings"):
        expect(edit.get_by_text(name, exact=True).first).to_be_visible(timeout=LIMIT)
    file = run.history["outputs"][named["Edit"]]["images"][0]["filename"]
    shown = element(named["Edit"]).locator(f"img[src*='{file}']")
    expect(shown).to_be_visible(timeout=LIMIT)
    assert shown.evaluate("image => image.naturalWidth") == 128
    frontend.wait_for_text(run, named["Report"])
    frontend.without_complaints()
    frontend.screenshot(picture_place(host, "nodes_2"))


def test_app_mode_shows_the_picture_the_words_and_the_edit(new_page: Pages, host: Host, my_own: Path) -> None:
    frontend, page, nodes = (opened := new_page()), opened.page, titles(load(APP))
    if not frontend.has_app_mode:
        pytest.skip("this frontend has an early form of App mode, with all inputs")
    frontend.open(APP)
    panel = page.get_by_test_id("linear-widgets")
    asked = panel.get_by_test_id("builder-widget-label").all_inner_texts()
    assert asked == [label for _, _, label in next(each.app for each in TEMPLATES if each.app).inputs]
    with_the_demo_model(frontend)
    page.evaluate("clicks = 0")
    with page.expect_file_chooser() as chooser:
        panel.get_by_role("button", name="Click to browse or drag an image").click()
    with frontend.uploading():
        chooser.value.set_files(my_own)
    expect(panel.get_by_role("button", name=my_own.name)).to_be_visible(timeout=LIMIT)
    for area, words in zip(panel.locator("textarea").all(), (SHOWS, SHOULD_SHOW), strict=True):
        area.click()
        area.fill(words)
    run = frontend.run()
    assert page.evaluate("clicks") == 4
    is_my_edit(pixels(frontend.client, run.history["outputs"][nodes["Edit"]]))
    both = run.history["outputs"][nodes["Original and edit"]]["images"][0]["filename"]
    shown = page.get_by_test_id("linear-center-panel").locator(f"img[src*='{both}']").first
    expect(shown).to_be_visible(timeout=LIMIT)
    frontend.forgive_the_early_look(my_own)
    frontend.without_complaints()
    frontend.screenshot(picture_place(host, "app_mode"))


def test_a_picture_dropped_on_load_image_is_uploaded(frontend: Frontend, host: Host, my_own: Path) -> None:
    file = WORKFLOWS / "sd15.json"
    (picture,) = of_type(load(file), "LoadImage")
    dropped = my_own.rename(my_own.with_name("dropped.png"))
    frontend.open(file)
    with frontend.uploading():
        frontend.drop(dropped, *frontend.place(picture, "node.size[0] / 2", "node.size[1] / 2"))
    frontend.wait_for_choice(picture, dropped)
    frontend.wait_for_nodes(ids(load(file), lambda _: True))  # elsewhere it would have become a node of its own
    assert frontend.graph()[picture]["inputs"]["image"] == dropped.name
    assert frontend.client.get("/view", type="input", filename=dropped.name) == dropped.read_bytes()
    frontend.without_complaints()
    frontend.screenshot(picture_place(host, "dropped_picture"))


@pytest.mark.parametrize(("name", "kind"), [("first_edit", "PreviewImage"), ("compare_methods", "INV_Report")])
def test_a_picture_dropped_on_the_canvas_opens_the_workflow_that_made_it(
    frontend: Frontend, host: Host, tmp_path: Path, name: str, kind: str
) -> None:
    """People share workflows as the pictures that came out, those of ComfyUI's nodes and of the pack's own."""
    file = WORKFLOWS / f"{name}.json"
    workflow = load(file)
    frontend.open(file)
    with_few_steps(frontend)  # so that the picture's workflow is not the template's
    shows = of_type(workflow, kind)[-1]
    run = frontend.run()
    (image,) = run.history["outputs"][shows]["images"]
    shared = tmp_path / "shared.png"
    shared.write_bytes(frontend.client.image(image))

    frontend.open_blank()
    frontend.errors.clear()
    frontend.drop(shared, 800, 500)
    frontend.wait_for_nodes(ids(workflow, lambda _: True))
    frontend.without_complaints()
    queued = {node: about for node, about in run.graph.items() if about["class_type"] != "ImageCompare"}
    again = {node: about for node, about in frontend.graph().items() if about["class_type"] != "ImageCompare"}
    assert again == queued
    assert {node["inputs"]["steps"] for node in again.values() if "steps" in node["inputs"]} == {STEPS}
    assert frontend.picture(frontend.run(), shows).std() > 0
    frontend.screenshot(picture_place(host, f"shared_{name}"))


def test_the_template_browser_shows_a_picture_of_each(frontend: Frontend, host: Host) -> None:
    dialog = frontend.templates()
    for file in FILES:
        card = dialog.get_by_test_id(f"template-workflow-{file.stem}")
        card.scroll_into_view_if_needed()
        picture = card.locator("img").first
        expect(picture).to_be_visible(timeout=LIMIT)
        frontend.page.wait_for_function("image => image.naturalWidth > 0", arg=picture.element_handle(), polling=100)
    frontend.screenshot(picture_place(host, "templates"))
    frontend.open(FIRST_EDIT)  # which closes it


@named(FILES)
def test_a_workflow_opens_whole_queues_what_the_file_says_and_shows_what_it_makes(
    frontend: Frontend, host: Host, file: Path
) -> None:
    """Those that need a checkpoint are opened only."""
    workflow = load(file)
    if file.stem in NEEDS and NEEDS[file.stem] not in frontend.client.object_info():
        pytest.skip(f"this ComfyUI has no {NEEDS[file.stem]}")
    frontend.open(file)
    frontend.without_complaints()
    frontend.leave_app_mode()

    broken = "app.graph.nodes.filter((node) => node.has_errors || !(node.type in LiteGraph.registered_node_types))"
    assert frontend.page.evaluate(f"{broken}.map((node) => node.type)") == []
    links = frontend.page.evaluate("app.graph.serialize().links")
    assert {tuple(map(str, link)) for link in links} == {tuple(map(str, link)) for link in workflow["links"]}
    assert frontend.graph() == frontend.comparable(api_graph(workflow))
    frontend.without_complaints()
    is_tidy(frontend)
    if file in DEMOS:
        with_few_steps(frontend)
        run = frontend.run()
        sampled = run.executed & set(ids(workflow, lambda node: node["type"] in SAMPLES))  # others are in the cache
        assert sampled
        for node in sampled:
            value, largest = run.progress(node)[-1]
            assert value == largest
        for node in (*of_type(workflow, "PreviewImage"), *of_type(workflow, "INV_Report")):
            assert frontend.picture(run, node).std() > 0
        for node in of_type(workflow, "PreviewAny"):
            frontend.wait_for_text(run, node)
        frontend.without_complaints()
        again = run_anew(frontend, sampled)
        for node in of_type(workflow, "PreviewImage"):
            assert np.array_equal(frontend.picture(again, node), frontend.picture(run, node, shown=False)), node
    if file != FIRST_EDIT:  # of which there is one with all its steps
        frontend.screenshot(picture_place(host, file.stem))


def run_anew(frontend: Frontend, nodes: set[str]) -> Run:
    """Run once more with nothing in the cache, as after *Unload Models and Execution Cache*."""
    body = json.dumps({"unload_models": True, "free_memory": True})
    frontend.page.evaluate(
        """async (body) => {
            const headers = {"Content-Type": "application/json"};
            const answer = await fetch("api/free", {method: "POST", headers, body});
            if (!answer.ok) throw new Error(answer.statusText);
        }""",
        body,
    )
    again = frontend.run()
    if not nodes <= again.executed:  # the server empties its cache when it next has nothing to do
        again = frontend.run()
    assert nodes <= again.executed
    return again


def with_few_steps(frontend: Frontend) -> None:
    frontend.page.evaluate(
        """steps => {
            for (const node of app.graph.nodes)
                for (const widget of node.widgets ?? [])
                    if (widget.name === "steps") widget.value = Math.min(steps, widget.value);
        }""",
        STEPS,
    )


def is_tidy(frontend: Frontend) -> None:
    view = "(({clientWidth: width, clientHeight: height}) => [0, 0, width, height])(app.canvas.canvas)"
    width, height = frontend.page.evaluate(view)[2:]
    boxes: dict[str, list[float]] = frontend.page.evaluate(
        """() => Object.fromEntries(app.graph.nodes.map((node) => {
            const [x, y, width, height] = node.boundingRect;  // with the title
            const {scale, offset} = app.canvas.ds;
            const [left, top] = [(x + offset[0]) * scale, (y + offset[1]) * scale];
            return [`${node.title} (${node.id})`, [left, top, left + width * scale, top + height * scale]];
        }))"""
    )
    for (one, a), (other, b) in itertools.combinations(boxes.items(), 2):
        apart = a[2] <= b[0] or b[2] <= a[0] or a[3] <= b[1] or b[3] <= a[1]
        assert apart, f"{one} and {other} overlap"
    outside = [name for name, box in boxes.items() if box[0] < 0 or box[1] < 0 or box[2] > width or box[3] > height]
    assert outside == []


def test_a_new_prompt_edits_again_without_inverting_again(frontend: Frontend) -> None:
    workflow = load(FIRST_EDIT)
    inverter, target = with_steps(workflow), titles(workflow)["Target prompt"]
    # The page queues what these show, so what is new there runs them once more.
    reports = {*of_type(workflow, "PreviewAny"), *of_type(workflow, "ImageCompare")}
    frontend.open(FIRST_EDIT)
    frontend.type_number(inverter, "steps", "3")

    first = frontend.run()
    assert inverter in first.executed

    again = frontend.run()
    assert {k: v for k, v in again.graph.items() if k not in reports} == {
        k: v for k, v in first.graph.items() if k not in reports
    }
    assert again.executed <= reports
    assert again.cached >= set(first.graph) - reports

    frontend.type_text(target, "a fox, white wall")
    edited = frontend.run()
    assert edited.graph[target]["inputs"]["text"] == "a fox, white wall"
    assert edited.executed - reports == downstream(first.graph, target) - reports
    assert inverter in edited.cached


def test_a_run_can_be_cancelled_and_the_next_one_works(frontend: Frontend) -> None:
    workflow = load(FIRST_EDIT)
    inverter = with_steps(workflow)
    frontend.open(FIRST_EDIT)
    frontend.type_number(inverter, "steps", "10000")

    queued = frontend.press_run()
    frontend.wait_for_progress(inverter, queued[0])
    frontend.press_cancel()
    cancelled = frontend.wait_for_end(*queued)
    assert cancelled.end == "execution_interrupted", cancelled.history["status"]
    assert cancelled.progress(inverter)[-1][0] < 10000

    frontend.type_number(inverter, "steps", "2")
    after = frontend.run()
    assert inverter in after.executed


def test_a_wrong_number_or_wire_is_refused_or_explained(new_page: Pages, host: Host) -> None:
    frontend, workflow = new_page(), load(FIRST_EDIT)
    frontend.open(FIRST_EDIT)
    edit, (encoder,), (source,) = (
        titles(workflow)["Edit From Latent: new prompt"],
        of_type(workflow, "VAEEncode"),
        of_type(workflow, "INV_DemoPicture"),
    )
    frontend.type_number(edit, "strength", "99")
    strength = "id => app.graph.getNodeById(id).widgets.find((widget) => widget.name === 'strength').value"
    assert frontend.page.evaluate(strength, int(edit)) == 20  # the most that the node takes
    frontend.type_number(edit, "strength", "3")

    connect = """([from, to]) => {
        const [giver, taker] = [from, to].map((id) => app.graph.getNodeById(id));
        const link = giver.connect(0, taker, taker.inputs.findIndex((input) => input.name === "latent"));
        return Boolean(link);
    }"""
    assert not frontend.page.evaluate(connect, [int(source), int(edit)])  # an IMAGE
    assert frontend.page.evaluate(connect, [int(encoder), int(edit)])  # a LATENT that was not inverted
    failed = frontend.wait_for_end(*frontend.press_run())
    assert failed.end == "execution_error"
    said = failed.history["status"]["messages"][-1][1]["exception_message"]
    assert "so it needs a record. Connect the latent straight from the Invert node, or set strength to 1." in said
    expect(frontend.page.locator(COMPLAINTS).first).to_be_visible(timeout=LIMIT)
    details = frontend.page.get_by_role("button", name="View details")  # 1.32 shows the message at once
    if details.is_visible():
        details.click()
    advice = "Connect the latent straight from the Invert node"
    frontend.page.wait_for_function(
        """text => document.body.innerText.includes(text) ||
        [...document.querySelectorAll("textarea")].some((t) => t.checkVisibility() && t.value.includes(text))""",
        arg=advice,
        polling=100,
    )
    frontend.screenshot(picture_place(host, "wrong_wire"))


def test_the_tolerance_of_an_exact_inverse_can_be_typed(frontend: Frontend) -> None:
    """The page rounds what is typed to the widget's step."""
    file = WORKFLOWS / "compare_methods.json"
    frontend.open(file)
    node = of_type(load(file), "INV_FixedPoint")[0]
    frontend.type_number(node, "tolerance", "0.000005")
    assert frontend.graph()[node]["inputs"]["tolerance"] == 5e-6


def test_the_blueprint_is_found_and_runs(frontend: Frontend, host: Host) -> None:
    """As a user adds it: with a double click on the canvas and its name."""
    frontend.open(FIRST_EDIT)  # and with that closes the template browser, if this is the page's first test
    page = frontend.page
    frontend.open_blank()
    frontend.open_search()
    page.keyboard.type(NAME)
    expect(page.get_by_text("Subgraph Blueprints").first).to_be_visible(timeout=LIMIT)
    expect(page.get_by_role("option").filter(has_text=NAME).first).to_be_visible(timeout=LIMIT)
    page.keyboard.press("Enter")
    page.wait_for_function("app.graph.nodes.length === 1", polling=100)
    frontend.errors.clear()
    shown = page.evaluate(WIRE_UP, {"steps": STEPS, "grow": 8})
    run = frontend.run()
    before, after = (truth(FIRST, caption) for caption in (BEFORE, AFTER))
    pictures = {name: frontend.picture(run, shown[name]) for name in ("edit", "comparison", "mask")}
    edit, both = pictures["edit"], pictures["comparison"]
    assert psnr(edit, after) > psnr(edit, before) + 1
    assert np.abs(edit - before).max(-1).min() <= 1 / 255  # somewhere it is the original itself
    assert psnr(both[:, : before.shape[1]], before) > 40
    assert psnr(both[:, -before.shape[1] :], edit) > 40
    frontend.wait_for_text(run, shown["report"])
    frontend.without_complaints()
    frontend.screenshot(picture_place(host, "blueprint"))


# The box in the middle, with a model, a picture and previews around it; returns the previews' ids.
WIRE_UP = """
widgets => {
    const add = (type, x, y) => {
        const node = LiteGraph.createNode(type);
        node.pos = [x, y];
        app.graph.add(node);
        return node;
    };
    const [box] = app.graph.nodes;
    box.pos = [400, 100];
    for (const widget of box.widgets) widget.value = widgets[widget.name] ?? widget.value;
    const model = add("INV_DemoModel", 40, 100);
    for (const name of ["model", "clip", "vae"]) model.connect(name, box, name);
    add("INV_DemoPicture", 40, 280).connect("image", box, "image");
    const shown = {};
    ["edit", "comparison", "mask", "report"].forEach((name, i) => {
        const node = add(name === "report" ? "PreviewAny" : "PreviewImage", 1120, 100 + 220 * i);
        if (name === "mask") {
            const picture = add("MaskToImage", 820, 540);
            box.connect(name, picture, 0);
            picture.connect(0, node, 0);
        } else box.connect(name, node, 0);
        shown[name] = String(node.id);
    });
    app.canvas.ds.scale = 0.75;
    app.canvas.ds.offset = [100, 100];
    return shown;
}
"""


def test_the_help_panel_explains_a_node(fresh: Frontend, host: Host) -> None:
    """By its page under web/docs, else by its description."""
    frontend, kind = fresh, "INV_EasyInv"
    frontend.open(FIRST_EDIT)
    (node,) = of_type(load(FIRST_EDIT), kind)
    frontend.page.mouse.click(*frontend.place(node, "node.size[0] / 2", "-15"))  # its title
    frontend.page.get_by_test_id("info-button").click()
    help_page = REPOSITORY / "web" / "docs" / kind / "en.md"
    text = frontend.client.object_info()[kind]["description"]
    if help_page.exists():
        lines = help_page.read_text(encoding="utf-8").splitlines()
        text = next(line for line in lines if line and line[0].isalpha())
    expect(frontend.page.get_by_text(text.strip()).first).to_be_visible(timeout=LIMIT)
    frontend.screenshot(picture_place(host, "help"))


def test_a_missing_node_would_be_seen(fresh: Frontend) -> None:
    """Else the absence of complaints above says nothing."""
    frontend, workflow = fresh, load(FIRST_EDIT)
    workflow["nodes"][-1]["type"] = "INV_NotInstalled"
    frontend.page.evaluate("workflow => void app.loadGraphData(workflow)", workflow)
    expect(frontend.page.locator(COMPLAINTS).get_by_text("INV_NotInstalled").first).to_be_visible(timeout=LIMIT)
