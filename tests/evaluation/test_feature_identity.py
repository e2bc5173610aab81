"""Features of other weights or data are refused by the names that a person gave, not by hashes."""

import json

import pytest

from cvmae.config import ConfigError
from cvmae.evaluation.feature_identity import IDENTITY, open_cache
from tests.tiny_configs import downstream

THERE = {"parameters": "89ab", "source": "cdef"}


def config(**fields):
    return downstream("knn", data__manifest="old/list.csv", data__root="/videos", **fields)


def refusal(folder, identity, c):
    with pytest.raises(ConfigError, match="holds features of something else: ") as refused:
        open_cache(folder, THERE | identity, config=c)
    message = str(refused.value)
    assert "89ab" not in message and "cdef" not in message and "0123" not in message
    return message.partition("something else: ")[2].partition(". Give another --workdir")[0]


def test_names_of_weights_and_data_are_told(tmp_path):
    assert open_cache(tmp_path, THERE, {"shard_rows": 3}, config(init_from="runs/a")) == {"shard_rows": 3}
    weights, videos = "the weights, of config.init_from 'runs/a' and not 'runs/b'", "the videos or their labels"
    other, moved = config(init_from="runs/b"), config(init_from="runs/b", data__workers=5)
    assert refusal(tmp_path, {"parameters": "0123"}, other) == weights
    moved.data.manifest, moved.data.root = "new/list.csv", ""
    changes = f"{videos}, of config.data.manifest 'old/list.csv' and not 'new/list.csv', config.data.root '/videos' and not ''"
    assert refusal(tmp_path, {"parameters": "0123", "source": "0123"}, moved) == f"{weights}; {changes}"
    same = config(init_from="runs/a")
    assert refusal(tmp_path, {"parameters": "0123"}, same) == "the weights, which are others now in config.init_from 'runs/a'"
    assert refusal(tmp_path, {"source": "0123"}, same) == f"{videos}, which are others now in config.data.manifest 'old/list.csv'"


def test_caches_without_names_and_with_strange_ones_are_refused_too(tmp_path):
    open_cache(tmp_path, THERE, config=config(init_from="runs/a"))
    for strange in ({}, {"config": 3}, {"config": {"init_from": ["x"]}}):
        (tmp_path / IDENTITY).write_text(json.dumps({"identity": THERE, "layout": {}} | strange))
        assert open_cache(tmp_path, THERE, config=config(init_from="runs/b")) == {}
        assert refusal(tmp_path, {"parameters": "0123"}, config(init_from="runs/b")).startswith("the weights, ")


def test_a_setting_that_a_cache_does_not_hold_is_told_by_the_value_that_it_had(tmp_path):
    open_cache(tmp_path, THERE | {"encoder": {"eps": 1e-6}, "clips": {"square_pixels": True}})
    changes = {"encoder": {"eps": 1e-6, "registers": 4, "mlp": "swiglu"}, "clips": {}}
    told = refusal(tmp_path, changes, config())
    assert set(told.split("; ")) == {
        "clips.square_pixels True and not False",
        "encoder.registers 0 and not 4",
        "encoder.mlp gelu and not swiglu",
    }
