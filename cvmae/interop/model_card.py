"""The model card of an export, README.md: metadata of the Hugging Face hub, the way to load it, and the run that made the weights.

A card says what the weights and their workdir record, and what they do not; nothing is assumed. It holds no absolute path.
"""

import dataclasses
import json
import pathlib
import re
from collections.abc import Iterator

from cvmae.config import UNTRAINED, flatten
from cvmae.data.mixture import ADDRESSES, parse_mixture
from cvmae.files import without_paths
from cvmae.interop.hub import PREFIX, repository_of
from cvmae.interop.pretrained import Pretrained
from cvmae.models.factorized import FactorizedEncoder
from cvmae.version import __version__
from cvmae.workdir import CONFUSION, CURVES, PROBES, REPORT, Report, Workdir

CARD = "README.md"
LICENSE = re.compile(r"[a-z0-9][a-z0-9.+-]*")  # the form of the hub's license ids
# Pictures of the run that show no frame of its videos, whose license is not that of the weights.
PLOTS = {CURVES: "Losses and metrics over steps", CONFUSION: "Confusion matrix of the test"}
# Metrics of a classifier's report that the hub has a name for: (its type, name).
HUB_METRICS = {
    "accuracy/top1": ("accuracy", "top-1 accuracy"),
    "accuracy/top5": ("accuracy", "top-5 accuracy"),
    "mAP": ("mAP", "mean average precision"),
}


@dataclasses.dataclass(frozen=True)
class Export:
    """A format of exports: its library, and the lines that load it.

    Attributes:
      name: the value of --to.
      library: the library that loads the folder, by its name on the hub.
      usage: lines of Python that load it, run in the folder.
      remarks: lines of Markdown that stand below them.
    """

    name: str
    library: str
    usage: tuple[str, ...]
    remarks: tuple[str, ...] = ()


def write_card(folder: pathlib.Path, pretrained: Pretrained, part: str, export: Export, title: str) -> None:
    """Writes README.md into the folder of an export, and copies the plots of the run beside it.

    Args:
      folder: the folder of the export, which need not have its final name yet.
      pretrained: the weights.
      part: one of `pretrained.PARTS`, the largest that is written.
      export: the format.
      title: the name of the model.

    Raises:
      ValueError: the license is not of the form of the hub's ids.
    """
    run = Run.of(pretrained)
    plots = {}
    if run is not None:
        plots = {name: text for name, text in PLOTS.items() if (run.workdir / name).is_file()}
        for name in plots:
            (folder / name).write_bytes((run.workdir / name).read_bytes())
    (folder / CARD).write_text(card(pretrained, part, export, title, run, plots), encoding="utf-8")


@dataclasses.dataclass(frozen=True)
class Run:
    """The run whose checkpoint was exported.

    Attributes:
      workdir: its folder.
      config: {dotted field: value}.
      report: its numbers, if they are of the exported step.
      unmeasured: why there are no numbers, in words; empty where there are.
      starts: entries of environment.json, the oldest first.
      split: the split that the numbers were measured on; empty if the config does not name it.
    """

    workdir: Workdir
    config: dict
    report: Report | None
    unmeasured: str
    starts: list[dict]

    @classmethod
    def of(cls, pretrained: Pretrained) -> "Run | None":
        """Reads what a workdir records of its run; None for weights that are not from one."""
        checkpoint = pretrained.origin.checkpoint
        if checkpoint is None:
            return None
        workdir, step = Workdir(checkpoint.parent.parent), int(checkpoint.name)
        config = flatten(workdir.read_config() or {})
        report, why = _report_of(workdir, step)
        return cls(workdir, config, report, why, workdir.read_starts() or [])

    @property
    def task(self) -> str:
        return str(self.config.get("task", "pretrain"))

    @property
    def split(self) -> str:
        field = "data.eval_split" if self.task == "pretrain" else "data.test_split"
        return str(self.config.get(field, ""))

    @property
    def data_name(self) -> str:
        """The name of the data set: that of the config, or those of a mixture, else the kind of its source; `synthetic` in a trial run."""
        if mixture := self.config.get("data.mixture"):
            return "+".join(parse_mixture(mixture))
        source = str(self.config.get("data.source", ""))
        return source if source == "synthetic" else str(self.config.get("data.name") or source)

    @property
    def data(self) -> str:
        """The data set, with the kind of its source and the name of its manifest or pattern; of a mixture the sources and weights."""
        if mixture := self.config.get("data.mixture"):
            return f"the mixture `{mixture}`"
        source = str(self.config.get("data.source", "not recorded"))
        address = without_paths(str(self.config.get(f"data.{ADDRESSES.get(source, '')}", "")))
        return f"{self.data_name or 'not recorded'} (`data.source={source}`{f', `{address}`' if address else ''})"


