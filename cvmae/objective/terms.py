"""The loss terms of pre-training as one table, which a term of your own can join.

Whatever depends on the terms is derived from the table: the fields of `config.loss` and `config.loss_warmup`, the parts of the
model that are built, the metrics that are logged, the rows of reports, and the ablation of the objectives.
"""

import dataclasses
import functools
import inspect
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax.numpy as jnp
from jax import Array
from jaxtyping import Float

from cvmae.config import ConfigError, nearest
from cvmae.models.crossvideo import IMAGE_OUTPUTS, VIDEO_OUTPUTS, ActiveTerms, CrossVideoOutput
from cvmae.objective import clip_losses, comparisons
from cvmae.objective.comparisons import Pairs, PatchErrors
from cvmae.objective.losses import masked_mean, nt_xent, nt_xent_per_frame
from cvmae.objective.views_and_masks import ModelInputs

LEVELS = ("patch", "video", "frame")
TermFunction = Callable[[CrossVideoOutput, ModelInputs, Any], tuple[Float[Array, ""], Mapping[str, Float[Array, ""]]]]


@dataclasses.dataclass(frozen=True)
class LossTerm:
    """A term of the pre-training loss, and what it needs.

    Attributes:
      name: the field of `config.loss` that holds its weight, and of `config.loss_warmup`; logged as `loss/NAME`.
      level: what it compares: "patch", "video" or "frame".
      needs: the fields of `CrossVideoOutput` that `function` reads. Fields that no active term needs hold None; their parameters
        and their computation are left out of the program.
      function: `function(output, inputs, config) -> (loss, metrics)`, traced inside the jitted step. It gets the model's
        `CrossVideoOutput`, the `ModelInputs` that it was computed from, and the config. `loss` is a float32 scalar; `metrics` are
        {METRIC: float32 scalar}, logged as `METRIC/NAME`.
      views: the views of a clip that it reads: 1 (v) or 2 (v and v⁺). Other terms may add views behind them.
      contrastive: True if it takes negatives from the batch; a micro-batch then needs at least two clips.
      reversed_negatives: True if the time-reversed clip, where `config.contrast.time_reversed_negatives` asks for it, joins its
        negatives as the third view.
      clip_losses: `clip_losses(output, inputs, config) -> (values, weights)`, float32 [B] each, whose weighted mean is the loss: for the
        loss of each source of a mixture, which leaves out terms without it.
      target: the value of `config.video_branch.target` that it is of; "" for a term of any. Other configs leave it out whatever its weight.
      title: what reports call `accuracy/NAME`; "" for a term without an accuracy, which gets no row.

    Raises:
      ValueError: a field is out of its range.
    """

    name: str
    level: str
    needs: Sequence[str]
    function: TermFunction
    views: int = 1
    contrastive: bool = False
    reversed_negatives: bool = False
    title: str = ""
    clip_losses: Callable | None = None
    target: str = ""

    def __post_init__(self):
        if not self.name.isidentifier():
            raise ValueError(f"LossTerm: name is {self.name!r}; expected a name that config.loss can have as a field")
        if self.level not in LEVELS:
            raise ValueError(f"LossTerm {self.name}: level is {self.level!r}; expected one of {', '.join(LEVELS)}")
        if isinstance(self.needs, str) or not self.needs:
            raise ValueError(f"LossTerm {self.name}: needs is {self.needs!r}; expected a tuple of model outputs, such as ('z',)")
        for output in self.needs:
            if output not in VIDEO_OUTPUTS | IMAGE_OUTPUTS:
                hint = nearest(output, VIDEO_OUTPUTS | IMAGE_OUTPUTS)
                raise ValueError(f"LossTerm {self.name}: needs has {output!r}, which is no output of the model: {hint}")
        if self.views not in (1, 2):
            raise ValueError(f"LossTerm {self.name}: views is {self.views!r}; expected 1 (v) or 2 (v and v⁺)")

    @property
    def branches(self) -> tuple[str, ...]:
        """The branches whose outputs it reads: "video", "image" or both."""
        outputs = {"video": VIDEO_OUTPUTS, "image": IMAGE_OUTPUTS}
        return tuple(branch for branch, names in outputs.items() if names & set(self.needs))

    def is_active(self, config) -> bool:
        """Returns True if a config has a weight above 0 for it, and its target; configs of earlier versions have only pixels."""
        target = config.video_branch.get("target", "pixels")
        return bool(config.loss.get(self.name)) and self.target in ("", target)

    def __call__(self, output, inputs, config) -> tuple[Float[Array, ""], dict[str, Float[Array, ""]]]:
        """Loss and metrics by METRIC, float32 scalars.

        Raises:
          ValueError: `function` returned something else than a scalar and a dict of scalars.
        """
        returned = self.function(output, inputs, config)
        if not (isinstance(returned, tuple) and len(returned) == 2 and isinstance(returned[1], Mapping)):
            raise ValueError(
                f"loss term {self.name}: its function returned {type(returned).__name__}; expected (loss, {{metric: value}})"
            )
        loss, metrics = returned
        for name, value in {**metrics, "loss": loss}.items():
            if jnp.shape(value):
                raise ValueError(f"loss term {self.name}: {name} has shape {jnp.shape(value)}; expected a scalar")
        return jnp.asarray(loss, jnp.float32), {name: jnp.asarray(value, jnp.float32) for name, value in metrics.items()}


