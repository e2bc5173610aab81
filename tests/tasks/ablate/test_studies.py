"""`configs/ablate.py`: every study changes what it says, on every base, and nothing else; what is wrong is refused."""

import json

import pytest

from configs.ablate import BASES, STUDIES, TERMS
from cvmae.config import ConfigError, flatten, load
from cvmae.tasks.ablate.study import runs_of
from tests.tasks.ablate.fake_study import pairs, study
from tests.tiny_configs import CONFIGS

ABLATE = str(CONFIGS / "ablate.py")
AXES = {
    "masking": {"video_branch.mask.ratio", "video_branch.mask.kind", "image_branch.mask.ratio"},
    "frames": {"image_branch.frames", "image_branch.frame_sampling"},
    "objectives": {f"loss.{term}" for term in TERMS} | {"contrast.time_reversed_negatives"},
    "negatives": {"contrast.time_reversed_negatives", "video_branch.mask.ratio"},
    "decoder": {"video_branch.decoder.depth", "image_branch.decoder.depth"},
    "views": {f"augment.{name}" for name in ("scale", "ratio", "plus_scale", "plus_ratio", "color_probability")}
    | {f"augment.{name}" for name in ("brightness", "contrast", "saturation")}
    | {"image_branch.crop"},
    "first_view": {f"augment.{name}" for name in ("brightness", "contrast", "saturation", "hue", "grayscale", "first_view")},
}


def plain(config) -> dict:
    return flatten(json.loads(config.to_json_best_effort()))


def test_the_promised_studies_are_there():
    assert set(STUDIES) == set(AXES)


@pytest.mark.parametrize("base", BASES)
@pytest.mark.parametrize("name", AXES)
def test_every_variant_is_a_valid_config_that_differs_on_the_axis_alone(name, base, tmp_path):
    config = load(f"{ABLATE}:study={name},base={base}")
    runs = runs_of(config, tmp_path)
    variants = len(config.study.variants)
    assert 4 <= variants <= 9 and len(runs) == 3 * variants and not list(tmp_path.iterdir())
    assert [run.seed for run in runs[::variants]] == [0, 1, 2]
    seen, together, base_fields = {}, set(), plain(config.pretrain)
    for run in runs[:variants]:
        found = plain(run.config)
        changed = {field for field in found if found[field] != base_fields[field]}
        assert changed <= AXES[name] | {"report.untrained"}, run.name
        together |= changed
        seen[run.name] = {field: found[field] for field in AXES[name]}
    assert len({json.dumps(values, sort_keys=True) for values in seen.values()}) == variants, "two variants are the same"
    assert base != "demo" or together >= AXES[name]


def test_seeds_are_the_outer_loop_and_only_the_first_variant_looks_at_the_untrained_encoder(tmp_path):
    runs = runs_of(pairs(), tmp_path)
    assert [run.name for run in runs] == ["low-seed0", "high-seed0", "low-seed1", "high-seed1"]
    assert [run.config.seed for run in runs] == [0, 0, 1, 1]
    assert [run.config.report.untrained for run in runs] == [True, False, True, False]
    assert [run.folder for run in runs] == [tmp_path / run.name for run in runs]


def test_objectives_name_their_terms(tmp_path):
    config = load(f"{ABLATE}:study=objectives")
    active = {
        run.variant: {term for term in TERMS if run.config.loss[term]} for run in runs_of(config, tmp_path) if run.seed == 0
    }
    assert active["mse"] == {"mse_video"} and active["all"] == set(TERMS)
    assert active["contrast"] == {"intra_video", "intra_frame", "cross_video", "cross_frame"}
    assert active["mse+cross"] == {"mse_video", "mse_image", "cross_video", "cross_frame"}
    assert active["mse+intra"] == {"mse_video", "mse_image", "intra_video", "intra_frame"}
    for term in ("intra_video", "intra_frame", "cross_video", "cross_frame"):
        assert active[term] == {term}


def test_the_base_takes_its_own_arguments():
    config = load(f"{ABLATE}:study=frames,base=motion,size=full,variant=Ti/8", {"pretrain.total": "7_steps"})
    assert config.pretrain.data.motion.size == "full" and config.pretrain.image_branch.variant == "Ti/8"
    assert config.pretrain.total == "7_steps" and config.study.base == "motion"


@pytest.mark.parametrize(
    "argument, message",
    [
        ("", "study='' is unknown: known: decoder, first_view, frames"),
        ("study=maskin", "did you mean 'masking'"),
        ("study=masking,base=ssv3", "did you mean 'ssv2'"),
        ("study=masking,varient=B/16", "did you mean 'variant'"),
        ("study=masking,task=finetune", "leave task out"),
    ],
)
def test_a_wrong_argument_is_refused(argument, message):
    with pytest.raises(ConfigError, match=message):
        load(f"{ABLATE}:{argument}")


WRONG = [
    (
        {"study__variants": (("a", {"video_branch.mask.ration": 0.5}),)},
        "variant 'a', field 'video_branch.mask.ration': .*'ratio'",
    ),
    ({"study__variants": (("a", {"batch_size": "many"}),)}, "variant 'a', field 'batch_size'"),
    ({"study__variants": (("a", {"video_branch.mask.ratio": 1.5}),)}, "variant 'a': config.video_branch.mask.ratio=1.5"),
    ({"study__variants": (("a", {}), ("a", {}))}, "config.study.variants: a is there twice"),
    ({"study__variants": (("a/b", {}),)}, "'a/b' is to be a folder's name"),
    ({"study__variants": ("a",)}, "expected pairs"),
    ({"study__variants": ()}, "a variant and a seed at least"),
    ({"study__seeds": ()}, "a variant and a seed at least"),
    ({"study__seeds": (1, 1)}, "config.study.seeds: 1 is there twice"),
    ({"study__seeds": ("a",)}, "expected whole numbers"),
    ({"study__measures": ("probe/acuracy",)}, "did you mean 'probe/accuracy'"),
    ({"pretrain__report__labelled": 0}, "config.pretrain.report.labelled=0"),
]


@pytest.mark.parametrize("overrides, message", WRONG, ids=[message for _, message in WRONG])
def test_a_study_that_cannot_run_is_refused(overrides, message, tmp_path):
    with pytest.raises(ConfigError, match=message):
        runs_of(study(**overrides), tmp_path)
