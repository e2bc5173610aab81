"""Encoders of sizes that no variant has: refused by tasks with a way out, and that way goes."""

import re

import numpy as np
import pytest

import cvmae
from cvmae.config import ConfigError, load
from cvmae.interop.key_maps.siglip import HF_SIGLIP
from cvmae.models.patches import Grid
from cvmae.models.vit import VIT_SIZES, Encoder, TransformerConfig, ViTSize
from cvmae.tasks.model_fields import fill_fields
from tests.interop.encoder_folders import write
from tests.interop.models import random_params
from tests.tiny_configs import CONFIGS, config, make_task

SIZE = ViTSize(48, 4, 4)
SIZE_FIELDS = {"hidden_size": 48, "num_hidden_layers": 4, "num_attention_heads": 4, "intermediate_size": 192}
REFUSAL = r"has width 48, 4 blocks, 4 heads, MLPs of 192, the size of no variant \(nearest is mini: .*; all: test, .*cvmae.embed take any"
README = CONFIGS / "README.md"


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """A folder of SigLIP's vision tower, of a size of its own."""
    folder, grid = tmp_path_factory.mktemp("weights"), Grid(1, 24, 24, 1, 8)
    encoder = Encoder(TransformerConfig(SIZE, mlp="gelu_tanh"), grid, "learned", False)
    fields = {"model_type": "siglip_vision_model", "image_size": 24} | SIZE_FIELDS
    write(folder, {"encoder": random_params(encoder)}, HF_SIGLIP[0], grid, fields)
    return folder


@pytest.fixture
def _sizes():
    """Takes away the sizes that a test added."""
    before = dict(VIT_SIZES)
    yield
    for name in set(VIT_SIZES) - set(before):
        del VIT_SIZES[name]


def test_a_task_refuses_it_and_names_the_nearest_variant(weights):
    with pytest.raises(ConfigError, match=f"^config.init_from: .*{REFUSAL}"):
        fill_fields(load(f"{CONFIGS / 'ssv2.py'}:task=linear", {"init_from": str(weights)}))


def test_pretraining_refuses_it_too(weights):
    with pytest.raises(ConfigError, match=f"^config.image_branch.init_from: .*{REFUSAL}"):
        make_task(config(("cross_video",), image_branch__init_from=str(weights), image_branch__variant="test/8")).initial_state()


def test_it_embeds(weights):
    vector = cvmae.embed(np.zeros((2, 24, 24, 3), np.uint8), cvmae.load_encoder(weights))
    assert vector.shape == (SIZE.width,)


@pytest.mark.usefixtures("_sizes")
def test_a_config_file_adds_its_size(weights, tmp_path):
    """The file of the README."""
    lines = re.search(r"can add a size; .*?\n\n((?:    .*\n|\n)+)", README.read_text())
    assert lines is not None
    (tmp_path / "mine.py").write_text(re.sub("^    ", "", lines[1], flags=re.MULTILINE))
    fields = {"init_from": str(weights), "video_branch.inflate": "mean"}
    c, _ = fill_fields(load(f"{tmp_path / 'mine.py'}:task=linear,runlocal", fields))
    assert c.video_branch.variant == "mine/8"
    make_task(c).initial_state()


def test_the_readme_lists_every_size():
    rows = re.findall(r"^\| `(\w+)` \| (\d+) \| (\d+) \| (\d+) \| (\d+) \|", README.read_text(), re.MULTILINE)
    sizes = {name: (size.width, size.depth, size.heads, round(size.width * size.mlp_ratio)) for name, size in VIT_SIZES.items()}
    assert {name: tuple(map(int, numbers)) for name, *numbers in rows} == sizes
