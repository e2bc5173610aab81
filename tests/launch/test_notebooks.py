"""The notebooks: stored without what running them gives, and run from top to bottom as Jupyter runs them, with few steps."""

import ast
import base64
import csv
import importlib
import json
import math
import os
import re
import sys
import tomllib
import types

import nbclient
import nbformat
import numpy as np
import pytest
from IPython.core.inputtransformer2 import TransformerManager
from safetensors.numpy import load_file
from sklearn.neighbors import NearestNeighbors

from tests.commands import ROOT, metric_lines

FOLDER = ROOT / "launch" / "notebooks"
NAMES = ("01_quickstart", "02_your_own_videos", "03_finetune_from_imported_weights", "04_tpu_vm")
STEPS = 2
TERMS = {"mse_video", "mse_image", "intra_video", "intra_frame", "cross_video", "cross_frame"}


def stored(name: str):
    """A notebook as it is in git."""
    return nbformat.read(FOLDER / f"{name}.ipynb", as_version=nbformat.NO_CONVERT)


def code(notebook) -> list:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def test_all_notebooks_are_known():
    assert sorted(path.name for path in FOLDER.iterdir() if path.suffix) == [f"{name}.ipynb" for name in NAMES]


@pytest.mark.parametrize("name", NAMES)
def test_nothing_is_stored_but_the_notebook(name):
    notebook = stored(name)
    nbformat.validate(notebook)
    assert (notebook.nbformat, notebook.nbformat_minor) == (4, 5)
    assert len({cell.id for cell in notebook.cells}) == len(notebook.cells)
    assert not any(cell.outputs or cell.execution_count or cell.metadata for cell in code(notebook))
    assert notebook.metadata.kernelspec.name == "python3" and dict(notebook.metadata.language_info) == {"name": "python"}


def asked_for(cell: str, monkeypatch, tmp_path, colab: bool) -> list[str]:
    """What the shell and the magics of a cell would be asked for, in an empty folder."""
    said: list[str] = []
    shell = types.SimpleNamespace(system=said.append, run_line_magic=lambda name, line: said.append(f"%{name} {line}"))
    monkeypatch.chdir(tmp_path)
    modules = {name: module for name, module in sys.modules.items() if not name.startswith("google.colab")}
    monkeypatch.setattr(sys, "modules", modules | {"google.colab": types.ModuleType("colab")} if colab else modules)
    exec(compile(TransformerManager().transform_cell(cell), "cell", "exec"), {"get_ipython": lambda: shell})
    return said


@pytest.mark.parametrize("name", NAMES)
def test_what_it_takes_from_the_package_is_there(name):
    """Every import of this package, and every attribute of an imported module, in all cells; the slow tests run them."""
    cells = [ast.parse(TransformerManager().transform_cell(cell.source)) for cell in code(stored(name))]
    nodes = [node for cell in cells for node in ast.walk(cell)]
    modules, count = {}, 0
    for node in nodes:
        for alias in node.names if isinstance(node, ast.ImportFrom) and node.module.split(".")[0] in ("cvmae", "configs") else ():
            try:
                modules[alias.asname or alias.name] = importlib.import_module(f"{node.module}.{alias.name}")
            except ModuleNotFoundError:
                assert hasattr(importlib.import_module(node.module), alias.name), f"{node.module}.{alias.name}"
            count += 1
    for node in nodes:
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in modules:
            assert hasattr(modules[node.value.id], node.attr), f"{node.value.id}.{node.attr}"
    assert count > 0


