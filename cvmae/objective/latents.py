"""Targets beyond pixels: the features that a frozen teacher gives of whole clips (SALT, arXiv 2509.24317)."""

from typing import Literal, get_args

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from cvmae.array_types import AnyArray
from cvmae.models.backbone import Backbone
from cvmae.models.choices import check_choice

TEACHER = "teacher"  # the name of its parameters, beside those of the model
LatentNorm = Literal["layer", "none"]
LATENT_NORMS = get_args(LatentNorm)


def teacher_features(
    teacher: Backbone, params, clips: Float[AnyArray, "R T H W C"] | Float[AnyArray, "R N P"], norm: str
) -> Float[Array, "R N D"]:
    """Returns the teacher's features of every token of clips, float32, in the order of the grid; no gradient passes them.

    Args:
      teacher: the encoder.
      params: of it.
      clips: normalized pixels as its patch embedding expects them, or their patches where it takes them.
      norm: see `normalize_latents`.
    """
    return jax.lax.stop_gradient(normalize_latents(teacher.apply({"params": params}, clips).tokens, norm))


def normalize_latents(features: Float[AnyArray, "*axes D"], norm: str, eps: float = 1e-5) -> Float[Array, "*axes D"]:
    """Returns features as targets, float32.

    Args:
      features: of an encoder.
      norm: `layer`, a layer norm of each token without scale and bias, as V-JEPA's targets have; `none`, as they are.
      eps: of the layer norm, torch's default.

    Raises:
      ValueError: `norm` is not one of LATENT_NORMS.
    """
    check_choice("teacher.norm", norm, LatentNorm)
    values = jnp.asarray(features, jnp.float32)
    if norm == "none":
        return values
    centered = values - values.mean(-1, keepdims=True)
    return centered * jax.lax.rsqrt(jnp.square(centered).mean(-1, keepdims=True) + eps)
