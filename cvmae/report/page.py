"""The HTML page of a report: one file without scripts and external resources."""

import datetime
import importlib.resources
import os
import re
from collections import defaultdict

import jinja2
from markupsafe import Markup

import cvmae
from cvmae.files import replacing
from cvmae.report import charts, sections
from cvmae.report.gather import Run, gather
from cvmae.storage.path import AnyPath, as_path
from cvmae.workdir import PAGE

COLORS = 8  # colors in style.css; further runs repeat them with dashed lines
TITLES = {  # titles of the kinds of figures, in the order of the page; other kinds follow under their own names
    "reconstruction": "Reconstructions",
    "clip": "Reconstructions and attention",
    "attention": "Attention",
    "tokens": "Tokens",
    "embedding": "Embedding of clips",
    "retrieval": "Retrieval",
    "confusion": "Confusion matrices",
    "study": "Ablations",
    "": "Figures",
}


def render(runs: list[Run], made: datetime.datetime | None = None) -> str:
    """Renders the page of one or more runs.

    All text from workdirs is escaped, and the page's content security policy forbids scripts and external resources.

    Args:
      runs: at least one run.
      made: the date shown on the page; None takes the present.
    """
    loader = jinja2.PackageLoader("cvmae.report", "templates")
    templates = jinja2.Environment(
        loader=loader, autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    templates.globals |= {"color": color, "chart": charts}
    templates.filters["breakable"] = breakable
    style = importlib.resources.files("cvmae.report").joinpath("templates", "style.css").read_text(encoding="utf-8")
    return templates.get_template("page.html").render(
        runs=runs,
        cards=[sections.card(run) for run in runs],
        differences=sections.differences(runs),
        fields=sections.fields(runs),
        results=sections.results(runs),
        heads=sections.heads(runs),
        classes=sections.classes(runs),
        studies=sections.studies(runs),
        panels=charts.panels(runs),
        evaluated=any(name.startswith("eval/") for run in runs for name in run.series),
        replaced=[sections.replaced(run) for run in runs],
        pictures=pictures_by_kind(runs),
        environment=sections.environment(runs),
        made=f"{made or datetime.datetime.now(datetime.UTC):%Y-%m-%d %H:%M} UTC",
        version=cvmae.__version__,
        style=Markup(style),
    )


class PageError(OSError):
    """The page cannot be written."""

    def __str__(self) -> str:
        remedy = "give --out=FILE.html, a file in a folder that is there and can be written"
        return f"{self.filename} cannot be written ({self.strerror}): {remedy}"


def write_page(workdirs, out: str | os.PathLike = "") -> AnyPath:
    """Writes a page about one or more workdirs, and returns its path.

    Args:
      workdirs: workdirs of finished or unfinished runs.
      out: the output file; empty takes `report.html` in the first workdir.

    Raises:
      NoWorkdirError: a folder is not a workdir.
      PageError: the file cannot be written.
    """
    path = as_path(out) if out else as_path(workdirs[0]) / PAGE
    text = render(gather(workdirs))
    try:
        with replacing(path) as temporary:
            temporary.write_text(text, encoding="utf-8", errors="replace")  # file names may contain bytes that are not text
    except OSError as error:
        raise PageError(error.errno, error.strerror or str(error), str(path)) from error
    return path


def color(run: int) -> str:
    """Returns the CSS classes that give a run the same color everywhere on the page."""
    return f"run c{run % COLORS} d{run // COLORS % 3}"


def breakable(text: str) -> Markup:
    """Escapes a name and allows line breaks after its dots, slashes and underscores."""
    return Markup("<wbr/>").join(re.split(r"(?<=[./_])", text))


def pictures_by_kind(runs: list[Run]) -> list[tuple[str, list]]:
    """Groups figures by kind: [(title, [(index of a run, picture)])], with the same figure of several runs side by side."""
    kinds = defaultdict(list)
    for number, run in enumerate(runs):
        for picture in run.pictures:
            kinds[picture.kind].append((number, picture))
    files = dict.fromkeys(picture.file for entries in kinds.values() for _, picture in entries)
    order = {file: position for position, file in enumerate(files)}
    known = [*(kind for kind in TITLES if kind in kinds), *(kind for kind in kinds if kind not in TITLES)]
    titles = [TITLES.get(kind, kind.replace("_", " ").capitalize()) for kind in known]
    return [(title, sorted(kinds[kind], key=lambda entry: order[entry[1].file])) for title, kind in zip(titles, known)]
