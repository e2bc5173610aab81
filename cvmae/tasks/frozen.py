"""The tasks that train nothing: one way from a config to a report, and features of two splits, kept in the workdir."""

import abc
from collections.abc import Mapping
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from cvmae.config import ConfigError
from cvmae.data.bad_files import BadFiles
from cvmae.data.clip_views import TestViews
from cvmae.data.labels import label_sets_of
from cvmae.data.sources import Source, open_split
from cvmae.evaluation.feature_cache import cached_features
from cvmae.evaluation.features import Features, FeatureSpec, make_encode
from cvmae.evaluation.multi_label import labels_of
from cvmae.files import storage_errors
from cvmae.models.build import build_encoder, video_grid
from cvmae.parallel import processes
from cvmae.parallel.mesh import Placement, local_mesh, make_mesh, replicated
from cvmae.report.words import is_count
from cvmae.storage.path import AnyPath
from cvmae.tasks.init_from import load_video_encoder
from cvmae.tasks.notes import frozen_notes, row_notes
from cvmae.tasks.results import Results, write, write_page
from cvmae.tasks.validate import validate
from cvmae.tasks.workers import resolve_workers
from cvmae.training import provenance
from cvmae.training.preemption import default_termination, ending_on_sigterm
from cvmae.training.workdir_lock import check_held, locked
from cvmae.workdir import BAD_FILES, FEATURES, FIGURE_LIST, FIGURES, FROZEN_TASKS, Report, Workdir
from cvmae.workdir.strangers import set_strangers_aside


class FrozenTask(abc.ABC):
    """A task that looks at a frozen encoder.

    Several processes work side by side, each on videos of its own and on its own devices; the workdir is the folder that they
    share.

    Attributes:
      config: of the task.
      sources: the opened splits of config.data by field, `split` and `test_split`.
      placement: of batches on this process's devices.
      MULTI_LABEL_NOTE: what the task does with several labels a clip, printed below its numbers; empty for nothing.
    """

    trains: ClassVar[bool] = False
    MULTI_LABEL_NOTE: ClassVar[str] = ""

    def __init__(self, config, sources: dict[str, Source], placement: Placement):
        self.config, self.sources, self.placement = config, sources, placement

    @classmethod
    def run(cls, config, path: str, custom: Mapping[str, Source] | None = None, report_page: bool = False) -> dict[str, float]:
        """Computes the task's numbers and writes them into the workdir `path`.

        Args:
          config: of the task.
          path: the workdir.
          custom: see `open_split`.
          report_page: see `cvmae.tasks.run`.

        Returns: the numbers as `TASK/NAME`. Raises: see `cvmae.tasks.run`.
        """
        validate(config)
        mesh = make_mesh(config.mesh) if processes.is_single_process() else local_mesh()
        default_termination()
        fields = [field for field in ("split", "test_split") if field in config.data]
        sources = {field: open_split(config.data, field, custom) for field in fields}
        config, lines = resolve_workers(config, sources["split"] if "split" in sources else next(iter(sources.values())))
        notes = lines + frozen_notes(config, sources, jax.default_backend())
        notes += row_notes(config, sources, labeled=config.task in ("knn", "retrieval"))
        task = cls(config, sources, Placement(mesh))
        weights = jax.device_put(task.load(), replicated(mesh))
        workdir = Workdir.create(path)
        _check_workdir(workdir, config)
        among = "" if processes.is_single_process() else f", {jax.process_count()} processes"
        with storage_errors("a file of the run", workdir), locked(workdir), ending_on_sigterm():
            set_strangers_aside(workdir)
            processes.log_once(f"workdir {workdir}{among}", *notes)
            numbers = task._record(task.compute(weights, workdir), workdir)
            write_page(report_page, workdir)
            return numbers

    def _record(self, metrics: dict[str, float], workdir: Workdir) -> dict[str, float]:
        """Writes the task's numbers and config into the workdir, and returns them as `TASK/NAME`."""
        config = self.config
        check_held(workdir, look=True)
        provenance.record(workdir)
        workdir.write_config(config)
        note = self.MULTI_LABEL_NOTE if self.label_sets is not None else ""
        write(Results(Report(config.task, metrics), "\n".join(filter(None, (text_of(metrics), note)))), workdir)
        return {f"{config.task}/{name}": value for name, value in metrics.items()}

    @property
    def label_sets(self) -> np.ndarray | None:
        """The table of label sets where clips have several labels, bool [S, C], see `Source`; None where they have one."""
        return next((label_sets_of(source) for source in self.sources.values()), None)

    def labels_of(self, features: Features) -> np.ndarray:
        """Returns the labels of features: class numbers int32 [n], -1 unlabeled; of clips with several labels int8 [n, C], see `multi_label`."""
        return features.labels if self.label_sets is None else labels_of(features.labels, self.label_sets)

    def load(self) -> Any:
        """Returns the parameters of the video encoder: of config.init_from, or untrained ones where it says so.

        Raises:
          ConfigError: what is there does not fit.
        """
        encoder, shapes, untrained = video_encoder(self.config)
        params = load_video_encoder(self.config, shapes, encoder)
        return untrained() if params is None else params

    @abc.abstractmethod
    def compute(self, weights: Any, workdir: Workdir) -> dict[str, float]:
        """Returns the task's numbers by name; features and pictures are kept in `workdir`.

        Args:
          weights: what `load` returns, on the devices.
          workdir: the folder of the run.
        """

    def both_splits(self, params, workdir: Workdir) -> tuple[Features, Features]:
        """Returns features of every clip of config.data.split, the gallery, and of config.data.test_split, the queries.

        Args:
          params: of the video encoder.
          workdir: where they are kept.
        """
        encode = make_encode(self.config, FeatureSpec(self.config.features.layer), self.placement)
        gallery, queries = (self._features_of(field, params, workdir, encode) for field in ("split", "test_split"))
        return gallery, queries

    def _features_of(self, field: str, params, workdir: Workdir, encode) -> Features:
        """Returns the features of the split of config.data.`field`; `encode` is the compiled encoder of `make_encode`."""
        config, c = self.config, self.config.features
        source, folder = self.sources[field], workdir / FEATURES / field
        bad_files = BadFiles(folder, len(source), config.data.max_bad_fraction, writes=processes.is_main_process())
        features = cached_features(
            folder,
            config,
            params,
            source,
            TestViews(c.clips, c.crops),
            FeatureSpec(c.layer),
            placement=self.placement,
            bad_files=bad_files,
            encode=encode,
        )
        for pairs in processes.allgather_json(bad_files.seen):
            bad_files.add([tuple(pair) for pair in pairs])
        if absent := len(source) - len(np.unique(features.index)):
            processes.log_once(bad_files_note(absent, len(source), folder))
        return features


