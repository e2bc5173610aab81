"""The fields of a config and their types: a config file can set any name to any value, and flags can set config.task."""

import fnmatch
import json
import tarfile

import ml_collections
import pytest

from cvmae import run
from cvmae.config import ConfigError, flatten, load
from cvmae.performance.traced_step import check_task
from cvmae.tasks import TASKS
from cvmae.tasks.model_fields import fill_fields
from cvmae.tasks.schema import ADDED, check_schema
from cvmae.tasks.validate import validate
from tests.legacy.test_legacy import HERE as LEGACY
from tests.tiny_configs import CONFIGS, config, downstream

NAN, INF, DELETED = float("nan"), float("inf"), object()


def edited(made="pretrain", /, **fields):
    """A config after a config file set `fields` in it, whatever they are, or deleted them."""
    c = (config() if made == "pretrain" else downstream(made)).unlock()
    for name, value in fields.items():
        *sections, last = name.split("__")
        node = c
        for section in sections:
            node = node[section]
        if last in node:
            del node[last]
        if value is not DELETED:
            node[last] = value
    return c.lock()


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"optimizer__base_ler": 1.0}, "config.optimizer has no field 'base_ler'; did you mean 'base_lr'"),
        ({"data__strid": 7}, "config.data has no field 'strid'; did you mean 'stride'"),
        ({"video_branch__mask__ration": 0.9}, "config.video_branch.mask has no field 'ration'; did you mean 'ratio'"),
        ({"foo": 1}, "config has no field 'foo'; known: accumulate"),
        ({"loss__intra_vidoe": 1.0}, "config.loss.intra_vidoe is no loss term: did you mean 'intra_video'"),
        ({"loss_warmup__intra_vidoe": "1_steps"}, "config.loss_warmup.intra_vidoe is no loss term"),
        ({"optimizer__b1": DELETED}, "config.optimizer has no field 'b1', which config.task='pretrain' needs: set it"),
        ({"loss__mse_video": DELETED}, "config.loss has no field 'mse_video', .* set it to 0 to leave the term out"),
        ({"data": DELETED}, "config has no section 'data'"),
        ({"data": None}, "config.data=None cannot be used: it is a section, with the fields allow_change, "),
        ({"optimizer": {"b1": 1}}, "config.optimizer has no field 'b2'"),
        ({"seed": {"a": 1}}, "config.seed has no field 'a'; it is a value, 0"),
    ],
)
def test_a_field_that_is_misspelled_or_missing_is_named(fields, message, tmp_path):
    for check in (check_schema, check_task, validate, lambda c: run(c, tmp_path / "run")):
        with pytest.raises(ConfigError, match=message):
            check(edited(**fields))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("made", "said", "message"),
    [
        (
            "pretrain",
            "linear",
            "config has no section 'probe', which config.task='linear' needs: .* by the config's argument, task=linear",
        ),
        ("linear", "pretrain", "config has no section .*, which config.task='pretrain' needs"),
        ("linear", "attentive", "config.probe has no field 'blocks', which config.task='attentive' needs"),
        ("extract", "knn", "config has no section 'features', which config.task='knn' needs"),
        ("knn", "retrieval", r"config has no field 'knn'; known: .* \(fields of task=retrieval\)"),
        ("pretrain", "ablate", "config has no section 'pretrain', which config.task='ablate' needs"),
        ("linear", "lienar", "config.task='lienar' cannot be used: did you mean 'linear'"),
        ("linear", None, "config.task=None cannot be used: known: ablate"),
    ],
)
def test_a_config_of_another_task_is_refused(made, said, message, tmp_path):
    with pytest.raises(ConfigError, match=message):
        run(edited(made, task=said), tmp_path / "run")


