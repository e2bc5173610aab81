"""Every config: loads, says what it lacks, takes a variant, and its `runlocal` runs to the end and leaves what it should."""

import json

import numpy as np
import pytest
from cvmae.configs import variants
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from cvmae.config import ConfigError, flatten, load
from cvmae.models.build import build_encoder, video_grid
from cvmae.objective.terms import weighted_terms
from cvmae.tasks import TASKS as ALL_TASKS
from cvmae.tasks import run as train
from cvmae.tasks.model_fields import fill_fields
from cvmae.tasks.notes import export_notes
from cvmae.tasks.validate import validate
from tests.commands import arguments, checkpoint_steps, metric_lines, run
from tests.tiny_configs import CONFIGS, TERMS

TASKS = [task for task in ALL_TASKS if task != "ablate"]

NAMES = sorted(
    path.stem
    for path in CONFIGS.glob("*.py")
    if path.stem not in ("common", "data_fields", "variants", "downstream", "ablate", "__init__")
)


def path(name: str, argument: str = "") -> str:
    return f"{CONFIGS / name}.py:{argument}"


def test_the_promised_configs_are_there():
    assert set(NAMES) >= {
        "demo",
        "motion",
        "metaworld",
        "ssv2",
        "k400",
        "ucf101",
        "hmdb51",
        "imagenet",
        "diving48",
        "jester",
        "adapt",
    }


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("name", NAMES)
def test_a_config_is_valid_as_it_stands(name, task):
    for argument in (f"task={task}", f"task={task},parent=videomae", f"task={task},runlocal"):
        start = {} if task == "pretrain" else {"init_from": "untrained"}
        config, _ = fill_fields(load(path(name, argument), start))
        assert config.task == task
        validate(config)


@pytest.mark.parametrize("name", sorted(set(NAMES) - {"demo", "motion"}))
def test_a_config_of_files_asks_for_its_manifest(name, tmp_path):
    config = load(path(name))
    with pytest.raises(ConfigError, match="data.manifest"):
        train(config, str(tmp_path / "run"))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("name", NAMES)
def test_the_variant_goes_to_both_branches(name):
    config = load(path(name, "variant=Ti/8"))
    assert config.video_branch.variant == config.image_branch.variant == "Ti/8"
    assert load(path(name)).video_branch.variant != "Ti/8"
    validate(config)


@pytest.mark.parametrize("arg, frames, side", [("size=easy", 8, 32), ("size=full", 16, 64), ("size=full,side=96", 16, 96)])
def test_motion_comes_in_sizes(arg, frames, side):
    config = load(path("motion", arg))
    validate(config)
    assert config.data.motion.size in arg and config.data.motion.side in (0, side)
    assert (config.data.num_frames, config.data.frame_size, config.augment.size) == (frames, (side, side), (side, side))


def test_an_unknown_size_of_motion_names_the_nearest():
    with pytest.raises(ConfigError, match="did you mean 'full'"):
        load(path("motion", "size=ful"))


@pytest.mark.parametrize("name", ["ssv2", "motion", "demo", "metaworld", "jester"])
def test_where_labels_name_left_and_right_nothing_is_flipped(name):
    for task in ("pretrain", "finetune", "linear", "attentive"):
        assert load(path(name, f"task={task}")).augment.flip == 0.0
    assert load(path("k400", "task=finetune")).augment.flip == 0.5


def recipe(name: str, variant: str) -> tuple:
    c = load(path(name, f"task=finetune,variant={variant}"))
    return (c.optimizer.base_lr, c.batch_size, c.total, c.optimizer.layer_decay, c.head.drop_path, c.augment.repeats,
            c.head.dropout, (c.test.clips, c.test.crops))  # fmt: skip


