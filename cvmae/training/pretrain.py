"""The pre-training task: how its state is made and what a step does."""

import functools
import json
import pathlib

import jax
import jax.numpy as jnp

from cvmae.config import steps
from cvmae.data.sources import make_source
from cvmae.evaluation.heldout import HeldOut
from cvmae.evaluation.learned import assess, table
from cvmae.inputs import sample_keys
from cvmae.interop.weights import find_file, load_autoencoder, read_keys
from cvmae.models.autoencoder import Autoencoder
from cvmae.objective import Objective
from cvmae.training import optimizer as optim
from cvmae.training import sharding
from cvmae.training.metrics import read_metrics
from cvmae.training.state import TrainState, create, gradients_in_parts, update
from cvmae.training.validate import config_errors
from cvmae.visualize.curves import draw_curves
from cvmae.visualize.reconstruction import save_reconstructions

BATCH_KEYS = ("video", "frame_index")  # what of a batch reaches the devices


class Pretrain:
    """Pre-training of both branches; see `loop.train` for what a task is.

    Raises:
      ValueError: a config field does not fit.
    """

    def __init__(self, config, mesh, total_steps: int, steps_per_epoch: float):
        self.config, self.mesh = config, mesh

        def resolve(duration, field):
            return steps(duration, field, steps_per_epoch=steps_per_epoch, total=total_steps)

        warmups = {term: resolve(text, f"loss_warmup.{term}") for term, text in config.loss_warmup.items()}
        self.objective = Objective(config, warmups)
        warmup = resolve(config.optimizer.warmup, "optimizer.warmup")
        self.schedule = optim.learning_rate(config.optimizer, config.batch_size, warmup, total_steps)
        self.optimizer = optim.make_optimizer(config.optimizer, self.schedule, self._frozen)
        self.key = jax.random.key(config.seed)
        whole, rows = sharding.replicated(mesh), sharding.over_batch(mesh)
        self._step = jax.jit(self._pure_step, donate_argnums=0, in_shardings=(whole, rows), out_shardings=whole)

    def _frozen(self, path: str) -> bool:
        return self.config.image_branch.train == "frozen" and path.startswith("/image/encoder/")

    def abstract_batch(self, clips: int, layout=None):
        """Shapes and dtypes of what of a batch of so many clips reaches the devices: BATCH_KEYS."""
        c = self.config
        video = jax.ShapeDtypeStruct((clips, c.data.num_frames, *c.data.frame_size, 3), jnp.uint8, sharding=layout)
        frames = jax.ShapeDtypeStruct((clips, c.image_branch.frames), jnp.int32, sharding=layout)
        return {"video": video, "frame_index": frames}

    def _pure_init(self, key) -> TrainState:
        # Two clips are enough to know the shapes of parameters.
        batch = {name: jnp.zeros(a.shape, a.dtype) for name, a in self.abstract_batch(2).items()}
        params = self.objective.init(key, batch | sample_keys(key, 0, 2))
        return create(params, self.optimizer, self.config.optimizer.ema_decay)

    def init(self) -> TrainState:
        """The state before the first step, made on the mesh; the same for every mesh."""
        key, whole = jax.random.fold_in(self.key, 0), sharding.replicated(self.mesh)
        pretrained = self.load_image_branch()
        state = jax.jit(self._pure_init, out_shardings=whole)(key)
        if pretrained is None:
            return state
        # The optimizer starts from zeros whatever the parameters are.
        params = state.params | {"image": state.params["image"] | jax.device_put(pretrained, whole)}
        return state.replace(params=params, ema=None if state.ema is None else jax.tree.map(jnp.copy, params))

    def load_image_branch(self):
        """The image encoder's parameters out of config.image_branch.init_from, the decoder's with them; None where it is not set.

        Where the file holds an encoder alone, the decoder starts anew.

        Raises:
          ConfigError: the file does not fit the branch; the message lists why.
        """
        path, module = self.config.image_branch.init_from, self.objective.model.image
        if not path:
            return None
        template = self.abstract_state().params["image"]
        with config_errors("image_branch.init_from"):
            if not any(key.startswith("decoder.") for key in read_keys(find_file(path))):
                template = {"encoder": template["encoder"]}
                module = Autoencoder(module.encoder)
            return load_autoencoder(path, "auto", template, module)

    def abstract_state(self):
        """Shapes, dtypes and shardings of the state, to restore a checkpoint onto."""
        shapes = jax.eval_shape(self._pure_init, self.key)
        whole = sharding.replicated(self.mesh)
        return jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=whole), shapes)

    def _pure_step(self, state: TrainState, batch):
        samples = batch | sample_keys(self.key, state.step, batch["video"].shape[0])

        def loss(params, part):
            return self.objective(params, part, state.step)

        gradients, metrics = gradients_in_parts(loss, state.params, samples, self.config.accumulate)
        new, norms = update(state, gradients, self.optimizer, self.config.optimizer.ema_decay)
        rate = self.schedule(state.step)
        return new, metrics | norms | {"optimizer/learning_rate": jnp.asarray(rate, jnp.float32)}

    def lower(self):
        """The training step, lowered for this mesh; `.compile()` gives its cost and text."""
        batch = self.abstract_batch(self.config.batch_size, sharding.over_batch(self.mesh))
        return self._step.lower(self.abstract_state(), batch)

    def step(self, state: TrainState, batch):
        """One update: (state, metrics). `state` is donated; `batch` is the loader's, on the host."""
        return self._step(state, self._put(batch))

    def _put(self, batch):
        return sharding.to_devices({name: batch[name] for name in BATCH_KEYS}, self.mesh)

    @functools.cached_property
    def held_out(self) -> HeldOut:
        """The clips of the evaluation split."""
        with config_errors("data.eval_split"):
            source = make_source(self.config.data, self.config.data.eval_split)
        return HeldOut(self.objective, source, self._put)

    def open_held_out(self) -> None:
        """Opens the evaluation split now and not at the first evaluation. Raises: ConfigError where it is not there."""
        _ = self.held_out

    def evaluate(self, state: TrainState) -> dict[str, float]:
        """Every metric of the objective on the evaluation split, as `eval/NAME`."""
        return {f"eval/{name}": value for name, value in self.held_out.terms(state.evaluated).items()}

    def finish(self, state: TrainState, workdir: str) -> None:
        """Draws the curves and reconstructions, and writes and prints what was learned, as config.report asks."""
        c, folder = self.config.report, pathlib.Path(workdir)
        draw_curves(folder / "curves.png", read_metrics(workdir))
        if c.pictures and "mse_video" in self.objective.needs.active:
            samples = next(self.held_out.samples())
            save_reconstructions(folder / "reconstruction.png", self.objective, state.evaluated, samples, c.pictures)
        if c.labelled:
            source = make_source(self.config.data, self.config.data.split)
            trained, untrained = (
                assess(self.held_out, params, source, c.labelled, c.clips) for params in (state.evaluated, self.init().evaluated)
            )
            text = json.dumps({"trained": trained, "untrained": untrained}, indent=2)
            (folder / "report.json").write_text(text + "\n", encoding="utf-8")
            print(table(trained, untrained))
