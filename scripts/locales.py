"""Keeps the nodes' texts in step: `python scripts/host.py run scripts/locales.py`

Writes locales/en/nodeDefs.json from the nodes, which is what the other languages are translated from, and the tables of
inputs and outputs in the help pages under web/docs/ from each language's texts; the pages' pictures are copies of the
workflows' thumbnails. Says which texts a language lacks or has too many. Tests fail where any of it was left out.
"""

from __future__ import annotations

import asyncio
import json
import re
import shutil
import sys
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parents[1]
LOCALES = REPOSITORY / "locales"
LANGUAGES = ("en", "zh", "ja", "ko", "fr", "de", "es", "ru", "pt-BR")
HELP = REPOSITORY / "web" / "docs"
HEADINGS = {"en": ("Inputs", "Outputs"), "zh": ("输入", "输出")}
"""Languages of the help pages -> headings of their tables."""
THUMBNAILS = REPOSITORY / "workflows"
PICTURES = re.compile(r"!\[.*?\]\((.*?)\)")
MARKS = "<!-- tables -->", "<!-- /tables -->"

Texts = dict[str, Any]
"""Node id -> display_name, description, inputs {name: {name, tooltip}}, outputs {index: {name, tooltip}}."""


def texts(pack: Any) -> Texts:
    """All that a person can read on a node, in English, in the form that the frontend looks translations up in.

    Not of nodes that only stand in for the host's own.
    """
    nodes = asyncio.run(asyncio.run(pack.comfy_entrypoint()).get_node_list())
    schemas = [node.GET_SCHEMA() for node in nodes]
    return {schema.node_id: _of_node(schema) for schema in schemas if schema.node_id.startswith("INV_")}


def _of_node(schema: Any) -> Texts:
    def words(part: Any) -> dict[str, str]:
        return {"name": part.display_name or part.id, "tooltip": part.tooltip or ""}

    return {
        "display_name": schema.display_name,
        "description": schema.description,
        "inputs": {part.id: words(part) for part in schema.inputs},
        "outputs": {str(i): words(part) for i, part in enumerate(schema.outputs)},
    }


def flat(found: Any, path: str = "") -> dict[str, str]:
    """Every text by its path, such as INV_EasyInv.inputs.steps.tooltip."""
    if isinstance(found, str):
        return {path: found}
    return {key: text for name, part in found.items() for key, text in flat(part, f"{path}.{name}".lstrip(".")).items()}


def read(language: str) -> Texts:
    return json.loads((LOCALES / language / "nodeDefs.json").read_text(encoding="utf-8"))


def tables(node: Texts, language: str) -> str:
    """A help page's tables of a node's inputs and outputs, with the marks around them."""
    lines = [MARKS[0]]
    for heading, part in zip(HEADINGS[language], ("inputs", "outputs"), strict=True):
        if node[part]:
            rows = [f"| **{words['name']}** | {words['tooltip']} |" for words in node[part].values()]
            lines += [f"### {heading}", "", "| | |", "|---|---|", *rows, ""]
    return "\n".join([*lines[:-1], MARKS[1]])


def help_pages() -> dict[Path, str]:
    """Every help page that is there -> what it should hold, with the tables as the texts have them now."""
    pages = {}
    for language in HEADINGS:
        for name, node in read(language).items():
            path = HELP / name / f"{language}.md"
            if path.exists():
                before, _, rest = path.read_text(encoding="utf-8").partition(MARKS[0])
                pages[path] = before + tables(node, language) + rest.partition(MARKS[1])[2]
    return pages


def main() -> None:
    sys.path[:0] = [str(REPOSITORY / "scripts")]
    import inprocess

    inprocess.boot()
    english = texts(inprocess.load_pack())
    (LOCALES / "en").mkdir(parents=True, exist_ok=True)
    text = json.dumps(english, indent=2, ensure_ascii=False) + "\n"
    (LOCALES / "en" / "nodeDefs.json").write_text(text, encoding="utf-8")
    wanted = set(flat(english))
    for language in LANGUAGES[1:]:
        there = set(flat(read(language))) if (LOCALES / language / "nodeDefs.json").exists() else set()
        missing, odd = sorted(wanted - there), sorted(there - wanted)
        print(f"{language}: {len(missing)} missing, {len(odd)} too many", *missing[:5], *odd[:5], sep="\n  ")
    for path, page in help_pages().items():
        path.write_text(page, encoding="utf-8")
        for picture in PICTURES.findall(page):
            if (THUMBNAILS / picture).exists():
                shutil.copyfile(THUMBNAILS / picture, HELP / picture)


if __name__ == "__main__":
    main()
