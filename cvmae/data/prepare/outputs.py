"""The files that a run ends with, manifests, classes and report, and what it prints."""

import collections
import dataclasses
import os

from cvmae.data import published
from cvmae.data.prepare.listing import Listing
from cvmae.data.prepare.text import write_table


@dataclasses.dataclass(frozen=True)
class Row:
    """A usable video. path: of its file, from OUT. start, end: seconds, None for open. bytes: of the file."""

    name: str
    path: str
    label: str
    start: float | None = None
    end: float | None = None
    bytes: int = 0


def write_manifests(out: str, listing: Listing, usable: dict[str, Row]) -> dict[str, str]:
    """Writes `out`/NAME.csv for each manifest of the listing, of its usable videos (by name); returns {NAME: path}.

    Paths start at the folder of the manifest. The columns start and end are there if some video has them.
    """
    paths = {}
    for manifest, listed in listing.manifests.items():
        rows = [(usable[name], split) for name, split in listed if name in usable]
        has_parts = any(row.start is not None or row.end is not None for row, _ in rows)
        table = []
        for row, split in rows:
            part = ["" if value is None else f"{value:g}" for value in (row.start, row.end)] if has_parts else []
            table.append([row.path, row.label, split, *part])
        paths[manifest] = os.path.join(out, f"{manifest}.csv")
        write_table(paths[manifest], ["path", "label", "split", *(["start", "end"] if has_parts else [])], table)
    return paths


def write_classes(out: str, classes: tuple[str, ...]) -> None:
    """Writes `out`/classes.csv: the number and name of each class, also of those that no usable video has."""
    write_table(os.path.join(out, "classes.csv"), ["number", "name"], enumerate(classes))


def write_report(out: str, problems: list[tuple[str, str, str]]) -> str:
    """Writes `out`/report.csv with (path, problem, detail); returns its path."""
    path = os.path.join(out, "report.csv")
    write_table(path, ["path", "problem", "detail"], sorted(set(problems)))
    return path


def counts(dataset: str, listing: Listing, usable: dict[str, Row]) -> str:
    """A table of what is there, listed, and published, for each manifest and split."""
    lines = [f"{'':24}{'here':>10}{'listed':>10}{'published (quoted)':>22}"]

    def line(name, here, listed, stated):
        lines.append(f"{name:24}{here:>10,}{listed:>10,}{f'{stated:,}' if stated else '-':>22}")

    for manifest, listed in listing.manifests.items():
        stated = published.COUNTS[dataset].get(manifest, {})
        total = collections.Counter(split for _, split in listed)
        here = collections.Counter(split for name, split in listed if name in usable)
        for split in dict.fromkeys([*stated, *total]):
            line(f"{manifest}.csv {split}", here[split], total[split], stated.get(split))
    seen = {row.label for row in usable.values() if row.label}
    line("classes", len(seen), len(listing.classes), published.CLASSES.get(dataset))
    if dataset in published.NOTES:
        lines.append(f"({published.NOTES[dataset]})")
    return "\n".join(lines)


def summary(listing: Listing, usable: dict[str, Row], problems: list[tuple[str, str, str]], report: str) -> str:
    """One line: how many videos are usable, what is wrong with the others, and where it says which."""
    by_kind = collections.Counter(problem for _, problem, _ in set(problems))
    what = ", ".join(f"{count:,} {problem}" for problem, count in sorted(by_kind.items())) or "no problem"
    return f"{len(usable):,} of {len(listing.videos):,} videos are usable; {what}; {report}"
