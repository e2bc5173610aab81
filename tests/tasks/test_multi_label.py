"""Several labels a clip, from the manifest to the report: losses, targets, the fields that ask for it, and runs of every task."""

import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from cvmae.config import ConfigError
from cvmae.evaluation.feature_folder import FeatureFolder
from cvmae.evaluation.multi_label import mean_average_precision
from cvmae.interop.own_checkpoint import load_workdir
from cvmae.performance.traced_step import without_data
from cvmae.report.summary import accuracy
from cvmae.tasks import run
from cvmae.tasks.ending import ending
from cvmae.tasks.model_fields import fill_fields
from cvmae.tasks.validate import validate
from cvmae.workdir import Workdir
from tests.data.videos import write_video
from tests.requirements import missing
from tests.tiny_configs import PLAIN as ONE_TERM
from tests.tiny_configs import config, downstream, make_task

# Nothing random.
PLAIN = {
    "augment__scale": (1.0, 1.0), "augment__ratio": (1.0, 1.0), "augment__flip": 0.0, "optimizer__warmup": "0_steps",
}  # fmt: skip
FINETUNE = PLAIN | {
    "augment__rand_augment__layers": 0, "augment__erasing__probability": 0.0, "augment__mix__probability": 0.0,
    "head__drop_path": 0.0, "head__loss": "sigmoid",
}  # fmt: skip
LINEAR = PLAIN | {"probe__rates": (1e-1, 1e-6), "probe__weight_decays": (0.0,), "probe__loss": "sigmoid"}
SETS = ("a", "b", "a;b", "c", "a; c", "b;c;b", "c;a;b")
NAMES = np.array(["a", "b", "c"])
TRUTH = np.array([[name in labels for name in NAMES] for labels in SETS])


@pytest.fixture(scope="module")
def manifest(tmp_path_factory):
    """Two videos of each set of labels in both splits; a label is a white block in every frame."""
    folder = tmp_path_factory.mktemp("videos")
    lines = ["path,label,split"]
    for split in ("train", "val"):
        for number in range(14):
            name = f"{split}{number}.mp4"
            # Frames have this number's bits 4 to 6 as blocks, for which 16 frames change nothing.
            write_video(folder / name, 12, first=16 * (number % 7 + 1), size=(64, 64))
            lines.append(f"{name},{SETS[number % 7]},{split}")
    (folder / "list.csv").write_text("\n".join(lines) + "\n")
    return str(folder / "list.csv")


def of(manifest, task, **overrides):
    overrides = {"batch_size": 14, "data__source": "files", "data__manifest": manifest} | overrides
    return downstream(task, **overrides)


def opened(manifest, task, **overrides):
    return make_task(fill_fields(of(manifest, task, **overrides))[0])


def batch_of(t, rows):
    draw = np.random.default_rng(0)
    shape = (len(rows), t.config.data.num_frames, *t.config.data.frame_size, 3)
    return {"video": draw.integers(0, 256, shape, dtype=np.uint8), "label": np.array(rows, np.int32)}


@pytest.fixture(scope="module")
def finetuned(manifest):
    return opened(manifest, "finetune", **FINETUNE)


def test_labels_of_a_batch_are_rows_of_the_table(finetuned):
    assert finetuned.classes == 3 and finetuned.class_names == ("a", "b", "c")
    np.testing.assert_array_equal(finetuned.label_sets[finetuned.source.labels[:7]], TRUTH)
    np.testing.assert_array_equal(finetuned.targets(jnp.asarray(finetuned.source.labels[:7])), TRUTH.astype(np.float32))


def test_smoothing_is_timms(finetuned):
    found = finetuned.targets(jnp.asarray([*finetuned.source.labels[:7], -1]), 0.3)
    np.testing.assert_allclose(found[:7], np.where(TRUTH, 0.7 + 0.1, 0.1), rtol=1e-6)
    assert not found[7].any()


def test_the_loss_is_torchs_binary_cross_entropy(finetuned):
    try:
        import torch
    except ImportError as error:
        missing("parity", str(error))
    draw = np.random.default_rng(0)
    logits, targets = draw.normal(size=(9, 3)).astype(np.float32) * 5, draw.random((9, 3)).astype(np.float32)
    leaf = torch.tensor(logits, requires_grad=True)
    loss = torch.nn.BCEWithLogitsLoss()(leaf, torch.tensor(targets))
    loss.backward()
    value, gradient = jax.value_and_grad(finetuned.class_loss)(jnp.asarray(logits), jnp.asarray(targets))
    assert float(value) == pytest.approx(loss.item(), rel=1e-6)
    np.testing.assert_allclose(gradient, leaf.grad.numpy(), rtol=1e-5, atol=1e-7)


