"""The page of a report: one file that needs no other and no network, and runs no script."""

import datetime
import importlib.resources
import os
import pathlib
import re
from collections import defaultdict

import jinja2
from markupsafe import Markup

import cvmae
from cvmae.files import replacing
from cvmae.report import charts, sections
from cvmae.report.gather import Run, gather
from cvmae.workdir import PAGE

COLORS = 8  # of style.css; runs beyond them have the same again, with dashes
TITLES = {  # of kinds of pictures, in the order of the page; others come behind them, by their own names
    "reconstruction": "Reconstructions",
    "clip": "Reconstructions and attention",
    "attention": "Attention",
    "tokens": "Tokens",
    "embedding": "Clips in a plane",
    "retrieval": "Retrieval",
    "confusion": "Confusions",
    "study": "Ablations",
    "": "Pictures",
}


def render(runs: list[Run], made: datetime.datetime | None = None) -> str:
    """The page of some runs.

    Every text of a workdir is escaped, and the page's own policy forbids a browser to run scripts or to load anything.

    Args:
      runs: at least one.
      made: what to say of when it was made; None: now.
    """
    loader = jinja2.PackageLoader("cvmae.report", "templates")
    known = jinja2.Environment(
        loader=loader, autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    known.globals |= {"color": color, "chart": charts}
    known.filters["breakable"] = breakable
    style = importlib.resources.files("cvmae.report").joinpath("templates", "style.css").read_text(encoding="utf-8")
    return known.get_template("page.html").render(
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


def write_page(workdirs, out: str | os.PathLike = "") -> pathlib.Path:
    """Writes one page about one workdir or several, and returns its path.

    Args:
      workdirs: folders of runs, finished or not.
      out: the file; empty for `report.html` in the first workdir.

    Raises:
      NoWorkdirError: a folder is no workdir. OSError: the file cannot be written.
    """
    path = pathlib.Path(out or pathlib.Path(workdirs[0]) / PAGE)
    text = render(gather(workdirs))
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8", errors="replace")  # names of files may hold bytes that are no text
    return path


def color(run: int) -> str:
    """The classes of what belongs to a run, the same everywhere on the page."""
    return f"run c{run % COLORS} d{run // COLORS % 3}"


def breakable(text: str) -> Markup:
    """A name, escaped, that a line may break in where its parts end."""
    return Markup("<wbr/>").join(re.split(r"(?<=[./_])", text))


def pictures_by_kind(runs: list[Run]) -> list[tuple[str, list]]:
    """[(title, [(run, picture)])], one kind of picture after the other, the same picture of several runs side by side."""
    kinds = defaultdict(list)
    for number, run in enumerate(runs):
        for picture in run.pictures:
            kinds[picture.kind].append((number, picture))
    order = {file: place for place, file in enumerate(dict.fromkeys(p.file for found in kinds.values() for _, p in found))}
    known = [*(kind for kind in TITLES if kind in kinds), *(kind for kind in kinds if kind not in TITLES)]
    titles = [TITLES.get(kind, kind.replace("_", " ").capitalize()) for kind in known]
    return [(title, sorted(kinds[kind], key=lambda entry: order[entry[1].file])) for title, kind in zip(titles, known)]
