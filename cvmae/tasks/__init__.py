"""Any task by its config: what trains goes to the loop, a study to its runner, what looks at a frozen encoder is run here."""

import jax
import jax.numpy as jnp

from cvmae.data.sources import make_source
from cvmae.files import write_json
from cvmae.models.build import build_encoder, video_grid
from cvmae.parallel import processes
from cvmae.parallel.mesh import local_mesh, make_mesh, put_batch, replicated
from cvmae.tasks import frozen
from cvmae.tasks.ablate import runner, study
from cvmae.tasks.init_from import load_branches, load_video_encoder
from cvmae.tasks.validate import config_errors, validate
from cvmae.training import loop, provenance
from cvmae.training.preemption import default_termination
from cvmae.visualize.gallery import visualize


def run(config, workdir: str) -> dict[str, float]:
    """Runs config.task in `workdir`; called again after an interruption it goes on, and ends with the same numbers.

    Several processes train one model together. Where nothing is trained each works through videos of its own, on its own devices,
    and `workdir` is where they find what the others made.

    Returns:
      The task's numbers by name; see `training.loop.train` for tasks that train, `ablation.runner.run_study` for studies.

    Raises:
      ConfigError: the config cannot run; nothing is written then.
      BadDataError: too many files cannot be read.
      NonFiniteError: training met a number that is not finite.
      StudyError: runs of a study failed.
    """
    if config.task == study.TASK:
        return runner.run_study(config, workdir)
    if config.task in loop.TASKS:
        return loop.train(config, workdir)
    validate(config)
    mesh = make_mesh(config.mesh) if processes.is_single_process() else local_mesh()
    default_termination()
    with config_errors("data"):
        for field in ("split", "test_split"):
            if field in config.data:
                make_source(config.data, config.data[field])
    load, work = FROZEN[config.task]
    weights = jax.device_put(load(config), replicated(mesh))
    folder = loop.make_folder(workdir)
    processes.log_once(f"workdir {folder}" + ("" if processes.is_single_process() else f", {jax.process_count()} processes"))
    found = work(config, weights, folder, lambda batch: put_batch(batch, mesh))
    provenance.record(folder)
    if processes.is_main_process():
        loop.write_config(config, folder)
        write_json(folder / "report.json", {config.task: found})
        for name, value in found.items():
            print(f"{name:<28}{value:.4f}" if isinstance(value, float) else f"{name:<28}{value}")
    return {f"{config.task}/{name}": value for name, value in found.items()}


def video_encoder(config):
    """The video encoder that a config describes, its untrained parameters' shapes, and a function that makes them of config.seed."""
    encoder = build_encoder(config, config.video_branch, video_grid(config))
    clip = jnp.zeros((1, config.data.num_frames, *config.augment.size, 3))

    def init(key):
        return encoder.init(key, clip)["params"]

    key = jax.random.key(config.seed)
    return encoder, jax.eval_shape(init, key), lambda: jax.jit(init)(key)


def encoder_params(config):
    """The video encoder of config.init_from, or an untrained one of config.seed where that is empty. Raises: ConfigError."""
    encoder, shapes, untrained = video_encoder(config)
    found = load_video_encoder(config, shapes, encoder)
    return untrained() if found is None else found


def branches(config):
    """What pictures are drawn from, see `pretrained.load_branches`. Raises: ConfigError."""
    encoder, _, untrained = video_encoder(config)
    return load_branches(config, encoder, untrained)


FROZEN = {
    "knn": (encoder_params, frozen.knn),
    "retrieval": (encoder_params, frozen.retrieval),
    "extract": (encoder_params, frozen.extract),
    "visualize": (branches, visualize),
}