@pytest.mark.parametrize(
    "name, variant, expected",
    [
        # VideoMAE's scripts; VideoMAEv2's for SSv2 L.
        ("ssv2", "S/16", (1e-3, 12 * 32, "40_epochs", 0.7, 0.1, 2, 0.0, (2, 3))),
        ("ssv2", "B/16", (5e-4, 8 * 64, "50_epochs", 0.75, 0.1, 1, 0.0, (2, 3))),
        ("ssv2", "L/16", (5e-4, 512, "20_epochs", 0.75, 0.2, 1, 0.0, (2, 3))),
        ("k400", "S/16", (5e-4, 12 * 32, "150_epochs", 0.75, 0.1, 2, 0.0, (5, 3))),
        ("k400", "B/16", (1e-3, 8 * 64, "100_epochs", 0.75, 0.1, 1, 0.0, (5, 3))),
        ("k400", "L/16", (2e-3, 2 * 64, "35_epochs", 0.75, 0.1, 2, 0.0, (5, 3))),
        ("k400", "H/16", (1e-3, 8 * 64, "50_epochs", 0.75, 0.2, 2, 0.5, (5, 3))),
        ("ucf101", "B/16", (5e-4, 16 * 8, "100_epochs", 0.7, 0.2, 2, 0.5, (5, 3))),
        ("hmdb51", "B/16", (5e-4, 16 * 8, "50_epochs", 0.7, 0.2, 2, 0.5, (5, 3))),
        ("diving48", "B/16", (5e-4, 16 * 8, "100_epochs", 0.7, 0.2, 2, 0.5, (4, 3))),
        ("jester", "B/16", (5e-4, 8 * 64, "50_epochs", 0.75, 0.1, 1, 0.0, (4, 3))),
        # MAE's table of fine-tuning on ImageNet.
        ("imagenet", "B/16", (5e-4, 1024, "100_epochs", 0.65, 0.1, 1, 0.0, (1, 1))),
        ("imagenet", "L/16", (1e-3, 1024, "50_epochs", 0.75, 0.2, 1, 0.0, (1, 1))),
        ("imagenet", "H/14", (1e-3, 1024, "50_epochs", 0.75, 0.3, 1, 0.0, (1, 1))),
    ],
)
def test_recipes_are_the_published_ones(name, variant, expected):
    assert recipe(name, variant) == expected


@pytest.mark.parametrize("name", ["diving48", "jester"])
def test_the_attentive_probe_of_motion_is_that_of_vjepa2(name):
    c = load(path(name, "task=attentive"))
    assert (c.probe.rates, c.probe.weight_decays, c.probe.blocks, c.probe.heads) == ((1e-3, 3e-4, 1e-4), (0.8,), 3, 16)
    assert (c.batch_size, c.total, c.optimizer.warmup, c.test.clips, c.test.crops) == (2 * 64, "100_epochs", "0_steps", 4, 3)
    assert load(path(name, "task=linear")).probe.rates != c.probe.rates


def test_no_head_is_chosen_on_the_pictures_or_dives_that_it_is_tested_on():
    for name, test in (("imagenet", "val"), ("diving48", "test")):
        data = load(path(name, "task=attentive")).data
        assert data.split.startswith("train[:") and data.eval_split.startswith("train[") and data.test_split == test


def test_pretraining_on_imagenet_is_maes():
    c, parent = load(path("imagenet")), load(path("imagenet", "parent=mae"))
    for one in (c, parent):
        assert {term for term, weight in one.loss.items() if weight} == {"mse_image"}
        assert (one.image_branch.mask.ratio, one.augment.scale, one.optimizer.base_lr) == (0.75, (0.2, 1.0), 1.5e-4)
        assert (one.batch_size, one.optimizer.clip_norm, one.optimizer.warmup) == (4096, 0.0, "40_epochs")
    assert (c.data.num_frames, c.image_branch.frames) == (1, 1)  # no frame is sent that nothing reads
    video = load(path("imagenet", "parent=videomae"))
    assert video.data.num_frames == 16 and video.loss.mse_video == 1.0


def test_only_tasks_that_compute_a_batch_in_parts_have_the_field():
    assert [task for task in TASKS if "accumulate" in load(path("k400", f"task={task}"))] == ["pretrain", "finetune"]


def test_uniform_segments_on_something_something_alone():
    assert load(path("ssv2", "task=finetune")).data.clip_sampling == "uniform"
    assert load(path("ssv2")).data.clip_sampling == load(path("k400", "task=finetune")).data.clip_sampling == "random"


@pytest.mark.parametrize(
    "argument, hint", [("task=finetun", "did you mean 'finetune'"), ("parent=videoma", "did you mean 'videomae'")]
)
def test_an_unknown_task_or_parent_names_the_nearest(argument, hint):
    with pytest.raises(ConfigError, match=hint):
        load(path("k400", argument))


@pytest.mark.parametrize("name", ["ssv2", "k400", "ucf101", "hmdb51", "imagenet", "diving48", "jester", "motion"])
def test_the_docstring_of_a_labeled_set_names_its_protocols(name):
    about = (CONFIGS / f"{name}.py").read_text().split('"""')[1].lower()
    assert [word for word in ("protocol", "fine-tun", "probe", "[choice]") if word not in about] == []


