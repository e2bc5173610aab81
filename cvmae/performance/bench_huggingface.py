"""Comparison with Hugging Face's VideoMAE in PyTorch (`cvmae.bench --peer=hf`): the same clips, masks, weights and precision."""

import dataclasses
import os
import pathlib
import tempfile

import jax
import jax.numpy as jnp
import numpy as np
import optax
from safetensors.numpy import save_file

from cvmae.config import ConfigError, require
from cvmae.interop.convert import export_arrays
from cvmae.interop.huggingface import config_fields
from cvmae.interop.key_maps.videomae import HF_VIDEOMAE
from cvmae.models import masking
from cvmae.models.autoencoder import make_targets
from cvmae.models.build import build_encoder, decoder_spec, video_grid
from cvmae.objective.losses import masked_mse
from cvmae.objective.objective import Objective
from cvmae.objective.terms import weighted_terms
from cvmae.performance.timing import Times, alternate
from cvmae.performance.traced_step import without_data
from cvmae.tasks.validate import validate
from cvmae.training.train_state import apply_gradients, create_state

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@dataclasses.dataclass(frozen=True)
class Comparison:
    """Times of both implementations on the same work: forward pass, loss, backward pass, AdamW.

    Attributes:
      ours: steps of this package.
      huggingface: steps of transformers.
      losses: of the first step, ours and Hugging Face's.
      threads: of PyTorch on CPU.
    """

    ours: Times
    huggingface: Times
    losses: tuple[float, float]
    threads: int


def check_comparable(config) -> None:
    """Raises ConfigError where the config is not the VideoMAE pre-training that transformers implements."""
    c, video = config, config.get("video_branch", {})
    is_videomae = (
        c.task == "pretrain"
        and [term.name for term in weighted_terms(c)] == ["mse_video"]
        and video.decoder.layout == "concat"
        and video.target_norm == "patch_channel"
        and (video.positions, video.decoder.positions, video.qkv_bias) == ("sincos1d", "sincos1d", "qv")
        and not (video.cls_token or video.decoder.embed_bias)
        and (tuple(c.augment.mean), tuple(c.augment.std)) == (MEAN, STD)
        and c.augment.size[0] == c.augment.size[1]
    )
    require(
        is_videomae,
        "--peer=hf compares with transformers' VideoMAE: take a config with parent=videomae, such as configs/k400.py:parent=videomae",
    )


def videomae_config(config):
    """Returns transformers' VideoMAEConfig of the same model."""
    from transformers import VideoMAEConfig

    video = config.video_branch
    return VideoMAEConfig(**config_fields(build_encoder(config, video, video_grid(config)), decoder_spec(config, video)))


def load_videomae(config, params):
    """Loads the parameters of our video branch into transformers' model, from a folder in its own format.

    Raises:
      ConfigError: the two models do not have the same parameters.
    """
    from transformers import VideoMAEForPreTraining

    with tempfile.TemporaryDirectory() as folder:
        videomae_config(config).save_pretrained(folder)
        arrays = export_arrays(params, HF_VIDEOMAE, video_grid(config))
        save_file(arrays, pathlib.Path(folder, "model.safetensors"), {"format": "pt"})
        model, info = VideoMAEForPreTraining.from_pretrained(folder, output_loading_info=True)
    wrong = {name: sorted(info[name]) for name in ("missing_keys", "mismatched_keys") if info[name]}
    require(not wrong, f"transformers' VideoMAE has other parameters than this model: {wrong}")
    return model


class TorchStep:
    """transformers' model and PyTorch's AdamW; a call runs one step.

    Args:
      config: checked by `check_comparable`.
      params: of the video branch, of our model.
      pixels: float32 [B, T, H, W, 3] from 0 to 1.
      masked: bool [B, N], True for the masked patches, in the order of the grid.
      threads: of PyTorch on CPU.
      compiled: True runs the model through torch.compile.

    Raises:
      ConfigError: torch or transformers is not installed, or the models differ.
    """

    def __init__(self, config, params, pixels, masked, threads: int, compiled: bool):
        try:
            import torch
            import transformers
        except ImportError as error:
            raise ConfigError("--peer=hf needs torch and transformers: pip install 'crossvideomae[parity]'") from error
        torch.set_num_threads(threads)
        transformers.logging.set_verbosity_error()
        transformers.logging.disable_progress_bar()
        self.device = "cuda" if jax.default_backend() == "gpu" and torch.cuda.is_available() else "cpu"
        self.dtype = torch.bfloat16 if config.dtype == "bfloat16" else torch.float32
        self.model = load_videomae(config, params)
        self.model.to(self.device).train()
        self.forward = torch.compile(self.model) if compiled else self.model
        c = config.optimizer
        self.optimizer = torch.optim.AdamW(self.model.parameters(), 1e-4, (c.b1, c.b2), c.eps, c.weight_decay)
        normalized = (np.asarray(pixels) - np.array(MEAN, np.float32)) / np.array(STD, np.float32)
        self.pixels = torch.from_numpy(normalized.transpose(0, 1, 4, 2, 3).copy()).to(self.device)
        self.masked = torch.from_numpy(np.array(masked)).to(self.device)
        self.torch = torch

    def __call__(self) -> float:
        """Runs one step to its end; returns its loss."""
        self.optimizer.zero_grad(set_to_none=True)
        with self.torch.autocast(self.device, self.dtype, enabled=self.dtype != self.torch.float32):
            loss = self.forward(self.pixels, bool_masked_pos=self.masked).loss
        loss.backward()
        self.optimizer.step()
        return loss.item()


