"""Lines at the start of a run, each where it matters and not elsewhere."""

import ml_collections
import pytest

from cvmae.config import ConfigError
from cvmae.tasks import run
from cvmae.tasks.notes import check_clips, frozen_notes, training_notes
from cvmae.training.run_schedule import Schedule
from tests.tiny_configs import config, downstream, make_task


def test_a_batch_that_would_hold_a_clip_twice_is_refused_where_clips_are_negatives(tmp_path):
    c = config(data__synthetic__clips=6)
    with pytest.raises(ConfigError, match="has 6 clips, fewer than config.batch_size=8: .*its own negative"):
        run(c, tmp_path)
    assert not list(tmp_path.iterdir())
    check_clips(config(), 8)
    check_clips(config(("mse_video",)), 6)
    check_clips(downstream("finetune"), 6)


def test_settings_that_work_and_are_rarely_meant_are_noted():
    quiet = config()
    assert training_notes(quiet, Schedule(100), "cpu") == [] == frozen_notes(downstream("knn"), {"split": range(500)}, "cpu")
    loud = config(dtype="bfloat16", optimizer__warmup="9_steps", data__frame_size=(24, 40), data__source="manifest")
    slow, enlarged, warmup = training_notes(loud, Schedule(9), "cpu")
    assert "bfloat16 is slower" in slow and "clips are enlarged" in enlarged and "9 steps, all of the run" in warmup
    assert not any("bfloat16" in note for note in training_notes(loud, Schedule(9), "tpu"))
    assert training_notes(config(optimizer__warmup="9_steps"), Schedule(9), "cpu") == []  # a trial run on generated videos
    [votes] = frozen_notes(downstream("knn", knn__neighbours=(3, 20)), {"split": range(8)}, "cpu")
    assert "neighbours=20: the gallery has 8 clips" in votes


def test_a_cooldown_that_its_schedule_does_not_read_is_noted():
    for schedule in ("cosine", "constant"):
        fields = {"optimizer__schedule": schedule, "optimizer__cooldown": "50_percent", "optimizer__cooldown_shape": "1-sqrt"}
        [note] = training_notes(config(**fields), Schedule(100), "cpu")
        assert (
            f"config.optimizer.cooldown=50_percent and config.optimizer.cooldown_shape=1-sqrt: not read with schedule={schedule}"
            in note
        )
    assert training_notes(config(**fields | {"optimizer__schedule": "wsd"}), Schedule(100), "cpu") == []
    assert training_notes(config(optimizer__schedule="cosine"), Schedule(100), "cpu") == []


def test_a_batch_above_the_clips_is_noted():
    probe = downstream("linear", data__source="files", batch_size=512)
    [note] = training_notes(probe, Schedule(3, steps_per_epoch=6 / 512), "cpu")
    assert (
        "batch_size=512 is more than the 6 clips of config.data.split='train'" in note
        and "is 3 steps; take --config.batch_size=6" in note
    )
    assert training_notes(probe, Schedule(3, steps_per_epoch=1.0), "cpu") == []
    assert (
        training_notes(downstream("linear", batch_size=512), Schedule(3, steps_per_epoch=0.5), "cpu") == []
    )  # on generated videos


@pytest.mark.parametrize(
    "own, expected", [({"a": {"source": "files", "manifest": "a.csv"}, "b": {}}, 3), ({"a": {}, "b": {}}, 0)]
)
def test_a_mixture_is_a_trial_run_where_all_its_sources_are(own, expected):
    c = config(optimizer__warmup="9_steps", video_branch__train="last:1", batch_size=512).unlock()
    c.data.mixture, c.data.sources = "a:1,b:1", ml_collections.ConfigDict(own)
    notes = training_notes(c.lock(), Schedule(9, steps_per_epoch=6 / 512), "cpu")
    assert len(notes) == expected
    if expected:
        clips, warmup, frozen = notes
        assert "the 6 clips of an epoch of config.data.mixture='a:1,b:1'" in clips and "never reaches its peak" in warmup
        assert "last:1 freezes random weights" in frozen


def test_an_encoder_that_transformers_cannot_express_is_noted():
    [note] = make_task(config()).first_notes()
    assert "hf-videomae" in note and "video_branch.cls_token=False" in note and "video_branch.positions=sincos1d" in note
    videomae = {"video_branch__cls_token": False, "video_branch__positions": "sincos1d", "video_branch__decoder__cls": "none"}
    assert make_task(config(("mse_video",), **videomae)).first_notes() == []
    assert make_task(config(("mse_image",))).first_notes() == []


def test_a_run_without_videos_says_nothing_of_the_video_encoder():
    c = config(("mse_image",), video_branch__train="last:1", data__source="files")
    assert training_notes(c, Schedule(100), "cpu") == []
    assert not any("video" in line for line in make_task(config(("mse_image",), video_branch__train="last:1")).describe())