@pytest.mark.parametrize("name", NAMES)
def test_its_docstring_is_the_command(name):
    assert f"python -m cvmae.main --config=configs/{name}.py" in (CONFIGS / f"{name}.py").read_text().split('"""')[1]


def check_workdir(workdir, config):
    """What a run of 8 steps leaves: see `configs/variants.py:runlocal`."""
    lines = metric_lines(workdir)
    assert [line["step"] for line in lines if "loss" in line] == list(range(1, 9))
    assert [line["step"] for line in lines if "eval/loss" in line] == [4, 8]
    terms = {f"loss/{term.name}" for term in weighted_terms(config)}
    assert {key for key in lines[0] if key.startswith("loss/")} == terms
    newest = (
        0 if config.checkpoint_keep_every == "20_percent" else -config.checkpoint_keep
    )  # every second step stays, or the newest
    assert checkpoint_steps(workdir) == [2, 4, 6, 8][newest:]
    assert json.loads((workdir / "config.json").read_text()) == json.loads(config.to_json_best_effort())
    for picture in ("curves.png", "reconstruction.png"):
        assert (workdir / picture).read_bytes().startswith(b"\x89PNG")
    events = EventAccumulator(str(workdir / "tensorboard"))
    events.Reload()
    assert [event.step for event in events.Scalars("loss")] == list(range(1, 9))


# Of the others two terms are trained, which compiles in half the time; all are in the run of ssv2.
OWN_OBJECTIVES = ("demo", "motion", "imagenet")


@pytest.mark.slow  # they differ from ssv2, which runs below, in numbers and in fewer terms alone
@pytest.mark.parametrize("name", [name for name in NAMES if name != "ssv2"])
def test_runlocal_runs_to_its_end(name, tmp_path):
    config = load(path(name, "runlocal"))
    assert config.batch_size == 8 and config.data.source == "synthetic"
    if name not in OWN_OBJECTIVES:
        config.loss.update({term: 0.0 for term in TERMS if term not in ("mse_video", "intra_video")})
    train(config, str(tmp_path))
    check_workdir(tmp_path, config)


# Every task, and every config with one.
PAIRS = [
    ("finetune", "k400"),
    ("linear", "ucf101"),
    pytest.param("attentive", "hmdb51", marks=pytest.mark.slow),
    ("knn", "motion"),
    ("retrieval", "ssv2"),
    ("extract", "demo"),
    ("visualize", "k400"),
]


# What is repeated takes most of the time.
ONCE: dict[str, dict] = {
    "finetune": {"augment.rand_augment.layers": 1},
    "visualize": {"visualize.ratios": (0.5,), "visualize.formats": ("png",)},
}


@pytest.mark.parametrize("task, name", PAIRS)
def test_runlocal_of_a_task_runs_to_its_end(task, name, tmp_path):
    config = load(path(name, f"task={task},runlocal"), ONCE.get(task, {}))
    numbers = train(config, str(tmp_path))
    filled, _ = fill_fields(config)
    assert json.loads((tmp_path / "config.json").read_text()) == json.loads(filled.to_json_best_effort())
    report = json.loads((tmp_path / "report.json").read_text())
    if task in ("finetune", "linear", "attentive"):
        assert set(report["metrics"]) == {"accuracy/top1", "accuracy/top5", "accuracy/mean_class_accuracy"}
        assert report["details"]["clips"] == 64 and checkpoint_steps(tmp_path) == [6, 8]
        for picture in ("curves.png", "confusion.png"):
            assert (tmp_path / picture).read_bytes().startswith(b"\x89PNG")
        assert len((tmp_path / "per_class.csv").read_text().splitlines()) == 1 + config.data.synthetic.classes
        with np.load(tmp_path / "predictions.npz") as predictions:
            np.testing.assert_allclose(predictions["probabilities"].sum(-1), 1, rtol=1e-5)
    else:
        assert {f"{task}/{name}": value for name, value in report["metrics"].items()} == numbers
    if task == "visualize":
        listed = json.loads((tmp_path / "figures" / "figures.json").read_text())
        assert {entry["kind"] for entry in listed} == {"clip", "tokens", "embedding", "retrieval"} and numbers[
            "visualize/clips"
        ] == 2
        assert all((tmp_path / "figures" / entry["file"]).stat().st_size > 1000 for entry in listed)