def bad_files_note(count: int, total: int, folder: AnyPath) -> str:
    """Returns a line about videos that have no features, and where they are listed."""
    return f"{count:,} of {total:,} videos have no features, {folder / BAD_FILES} says which and why"


def _check_workdir(workdir: Workdir, config) -> None:
    """Raises ConfigError where a workdir holds a run that trained, or figures of other weights: this task would write over them."""
    there = workdir.read_config() or {}
    task = there.get("task")
    if task is not None and task not in FROZEN_TASKS:
        raise ConfigError(
            f"{workdir} holds a run of task={task}, whose files task={config.task} would replace: give another --workdir"
        )
    weights = there.get("init_from", config.init_from)
    if task == config.task == "visualize" and weights != config.init_from and (workdir / FIGURE_LIST).is_file():
        raise ConfigError(
            f"{workdir} holds the figures of config.init_from={weights}, which those of {config.init_from} would replace: give another "
            f"--workdir, or delete {workdir / FIGURES}"
        )


def video_encoder(config):
    """Returns the video encoder of a config, its parameters' shapes, and a function that makes untrained ones from config.seed."""
    encoder = build_encoder(config, config.video_branch, video_grid(config))
    clip = jnp.zeros((1, config.data.num_frames, *config.augment.size, 3))

    def init(key):
        return encoder.init(key, clip)["params"]

    key = jax.random.key(config.seed)
    return encoder, jax.eval_shape(init, key), lambda: jax.jit(init)(key)


def check_labeled(config, gallery: Features, queries: Features) -> None:
    """Raises ConfigError where a split has no label to compare."""
    for field, features in (("split", gallery), ("test_split", queries)):
        if not (features.labels >= 0).any():
            raise ConfigError(
                f"config.data.{field}={config.data[field]!r}: no clip has a label, which task={config.task} compares; "
                "give labels, or task=retrieval with config.features.clips=2, which needs none"
            )


def first_two_clips(features: Features) -> tuple[np.ndarray, np.ndarray]:
    """Returns the first and the second clip of every video that has both, two float32 [n, D] whose rows belong together."""
    first, second = (features.clip == number for number in (0, 1))
    both = np.intersect1d(features.index[first], features.index[second])
    return tuple(features.values[mask][np.isin(features.index[mask], both)] for mask in (first, second))


def text_of(metrics: dict[str, float]) -> str:
    """Formats numbers as lines to print, counts without decimals."""
    return "\n".join(
        f"{name:<28}{value:.{0 if isinstance(value, int) or is_count(name) else 4}f}" for name, value in metrics.items()
    )