def mse_video(output: CrossVideoOutput, inputs, config):
    """Reconstruction of the masked patches of v and v⁺."""
    return _mse(comparisons.video_errors(output, inputs, config))


def mse_image(output: CrossVideoOutput, inputs, config):
    """Reconstruction of the masked patches of the sampled frames."""
    return _mse(comparisons.image_errors(output, inputs, config))


def latent_video(output: CrossVideoOutput, inputs, config):
    """Prediction of a frozen teacher's features of the masked patches of v and v⁺."""
    return _mse(comparisons.latent_errors(output, inputs))


def _mse(errors: PatchErrors):
    values, mask = errors
    return values.mean() if mask is None else masked_mean(values, mask.hidden, mask.masked.shape[1]), {}


def intra_video(output: CrossVideoOutput, inputs, config):
    """NT-Xent of the embeddings of v and v⁺."""
    return _video_level(comparisons.intra_video_pairs(output), config)


def intra_frame(output: CrossVideoOutput, inputs, config):
    """NT-Xent of the embeddings of v and v⁺ at the temporal positions of the sampled frames."""
    return _frame_level(comparisons.intra_frame_pairs(output), config)


def cross_video(output: CrossVideoOutput, inputs, config):
    """NT-Xent of the mean embedding of v and v⁺ and the mean embedding of the sampled frames."""
    return _video_level(comparisons.cross_video_pairs(output), config)


def cross_frame(output: CrossVideoOutput, inputs, config):
    """NT-Xent of the mean embedding of v and v⁺ at the temporal position of each sampled frame and that frame's embedding."""
    return _frame_level(comparisons.cross_frame_pairs(output), config)


def _video_level(pairs: Pairs, config):
    losses = nt_xent(pairs.a, pairs.b, temperature=config.contrast.temperature, negatives=pairs.negatives)
    return _with_accuracy(*losses.mean())


def _frame_level(pairs: Pairs, config):
    assert pairs.valid is not None
    means = nt_xent_per_frame(pairs.a, pairs.b, config.contrast.temperature, pairs.valid, negatives=pairs.negatives)
    return _with_accuracy(*means, pairs.valid)


def _with_accuracy(loss, accuracy, valid=None):
    metrics = {"accuracy": accuracy}
    if valid is not None:
        metrics["valid"] = valid.mean(dtype=jnp.float32)
    return loss, metrics


def _contrastive(function, level: str, needs: tuple[str, ...]) -> LossTerm:
    intra = not set(needs) & IMAGE_OUTPUTS
    title = f"{'intra' if intra else 'cross'}-modal accuracy, {level} level"
    return LossTerm(function.__name__, level, needs, function, 2, True, intra, title, getattr(clip_losses, function.__name__))