def test_runlocal_is_a_command(tmp_path):
    done = run(*arguments(tmp_path, path("ssv2", "runlocal")))
    assert done.returncode == 0, done.stderr
    assert "learning rate 5e-05 = base_lr 0.0016 x batch 8 / 256" in done.stderr
    check_workdir(tmp_path, load(path("ssv2", "runlocal")))


@pytest.mark.parametrize(
    ("width", "heads"), [(512, 4), (384, 3), (192, 2), (320, 4), (576, 6), (640, 5), (128, 1), (130, 2), (64, 1), (48, 1)]
)
def test_fast_takes_the_widest_heads_up_to_128_that_divide_the_decoder(width, heads):
    assert variants.widest_heads(width) == heads and width % heads == 0


def test_fast_follows_the_smaller_decoder_of_runlocal():
    video = load(f"{CONFIGS / 'ssv2.py'}:fast,runlocal").video_branch
    assert (video.decoder.width, video.decoder.heads, video.decoder.share) == (32, 1, 0.5)


@pytest.mark.parametrize(("argument", "heads"), [("ssv2.py:fast", 4), ("k400.py:fast,parent=videomae", 3), ("motion.py:fast", 1)])
def test_fast_takes_wide_heads_and_half_of_the_masked_patches(argument, heads):
    """A decoder's width is 512, 384 in VideoMAE, 64 for motion; nothing else of the config changes."""
    c = load(f"{CONFIGS / argument}")
    video = c.video_branch
    assert (video.decoder.heads, video.decoder.share, video.mlp, c.image_branch.mlp) == (heads, 0.5, "gelu_tanh", "gelu")
    plain = flatten(load(f"{CONFIGS / argument.replace(':fast,', ':').replace(':fast', '')}"))
    changed = {name for name, value in flatten(c).items() if plain[name] != value}
    assert {name.rpartition(".")[2] for name in changed} == {"heads", "share", "mlp"}


@pytest.mark.parametrize("name", NAMES)
def test_stage_image_trains_the_image_branch_of_the_same_config(name):
    """What `init_from` compares stays as it is, and so does what it loads: every field of encoder and decoder."""
    config, plain = (load(path(name, argument)) for argument in ("stage=image", ""))
    validate(config)
    assert {term for term, weight in config.loss.items() if weight} == {"mse_image"}
    changed = {field for field, value in flatten(config).items() if flatten(plain)[field] != value}
    others = {"image_branch.mask.ratio", "image_branch.frames", "report.labelled", "monitor.clips"}
    assert {field for field in changed if not field.startswith("loss.")} <= others
    assert config.image_branch.mask.ratio == 0.75


@pytest.mark.parametrize("name", ["demo", "motion", "metaworld"])
def test_an_image_mae_reports_no_probe_of_the_video_encoder(name):
    assert load(path(name, "parent=mae")).report.labelled == 0
    validate(load(path(name, "parent=mae")))


def test_an_unknown_stage_is_refused_and_one_after_pretraining_too():
    with pytest.raises(ConfigError, match="did you mean 'image'"):
        load(path("metaworld", "stage=imag"))
    with pytest.raises(ConfigError, match="config argument stage=image is of task=pretrain, this is task=knn: leave it out"):
        load(path("metaworld", "task=knn,stage=image"))


@pytest.mark.parametrize("name", NAMES)
def test_exportable_runs_can_leave_to_transformers(name):
    """Of every parent too; nothing else of the config changes."""
    for argument in ("", "parent=mae_st", "parent=videomae", "task=finetune", "runlocal"):
        start = {"init_from": "untrained"} if argument.startswith("task") else {}
        config, plain = (fill_fields(load(path(name, f"{argument}{end}"), start))[0] for end in (",exportable", ""))
        validate(config)
        encoder = build_encoder(config, config.video_branch, video_grid(config))
        assert not export_notes(encoder)
        changed = {field for field, value in flatten(config).items() if flatten(plain)[field] != value}
        assert changed <= {"video_branch.positions", "video_branch.cls_token"}
        noted = export_notes(build_encoder(plain, plain.video_branch, video_grid(plain)))
        assert bool(noted) == bool(changed) and all("--config=FILE.py:exportable, sets both" in note for note in noted)


def test_fast_is_of_pretraining():
    with pytest.raises(ConfigError, match="config argument fast=True is of task=pretrain, this is task=knn: leave it out"):
        load(f"{CONFIGS / 'ssv2.py'}:task=knn,fast")