def _report_of(workdir: Workdir, step: int) -> tuple[Report | None, str]:
    """Returns the numbers of a step, and in words the reason where they are missing."""
    try:
        report = workdir.read_report()
    except ValueError:
        return None, "The report of the run is damaged."
    if report is None:
        unmeasured = "its run measured nothing at its end, or had not ended when the weights were exported"
        return None, f"The workdir has no `{REPORT}`: {unmeasured}."
    if report.step is None:
        return None, "The report of the run does not record the step that it measured."
    if report.step != step:
        return None, f"The report of the run is of step {report.step}, not of these weights."
    return report, ""


def card(pretrained: Pretrained, part: str, export: Export, title: str, run: Run | None, plots: dict[str, str]) -> str:
    """Returns the text of README.md; see `write_card`. plots: {file in the folder: its title}."""
    lines = ["---", *_yaml(metadata(pretrained, part, export, title, run)), "---", "", f"# {title}", ""]
    lines += [*_model(pretrained, part, export), "", "## Use", "", "```python", *export.usage, "```", "", *export.remarks]
    lines += ["", "## Training", "", *(_unknown_run(pretrained) if run is None else _training(pretrained, run))]
    if run is not None:
        lines += ["", "## Metrics", "", *_metrics(run, part), "", "## Config", "", *_config(run)]
    for name, text in plots.items():
        lines += ["", f"## {text}", "", f"![{text}]({name})"]
    return re.sub(r"\n{3,}", "\n\n", "\n".join(lines)).rstrip() + "\n"


def metadata(pretrained: Pretrained, part: str, export: Export, title: str, run: Run | None) -> dict:
    """Returns the metadata of the card by the hub's names; what is not known is left out.

    Raises:
      ValueError: the license is not of the form of the hub's ids.
    """
    if pretrained.license and not LICENSE.fullmatch(pretrained.license):
        raise ValueError(f"--license={pretrained.license}: expected an id of the hub such as apache-2.0, cc-by-nc-4.0 or other")
    is_classifier = part == "classifier"
    values: dict = {
        "license": pretrained.license,
        "library_name": export.library,
        "pipeline_tag": "video-classification" if is_classifier else "feature-extraction",
        "tags": ["crossvideomae", "video", "masked-autoencoder", export.name],
        "base_model": _base_model(pretrained, run),
        "datasets": _hub_datasets(run),
    }
    if run is not None and run.report is not None and run.task == "finetune" and is_classifier:
        values["model-index"] = _model_index(title, run, run.report)
    return {name: value for name, value in values.items() if value}


def _base_model(pretrained: Pretrained, run: Run | None) -> str:
    """Returns the hub's id of the weights that were read, or that the run started from; empty where no hub id is known."""
    start = pretrained.origin.hub_id or ("" if run is None else _start(pretrained, run))
    return repository_of(start) if start.startswith(PREFIX) else ""


def _start(pretrained: Pretrained, run: Run) -> str:
    """Returns the weights that the run started from, as its config names them; empty for random ones."""
    field = f"{pretrained.origin.branch}_branch.init_from" if run.task == "pretrain" else "init_from"
    start = str(run.config.get(field) or "")
    return "" if start == UNTRAINED else start


def _hub_datasets(run: Run | None) -> list[str]:
    """Returns the hub's id of the data set where the run read it from there."""
    if run is None or run.config.get("data.source") != "hf":
        return []
    path = str(run.config.get("data.hf.path", ""))
    return [path] if re.fullmatch(r"[\w.-]+/[\w.-]+", path, re.ASCII) and not pathlib.Path(path).exists() else []


def _model_index(title: str, run: Run, report: Report) -> list[dict]:
    """Returns the results of a classifier in the form of the hub."""
    metrics = [
        {"type": HUB_METRICS[name][0], "name": HUB_METRICS[name][1], "value": value}
        for name, value in report.metrics.items()
        if name in HUB_METRICS and isinstance(value, float)
    ]
    dataset = {"name": run.data_name, "type": run.data_name, "split": run.split}
    if not metrics or not all(dataset.values()):
        return []
    return [{"name": title, "results": [{"task": {"type": "video-classification"}, "dataset": dataset, "metrics": metrics}]}]


def _yaml(values: dict) -> Iterator[str]:
    """Yields lines of YAML: values are written as JSON, which is YAML too."""
    for name, value in values.items():
        if isinstance(value, list) and all(isinstance(item, str) for item in value):
            yield f"{name}:"
            yield from (f"- {json.dumps(item)}" for item in value)
        else:
            yield f"{name}: {json.dumps(value)}"


