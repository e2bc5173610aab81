"""The training step of a config, built for devices that need not be here, and traced once."""

from cvmae.config import UNTRAINED, ConfigError, config_errors
from cvmae.data.published import CLASSES, COUNTS
from cvmae.data.sources import make_source
from cvmae.parallel.mesh import make_mesh
from cvmae.performance.flops import Count
from cvmae.tasks import TASKS, find_task
from cvmae.tasks.validate import validate
from cvmae.training.loop import Schedule


def check_task(config) -> None:
    """Raises: ConfigError, the task has no training step."""
    if not find_task(config.task).trains:
        trained = ", ".join(task for task in TASKS if find_task(task).trains)
        raise ConfigError(f"config.task={config.task!r} trains nothing, so it has no step to look at; {trained} have one")


def standalone(config):
    """The same program without its data: nothing has to be there but the config.

    Args:
      config: left as it is. Its data.name gives the number of classes of a published set.

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
            c.data.source = "synthetic"
    return c


def _motion_classes(config) -> tuple[str, ...]:
    from cvmae.data.motion.spec import class_names

    return class_names(config.data.motion.size) if config.data.source == "motion" else ()


def training_clips(config, clips: int) -> tuple[int, str]:
    """(training clips of the configured run, where that number is from): --clips, the data itself, or what its authors publish.

    Raises:
      ConfigError: none of them says.
    """
    if clips:
        return clips, "--clips"
    if config.data.source == "synthetic" or config.data.manifest or config.data.tfds.name:
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


def _published_clips(name: str) -> int:
    """Returns the published number of training clips of a data set, of its first split where it has several; 0 where there is none."""
    return next(iter(COUNTS.get(name, {}).values()), {}).get("train", 0)


def dataset_name(config) -> str:
    """Returns config.data.name; '' where an older config does not have the field."""
    return config.data.get("name", "")


class Step:
    """A training step on devices, traced.

    Attributes:
      config: as it was built, see `standalone`.
      task: the task; `task.mesh` is the mesh over the devices.
      traced: `jax.stages.Traced`.

    Raises:
      ConfigError: the config does not fit these devices.
    """

    def __init__(self, config, devices, schedule: Schedule = Schedule(100)):
        self.config = standalone(config)
        validate(self.config, devices)
        mesh = make_mesh(self.config.mesh, devices)
        with config_errors("data"):
            source = make_source(self.config.data, self.config.data.split) if config.task != "pretrain" else ()
        self.task = find_task(config.task)(self.config, mesh, schedule, source)
        self.traced = self.task.trace()

    @classmethod
    def of_run(cls, config, devices, clips: int) -> "Step":
        """With the durations of a run over so many training clips."""
        return cls(config, devices, Schedule.of(config, clips))

    @property
    def count(self) -> Count:
        """Operations of the whole step on all devices, as it is traced: what is computed again counts again."""
        return Count(self.traced.jaxpr)


def model_flops(step: Step, devices) -> int:
    """Operations of the step on all devices that the model asks for: plain attention, and nothing computed twice."""
    plain = step.config.copy_and_resolve_references()
    with plain.unlocked():
        plain.attention = "einsum"
        changed = step.config.attention != "einsum"
        if plain.remat != "none":
            plain.remat, changed = "none", True
    return Step(plain, devices).count.flops if changed else step.count.flops