def test_the_loss_is_the_mean_over_clips_and_classes(finetuned):
    draw = np.random.default_rng(1)
    logits, targets = draw.normal(size=(5, 3)), draw.integers(0, 2, (5, 3))
    p = 1 / (1 + np.exp(-logits))
    expected = -(targets * np.log(p) + (1 - targets) * np.log(1 - p)).mean()
    assert float(finetuned.class_loss(jnp.asarray(logits), jnp.asarray(targets))) == pytest.approx(expected, rel=1e-5)
    np.testing.assert_allclose(finetuned.probabilities(jnp.asarray(logits)), p, rtol=1e-5)


def test_mixing_averages_the_targets_of_several_labels(manifest, finetuned):
    mixed = opened(manifest, "finetune", **(FINETUNE | {"augment__mix__probability": 1.0, "augment__smoothing": 0.0}))
    batch = batch_of(mixed, range(6))
    state = mixed.initial_state()
    loss, metrics = jax.jit(mixed.loss)(state.params, mixed.samples(batch, 0))
    assert np.isfinite(float(loss)) and 0 <= float(metrics["accuracy/top1"]) <= 1
    # A new head gives logits of about 0, for which the loss of every target is log 2.
    assert float(loss) == pytest.approx(np.log(2), abs=1e-3)


def test_a_hit_of_training_is_any_label_of_the_clip(manifest):
    t = opened(manifest, "finetune", **(FINETUNE | {"augment__smoothing": 0.1}))
    params = t.initial_state().params
    params["head"]["bias"] = jnp.array([0.0, 5.0, 0.0])  # always class 1, b
    _, metrics = jax.jit(t.loss)(params, t.samples(batch_of(t, t.source.labels[:7]), 0))
    assert float(metrics["accuracy/top1"]) == pytest.approx(TRUTH[:, 1].mean())


def test_mirrored_clips_get_mirrored_labels(tmp_path):
    rows = ["go left;sit", "go left;go right", "turn left;sit", "sit"]
    (tmp_path / "list.csv").write_text("path,label,split\n" + "".join(f"{i}.mp4,{row},train\n" for i, row in enumerate(rows)))
    t = opened(str(tmp_path / "list.csv"), "finetune", **(FINETUNE | {"augment__mirror_labels": True}))
    names, mirror = np.array(t.class_names), t.view_spec.mirror

    def mirrored(row):
        other = mirror[t.source.labels[row]]
        return None if other < 0 else set(names[t.label_sets[other]])

    assert mirrored(0) == {"go right", "sit"} and mirrored(1) == {"go left", "go right"} and mirrored(3) == {"sit"}
    assert mirrored(2) is None  # no clip turns right
    assert len(mirror) == len(t.label_sets) == 5 and mirror[mirror[t.source.labels[0]]] == t.source.labels[0]


def test_one_label_a_clip_stays_as_it_was():
    t = make_task(downstream("finetune"))
    assert t.label_sets is None
    logits, labels = jnp.asarray(np.random.default_rng(0).normal(size=(6, 4)), jnp.float32), jnp.arange(6) % 4
    expected = optax.losses.softmax_cross_entropy_with_integer_labels(logits, labels).mean()
    assert float(t.class_loss(logits, t.targets(labels))) == pytest.approx(float(expected), rel=1e-6)
    np.testing.assert_allclose(t.probabilities(logits).sum(-1), 1, rtol=1e-6)


def test_the_loss_sets_the_field_of_the_data(manifest):
    for task, name in (("finetune", "head"), ("linear", "probe"), ("attentive", "probe")):
        c = of(manifest, task)
        assert fill_fields(c)[0].data.multi_label is False
        c[name].loss = "sigmoid"
        filled, notes = fill_fields(c)
        assert filled.data.multi_label is True and c.data.multi_label is False and notes == []


@pytest.mark.parametrize(
    "task, overrides, message",
    [
        ("finetune", {"data__multi_label": True}, "multi_label=True with config.head.loss='softmax'.*set --config.head.loss=sigmoid"),
        ("attentive", {"data__multi_label": True}, "multi_label=True with config.probe.loss='softmax'.*--config.probe.loss=sigmoid"),
        ("finetune", {"head__loss": "bce"}, "config.head.loss='bce' cannot be used: it must be one of softmax, sigmoid"),
        ("linear", {"probe__loss": ""}, "config.probe.loss='' cannot be used: it must be one of softmax, sigmoid"),
    ],
)  # fmt: skip
def test_fields_that_do_not_go_together_are_refused(manifest, tmp_path, task, overrides, message):
    with pytest.raises(ConfigError, match=message) as refused:
        run(of(manifest, task, **overrides), str(tmp_path / "run"))
    assert "\n" not in str(refused.value) and not (tmp_path / "run").exists()