def _model(pretrained: Pretrained, part: str, export: Export) -> list[str]:
    """Describes the modules and their inputs."""
    encoder = pretrained.block_encoder
    grid, size = encoder.grid, encoder.trunk.size
    cls = "with a cls token" if encoder.cls_token else "without a cls token"
    temporal = f" over space and {encoder.temporal_blocks} over time" if isinstance(encoder, FactorizedEncoder) else ""
    lines = [
        f"{'Image' if grid.num_frames == 1 else 'Video'} {part}, written by cvmae {__version__} as `{export.name}`.",
        "",
        f"- encoder: ViT of width {size.width}, {size.depth} blocks{temporal}, {size.heads} heads; {encoder.positions} positions, {cls}",
        f"- input: {grid.num_frames} frames of {grid.height}x{grid.width}, in patches of {grid.tubelet}x{grid.patch}x{grid.patch}",
    ]
    if pretrained.head is not None and part == "classifier":
        lines.append(f"- classes: {pretrained.head.classes}")
    if pretrained.sampling is not None:
        lines.append(f"- frames of its training clips: {pretrained.sampling} (fps=0.0: at the rate of the file)")
    mean = pretrained.normalization.get("mean")
    std = pretrained.normalization.get("std")
    lines.append(f"- normalization: mean {mean}, std {std}" if mean and std else "- normalization: not recorded by the weights")
    lines.append(f"- license: {pretrained.license or 'not stated by those who exported the weights'}")
    return lines + [f"- note: {without_paths(note)}" for note in pretrained.notes]


def _unknown_run(pretrained: Pretrained) -> list[str]:
    hub_id = pretrained.origin.hub_id
    where = f"They are those of `{hub_id.removeprefix(PREFIX)}` on the Hugging Face hub. " if hub_id else ""
    return [
        f"{where}What these weights were read from records neither the data nor the config, command and metrics of their training."
    ]


def _training(pretrained: Pretrained, run: Run) -> list[str]:
    """Lists the task, the data, the commands and the versions of the run."""
    assert pretrained.origin.checkpoint is not None
    average = " (moving average)" if pretrained.origin.averaged else ""
    lines = [f"Step {pretrained.origin.checkpoint.name}{average} of a run of `task={run.task}`."]
    lines += ["", f"- data: {run.data}, split `{run.config.get('data.split', 'not recorded')}`"]
    start = _start(pretrained, run)
    lines.append(f"- started from: `{without_paths(start)}`" if start else "- started from: random weights")
    if not run.starts:
        return [*lines, "- command and versions: not recorded"]
    commands = dict.fromkeys(without_paths(str(start["command"])) for start in run.starts if start.get("command"))
    last = run.starts[-1]
    versions = ", ".join(f"{name} {version}" for name, version in dict(last.get("versions", {})).items())
    lines.append(f"- versions: {versions or 'not recorded'}, Python {last.get('python', 'not recorded')}")
    lines.append(f"- devices: {last.get('devices', 'not recorded')}; commit: {last.get('commit') or 'not recorded'}")
    if not commands:
        return [*lines, "- command: not recorded"]
    return [*lines, "", "Absolute paths are cut to their last part:", "", "```bash", *commands, "```"]


def _metrics(run: Run, part: str) -> list[str]:
    """Returns the table of the report's numbers, with the split that they were measured on."""
    if run.report is None:
        return [run.unmeasured]
    split = f"split `{run.split}`" if run.split else "a split that the config does not name"
    line = f"Measured by `task={run.task}` on {split} of {run.data_name or 'its data'}"
    details = run.report.details
    line += "".join(f", {name} {details[name]}" for name in ("clips", "views", "clips_together") if name in details)
    if run.task in PROBES:
        line += ": of the probe, which is not part of this export"
    elif run.task == "finetune" and part != "classifier":
        line += ": of the whole classifier, of which this is the encoder"
    rows = [f"| {name} | {value:.6g} | {_cell(run.report.baseline.get(name))} |" for name, value in run.report.metrics.items()]
    if not run.report.baseline:
        rows = [row.rsplit("|", 2)[0] + "|" for row in rows]
    head = ["| metric | value | untrained |", "|---|---|---|"] if run.report.baseline else ["| metric | value |", "|---|---|"]
    return [f"{line}.", "", *head, *rows] if rows else [f"{line}: no numbers."]


def _cell(value) -> str:
    return f"{value:.6g}" if isinstance(value, int | float) else ""


def _config(run: Run) -> list[str]:
    fields = [f"{name} = {without_paths(repr(value))}" for name, value in sorted(run.config.items())]
    return ["<details><summary>All fields of the run</summary>", "", "```", *fields, "```", "", "</details>"]
