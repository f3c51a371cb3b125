"""Plain technical English: descriptions that make sense by themselves, and the field's words in help, messages and docs."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import yoloquant

SOURCE = Path(yoloquant.__file__).parent
ROOT = SOURCE.parent.parent
FILES = sorted(SOURCE.rglob("*.py"))
TEMPLATES = sorted([*SOURCE.glob("recipe/presets/*.yaml"), *SOURCE.glob("report/templates/*")])
PAGES = sorted(
    [*ROOT.glob("docs/**/*.md"), ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", ROOT / "SECURITY.md"]
)

# Not this word, but the field's.
GLOSSARY = {
    r"answer(s|ed|ing)?": "output, return, compute",
    r"(?<!can)(tells?|told|telling)": "report, say",
    r"(?<!at )(?<!last but not )least(?!-squares)": "minimum",
    r"greatest": "maximum",
    r"so many": "the number itself",
    r"judge[sd]?|judging": "validate, evaluate",
    r"teaches|taught": "train with a teacher, distil",
    r"in vain": "without effect",
}
DIALECT = re.compile(rf"\b({'|'.join(GLOSSARY)})\b", re.IGNORECASE)
SECTION = re.compile(r"(Args|Attributes|Raises):")
ENTRY = re.compile(r"    ([*`\w][*`\w., ]*?): (.+)")


def plain(text: str) -> str:
    """Text without code, and without the names that descriptions begin with."""
    return re.sub(r"^ +\w+: ", "", re.sub(r"`[^`]*`|```.*?```", "", text, flags=re.DOTALL), flags=re.MULTILINE)


def dialect(text: str) -> list[str]:
    return [line.strip() for line in plain(text).splitlines() if DIALECT.search(line)]


def descriptions(docstring: str) -> Iterator[tuple[str, str]]:
    """Names and first lines of what follows `Args:`, `Attributes:` and `Raises:`."""
    inside = False
    for line in docstring.splitlines():
        if line.strip() and not line.startswith(" "):
            inside = bool(SECTION.fullmatch(line))
        elif inside and (entry := ENTRY.fullmatch(line)):
            yield entry.groups()


def is_sentence_case(description: str) -> bool:
    """A description begins with a capital, a digit, code or the name of a metric, and never with a preposition."""
    return not re.match(r"(?!mAP\d)[a-z]", description) and not re.match(r"(Of|That|Whose|Which|Where) ", description)


def docstrings(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and (text := ast.get_docstring(node)):
            yield text


def strings(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and " " in node.value:
            yield node.value


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(SOURCE)))
def test_descriptions_make_sense_without_the_name_before_them(path):
    found = [entry for text in docstrings(path) for entry in descriptions(text) if not is_sentence_case(entry[1])]
    assert not found


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(SOURCE)))
def test_docstrings_help_and_messages_have_the_words_of_the_field(path):
    assert not [line for text in strings(path) for line in dialect(text)]


@pytest.mark.parametrize("path", TEMPLATES + PAGES, ids=lambda path: path.name)
def test_pages_have_the_words_of_the_field(path):
    assert not dialect(path.read_text(encoding="utf-8"))


@pytest.mark.parametrize(
    ("text", "wrong"),
    [
        ("Args:\n    seed: of every draw.", True),
        ("Args:\n    seed: Seed of every draw.", False),
        ("Attributes:\n    limit: That many images.", True),
        ("Attributes:\n    map50_95: mAP50-95, percent.", False),
    ],
)
def test_half_sentences_are_found(text, wrong):
    assert [not is_sentence_case(words) for _, words in descriptions(text)] == [wrong]


def test_dialect_is_found():
    assert dialect("The network answers with it.\nat least 3, least-squares, `answers`\nThe least value.") == [
        "The network answers with it.",
        "The least value.",
    ]
