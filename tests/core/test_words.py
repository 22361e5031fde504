"""Texts for people are plain: documents, help pages, the nodes' English texts, the templates' notes.

No sentence is longer than 25 words, and a thing has one name.

To see the sentences: `python scripts/test.py --comfyui 0.30.0 tests/core/test_words.py`.
"""

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
MOST = 25

DOCUMENTS = [
    *(REPOSITORY / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")),
    REPOSITORY / "demo" / "README.md",
    REPOSITORY / "benchmarks" / "README.md",
    *(path for path in sorted((REPOSITORY / "docs").glob("*.md")) if not path.stem.endswith("-tables")),
]
HELP_PAGES = sorted((REPOSITORY / "web" / "docs").glob("*/en.md"))
TEMPLATES = sorted((REPOSITORY / "workflows").glob("*.json"))
NODES = REPOSITORY / "locales" / "en" / "nodeDefs.json"

FENCE = re.compile(r"^ *```.*?^ *```", re.MULTILINE | re.DOTALL)
INDENTED = re.compile(r"(?<=\n\n)(?: {4}.*(?:\n|$))+")
COMMENT = re.compile(r"<!--.*?-->", re.DOTALL)
LINK = re.compile(r"!?\[([^\]]*)\]\([^)]*\)")
CODE = re.compile(r"`[^`]*`")
BLOCK = re.compile(r"\n\s*\n|\n(?=\s*(?:[-*#|>]|\d+\.) ?)")
END = re.compile(r"(?<=[.!?])(?<! al\.)(?<! eq\.)[*_\"”)]*\s+")
WORD = re.compile(r"[^\W_]")

# What we do not write -> what we write.
NAMES = {
    re.compile(r"\b(?:come|comes|came|coming) down\b", re.IGNORECASE): "sample",
    re.compile(r"\bway (?:up|down|back)\b", re.IGNORECASE): "inversion, sampling",
    re.compile(r"\bnear(?:er|est)\b", re.IGNORECASE): "more accurate, closer",
}


def blocks(markdown: str) -> Iterator[str]:
    """Paragraphs, list items, headings and table cells, without code, comments and addresses."""
    text = CODE.sub("Code", COMMENT.sub("", INDENTED.sub("", FENCE.sub("", markdown))))
    for block in BLOCK.split(LINK.sub(r"\1", text)):
        yield from block.split("|") if block.lstrip().startswith("|") else [block]


def sentences(markdown: str) -> Iterator[str]:
    for block in blocks(markdown):
        yield from (" ".join(part.split()) for part in END.split(block) if part.strip())


def words(sentence: str) -> int:
    """How many words it has; a number or a code counts as one, a dash or an arrow as none."""
    return sum(bool(WORD.search(part)) for part in sentence.split())


def hard(markdown: str) -> list[str]:
    """The sentences that are too long, each with its number of words, and those with another name for a thing."""
    long = [f"{words(found)}: {found}" for found in sentences(markdown) if words(found) > MOST]
    odd = [
        f"{ours}: {found}" for found in sentences(markdown) for theirs, ours in NAMES.items() if theirs.search(found)
    ]
    return long + odd


def notes(workflow: Path) -> str:
    """The notes of a template."""
    nodes = json.loads(workflow.read_text(encoding="utf-8"))["nodes"]
    return "\n\n".join(node["widgets_values"][0] for node in nodes if node["type"] in ("MarkdownNote", "Note"))


def node_texts() -> dict[str, str]:
    def flat(found: object, path: str) -> Iterator[tuple[str, str]]:
        if isinstance(found, dict):
            for key, part in found.items():
                yield from flat(part, f"{path}.{key}".lstrip("."))
        else:
            yield path, str(found)

    return dict(flat(json.loads(NODES.read_text(encoding="utf-8")), ""))


@pytest.mark.parametrize("path", [*DOCUMENTS, *HELP_PAGES], ids=lambda path: str(path.relative_to(REPOSITORY)))
def test_a_page_has_no_hard_sentence(path: Path) -> None:
    assert hard(path.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize("path", TEMPLATES, ids=lambda path: path.stem)
def test_a_note_has_no_hard_sentence(path: Path) -> None:
    assert hard(notes(path)) == []


def test_the_nodes_have_no_hard_sentence() -> None:
    assert [(path, found) for path, text in node_texts().items() for found in hard(text)] == []


def test_a_long_sentence_is_found_wherever_it_stands() -> None:
    long = " ".join(["Word", *["word"] * (MOST - 1)])
    assert hard(f"# {long}\n\n{long}.") == []
    for page in ("{}.", "Short one. {}.", "- {}", "- a\n- {}", "| a | {} |\n|---|---|", "**Bold.** {}", "> {}"):
        (found,) = hard(page.format(f"{long} more"))
        assert found.startswith(f"{MOST + 1}: ")
        assert found.rstrip(".").endswith(f"{long} more")
    assert hard(f"```\n{long} more\n```\n\n`{long} more`") == []


@pytest.mark.parametrize("sentence", ["It comes down again.", "The way down.", "A nearer inversion is better."])
def test_another_name_for_a_thing_is_found(sentence: str) -> None:
    assert len(hard(f"- Before it. {sentence}")) == 1
