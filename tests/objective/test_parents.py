"""MAE, mae_st and VideoMAE as configurations of the model, `parent=`, compared with their published shapes."""

import jax
import jax.numpy as jnp
import pytest

from cvmae import config as config_lib
from cvmae.models.build import image_grid, video_grid
from cvmae.models.masking import visible_tokens
from cvmae.objective.objective import build_model
from tests.tiny_configs import CONFIGS


def load(parent):
    return config_lib.load(f"{CONFIGS / 'k400.py'}:parent={parent}", {"dtype": "float32"})


def shapes(c):
    """Shapes of the parameters of the model's only branch, and its number of visible tokens."""
    model = build_model(c)
    branch, grid = (c.video_branch, video_grid(c)) if model.video else (c.image_branch, image_grid(c))
    autoencoder = model.video or model.image
    mask = jax.eval_shape(lambda k: _draw(k, grid, branch), jax.random.split(jax.random.key(0), 1))
    clip = jax.ShapeDtypeStruct((1, grid.num_frames, 224, 224, 3), jnp.float32)
    params = jax.eval_shape(autoencoder.init, jax.random.key(0), clip, mask)["params"]
    return jax.tree.map(lambda a: a.shape, params), visible_tokens(
        grid, branch.mask.kind, branch.mask.ratio, branch.mask.rounding
    )


def _draw(key, grid, branch):
    from cvmae.models.masking import draw

    return draw(key, grid, branch.mask.kind, branch.mask.ratio, branch.mask.rounding)


def test_videomae():
    params, visible = shapes(load("videomae"))
    assert visible == 160
    assert "cls" not in params["encoder"] and "positions" not in params["encoder"]
    assert "bias" not in params["encoder"]["blocks"]["block0"]["attention"]["key"]
    assert params["decoder"]["embed"] == {"kernel": (768, 384)}
    assert params["decoder"]["predict"]["kernel"] == (384, 1536)


def test_mae_st():
    params, visible = shapes(load("mae_st"))
    assert visible == 156
    assert params["encoder"]["positions"] == {"cls": (768,), "space": (196, 768), "time": (8, 768)}
    assert params["decoder"]["cls"] == (512,) and params["decoder"]["predict"]["kernel"] == (512, 768)


def test_mae():
    params, visible = shapes(load("mae"))
    assert visible == 49
    assert "positions" not in params["encoder"] and params["encoder"]["cls"] == (768,)
    assert "cls" not in params["decoder"] and len(params["decoder"]["blocks"]) == 8
    assert params["decoder"]["predict"]["kernel"] == (512, 768)


def test_an_unknown_parent_names_the_nearest():
    with pytest.raises(config_lib.ConfigError, match="did you mean 'videomae'"):
        load("videomaev2")
