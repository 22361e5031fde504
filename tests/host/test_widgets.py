"""A widget that nothing reads cannot land: every input of every node is used by its code."""

import ast
import asyncio
import inspect
import textwrap
import types
from typing import Any

import pytest
from comfy_api.latest import io
from graphs import defaults
from host import REPOSITORY


class Watched(dict):
    """Settings that know which of them were asked for."""

    def __init__(self, *given: Any) -> None:
        super().__init__(*given)
        self.read: set[str] = set()

    def __getitem__(self, key: str) -> Any:
        self.read.add(key)
        return super().__getitem__(key)

    def get(self, key: str, default: Any = None) -> Any:
        self.read.add(key)
        return super().get(key, default)


def unread(node: Any, pack: types.ModuleType) -> set[str]:
    """The inputs of a node that its `execute` never mentions, nor the method that it hands its settings to."""
    function = inspect.unwrap(node.execute.__func__)
    code = ast.parse(textwrap.dedent(inspect.getsource(function)))
    names = {part.id for part in ast.walk(code) if isinstance(part, ast.Name) and isinstance(part.ctx, ast.Load)}
    left = {given.id for given in node.define_schema().inputs} - names
    row = getattr(node, "ROW", None)
    if inspect.getfullargspec(function).varkw is None:
        return left
    if row is None:  # it makes settings of what it gets, whose fields somebody reads
        return left - read_somewhere()
    for choices in settings_of(node):
        watched = Watched(choices)
        plan = pack.nodes.invert.Plan.of(row, watched, pack.nodes.demo.load("flow")[0])
        assert isinstance(plan.ancestral, bool)
        left -= watched.read
    return left


def read_somewhere() -> set[str]:
    """What the pack's code reads by name: attributes, and items of mappings."""
    found = set()
    for path in (REPOSITORY / "nodes").rglob("*.py"):
        for part in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(part, ast.Attribute) and isinstance(part.ctx, ast.Load):
                found.add(part.attr)
            elif isinstance(part, ast.Subscript) and isinstance(part.slice, ast.Constant):
                found.add(part.slice.value)
            elif isinstance(part, ast.Call) and getattr(part.func, "attr", "") in ("get", "pop") and part.args:
                found.add(getattr(part.args[0], "value", None))
    return found


def settings_of(node: Any) -> list[dict[str, Any]]:
    """The defaults, and with each other choice of a list."""
    usual = defaults(node)
    lists = [given for given in node.define_schema().inputs if isinstance(given, io.Combo.Input)]
    return [usual, *({**usual, given.id: choice} for given in lists for choice in given.options)]


def test_every_input_of_every_node_is_read(pack: types.ModuleType) -> None:
    nodes = asyncio.run(asyncio.run(pack.comfy_entrypoint()).get_node_list())
    assert len(nodes) > 15
    found = {node.define_schema().node_id: unread(node, pack) for node in nodes}
    assert {name: inputs for name, inputs in found.items() if inputs} == {}


def test_one_that_nothing_reads_would_be_found(pack: types.ModuleType) -> None:
    class Deaf(io.ComfyNode):
        @classmethod
        def define_schema(cls) -> io.Schema:
            return io.Schema(node_id="Deaf", inputs=[io.Int.Input("heard"), io.Int.Input("unheard")])

        @classmethod
        def execute(cls, heard: int, unheard: int) -> io.NodeOutput:
            del unheard
            return io.NodeOutput(heard)

    assert unread(Deaf, pack) == {"unheard"}


@pytest.mark.parametrize("of", ["INVERT_NODES", "INVERTING_SAMPLERS"])
def test_one_that_no_method_reads_would_be_found(pack: types.ModuleType, of: str) -> None:
    class Longer(getattr(pack.nodes.invert, of)[0]):
        @classmethod
        def define_schema(cls) -> io.Schema:
            schema = super().define_schema()
            schema.inputs.append(io.Int.Input("unheard", default=0))
            return schema

    assert unread(Longer, pack) == {"unheard"}
