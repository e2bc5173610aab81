"""The table of checks: it covers every field, and nothing that is not a field."""

import fnmatch
import types

import pytest

from cvmae.config import ConfigError, flatten
from cvmae.tasks import TASKS
from cvmae.tasks.fields import CHECKS, DURATIONS, check_field, check_of
from cvmae.tasks.validate import batch_unit, validate
from tests.tiny_configs import config, downstream


def all_fields() -> list[str]:
    """The fields of the configs of all tasks."""
    every = [downstream(task) for task in TASKS if task != "ablate"]
    return sorted({field for c in every for field in flatten(c)})


def test_every_field_has_a_check():
    assert [field for field in all_fields() if check_of(field) is None] == []


def test_every_check_has_a_field():
    known = all_fields()
    assert [pattern for pattern in (*CHECKS, *DURATIONS) if not fnmatch.filter(known, pattern)] == []


def test_no_check_is_hidden_by_an_earlier_one():
    first = {next(pattern for pattern in CHECKS if fnmatch.fnmatchcase(field, pattern)) for field in all_fields()}
    assert first == set(CHECKS)


def test_a_field_without_a_check_is_refused():
    with pytest.raises(ConfigError, match="config.novel=1 cannot be used: it must be known to .*CHECKS"):
        check_field("novel", 1)


def test_what_only_an_inactive_branch_would_refuse_is_let_be():
    alone = ("mse_video",)
    validate(config(alone, image_branch__variant="test/12"))
    with pytest.raises(ConfigError, match="config.augment.size"):
        validate(config(image_branch__variant="test/12"))


def test_the_batch_is_allowed_to_be_without_negatives_where_nothing_is_contrasted():
    validate(config(("mse_video", "mse_image"), batch_size=4, accumulate=4))


def test_a_batch_is_spread_over_data_and_fsdp_alone():
    mesh = types.SimpleNamespace(shape={"data": 2, "fsdp": 3, "model": 4})
    assert batch_unit(config(accumulate=5), mesh) == 30


def test_nothing_is_learned_from_a_folder_without_a_manifest(tmp_path):
    folder = {"data__source": "files", "data__manifest": str(tmp_path)}
    for task in ("extract", "visualize"):
        validate(downstream(task, **folder))
    for learns in (config(**folder), downstream("linear", **folder)):
        with pytest.raises(ConfigError, match="is a folder, which has neither splits nor labels to learn from: make a manifest"):
            validate(learns)
