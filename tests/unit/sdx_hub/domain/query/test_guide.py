"""What the guide and the help show is what the language takes."""

import re
from pathlib import Path

import pytest

from sdx_hub.cli.device_select import preview
from sdx_hub.domain.query import parse, parser

GUIDE = Path(__file__).parents[5] / "docs" / "guides" / "query.md"


def block(text: str, start: str) -> str:
    """The lines that begin with a word, up to an empty one or a fence."""
    lines = text.splitlines()
    first = next(number for number, line in enumerate(lines) if line.strip().startswith(start))
    found = []
    for line in lines[first:]:
        if not line.strip() or line.startswith("```"):
            break
        found.append(line.strip())
    return "\n".join(" ".join(line.split()) for line in found)


EXAMPLES = re.findall(r"'([^']+)'", block(GUIDE.read_text(), "sdx device preview"))
HELP = re.findall(r"preview '([^']+)'", str(preview.help))


@pytest.mark.parametrize("text", EXAMPLES + HELP)
def test_an_example_is_a_query_in_its_canonical_form(text: str) -> None:
    assert str(parse(text)) == text


def test_there_are_examples() -> None:
    assert len(EXAMPLES) >= 5
    assert len(HELP) >= 4


def test_the_guide_has_the_grammar_of_the_parser() -> None:
    assert block(GUIDE.read_text(), "query   =") == block(str(parser.__doc__), "query   =")
