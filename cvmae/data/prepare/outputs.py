"""Files that a run writes at its end, manifests, classes and report, and the tables that it prints."""

import collections
import dataclasses
import statistics

from cvmae.data import published
from cvmae.data.prepare.listing import Listing
from cvmae.data.prepare.text import write_table
from cvmae.data.row_checks import Part, repeated, shared
from cvmae.storage.path import join, one_names

_MAX_TABLE = 20  # classes
_SHOWN = 10  # names in a line


@dataclasses.dataclass(frozen=True)
class Row:
    """A usable video.

    Attributes:
      name: see Video.
      path: its file, relative to OUT.
      label: class name, "" for none.
      start: first second to use, None for the beginning of the file.
      end: last second to use, None for the end of the file.
      bytes: size of the file.
    """

    name: str
    path: str
    label: str
    start: float | None = None
    end: float | None = None
    bytes: int = 0


def write_manifests(out: str, listing: Listing, usable: dict[str, Row]) -> dict[str, str]:
    """Writes `out`/NAME.csv for each manifest of the listing with its usable videos (by name); returns {NAME: path}.

    Paths are relative to the folder of the manifest. The columns start and end are written if any video has them.
    """
    paths = {}
    for manifest, listed in listing.manifests.items():
        rows = [(usable[name], split) for name, split in listed if name in usable]
        has_parts = any(row.start is not None or row.end is not None for row, _ in rows)
        table = []
        for row, split in rows:
            part = ["" if value is None else f"{value:g}" for value in (row.start, row.end)] if has_parts else []
            table.append([row.path, row.label, split, *part])
        paths[manifest] = join(out, f"{manifest}.csv")
        write_table(paths[manifest], ["path", "label", "split", *(["start", "end"] if has_parts else [])], table)
    return paths


def write_classes(out: str, classes: tuple[str, ...]) -> None:
    """Writes `out`/classes.csv: the number and name of each class, including classes without a usable video."""
    write_table(join(out, "classes.csv"), ["number", "name"], enumerate(classes))


def write_report(out: str, problems: list[tuple[str, str, str]]) -> str:
    """Writes `out`/report.csv with the rows (path, problem, detail), sorted and each once; returns its path."""
    path = join(out, "report.csv")
    write_table(path, ["path", "problem", "detail"], sorted(set(problems)))
    return path


def counts(dataset: str, listing: Listing, usable: dict[str, Row]) -> str:
    """Returns a table of the numbers of videos that are usable, listed, and published if any are, for each manifest and split."""
    has_published = bool(published.COUNTS[dataset])
    lines = [f"{'':24}{'here':>10}{'listed':>10}" + (f"{'published (quoted)':>22}" if has_published else "")]

    def add_line(name, num_usable, num_listed, num_published):
        quoted = f"{f'{num_published:,}' if num_published else '-':>22}" if has_published else ""
        lines.append(f"{name:24}{num_usable:>10,}{num_listed:>10,}{quoted}")

    for manifest, pairs in listing.manifests.items():
        quoted = published.COUNTS[dataset].get(manifest, {})
        listed = collections.Counter(split for _, split in pairs)
        here = collections.Counter(split for name, split in pairs if name in usable)
        for split in dict.fromkeys([*quoted, *listed]):
            add_line(f"{manifest}.csv {split}", here[split], listed[split], quoted.get(split))
    labels = {row.label for row in usable.values() if row.label}
    add_line("classes", len(labels), len(listing.classes), published.CLASSES.get(dataset))
    if dataset in published.NOTES:
        lines.append(f"({published.NOTES[dataset]})")
    return "\n".join(lines)


def class_counts(listing: Listing, usable: dict[str, Row]) -> str:
    """Returns the usable videos of each class by split, and the classes that lack training or validation videos.

    With more than 20 classes, only the minimum, median and maximum of each split and the 5 smallest classes.
    """
    splits = {name: split for pairs in listing.manifests.values() for name, split in pairs}
    by_class: dict[str, collections.Counter[str]] = {label: collections.Counter() for label in listing.classes}
    for name, row in usable.items():
        if row.label:
            by_class[row.label][splits[name]] += 1
    columns = [split for split in ("train", "val", "test") if split in {splits[name] for name in usable}]
    if len(by_class) <= _MAX_TABLE:
        width = max(map(len, by_class))
        lines = [f"{'class':{width}}" + "".join(f"{split:>8}" for split in columns)]
        lines += [f"{label:{width}}" + "".join(f"{n[split]:>8,}" for split in columns) for label, n in by_class.items()]
    else:
        lines = [f"videos of each of {len(by_class):,} classes:"]
        for split in columns:
            numbers = [counts[split] for counts in by_class.values()]
            lines.append(f"  {split}: min {min(numbers):,}, median {statistics.median(numbers):,g}, max {max(numbers):,}")
        smallest = sorted(by_class, key=lambda label: by_class[label].total())[:5]
        lines.append(f"  smallest: {', '.join(f'{label} ({by_class[label].total():,})' for label in smallest)}")
    for split, name in (("train", "training"), ("val", "validation")):
        lacking = [label for label, counts in by_class.items() if not counts[split]]
        if lacking and (split in columns or "test" not in columns):
            lines.append(f"no {name} videos: {', '.join(lacking)}")
    return "\n".join(lines)


