"""Every node, input and output is explained in every language, and the host hands the texts out."""

import json
import re
import urllib.request
from types import ModuleType
from typing import Any

import pytest
from host import PACK, Server

import locales

OTHERS = locales.LANGUAGES[1:]


@pytest.fixture(scope="module")
def english(pack: ModuleType) -> locales.Texts:
    return locales.texts(pack)


def get(server: Server, path: str) -> bytes:
    with urllib.request.urlopen(f"{server.url}{path}", timeout=60) as answer:
        return answer.read()


def numbers(text: str) -> set[str]:
    """The numbers in a text, decimal commas as points. Some languages write more of them as digits than others."""
    return set(re.findall(r"\d+(?:\.\d+)?", re.sub(r"(?<=\d),(?=\d)", ".", text)))


@pytest.mark.once
def test_english_is_what_the_nodes_say_and_says_something_everywhere(english: locales.Texts) -> None:
    assert locales.read("en") == english
    assert [path for path, text in locales.flat(english).items() if not text.strip()] == []


@pytest.mark.once
@pytest.mark.parametrize("language", OTHERS)
def test_a_language_has_every_text(language: str, english: locales.Texts) -> None:
    ours, theirs = locales.flat(locales.read(language)), locales.flat(english)
    assert ours.keys() == theirs.keys()
    assert [path for path, text in ours.items() if not text.strip()] == []


@pytest.mark.once
@pytest.mark.parametrize("language", OTHERS)
def test_a_language_is_translated(language: str, english: locales.Texts) -> None:
    ours, theirs = locales.flat(locales.read(language)), locales.flat(english)
    sentences = [path for path, text in theirs.items() if path.endswith(("tooltip", "description"))]
    assert [path for path in sentences if ours[path] == theirs[path]] == []
    assert [path for path in sentences if not numbers(theirs[path]) <= numbers(ours[path])] == []


@pytest.mark.once
@pytest.mark.parametrize("language", locales.HEADINGS)
def test_every_node_has_a_help_page_in_step_with_its_texts(language: str, english: locales.Texts) -> None:
    pages = {path: page for path, page in locales.help_pages().items() if path.stem == language}
    assert {path.parent.name for path in pages} == set(english)
    for path, page in pages.items():
        assert path.read_text(encoding="utf-8") == page, f"run scripts/locales.py: {path} is behind the nodes"
        assert [page.count(mark) for mark in locales.MARKS] == [1, 1]
        for picture in locales.PICTURES.findall(page):
            shown, thumbnail = locales.HELP / picture, locales.THUMBNAILS / picture
            assert shown.is_file(), f"{path} shows {picture}"
            assert not thumbnail.exists() or shown.read_bytes() == thumbnail.read_bytes()


def test_the_host_hands_them_out(server: Server, english: locales.Texts) -> None:
    offered = json.loads(get(server, "/api/i18n"))
    for language in locales.LANGUAGES:
        found: dict[str, Any] = offered[language]["nodeDefs"]
        assert {node: found[node] for node in english} == locales.read(language)
    for path, page in locales.help_pages().items():
        served = f"/extensions/{PACK}/docs/{path.relative_to(locales.HELP).as_posix()}"
        assert get(server, served).decode() == page
    for picture in locales.HELP.glob("*.jpg"):
        assert get(server, f"/extensions/{PACK}/docs/{picture.name}") == picture.read_bytes()