class JaxStep:
    """This package's model and optax's AdamW; a call runs one step.

    Args:
      config: checked by `check_comparable`.
      pixels: float32 [B, T, H, W, 3] from 0 to 1.
      mask: `models.masking.Mask` of the batch.
    """

    def __init__(self, config, pixels, mask):
        objective = Objective(config)
        model = objective.model
        c, grid = config.optimizer, video_grid(config)
        optimizer = optax.adamw(1e-4, c.b1, c.b2, c.eps, weight_decay=c.weight_decay)
        self.pixels, self.mask = jnp.asarray(pixels), mask
        temporal_positions = jnp.zeros((pixels.shape[0], 1, 1), jnp.int32)  # of sampled frames, which no active term reads

        def init(key):
            params = model.init(key, self.pixels, mask, None, None, temporal_positions)["params"]
            return create_state(params, optimizer, 0.0)

        def step(state, pixels, mask):
            """Returns the state after a step of AdamW, and the loss before it."""

            def loss(params):
                out = model.apply({"params": params}, objective.normalize(pixels), mask, None, None, temporal_positions)
                spec = decoder_spec(config, config.video_branch)
                targets = make_targets(pixels, mask, spec, grid, config.video_branch.target_norm)
                return masked_mse(out.video_predictions, targets.values).mean()

            value, gradients = jax.value_and_grad(loss)(state.params)
            return apply_gradients(state, gradients, optimizer, 0.0)[0], value

        self.state = jax.jit(init)(jax.random.key(config.seed))
        lowered = jax.jit(step, donate_argnums=0).lower(self.state, self.pixels, mask)
        self.program = lowered.compile()

    @property
    def params(self) -> dict:
        """The parameters of the video branch, as numpy arrays."""
        return jax.tree.map(np.asarray, self.state.params["video"])

    def __call__(self) -> float:
        """Runs one step to its end; returns its loss."""
        self.state, loss = self.program(self.state, self.pixels, self.mask)
        jax.block_until_ready(self.state)
        return float(loss)


def compare(config, *, rounds: int, warmup: int, threads: int = 0, compiled: bool = False) -> tuple[Comparison, JaxStep]:
    """Runs the steps of both implementations in alternation, on random clips.

    Args:
      config: of VideoMAE's pre-training, such as `configs/k400.py:parent=videomae`.
      rounds: timed steps of each.
      warmup: steps of each before them.
      threads: of PyTorch on CPU; 0 is one per core.
      compiled: True runs PyTorch's model through torch.compile.

    Returns:
      The times, and our step.

    Raises:
      ConfigError: the config is of another model or cannot run here, or torch or transformers is not installed.
    """
    check_comparable(config)
    validate(without_data(config), jax.devices()[:1])
    threads, grid = threads or len(os.sched_getaffinity(0)), video_grid(config)
    shape = (config.batch_size, grid.num_frames, grid.height, grid.width, 3)
    pixels = np.random.default_rng(config.seed).uniform(size=shape).astype(np.float32)
    c = config.video_branch.mask
    mask = masking.draw(jax.random.split(jax.random.key(1), config.batch_size), grid, c.kind, c.ratio, c.rounding)
    # transformers takes visible tokens in the order of the grid.
    mask = masking.from_hidden(mask.hidden, mask.num_visible)
    ours = JaxStep(config, pixels, mask)
    huggingface = TorchStep(config, ours.params, pixels, mask.hidden, threads, compiled)
    losses = (ours(), huggingface())
    times = alternate({"ours": ours, "huggingface": huggingface}, rounds, warmup)
    return Comparison(**times, losses=losses, threads=threads), ours
