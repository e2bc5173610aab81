"""The comments that --print_config prints: each field's own, of the line that set its value."""

import ml_collections
import pytest

from cvmae.config import flatten, load
from cvmae.config_comments import field_comments

UNCOMMENTED = {"study.name", "study.base"}  # parts of the config's argument, explained in its docstring

STILL_AND_MOTION = ("imagenet", "diving48", "jester")


@pytest.mark.parametrize(
    "config", ["demo", "motion", "metaworld", "ssv2", "k400", "ucf101", "hmdb51", *STILL_AND_MOTION, "ablate:study=masking"]
)
def test_every_field_has_a_comment(config):
    tasks = (
        ["pretrain"]
        if config.startswith("ablate")
        else ["pretrain", "finetune", "linear", "attentive", "knn", "extract", "visualize"]
    )
    for task in tasks:
        path = config if ":" in config else f"{config}:task={task}"
        loaded = load(path)
        comments = field_comments(path, loaded)
        fields = {name for name, value in flatten(loaded).items() if value is not None}
        assert sorted(name for name in fields - UNCOMMENTED if not comments.get(name)) == []


def test_a_field_has_the_comment_of_its_own_section_and_of_the_line_that_set_it_last(tmp_path):
    file = tmp_path / "mine.py"
    file.write_text(
        "from cvmae.configs import common\n"
        "\n"
        "\n"
        "def get_config(arg=None):\n"
        "    c = common.base()\n"
        "    # Smaller: two machines\n"
        "    # of eight devices\n"
        "    c.batch_size = 64\n"
        "    c.contrast.update({\n"
        '        "temperature": 0.2,  # softer, with "#" in text\n'
        '        "width": 128,\n'
        "    })\n"
        "    c.data.num_frames = 8\n"
        '    for name in ("split", "eval_split"):\n'
        "        c.data[name] = 'all'  # one split\n"
        "    return c\n"
    )
    config = load(str(file))
    with config.unlocked():
        config.optimizer.clip_norm = 1.0  # a flag
    comments = field_comments(str(file), config)
    assert comments["batch_size"] == "Smaller: two machines of eight devices"
    assert comments["contrast.temperature"] == 'softer, with "#" in text'
    assert comments["data.split"] == comments["data.eval_split"] == "one split"
    # A value of another source: the clauses that name the old one are left out.
    assert comments["data.num_frames"].startswith("frames of a clip") and "[" not in comments["data.num_frames"]
    assert comments["optimizer.clip_norm"] == "largest norm of the gradients; 0 for no gradient clipping"
    assert "[mae_st]" in comments["optimizer.base_lr"] and "learning rate" in comments["optimizer.base_lr"]
    assert comments["video_branch.decoder.width"] != comments["contrast.width"]


def test_configs_are_as_before_once_their_comments_were_found():
    usual = ml_collections.ConfigDict.__setitem__
    field_comments("demo", load("demo"))
    assert ml_collections.ConfigDict.__setitem__ is usual