@pytest.mark.parametrize("value", [5, None, {"task": "pretrain"}])
def test_what_is_no_config_is_refused(value, tmp_path):
    with pytest.raises(ConfigError, match="config is .*: expected an ml_collections.ConfigDict"):
        run(value, tmp_path / "run")
    file = tmp_path / "mine.py"
    file.write_text(f"def get_config(arg=None):\n    return {value!r}\n")
    with pytest.raises(ConfigError, match="mine.py: get_config returned .*; expected an ml_collections.ConfigDict"):
        load(str(file))


@pytest.mark.parametrize(
    ("task", "field", "values", "expected"),
    [
        ("linear", "probe__rates", [(NAN,), (INF,), ("a",), ((0.1,),), (None,), (True,), "a", 1.0], "finite numbers: one number or more"),
        ("linear", "probe__weight_decays", [(NAN,), (None,)], "finite numbers: one number or more, each at least 0"),
        ("attentive", "probe__layers", [(1.5,), ("a",), (True,)], "whole numbers"),
        ("knn", "knn__neighbours", [(NAN,), ("a",), (1.5,), (None,)], "whole numbers: one number or more, each at least 1"),
        ("visualize", "visualize__records", [(1.5,), ("a",)], "whole numbers: record numbers"),
        ("visualize", "visualize__formats", [(1,), "png"], "texts: one or more of"),
        ("visualize", "visualize__position", [(0.5, 0.5, NAN), (0.5, 0.5, None)], "finite numbers: "),
        ("pretrain", "augment__size", [(32.0, 32), [32.0, 32.0], 32], "whole numbers: .height, width., each from 1 to 4096"),
        ("pretrain", "data__frame_size", [(10**6, 40), (0, 40), (32,), ()], ".height, width., each from 1 to 4096"),
        ("pretrain", "data__frame_size", [(40.0, 40), ("a", "b")], "whole numbers: .height, width., each from 1 to 4096"),
        ("pretrain", "augment__scale", [("a", "b"), None, 0.5], "finite numbers: .low, high."),
        ("pretrain", "video_branch__variant", [None, 16], "a text"),
        ("pretrain", "data__manifest", [None, 5], "a text"),
        ("pretrain", "data__manifest", ["foo://x", "file:///x", "HTTP://h/x"], "a path of this machine, or one with gs://, s3://, hf://"),
        ("pretrain", "data__webdataset__shards", ["foo://x"], "a path of this machine"),
        ("pretrain", "data__hf__path", ["foo://x"], "a path of this machine"),
        ("pretrain", "cooldown__init_from", ["foo://x"], "a path of this machine"),
        ("pretrain", "image_branch__init_from", ["foo://x"], "a path of this machine"),
        ("pretrain", "video_branch__teacher__init_from", ["foo://x"], "a path of this machine"),
        ("linear", "init_from", ["foo://x"], "a path of this machine"),
        ("visualize", "visualize__image_from", ["foo://x"], "a path of this machine"),
        ("pretrain", "data__cache_dir", ["gs://bucket/x", "foo://x"], "a folder on a disk of this machine"),
        ("pretrain", "data__motion__cache_dir", ["gs://bucket/x"], "a folder on a disk of this machine"),
        ("pretrain", "compilation_cache", ["foo://x", "hf://a/b"], "auto, a folder of this machine or with gs:// or s3://"),
        ("pretrain", "seed", [True, 1.0, "0"], "a whole number: from 0 to"),
        ("pretrain", "scan", [1, None, "yes"], "True or False"),
        ("pretrain", "optimizer__base_lr", [INF, NAN, True, "1e-3", 10**400], "a finite number: above 0"),
        ("pretrain", "loss__mse_video", [INF, True, None], "a finite number: at least 0"),
        ("finetune", "augment__mix__mixup", [INF], "a finite number: at least 0"),
        ("pretrain", "data__timeout_s", [INF], "a finite number: above 0"),
        ("extract", "data__fps", [INF], "a finite number: from 0 to 1000"),
        ("extract", "data__fps", [1e9], "from 0 to 1000"),
        ("pretrain", "video_branch__teacher__tubelet", [2.5, "a"], "a whole number"),
    ],
)  # fmt: skip
def test_a_value_of_another_type_or_size_is_refused(task, field, values, expected):
    for value in values:
        with pytest.raises(ConfigError, match=f"config.{field.replace('__', '.')}=.* cannot be used: it must be {expected}"):
            validate(edited(task, **{field: value}))


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("loss_warmup__mse_video", "200_percent", "is longer than the run: give 100_percent or less"),
        ("optimizer__warmup", "101_percent", "is longer than the run"),
        ("total", "99999999999999999999_steps", "is too long: a run has at most 2147483647 steps"),
        ("total", f"{'9' * 400}_epochs", "is too long"),
        ("log_every", "99999999999999999999_steps", "is too long"),
    ],
)
def test_a_duration_that_no_run_has_is_refused(field, value, message):
    with pytest.raises(ConfigError, match=f"config.{field.replace('__', '.')}='.*{message}"):
        validate(edited(**{field: value}))