@pytest.mark.parametrize("name", NAMES)
def test_the_first_cell_installs_on_colab_and_does_nothing_elsewhere(name, monkeypatch, tmp_path):
    cell = code(stored(name))[0].source
    assert cell.startswith('REPOSITORY = ""') and cell == code(stored(NAMES[0]))[0].source
    assert not asked_for(cell, monkeypatch, tmp_path, colab=False)
    with pytest.raises(AssertionError, match="where to clone"):
        asked_for(cell, monkeypatch, tmp_path, colab=True)
    given = cell.replace('REPOSITORY = ""', 'REPOSITORY = "address"')
    clone, enter, install = asked_for(given, monkeypatch, tmp_path, colab=True)
    assert clone.startswith("git clone ") and clone.endswith(" {REPOSITORY} crossvideomae") and enter == "%cd crossvideomae"
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert install.startswith("%pip install ") and set(re.search(r"'\.\[(.*)\]'", install)[1].split(",")) <= set(extras)


class Played:
    """A notebook after its run in `folder`: what its cells said and showed, by their ids, and its own folder."""

    def __init__(self, name: str, folder):
        self.notebook, self.work = stored(name), folder / "workdir" / name
        resources = {"metadata": {"path": str(folder)}}
        nbclient.NotebookClient(self.notebook, timeout=None, kernel_name="python3", resources=resources).execute()
        self.cells = {cell.id: cell for cell in code(self.notebook)}
        assert [cell.execution_count for cell in code(self.notebook)] == list(range(1, len(self.cells) + 1))
        everything = "".join(map(self.text, self.cells))
        assert "error" not in everything and "Warning" not in everything, everything

    def text(self, cell: str) -> str:
        """What a cell said, on either stream."""
        return "".join(output.text for output in self.cells[cell].outputs if output.output_type == "stream")

    def shows(self, cell: str, file: str) -> bool:
        """Whether a cell shows a picture as it is in the notebook's folder."""
        [shown] = [output.data["image/png"] for output in self.cells[cell].outputs if "image/png" in output.get("data", {})]
        return base64.b64decode(shown) == (self.work / file).read_bytes()

    def report(self, folder: str) -> dict:
        return json.loads((self.work / folder / "report.json").read_text())


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Where all of them run, one after the other, as somebody would who reads them."""
    place = tmp_path_factory.mktemp("notebooks")
    settings = {
        name: str(place / "jupyter") for name in ("IPYTHONDIR", "JUPYTER_RUNTIME_DIR", "JUPYTER_CONFIG_DIR", "CVMAE_CACHE")
    }
    settings |= {"PYTHONPATH": str(ROOT), "CVMAE_STEPS": str(STEPS), "CVMAE_CHIPS": "cpu:8"}
    with pytest.MonkeyPatch.context() as environment:
        for name, value in settings.items():
            environment.setenv(name, value)
        yield place
    assert set(os.listdir(place)) <= {"workdir", "jupyter"} and set(os.listdir(place / "workdir")) <= set(NAMES)
    assert not (place / "jupyter" / "motion").exists()


@pytest.fixture(scope="module")
def quickstart(folder):
    return Played("01_quickstart", folder)


@pytest.mark.slow
def test_quickstart(quickstart):
    lines = metric_lines(quickstart.work / "pretrain")
    assert [line["step"] for line in lines] == [1, STEPS]
    assert all(math.isfinite(line[f"loss/{term}"]) for line in lines for term in TERMS)
    assert quickstart.shows("sheet", "data/clips.png")
    assert quickstart.shows("curves", "pretrain/curves.png") and quickstart.shows("reconstruct", "pretrain/reconstruction.png")
    assert quickstart.shows("look", "pictures/figures/clip00_masked50.png")
    kinds = {entry["kind"] for entry in json.loads((quickstart.work / "pictures" / "figures" / "figures.json").read_text())}
    assert kinds == {"clip", "tokens"}
    assert (quickstart.work / "pictures" / "figures" / "clip00_masked50.gif").read_bytes().startswith(b"GIF")
    page = (quickstart.work / "pretrain" / "report.html").read_text()
    assert quickstart.text("write") == f"report: {quickstart.work}/pretrain/report.html\n"
    assert page.count("data:image/png;base64,") > 2 and "loss/cross_frame" in page


@pytest.mark.slow
def test_your_own_videos(quickstart, folder):
    played = Played("02_your_own_videos", folder)
    assert str(quickstart.work / "pretrain") in played.text("fields")
    with open(played.work / "set" / "manifest.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    train = [row for row in rows if row["split"] == "train"]
    assert len(rows) == 60 and len({row["label"] for row in rows}) == 12 and 0 < len(train) < 60
    found = {file: np.load(file) for file in (played.work / "features").rglob("*.npz")}
    assert {str(one["path"]) for one in found.values()} == {row["path"] for row in train}
    assert all(one["features"].shape == (2, 96) and np.ptp(one["features"]) > 0 for one in found.values())
    vectors, labels = (np.stack([one[name] for one in found.values()]) for name in ("features", "label"))
    vectors = vectors.mean(1)
    nearest = NearestNeighbors(n_neighbors=2, metric="cosine").fit(vectors).kneighbors(vectors, return_distance=False)[:, 1]
    shares = np.mean(labels[nearest] == labels), np.mean(labels[:, None] == labels)
    assert "same label: {:.0%}, by chance {:.0%}".format(*shares) in played.text("nearest")
    numbers = played.report("retrieval")["metrics"]
    assert numbers["same_video/queries"] == numbers["same_class/queries"] == 60 - len(train)
    assert played.shows("look", "pictures/figures/retrieval.png")


@pytest.mark.slow
def test_finetune_from_imported_weights(folder):
    played = Played("03_finetune_from_imported_weights", folder)
    assert json.loads((played.work / "published" / "config.json").read_text())["architectures"] == [
        "VideoMAEForVideoClassification"
    ]
    with open(played.work / "imported" / "keys.csv", newline="") as file:
        used = {row["key"] for row in csv.DictReader(file) if row["parameter"]}
    assert used == set(load_file(played.work / "published" / "model.safetensors"))
    config = json.loads((played.work / "finetuned" / "config.json").read_text())
    assert config["init_from"] == str(played.work / "imported") and config["data"]["split"] == "train[:25%]"
    assert f"32 clips, batch 32 (global), {STEPS} steps" in played.text("train")
    assert f"encoder from {played.work}/imported" in played.text("train")
    report = played.report("finetuned")
    assert str(report) in played.text("curves") and report["details"]["clips"] == 64
    assert 0 <= report["metrics"]["accuracy/top1"] <= 1
    assert played.shows("curves", "finetuned/curves.png") and (played.work / "finetuned" / "report.html").is_file()
    chances = [float(line.split()[-1].rstrip("%")) for line in played.text("classify").splitlines()]
    assert len(chances) == 4 and sum(chances) == pytest.approx(100, abs=0.3) and min(chances) > 0


@pytest.mark.slow
def test_tpu_vm(folder):
    played = Played("04_tpu_vm", folder)
    assert played.cells["devices"].outputs[0].data["text/plain"].count("CpuDevice") == 8
    assert "'data': 2, 'fsdp': 4, 'model': 1" in played.text("two-axes")
    assert [line.split(" ", 1)[1] for line in played.text("spread").splitlines()] == [
        "(4, 4, 32, 32, 3) of (32, 4, 32, 32, 3)"
    ] * 8
    assert "8 chips (data 2, fsdp 4, model 1), batch 8 = 1 per chip" in played.text("compile")
    assert "8 steps" in played.text("train") and "8 cpu device(s)" in played.text("train")
    lines = metric_lines(played.work / "run")
    assert [line["step"] for line in lines] == list(range(1, 9)) and all(math.isfinite(line["loss/mse_video"]) for line in lines)
    assert played.shows("train", "run/curves.png")
    commands = played.text("script").splitlines()
    assert all(line.startswith("+ ") for line in commands) and "--accelerator-type=v5litepod-256" in commands[1]
    assert "cvmae.main --config=configs/ssv2.py:variant=B/16" in commands[-1] and "--config.mesh.fsdp=8" in commands[-1]