def test_other_sources_are_refused_with_the_fields(tmp_path):
    with pytest.raises(ConfigError, match="does not go with config.data.source='synthetic'.*, or head.loss=softmax"):
        run(downstream("finetune", head__loss="sigmoid"), str(tmp_path / "run"))
    with pytest.raises(ConfigError, match="take --config.data.source=files$"):
        validate(downstream("knn", data__multi_label=True))


def test_without_the_field_the_manifest_is_refused_with_the_remedy(manifest, tmp_path):
    with pytest.raises(ConfigError, match="list.csv:4: label 'a;b' is several labels; .*--config.data.multi_label=True"):
        run(of(manifest, "knn"), str(tmp_path / "run"))


NO_CLASS = [
    ("linear", LINEAR, "<none of the classes>"), ("finetune", FINETUNE, "<none of the classes>"),
    ("knn", {"data__multi_label": True}, "<none of the classes>"), ("knn", {"data__multi_label": True}, ""), ("linear", LINEAR, ""),
    ("linear", {"probe__rates": (0.1, 0.01)}, ""),
]  # fmt: skip


@pytest.mark.parametrize("task, fields, label", NO_CLASS)
def test_a_validation_split_without_a_class_is_refused_before_training(manifest, tmp_path, task, fields, label):
    rows = pathlib.Path(manifest).read_text().splitlines()
    one = [row if ";" not in row else row.replace(row.split(",")[1], "a") for row in rows]  # softmax has one label a video
    rows = rows if "data__multi_label" in fields or fields in (LINEAR, FINETUNE) else one
    rows = [f"{row.split(',')[0]},{label},val" if row.endswith(",val") else row for row in rows]
    (tmp_path / "list.csv").write_text("\n".join(rows) + "\n")
    c = of(str(tmp_path / "list.csv"), task, data__root=manifest.rpartition("/")[0], **fields)
    field = "test_split" if task == "knn" else "eval_split"
    with pytest.raises(
        ConfigError, match=f"config.data.{field}='val' of config.data.manifest='.*list.csv': no clip has a class"
    ) as refused:
        run(c, str(tmp_path / "run"))
    assert "\n" not in str(refused.value) and not list(tmp_path.glob("run/*.json*"))


@pytest.mark.parametrize("task", ["linear", "finetune"])
def test_one_class_alone_is_nothing_to_learn(manifest, tmp_path, task):
    rows = pathlib.Path(manifest).read_text().splitlines()
    (tmp_path / "list.csv").write_text(
        "\n".join([rows[0], *(f"{r.split(',')[0]},run,{r.split(',')[2]}" for r in rows[1:])]) + "\n"
    )
    c = of(str(tmp_path / "list.csv"), task, data__root=manifest.rpartition("/")[0])
    with pytest.raises(
        ConfigError, match=r"^config.data.split='train': all clips are of one class, 'run', so .*: give clips of several"
    ):
        run(c, str(tmp_path / "run"))


def test_configs_of_earlier_versions_lack_the_fields():
    c = downstream("finetune").copy_and_resolve_references()
    with c.unlocked():
        del c.head.loss, c.data.multi_label
    c = c.lock()
    assert fill_fields(c)[0] is c
    validate(c)
    assert make_task(c).label_sets is None


def test_the_program_is_planned_without_the_manifest(manifest):
    c = without_data(fill_fields(of(manifest, "finetune", **FINETUNE))[0])
    validate(c)
    t = make_task(c)
    np.testing.assert_array_equal(t.label_sets, np.eye(t.classes, dtype=bool))


def check_results(folder):
    """The files of a test by several labels, and its mAP."""
    report = Workdir(folder).read_report()
    with np.load(folder / "predictions.npz") as arrays:
        labels, probabilities = arrays["labels"], arrays["probabilities"]
        assert list(arrays["class_names"]) == ["a", "b", "c"] and arrays["readable"].all()
    assert labels.dtype == bool and probabilities.shape == (14, 3)
    np.testing.assert_array_equal(labels, np.tile(TRUTH, (2, 1)))
    assert report.metrics == {"mAP": pytest.approx(mean_average_precision(probabilities, labels))}
    lines = (folder / "per_class.csv").read_text().splitlines()
    assert lines[0] == "class,name,clips,average_precision" and lines[1].startswith("0,a,8,")
    assert not (folder / "confusion.png").exists() and (folder / "curves.png").exists()
    assert accuracy(report) == report.metrics["mAP"]
    return report


