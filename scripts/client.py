"""A ComfyUI server over HTTP, as the browser talks to it: queue a graph, wait, fetch what came out."""

from __future__ import annotations

import json
import time
import urllib.error
import urllib.parse
import urllib.request
import uuid
from dataclasses import dataclass
from typing import Any

Graph = dict[str, dict[str, Any]]
"""API format: node id -> {"class_type", "inputs": {name: value or [node id, output slot]}}."""


UNSAVED = {"IMAGECOMPARE": {"__value__": ["", ""]}}
"""Types of widgets that a file has no value of, and what the browser queues for them."""

MUTED = 2
"""The mode of a node in a workflow file that is there and not run."""


class QueueError(Exception):
    """The server refused a graph, or a node in it failed; the message is the one a user would see."""


@dataclass(frozen=True)
class Client:
    url: str

    def get(self, path: str, **query: str) -> bytes:
        address = f"{self.url}{path}" + (f"?{urllib.parse.urlencode(query)}" if query else "")
        with _direct().open(address, timeout=120) as answer:
            return answer.read()

    def object_info(self) -> dict[str, Any]:
        return json.loads(self.get("/object_info"))

    def queue(self, graph: Graph) -> str:
        """Queue a graph; returns its id."""
        body = json.dumps({"prompt": graph, "client_id": uuid.uuid4().hex}).encode()
        request = urllib.request.Request(f"{self.url}/prompt", body, {"Content-Type": "application/json"})
        try:
            with _direct().open(request, timeout=120) as answer:
                accepted = json.loads(answer.read())
        except urllib.error.HTTPError as error:
            raise QueueError(error.read().decode()) from error
        # The server runs the outputs that are in order and leaves out the others; half a graph is no answer here.
        if accepted.get("node_errors"):
            raise QueueError(json.dumps(accepted["node_errors"]))
        return accepted["prompt_id"]

    def history(self, prompt_id: str) -> dict[str, Any] | None:
        """The finished run, None while it waits or works."""
        return json.loads(self.get(f"/history/{prompt_id}")).get(prompt_id)

    def run(self, graph: Graph, patience: float = 600) -> dict[str, dict[str, Any]]:
        """Queue a graph and wait; returns what each output node gave: node id -> {"images": [...], "text": [...]}."""
        prompt_id = self.queue(graph)
        end = time.monotonic() + patience
        while (done := self.history(prompt_id)) is None:
            if time.monotonic() > end:
                raise QueueError(f"The graph did not finish within {patience:.0f} s.")
            time.sleep(0.1)
        if done["status"]["status_str"] != "success":
            errors = [
                m for kind, m in done["status"]["messages"] if kind in ("execution_error", "execution_interrupted")
            ]
            raise QueueError("\n".join(e.get("exception_message", "interrupted") for e in errors))
        return done["outputs"]

    def image(self, reference: dict[str, str]) -> bytes:
        """The PNG behind an entry of an output's "images"."""
        return self.get("/view", **{key: reference[key] for key in ("filename", "subfolder", "type")})


def api_graph(workflow: dict[str, Any]) -> Graph:
    """A workflow file as the browser saves it, as the graph that it queues.

    Covers what this repository's workflows use: nodes, links, widgets and muted nodes; no subgraphs or reroutes.
    """
    links = {link[0]: [str(link[1]), link[2]] for link in workflow["links"]}
    graph: Graph = {}
    for node in workflow["nodes"]:
        if node["type"] in ("MarkdownNote", "Note") or node.get("mode") == MUTED:
            continue
        inputs: dict[str, Any] = {}
        inputs |= {slot["name"]: UNSAVED[slot["type"]] for slot in node.get("inputs", []) if slot["type"] in UNSAVED}
        slots = [slot for slot in node.get("inputs", []) if "widget" in slot and slot["type"] not in UNSAVED]
        widgets = [slot["widget"]["name"] for slot in slots]
        values = node.get("widgets_values", [])
        if len(widgets) != len(values):
            raise ValueError(f"Node {node['id']} ({node['type']}) has widgets {widgets} but values {values}.")
        inputs |= dict(zip(widgets, values, strict=True))
        inputs |= {slot["name"]: links[slot["link"]] for slot in node.get("inputs", []) if slot.get("link") is not None}
        graph[str(node["id"])] = {
            "class_type": node["type"],
            "inputs": inputs,
            "_meta": {"title": node.get("title", "")},
        }
    return graph


def _direct() -> urllib.request.OpenerDirector:
    return urllib.request.build_opener(urllib.request.ProxyHandler({}))  # no proxy leads to this machine itself