# The terms of the method, METHOD section 5, in the order in which they are computed, logged and reported.
TERMS = (
    LossTerm("mse_video", "patch", ("video_predictions",), mse_video, clip_losses=clip_losses.mse_video),
    LossTerm("mse_image", "patch", ("image_predictions",), mse_image, clip_losses=clip_losses.mse_image),
    _contrastive(intra_video, "video", ("z",)),
    _contrastive(intra_frame, "frame", ("f", "f_valid")),
    _contrastive(cross_video, "video", ("z", "h")),
    _contrastive(cross_frame, "frame", ("f", "f_valid", "h")),
)
# Ours, not in the paper, and off without video_branch.target=latent: METHOD section 6.
LATENT_VIDEO = LossTerm(
    "latent_video", "patch", ("video_latents",), latent_video, clip_losses=clip_losses.latent_video, target="latent"
)
BUILT_IN = (*TERMS, LATENT_VIDEO)
_registry = {term.name: term for term in BUILT_IN}


def register(term: LossTerm) -> LossTerm:
    """Adds a term of your own to the table, so that `config.loss` may have its name; call it in the config file or before it.

    A config file is executed more than once in a process; the same definition may therefore be registered again, and the newer
    function then takes the place of the older.

    Returns:
      The term.

    Raises:
      ValueError: another term has the name.
    """
    present = _registry.get(term.name)
    if present not in (None, term) and not _same_definition(present.function, term.function):
        raise ValueError(f"loss term {term.name!r} is already registered, by {_describe(present.function)}: take another name")
    _registry[term.name] = term
    return term


def unregister(name: str) -> None:
    """Removes a registered term, for example to define it differently in a notebook.

    Raises:
      ValueError: the term is built in, or is not registered.
    """
    if name not in _registry or _registry[name] in BUILT_IN:
        raise ValueError(f"{name!r} is no registered loss term: registered are {', '.join(_names()[len(BUILT_IN) :]) or 'none'}")
    del _registry[name]


def registered_terms() -> tuple[LossTerm, ...]:
    """All terms: those of the method, the one of a teacher, then your own in the order of their registration."""
    return tuple(_registry.values())


def find_term(name: str, section: str = "loss") -> LossTerm:
    """The term of a name, which is a field of config.SECTION. Raises: ConfigError naming the nearest term."""
    if name not in _registry:
        raise ConfigError(
            f"config.{section}.{name} is no loss term: {nearest(name, _registry)} "
            "(a term of your own needs cvmae.objective.register in its config file)"
        )
    return _registry[name]


def weighted_terms(config) -> tuple[LossTerm, ...]:
    """The terms whose weight in config.loss is not 0, in the order of the table.

    Raises:
      ConfigError: config.loss or config.loss_warmup has a field that is no term, or every weight is 0.
    """
    for section in ("loss", "loss_warmup"):
        for name in config[section]:
            find_term(name, section)
    terms = tuple(term for term in registered_terms() if term.is_active(config))
    if not terms:
        raise ConfigError("config.loss: every weight is 0, so there is nothing to train: set one of them above 0")
    return terms


def active_terms(config) -> ActiveTerms:
    """The names of `weighted_terms`, and the outputs and views that the model computes for them. Raises: ConfigError."""
    terms = weighted_terms(config)
    views = max(term.views for term in terms)
    if config.contrast.time_reversed_negatives and any(term.reversed_negatives for term in terms):
        views = 3
    outputs = frozenset(output for term in terms for output in term.needs)
    return ActiveTerms(frozenset(term.name for term in terms), outputs, views)


def _names() -> list[str]:
    return list(_registry)


def _definition(function) -> tuple[str, str] | None:
    """(file, qualified name) where a function is defined; None for callables that are no functions."""
    while isinstance(function, functools.partial):
        function = function.func
    code = getattr(inspect.unwrap(function), "__code__", None)
    return code and (os.path.realpath(code.co_filename), code.co_qualname)


def _same_definition(one, other) -> bool:
    """Returns True if both functions come from one definition in a file that was executed twice."""
    return _definition(one) is not None and _definition(one) == _definition(other)


def _describe(function) -> str:
    return " of ".join(reversed(_definition(function) or (repr(function),)))
