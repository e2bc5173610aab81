"""Pre-training on a mixture: the clips and the loss of each source, and configs that are refused."""

import ml_collections
import numpy as np
import pytest

import cvmae
from cvmae.config import ConfigError, load
from cvmae.tasks.validate import validate
from tests.commands import ROOT, metric_lines
from tests.tiny_configs import PLAIN, downstream

FEWER = PLAIN | {"eval_every": "0_steps", "log_every": "1_steps", "total": "6_steps"}


def config(mixture="a:1,b:3", own=None, **fields):
    changes = {name.replace("__", "."): value for name, value in (FEWER | fields).items()}
    c = load(f"{ROOT / 'configs/ssv2.py'}:runlocal", changes).unlock()
    c.data.mixture = mixture
    c.data.sources = ml_collections.ConfigDict(own or {"a": {}, "b": {"split": "other", "synthetic": {"clips": 24}}})
    return c.lock()


def test_clips_and_loss_of_each_source_and_a_change_at_a_restart(tmp_path):
    cvmae.run(config(), tmp_path / "whole")
    lines = [line for line in metric_lines(tmp_path / "whole") if "loss" in line]
    assert [(line["clips/a"], line["clips/b"]) for line in lines] == [(2 * step, 6 * step) for step in range(1, 7)]
    for line in lines:  # two clips of a and six of b in each batch of 8
        assert np.isclose((2 * line["loss/a"] + 6 * line["loss/b"]) / 8, line["loss"], rtol=1e-5)
    assert any(abs(line["loss/a"] - line["loss/b"]) > 1e-4 for line in lines)
    with pytest.raises(
        ConfigError, match=r"the sources of the mixture or their weights \(they were a:1/4,b:3/4, now a:1/2,b:1/2\)"
    ):
        cvmae.run(config("a:1,b:1", total="8_steps"), tmp_path / "whole")
    with pytest.raises(ConfigError, match=r"made with clips=88, this run has 152; .*now a:1/5,b:3/5,c:1/5"):
        own = {"a": {}, "b": {"split": "other", "synthetic": {"clips": 24}}, "c": {"split": "third"}}
        cvmae.run(config("a:1,b:3,c:1", own, total="8_steps"), tmp_path / "whole")
    cvmae.run(config("a:1,b:1", total="8_steps", data__allow_change=True), tmp_path / "whole")
    last = [line for line in metric_lines(tmp_path / "whole") if "loss" in line][-1]
    assert (last["clips/a"], last["clips/b"]) == (6 * 2 + 2 * 4, 6 * 6 + 2 * 4)  # those of before, and those of the new weights


REFUSED = [
    (config(report__labelled=8), "class numbers of several sources mean different classes; set --config.report.labelled=0"),
    (config("mse_video:1", {"mse_video": {}}), "'mse_video' is the name of a loss term"),
    (
        config("a:1", {"a": {"manifest": "x.csv"}}),
        "config.data.sources.a.manifest='x.csv' is not read with config.data.sources.a.source",
    ),
    (config("a:1", {"a": {"stride": 0}}), "stride"),
    (config("a:1", {"a": {"fit": "squash"}}), "config.data.sources.a.fit='squash' cannot be used: it must be one of crop"),
    (config("a:1,c:1"), "'c' has no section data.sources.c"),
]


@pytest.mark.parametrize("c, message", REFUSED, ids=[message[:30] for _, message in REFUSED])
def test_what_does_not_go_with_a_mixture_is_refused(c, message):
    with pytest.raises(ConfigError) as refused:
        validate(c)
    assert message in str(refused.value) and "\n" not in str(refused.value)


def test_other_tasks_have_one_source():
    c = downstream("linear", init_from="untrained").unlock()
    c.data.mixture, c.data.sources = "a:1", ml_collections.ConfigDict({"a": {}})
    with pytest.raises(ConfigError, match="config.data.mixture='a:1' is for pre-training, task='linear' has one source"):
        validate(c)


def test_a_contrastive_batch_holds_no_clip_twice(tmp_path):
    c = config("a:1,b:3", {"a": {}, "b": {"synthetic": {"clips": 5}}}, loss__intra_video=1.0)
    with pytest.raises(ConfigError, match="b has 5 clips, and a batch of 8 takes 6 of it: a clip would be its own negative"):
        cvmae.run(c, tmp_path / "run")


def test_the_argument_sources_makes_sections_that_flags_can_set():
    path = f"{ROOT / 'configs/ssv2.py'}:sources=ssv2+k400,runlocal"
    fields = {"data.mixture": "ssv2:1.0,k400:2.0", "data.sources.k400.stride": 2, "data.sources.k400.synthetic.clips": 32}
    c = load(path, fields)
    validate(c)
    assert load(path).data.mixture == "ssv2:1,k400:1"
    with pytest.raises(TypeError):
        load(path, {"data.sources.k400.stride": "two"})
    with pytest.raises(ConfigError, match="data.sources.k400.strde does not exist"):
        load(path, {"data.sources.k400.strde": 2})