def test_fields_of_a_source_of_a_mixture_have_the_types_of_those_of_data():
    c = load(f"{CONFIGS / 'ssv2.py'}:sources=a+b,runlocal", {"report.labelled": 0})
    validate(c)
    with pytest.raises(ConfigError, match="config.data.sources.a.fps=inf cannot be used: it must be a finite number"):
        c.data.sources.a.fps = INF
        validate(c)


def test_a_rate_that_only_a_cooldown_leaves_open_is_named_in_other_runs():
    with pytest.raises(ConfigError, match="without one, config.optimizer.base_lr cannot be None"):
        fill_fields(edited(optimizer__base_lr=None))


@pytest.mark.parametrize("task", [task for task in TASKS if task != "ablate"])
def test_configs_of_the_first_version_are_read(task, tmp_path):
    """What ADDED lists is what their config.json lacks, which no other field may."""
    with tarfile.open(LEGACY / "legacy.tar.xz") as archive:
        recorded = json.load(archive.extractfile(f"{task}/config.json"))
    check_schema(ml_collections.ConfigDict(recorded))
    lacking = ml_collections.ConfigDict(recorded).unlock()
    del lacking.dtype
    with pytest.raises(ConfigError, match="config has no field 'dtype'"):
        check_schema(lacking)


def test_every_pattern_of_added_fields_is_of_a_field_that_first_configs_lack():
    lacked = set()
    with tarfile.open(LEGACY / "legacy.tar.xz") as archive:
        for task in (task for task in TASKS if task != "ablate"):
            recorded = flatten(json.load(archive.extractfile(f"{task}/config.json")))
            lacked |= flatten(downstream(task)).keys() - recorded.keys()
    assert [pattern for pattern in ADDED if not fnmatch.filter(lacked, pattern)] == []


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ("c.study.sedes = (0,)", "config.study has no field 'sedes'; did you mean 'seeds'"),
        ("c.foo = 1", "config has no field 'foo'; known: pretrain, study, task"),
        ("del c.study.measures", "config.study has no field 'measures'"),
        ("c.pretrain = None", "config.pretrain=None cannot be used: it is a section"),
        ("c.pretrain.data.strid = 7", "config.data has no field 'strid'; did you mean 'stride'"),
    ],
)
def test_fields_of_a_study_and_its_runs_are_compared_too(changes, message, tmp_path):
    file = tmp_path / "mine.py"
    lines = (
        "from cvmae.configs import ablate",
        "def get_config(arg=None):",
        "    c = ablate.get_config(arg)",
        f"    {changes}",
        "    return c",
    )
    file.write_text("\n".join(lines))
    with pytest.raises(ConfigError, match=message):
        run(load(f"{file}:study=masking,base=ssv2,runlocal"), tmp_path / "run")
    assert not (tmp_path / "run").exists()
