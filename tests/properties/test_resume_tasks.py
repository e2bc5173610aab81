"""Every task that learns from labels gives, interrupted and started again, the bits of a run that was not."""

import json

import numpy as np
import pytest

from cvmae.config import ConfigError
from cvmae.tasks import run as train
from cvmae.training.metric_writer import MetricsWriter
from tests.commands import assert_same_state, checkpoint_steps, metric_lines, saved_state, without_times
from tests.tiny_configs import downstream

FIELDS = {
    "finetune": {"augment__rand_augment__layers": 1, "optimizer__ema_decay": 0.5, "head__dropout": 0.2},
    "linear": {},
    "attentive": {"probe__blocks": 1, "probe__heads": 2, "probe__rates": (1e-2, 1e-3), "probe__weight_decays": (0.1,)}
    | {"probe__clips": 2, "test__clips": 2, "data__clip_sampling": "random", "optimizer__ema_decay": 0.5},
}


class Interrupted(Exception):
    pass


def interrupt(monkeypatch, step: int):
    """Ends the run once the metrics of a step are on disk."""
    write = MetricsWriter.write

    def written(self, at, values):
        write(self, at, values)
        if at == step:
            raise Interrupted

    monkeypatch.setattr(MetricsWriter, "write", written)


@pytest.mark.slow
@pytest.mark.parametrize("task", ["finetune", "linear", "attentive"])
def test_it_ends_in_the_same_bits(task, tmp_path, monkeypatch):
    config = downstream(task, **{"eval_every": "4_steps", "test__clips": 1, "test__crops": 1} | FIELDS[task])
    whole, pieces = tmp_path / "whole", tmp_path / "pieces"
    numbers = train(config, str(whole))
    with monkeypatch.context() as patched:
        interrupt(patched, 5)
        with pytest.raises(Interrupted):
            train(config, str(pieces))
    assert max(checkpoint_steps(pieces)) == 4 and not (pieces / "report.json").exists()
    assert without_times(train(config, str(pieces))) == without_times(numbers)
    assert_same_state(saved_state(whole, 8), saved_state(pieces, 8))
    assert metric_lines(whole) == metric_lines(pieces)
    assert json.loads((whole / "report.json").read_text()) == json.loads((pieces / "report.json").read_text())
    one, two = (dict(np.load(folder / "predictions.npz")) for folder in (whole, pieces))
    assert one.keys() == two.keys() and all(np.array_equal(one[name], two[name]) for name in one)
    assert (whole / "per_class.csv").read_text() == (pieces / "per_class.csv").read_text()
    with pytest.raises(ConfigError, match="the checkpoint was made with task="):
        train(downstream("linear" if task == "finetune" else "finetune"), str(pieces))
