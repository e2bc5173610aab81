"""Language of code and documentation: docstrings, names and spelling that a reader of JAX code understands without translating.

Places that break a rule are allowed up to the number in `language_allowed.json`, per file. The numbers may only shrink: a file
with fewer places than listed fails too, until its number is lowered. After a cleanup or a merge, print the new list with

    python -m tests.test_language            and each place, for some files: python -m tests.test_language FILE...

and store it as `tests/language_allowed.json`.
"""

import ast
import json
import pathlib
import re
import sys
from collections.abc import Iterator

import pytest

ROOT = pathlib.Path(__file__).parent.parent
ALLOWED = pathlib.Path(__file__).with_name("language_allowed.json")

# A docstring's first line is an imperative or a noun phrase, not a question or half a sentence.
OPENINGS = ("Of ", "As ", "What ", "One ", "How ", "The same ", "See ", "Whether ", "Where ", "Who ")
# A name says what a thing is, not that somebody found or said it.
NAMES = {"found", "said", "whole", "place", "theirs", "mine", "told"}
# Names of config fields, values and metrics stay, so that old workdirs load.
QUOTED = re.compile(r"neighbours_right|(?<=[.\"'`])(?:neighbours|labelled)\b|(?<=[\"'`])centre(?=[\"'`])")
BRITISH = re.compile(
    r"\w*(?:colour|grey|centre|behaviour|neighbour|labell|modell(?:ed|ing)|favour|licence|artefact"
    r"|(?:standard|normal|initial|optim|visual|organ|recogn|summar|parallel|quant|synchron|serial|util|minim|maxim|general"
    r"|special|regular|token|vector|character|custom|real|emphas|factor|penal|random|binar)is(?:e|es|ed|er|ers|ing|ation|ations)\b"
    r")\w*",
    re.IGNORECASE,
)
PHRASES = re.compile(
    r"\b(?:anew|goes on|go on with|going on with|so many|[Nn]obody|no more than that|is none|are none|made again|whole or not at all"
    r"|one upon the other|in parts|chips that one|hidden patches|knows? nothing of|has to say|what is wrong with|and nowhere else"
    r"|that one does not have|takes? no notice|is said in)\b"
)


def checked_files() -> list[pathlib.Path]:
    """Returns the files of the package and the configs, and the READMEs."""
    files = [path for suffix in ("py", "md", "html", "css") for path in (ROOT / "cvmae").rglob(f"*.{suffix}")]
    files += [path for suffix in ("py", "md") for path in (ROOT / "configs").glob(f"*.{suffix}")]
    return sorted({*files, ROOT / "README.md", *(ROOT / folder / "README.md" for folder in ("launch", "tests"))})


def odd_text(text: str) -> Iterator[tuple[int, str]]:
    """Yields (line, problem) of British spellings and odd phrases in a text."""
    for number, line in enumerate(text.splitlines(), 1):
        for word in BRITISH.findall(QUOTED.sub("", line)):
            yield number, f"{word!r}: use the American spelling"
        for phrase in PHRASES.findall(line):
            yield number, f"{phrase!r}: use plainer words"


def odd_code(text: str) -> Iterator[tuple[int, str]]:
    """Yields (line, problem) of docstrings and names in Python code."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
            docstring = ast.get_docstring(node) or ""
            if docstring.startswith(OPENINGS):
                yield (
                    getattr(node, "lineno", 1),
                    f"docstring begins with {docstring.split()[0]!r}: use an imperative or a noun phrase",
                )
        name = None
        if isinstance(node, ast.arg):
            name = node.arg
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            name = node.id
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            name = node.attr
        if name in NAMES:
            yield getattr(node, "lineno", 1), f"variable {name!r}: name the thing"


def odd_places(path: pathlib.Path) -> list[str]:
    """Returns a line for every place of a file that breaks a rule."""
    text = path.read_text(encoding="utf-8")
    places = [*odd_text(text), *(odd_code(text) if path.suffix == ".py" else ())]
    return [f"{path.relative_to(ROOT)}:{line}: {problem}" for line, problem in sorted(places)]


def allow_list() -> dict[str, int]:
    """Returns {file: number of places}, of the tree as it is."""
    places = {path.relative_to(ROOT).as_posix(): odd_places(path) for path in checked_files()}
    return {name: len(lines) for name, lines in places.items() if lines}


@pytest.mark.parametrize("path", checked_files(), ids=lambda path: path.relative_to(ROOT).as_posix())
def test_language(path):
    name, places = path.relative_to(ROOT).as_posix(), odd_places(path)
    allowed = json.loads(ALLOWED.read_text()).get(name, 0)
    assert len(places) <= allowed, f"{len(places)} places, {allowed} allowed:\n" + "\n".join(places)
    assert len(places) == allowed, f"{name} has only {len(places)} places: lower its number in {ALLOWED.name}, or remove it at 0"


def test_the_allow_list_names_no_other_file():
    checked = {path.relative_to(ROOT).as_posix() for path in checked_files()}
    assert set(json.loads(ALLOWED.read_text())) <= checked


@pytest.mark.parametrize(
    ("text", "problems"),
    [
        ('"""Returns a color."""\nsource = 1\n', 0),
        ('"""What it is."""\n', 1),
        ('def f(found):\n    """One thing."""\n', 2),
        ('class A:\n    """As it was."""\n    place: int\n', 2),
        ("def f(self):\n    self.whole, rest = g()\n", 1),
        ("for said in told:\n    pass\n", 1),  # told is only read
        ("# the neighbouring colours, normalised anew\n", 4),
        ('c.knn.neighbours, "centre", c.report.labelled, "neighbours_right"\n', 0),
        ("scene.centre, labelled, neighbours\n", 3),
        ("x is None\n", 0),
    ],
)
def test_the_rules(text, problems):
    places = [*odd_text(text), *odd_code(text)]
    assert len(places) == problems, places


if __name__ == "__main__":
    if sys.argv[1:]:
        print(*(place for name in sys.argv[1:] for place in odd_places(ROOT / name)), sep="\n")
    else:
        print(json.dumps(allow_list(), indent=1))
