"""Model cards: valid for the hub, true to the workdir, with lines that load the export, and without a path of the machine."""

import dataclasses
import json
import os

import jax
import numpy as np
import pytest
from huggingface_hub import ModelCard

import cvmae
from cvmae.interop import __main__ as command
from cvmae.interop import hub, model_card, read
from cvmae.interop.native import write_archive
from cvmae.interop.pretrained import Head
from cvmae.tasks import run as run_task
from cvmae.workdir import Workdir
from tests.commands import ROOT, run, run_own
from tests.interop.pretrained_models import pretrained, videomae
from tests.tiny_configs import downstream

CONFIG = f"{ROOT / 'configs' / 'ssv2.py'}:task=finetune,exportable,runlocal"
FIELDS = (
    "--config.init_from=untrained",
    "--config.total=2_steps",
    "--config.eval_every=1_steps",
    "--config.checkpoint_every=1_steps",
)
FORMATS = ("safetensors", "npz", "hf-videomae", "stablehlo")


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    """A fine-tuned workdir, made by the command in a process of its own."""
    folder = tmp_path_factory.mktemp("runs") / "finetuned"
    ran = run(f"--config={CONFIG}", f"--workdir={folder}", *FIELDS)
    assert ran.returncode == 0, ran.stderr
    return folder


def export(to: str, checkpoint, out, *words) -> str:
    """Exports, and returns the text of the card."""
    assert run_own(command, "export", f"--to={to}", f"--checkpoint={checkpoint}", f"--out={out}", *words) == 0
    return (out / "README.md").read_text(encoding="utf-8")


def run_lines(text: str, folder, monkeypatch) -> dict:
    """Runs the lines of Python of a card in the folder of the export."""
    monkeypatch.chdir(folder)
    names: dict = {}
    exec(text.partition("```python\n")[2].partition("```")[0], names)
    return names


def test_a_mixture_is_named_and_not_the_set_that_its_config_is_of(tmp_path):
    config = {"data.name": "ssv2", "data.source": "files", "data.mixture": "a:1,b:2"}
    run = model_card.Run(Workdir(tmp_path), config, None, "", [])
    assert (run.data, run.data_name) == ("the mixture `a:1,b:2`", "a+b")
    assert dataclasses.replace(run, config=config | {"data.mixture": ""}).data == "ssv2 (`data.source=files`)"


@pytest.mark.parametrize("to", FORMATS)
def test_the_card_of_a_run(to, workdir, tmp_path, monkeypatch):
    if to == "hf-videomae":
        pytest.importorskip("transformers")
    text = export(to, workdir, tmp_path / "tiny", "--license=cc-by-nc-4.0")
    report = json.loads((workdir / "report.json").read_text())
    data = ModelCard.load(tmp_path / "tiny" / "README.md").data
    assert data.license == "cc-by-nc-4.0" and data.pipeline_tag == "video-classification" and to in data.tags
    assert data.library_name == {"hf-videomae": "transformers", "stablehlo": "jax"}.get(to, "crossvideomae")
    assert data.base_model is None and data.datasets is None
    results = {result.metric_name: result for result in data.eval_results}
    assert data.model_name == "tiny" and results["top-1 accuracy"].metric_value == report["metrics"]["accuracy/top1"]
    assert all((result.dataset_name, result.dataset_split) == ("synthetic", "val") for result in data.eval_results)
    for name, value in report["metrics"].items():
        assert f"| {name} | {value:.6g} |" in text
    assert "Step 2 of a run of `task=finetune`" in text and "- started from: random weights" in text
    assert "split `val` of synthetic" in text and "total = '2_steps'" in text
    command = (
        "python -m cvmae.main --config=ssv2.py:task=finetune,exportable,runlocal --workdir=finetuned --config.init_from=untrained"
    )
    assert command in text and f"cvmae {cvmae.__version__}, jax {jax.__version__}" in text
    assert str(workdir.parent) not in text and str(ROOT) not in text
    assert (tmp_path / "tiny" / "curves.png").read_bytes() == (workdir / "curves.png").read_bytes() and "(curves.png)" in text
    names = run_lines(text, tmp_path / "tiny", monkeypatch)
    outputs = names["logits"] if to == "stablehlo" else names["outputs"]
    assert np.isfinite(np.asarray(outputs.logits.detach() if to == "hf-videomae" else outputs)).all()


