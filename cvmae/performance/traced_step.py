"""The training step of a config, built for devices that may be absent, and traced once."""

import contextlib
import functools

from cvmae.config import UNTRAINED, ConfigError, config_errors, flatten
from cvmae.data.auto_workers import is_auto
from cvmae.data.mixture import ADDRESSES, source_kinds
from cvmae.data.published import CLASSES, COUNTS
from cvmae.data.sources import make_source
from cvmae.parallel.mesh import make_mesh
from cvmae.performance.flops import FlopCount
from cvmae.performance.gpu_report import AttentionUse, record_attention
from cvmae.tasks import TASKS, find_task
from cvmae.tasks.schema import check_schema
from cvmae.tasks.validate import validate
from cvmae.training.run_schedule import Schedule


class TracedStep:
    """A training step for devices, traced.

    Attributes:
      config: of the same program without its data, see `without_data`.
      devices: as given.
      task: the task; `task.mesh` is the mesh over the devices.
      traced: `jax.stages.Traced`.
      attention: the distinct shapes of attention in it, and the kernels that compute them.

    Raises:
      ConfigError: the config does not fit these devices, or they are GPUs and cuDNN, whose attention it takes, is not installed.
    """

    def __init__(self, config, devices, schedule: Schedule = Schedule(100)):
        self.config, self.devices = without_data(config), devices
        validate(self.config, devices)
        mesh = make_mesh(self.config.mesh, devices)
        with config_errors("data"):
            source = make_source(self.config.data, self.config.data.split) if config.task != "pretrain" else ()
        self.task = find_task(config.task)(self.config, mesh, schedule, source)
        uses: set[AttentionUse] = set()
        with record_attention(uses), _cudnn_errors():
            self.traced = self.task.trace()
        self.attention = tuple(uses)

    @classmethod
    def of_run(cls, config, devices, clips: int) -> "TracedStep":
        """Traces the step with the durations of a run over `clips` training clips. Raises: ConfigError."""
        return cls(config, devices, Schedule.of(config, clips))

    @functools.cached_property
    def flops(self) -> FlopCount:
        """Operations of the whole step on all devices, recomputation included."""
        return FlopCount(self.traced.jaxpr)


@contextlib.contextmanager
def _cudnn_errors():
    """Raises ConfigError for the error of JAX where attention takes cuDNN's kernel and cuDNN is not installed."""
    try:
        yield
    except RuntimeError as error:
        if "cuDNN" not in str(error):
            raise
        raise ConfigError(
            "config.attention takes cuDNN's kernel on this GPU, and cuDNN is not installed: pip install 'crossvideomae[plan-gpu]' "
            "(2 GB), or plan XLA's own attention, --config.attention=xla"
        ) from error


def model_flops(step: TracedStep) -> int:
    """Returns the operations of the step on all devices that the model needs: plain attention, and no recomputation.

    The resizing of crops to views, which are products as well, is among them.
    """
    if step.config.attention == "einsum" and step.config.remat == "none":
        return step.flops.total
    plain = step.config.copy_and_resolve_references()
    with plain.unlocked():
        plain.attention, plain.remat = "einsum", "none"
    return TracedStep(plain, step.devices).flops.total


def check_task(config) -> None:
    """Raises ConfigError where a config is not of its task, or the task has no training step."""
    check_schema(config)
    if not find_task(config.task).trains:
        trained = ", ".join(task for task in TASKS if find_task(task).trains)
        raise ConfigError(f"config.task={config.task!r} trains nothing, so there is no step to measure: take one of {trained}")


def without_data(config):
    """Returns a config of the same program that reads neither videos nor weights.

    Args:
      config: stays as it is. Its data.name gives the number of classes of a published set.

    Raises:
      ConfigError: the task has no training step.
    """
    check_task(config)
    c = config.copy_and_resolve_references()
    with c.unlocked():
        if "init_from" in c:
            c.init_from = c.init_from or UNTRAINED  # the program is the same
        if c.task != "pretrain" and c.data.source != "synthetic":
            classes = CLASSES.get(dataset_name(config)) or len(_motion_classes(config)) or 2
            c.data.synthetic.classes = c.data.synthetic.clips = max(classes, c.get("head", c.get("probe")).classes)
            c.data.source, c.data.manifest = "synthetic", ""  # `validate` refuses a manifest that is not read
            if c.data.get("multi_label"):
                c.data.multi_label = False  # the loss decides the program, not the manifest
    return c


def _motion_classes(config) -> tuple[str, ...]:
    from cvmae.data.motion.spec import class_names

    return class_names(config.data.motion.size) if config.data.source == "motion" else ()


def training_clips(config, clips: int) -> tuple[int, str]:
    """Returns (training clips of the run, where that number comes from): --clips, the data, or what the set's authors publish.

    Args:
      config: of the run.
      clips: the flag; 0 where it is not given.

    Raises:
      ConfigError: the number is not known.
    """
    if clips:
        return clips, "--clips"
    if _is_given(config.data):
        with config_errors("data"):
            return len(make_source(config.data, config.data.split)), f"config.data.split={config.data.split} as it is here"
    if config.data.source == "motion":
        from cvmae.data.motion.spec import get_size

        return config.data.motion.train_clips or get_size(config.data.motion.size).train_clips, "the size of the set"
    name = dataset_name(config)
    published = _published_clips(name)
    if not published:
        raise ConfigError(
            f"the number of training clips of {name or 'this config'} is not known: give --clips=N, or in config.data.name a set "
            f"whose authors publish it: {', '.join(name for name in COUNTS if _published_clips(name))}"
        )
    note = "" if config.data.split == "train" else f"; config.data.split={config.data.split} is less"
    return published, f"published for {name}{note}"


def _is_given(data) -> bool:
    """Returns True where config.data says which clips there are, False where it names at most a published set."""
    if data.get("mixture") or data.source == "synthetic":
        return True
    return bool(flatten(data).get(ADDRESSES.get(data.source, "")))


def decoders(config) -> int | None:
    """Returns the threads that decode on each host; 0 where all data are rendered, not decoded, None for as many as it has cores."""
    data = config.data
    with config_errors("data"):
        if source_kinds(data) <= {"motion", "synthetic"}:
            return 0
    return None if is_auto(data) else max(1, data.workers) * max(1, data.threads)


def _published_clips(name: str) -> int:
    """Returns the published number of training clips of a set, of its first split where it has several; 0 if unknown."""
    return next(iter(COUNTS.get(name, {}).values()), {}).get("train", 0)


def dataset_name(config) -> str:
    """Returns config.data.name; '' where an older config does not have the field."""
    return config.data.get("name", "")
