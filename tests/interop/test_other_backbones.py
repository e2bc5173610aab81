"""Weights of a backbone that is no ViT: read from a workdir, and refused in one line where only a ViT will do."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cvmae.interop.adapt import InitFrom, load_branch, load_classifier
from cvmae.interop.huggingface import write_hf_videomae
from cvmae.interop.inflate import inflate
from cvmae.interop.native import write_archive
from cvmae.interop.own_checkpoint import load_workdir
from cvmae.interop.stablehlo import export_stablehlo
from cvmae.models import build
from cvmae.models.classifier import Classifier
from cvmae.models.patches import Grid
from cvmae.training.checkpoint import Checkpoints
from cvmae.workdir import Workdir
from tests.models.test_build import Linear, build_linear
from tests.tiny_configs import config, make_task

GRID = Grid(4, 32, 32, 2, 16)
REFUSED = "has the encoder Linear: .* for the backbone(s vit and factorized| vit) alone"


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    """A pre-training run of a linear video encoder."""
    folder = tmp_path_factory.mktemp("run")
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(build.BACKBONES, "linear", build_linear)
        c = config(("mse_video", "cross_frame"))
        c.video_branch.backbone = "linear"
        state = jax.tree.map(lambda a: jnp.ones(a.shape, a.dtype), make_task(c).abstract_state())
        checkpoints = Checkpoints(str(folder), 1)
        checkpoints.save(5, state, {"step": 5})
        checkpoints.close()
        Workdir(folder).write_config(c)
        yield folder


def test_each_part_is_read_from_a_workdir(workdir):
    pretrained = load_workdir(workdir)
    encoder, params = pretrained.take()
    assert isinstance(encoder, Linear) and set(params) == {"embed"}
    clip = np.zeros((1, encoder.grid.num_frames, encoder.grid.height, encoder.grid.width, 3), np.float32)
    assert encoder.apply({"params": params}, clip).tokens.shape == (1, encoder.grid.tokens, 32)
    assert set(pretrained.take("autoencoder")[1]) == {"encoder", "decoder"}
    assert pretrained.only("encoder").template().keys() == {"encoder"}


@pytest.mark.parametrize("write", [write_archive, write_hf_videomae, export_stablehlo])
def test_it_is_not_exported(write, workdir, tmp_path):
    with pytest.raises(ValueError, match=REFUSED):
        write(load_workdir(workdir).only("encoder"), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_it_is_not_inflated(workdir):
    with pytest.raises(ValueError, match=REFUSED):
        inflate(load_workdir(workdir), GRID, "mean")


def test_no_weights_are_adapted_to_it(workdir):
    start = InitFrom(str(workdir))
    for load in (
        lambda: load_branch(start, Linear(GRID), None),
        lambda: load_classifier(start, Classifier(Linear(GRID), 4)),
    ):
        with pytest.raises(ValueError, match=f"video_branch {REFUSED}"):
            load()