@pytest.mark.slow
def test_finetuning_learns_every_label_and_resumes_on_the_same_ones(manifest, tmp_path, capsys):
    c = of(manifest, "finetune", **FINETUNE, optimizer__base_lr=0.05, total="60_steps", eval_every="30_steps")
    numbers = run(c, str(tmp_path), report_page=True)
    assert numbers["test/mAP"] > 0.9  # by chance it is 0.57
    assert "14 videos of val, 2 x 3 views each: mAP " in capsys.readouterr().out
    check_results(tmp_path)
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [line["eval/mAP"] for line in lines if "eval/mAP" in line][-1] > 0.9
    page = (tmp_path / "report.html").read_text()
    assert "test mAP" in page and "Average precision of 3 classes" in page and "cannot be read" not in page
    assert load_workdir(tmp_path).head.loss == "sigmoid"
    changed = tmp_path / "changed.csv"
    changed.write_text(pathlib.Path(manifest).read_text().replace("train0.mp4,a,", "train0.mp4,b;c,"))
    c.data.manifest, c.data.root, c.total = str(changed), manifest.rpartition("/")[0], "61_steps"
    with pytest.raises(ConfigError, match="the training data changed since step 60: .*the labels.*cannot resume"):
        run(c, str(tmp_path))


def test_the_best_head_of_a_probe_is_that_of_the_highest_map(manifest, tmp_path, capsys):
    numbers = run(of(manifest, "linear", **LINEAR, total="20_steps", eval_every="20_steps"), str(tmp_path))
    report = check_results(tmp_path)
    heads = report.details["heads"]
    assert [set(head) for head in heads] == [{"rate", "weight_decay", "mAP"}] * 2
    assert report.details["best"] == max(heads, key=lambda head: head["mAP"]) and numbers["test/mAP"] > 0.6
    assert "mAP" in capsys.readouterr().out


@pytest.mark.slow
def test_an_attentive_probe_reads_clips_of_several_labels_together(manifest, tmp_path, capsys):
    fields = {"probe__loss": "sigmoid", "probe__rates": (3e-3,), "probe__weight_decays": (0.01,), "probe__blocks": 0}
    numbers = run(of(manifest, "attentive", **fields, probe__clips=2, total="30_steps", eval_every="30_steps"), str(tmp_path))
    assert check_results(tmp_path).details["clips_together"] == 2 and numbers["test/mAP"] > 0.6
    assert "14 videos of val, 2 x 3 views each, 2 clips read together: mAP " in capsys.readouterr().out


def test_neighbors_and_retrieval_say_what_they_count(manifest, tmp_path, capsys):
    fields = {"data__multi_label": True, "knn__neighbours": (1, 3)}
    numbers = run(of(manifest, "knn", **fields), str(tmp_path / "knn"))
    assert set(numbers) == {"knn/mAP/k=1", "knn/mAP/k=3"} and all(0 < value <= 1 for value in numbers.values())
    assert "each neighbor votes for each of its labels" in capsys.readouterr().out
    numbers = run(of(manifest, "retrieval", data__multi_label=True, features__clips=1), str(tmp_path / "retrieval"))
    assert numbers["retrieval/same_class/queries"] == 14 and 0 < numbers["retrieval/same_class/map"] <= 1
    assert capsys.readouterr().out.endswith("relevant: at least one label shared\n")


@pytest.mark.parametrize("file_format", ["npz", "array_record"])
def test_extracted_features_have_all_labels(manifest, tmp_path, file_format):
    run(of(manifest, "extract", data__multi_label=True, extract__format=file_format), str(tmp_path))
    folder = FeatureFolder(tmp_path / "features")
    for number in range(7):
        label = folder[f"train{number}.mp4"]["label"]
        assert label.dtype == np.int32 and label.tolist() == np.flatnonzero(TRUTH[number]).tolist()


def test_pretraining_counts_such_clips_as_unlabeled(manifest, tmp_path, capsys):
    c = config(("mse_video",), **(ONE_TERM | {"data__source": "files", "data__manifest": manifest, "total": "1_steps"}))
    c.data.multi_label, c.report.labelled, c.eval_every = True, 14, "0_steps"
    numbers = run(c, str(tmp_path))
    assert "report/retrieval/same_clip_r1" in numbers
    assert "report/probe/accuracy" not in numbers and "report/retrieval/same_label_1nn" not in numbers
    err = capsys.readouterr().err
    for field, split in (("split", "train"), ("eval_split", "val")):
        assert (
            f"note: the clips of config.data.{field}='{split}' have several labels each, so the report has no linear probe" in err
        )


def test_the_next_command_has_the_field_that_it_needs(tmp_path):
    flags = ["--config.data.manifest=list.csv"]

    def following(c, *more):
        return ending(c, "configs/ssv2.py", str(tmp_path), [*flags, *more])[-1].rpartition(" --workdir=")[0]

    assert following(downstream("finetune", head__loss="sigmoid")).endswith("list.csv --config.data.multi_label=True")
    assert following(downstream("linear", probe__loss="sigmoid")).endswith("list.csv --config.head.loss=sigmoid")
    assert following(config(data__multi_label=True)).endswith("list.csv --config.probe.loss=sigmoid")
    assert following(downstream("finetune")).endswith("list.csv")