def untrained_classes(listing: Listing, usable: dict[str, Row]) -> list[str]:
    """Returns a line for each manifest in which classes lack training videos."""
    lines = []
    for manifest, pairs in listing.manifests.items():
        trained = {usable[name].label for name, split in pairs if split == "train" and name in usable}
        lacking = [label for label in listing.classes if label not in trained]
        if lacking:
            shown = ", ".join(lacking[:_SHOWN]) + (", ..." if len(lacking) > _SHOWN else "")
            lines.append(f"{manifest}.csv: {len(lacking):,} of {len(listing.classes):,} classes have no training videos: {shown}")
    return lines


def row_problems(listing: Listing, usable: dict[str, Row], out: str) -> list[tuple[str, str, str]]:
    """Returns (path, problem, detail) of the files that a manifest has in two splits, or in a split twice or with two labels.

    Paths of rows are relative to `out`; a file is the same through whatever links.
    """
    problems = []
    files = {row.path: join(out, row.path) for row in usable.values()}
    names = one_names(files.values())
    for manifest, pairs in listing.manifests.items():
        rows: dict[str, list[Row]] = collections.defaultdict(list)
        for name, split in pairs:
            if name in usable:
                rows[split].append(usable[name])
        parts = {
            split: [Part.of(names[files[row.path]], row.start, row.end) for row in of_split] for split, of_split in rows.items()
        }
        for split, of_split in rows.items():
            again, contrary = repeated(parts[split], [row.label for row in of_split])
            for n, first in again.items():
                row, other = of_split[n], of_split[first]
                if n in contrary:
                    problems.append((row.path, "two labels", _labels_text(f"{manifest}.csv {split}", row, other)))
                else:
                    problems.append((row.path, "in a split twice", f"{manifest}.csv {split}: {row.name}, as {other.name}"))
            if split != "train":
                problems += _shared_rows(manifest, split, of_split, parts[split], rows.get("train", []), parts.get("train", []))
    return problems


def _shared_rows(manifest, split, rows, parts, train_rows, train_parts) -> list[tuple[str, str, str]]:
    """Returns the problems of the rows of a split whose part of a file overlaps that of a training row."""
    by_file: dict[str, list[tuple[Part, Row]]] = collections.defaultdict(list)
    for part, row in zip(train_parts, train_rows, strict=True):
        by_file[part.file].append((part, row))
    problems = []
    for n in shared(train_parts, parts):
        row, part = rows[n], parts[n]
        others = [other for there, other in by_file[part.file] if max(there.start, part.start) < min(there.end, part.end)]
        other = others[0]
        as_other = f", in train as {other.path}"
        if other.path == row.path:
            as_other = "" if other.name == row.name else f" ({row.name}, in train as {other.name})"
        problems.append((row.path, "in two splits", f"{manifest}.csv: train and {split}{as_other}"))
        if contrary := [other for other in others if row.label and other.label not in ("", row.label)]:
            problems.append((row.path, "two labels", _labels_text(f"{manifest}.csv {split}", row, contrary[0], " in train")))
    return problems


def _labels_text(where, row, other, where_other="") -> str:
    """Describes two rows of one file that have two labels."""
    labels = [repr(one.label) if one.label else "no label" for one in (row, other)]
    return f"{where}: {row.name} has {labels[0]}, {other.name}{where_other} has {labels[1]}"


def summary(listing: Listing, usable: dict[str, Row], problems: list[tuple[str, str, str]], report: str) -> str:
    """Returns a line with the number of usable videos, the number of problems of each type, and the report's path."""
    by_type = collections.Counter(problem for _, problem, _ in set(problems))
    counts_text = ", ".join(f"{count:,} {problem}" for problem, count in sorted(by_type.items())) or "no problem"
    return f"{len(usable):,} of {len(listing.videos):,} videos are usable; {counts_text}; {report}"