def test_numbers_of_other_weights_are_left_out(workdir, tmp_path):
    """Of the encoder alone the classifier's numbers are marked; those of another step, or of an unfinished run, are not given."""
    text = export("npz", workdir, tmp_path / "encoder", "--part=encoder")
    data = ModelCard.load(tmp_path / "encoder" / "README.md").data
    assert data.pipeline_tag == "feature-extraction" and data.eval_results is None and data.license is None
    assert "of the whole classifier, of which this is the encoder" in text and "license: not stated by those" in text
    older = export("npz", workdir / "checkpoints" / "1", tmp_path / "older")
    assert "The report of the run is of step 2, not of these weights." in older and "| accuracy/top1" not in older


def test_reports_of_another_kind(workdir, tmp_path):
    report = workdir / "report.json"
    before = report.read_text()
    try:
        report.write_text(json.dumps({k: v for k, v in json.loads(before).items() if k != "step"}))
        assert "does not record the step that it measured" in export("npz", workdir, tmp_path / "a")
        report.write_text("{")
        assert "The report of the run is damaged." in export("npz", workdir, tmp_path / "b")
        report.unlink()
        assert "The workdir has no `report.json`: its run measured nothing at its end, or had not ended" in export(
            "npz", workdir, tmp_path / "c"
        )
    finally:
        report.write_text(before)


@pytest.mark.parametrize("normalization", [{}, {"mean": (0.4, 0.5, 0.6), "std": (0.2, 0.25, 0.3)}], ids=["unknown", "known"])
def test_weights_that_are_from_no_run(normalization, tmp_path, monkeypatch):
    notes = ("made from /root/secret folder/a.pth (as mae), 3/4 of https://a.b/c and ~me/x/", "file:///data/b.pth")
    write_archive(pretrained(videomae(), head=Head(3, "first"), normalization=normalization, notes=notes), tmp_path / "out")
    text = (tmp_path / "out" / "README.md").read_text()
    data = ModelCard.load(tmp_path / "out" / "README.md").data
    assert data.license is None and data.datasets is None and data.base_model is None and "## Metrics" not in text
    assert "records neither the data nor the config, command and metrics" in text
    for written in (text, (tmp_path / "out" / "cvmae.json").read_text()):
        assert "made from secret folder/a.pth (as mae), 3/4 of https://a.b/c and x" in written
        assert "b.pth" in written and "/data" not in written and "/root" not in written
    assert run_lines(text, tmp_path / "out", monkeypatch)["outputs"].shape == (1, 3)
    assert read(tmp_path / "out").parts == ("encoder", "classifier")


def test_a_probe_that_stays_behind_is_said(workdir, tmp_path, capsys):
    config = downstream("linear", total="1_steps", init_from="untrained", augment__size=(16, 16))
    run_task(config, tmp_path / "probe")
    line = f"the linear probe of {tmp_path / 'probe'} is not part of this: it is the encoder alone, without classes"
    capsys.readouterr()
    for words in (("export", "--to=stablehlo", "--checkpoint"), ("import", "--weights")):
        assert run_own(command, *words[:-1], f"{words[-1]}={tmp_path / 'probe'}", f"--out={tmp_path / words[0]}") == 0
        assert line in capsys.readouterr().out.splitlines()
    export("npz", workdir, tmp_path / "classifier")
    assert "probe" not in capsys.readouterr().out


def test_weights_of_the_hub_name_it(tmp_path, monkeypatch):
    write_archive(pretrained(videomae()), tmp_path / "cached")
    monkeypatch.setattr(hub, "fetch", lambda _: tmp_path / "cached")
    text = export("safetensors", "hf:some/model@v1", tmp_path / "out")
    assert ModelCard.load(tmp_path / "out" / "README.md").data.base_model == "some/model"
    assert "those of `some/model@v1` on the Hugging Face hub" in text


def test_a_license_that_is_none(tmp_path, capsys):
    write_archive(pretrained(videomae()), tmp_path / "in")
    words = ("export", "--to=npz", f"--checkpoint={tmp_path / 'in'}", f"--out={tmp_path / 'out'}", "--license=My License")
    assert run_own(command, *words) == 2
    assert "--license=My License: expected an id of the hub" in capsys.readouterr().err and not (tmp_path / "out").exists()
    assert os.listdir(tmp_path) == ["in"]
