"""Command: tests an encoder on the video tasks of MTEB, the embedding benchmark (extra `mteb`):

    python -m cvmae.evaluation.mteb --encoder=DIR --tasks='MVEB(video)' --out=SCORES
    python -m cvmae.evaluation.mteb --encoder=DIR --tasks=HMDB51Classification,VCDBCoreRetrieval --out=SCORES

DIR is anything that `cvmae.load_encoder` takes: a workdir, a weights file or folder, a hub id. A video's vector is that of `cvmae.embed`,
the mean over windows that cover the whole video. mteb downloads the data of its tasks from the Hugging Face hub, computes the scores,
and writes them to SCORES/results/NAME/REVISION/TASK.json. The revision is a hash of the weights and of how clips are made of videos; the
same command continues with the tasks that have no scores yet. Tasks must be of videos alone: there is no encoder of text or sound.

Exit codes: 0 success; 1 data or files could not be read or written; 2 the command is wrong or the weights do not fit.
"""

import dataclasses
import hashlib
import os
import pathlib
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from absl import app, flags, logging

from cvmae.cli import fail, parse_own
from cvmae.config import nearest
from cvmae.data.video_input import DecodeError
from cvmae.evaluation.embed import VideoEncoder, embed, load_encoder
from cvmae.evaluation.feature_identity import fingerprint
from cvmae.parallel.progress import evaluation_bar
from cvmae.version import __version__

FLAGS = flags.FlagValues()  # its own, so that other commands in the same process may have flags of the same names
flags.DEFINE_string("encoder", "", "A workdir, a weights file or folder, or a hub id owner/name.", flag_values=FLAGS)
flags.DEFINE_list("tasks", [], "Names of mteb's tasks or benchmarks, such as MVEB(video).", flag_values=FLAGS)
flags.DEFINE_string("out", "", "Folder of the scores; those that it has are not computed again.", flag_values=FLAGS)
flags.DEFINE_string(
    "name", "", "Name of the encoder in the scores; empty: cvmae/ and the last part of --encoder.", flag_values=FLAGS
)
flags.DEFINE_enum("branch", "video", ("video", "image"), "The branch of a pre-training workdir.", flag_values=FLAGS)
flags.DEFINE_integer("batch_size", 8, "Windows of a video per batch.", lower_bound=1, flag_values=FLAGS)
_EXTRA = "the benchmark needs mteb: pip install 'crossvideomae[mteb]'"


class MTEBEncoder:
    """Encoder of videos for `mteb.evaluate` (mteb's `EncoderProtocol`).

    Attributes:
      encoder: from `cvmae.load_encoder`.
      mteb_model_meta: mteb's `ModelMeta` of it.
    """

    def __init__(self, encoder: VideoEncoder, name: str):
        """Wraps an encoder.

        Args:
          encoder: from `cvmae.load_encoder`.
          name: the model's name in mteb's results, as `organization/model`.

        Raises:
          ImportError: mteb is not installed. ValueError: the weights do not record their normalization.
        """
        self.encoder = encoder
        self.mteb_model_meta = model_meta(encoder, name)

    def encode(
        self,
        inputs,
        *,
        task_metadata,
        hf_split: str,
        hf_subset: str,
        prompt_type=None,
        batch_size: int = 8,
        show_progress_bar: bool = True,
    ) -> np.ndarray:
        """Embeds the column `video` of a data set, float32 [n, D].

        Files are read by this package, not by the decoder of the data set (torchcodec).

        Args:
          inputs: mteb's `DataLoader` of a `datasets.Dataset`, whose batches are not used: a video is a batch of windows.
          task_metadata: of the task, for messages.
          hf_split: the split of the data set, for messages.
          hf_subset: its subset; without effect, as `prompt_type` is, which is for texts.
          prompt_type: query or document.
          batch_size: windows of a video per batch.
          show_progress_bar: False shows none.

        Raises:
          DecodeError: a video cannot be read; it names task, split and row.
        """
        from datasets import Video

        videos = inputs.dataset.select_columns(["video"]).cast_column("video", Video(decode=False))
        vectors = []
        with evaluation_bar(len(videos), task_metadata.name, "video") as bar:
            bar.disable = bar.disable or not show_progress_bar
            for number, row in enumerate(videos):
                source = row["video"] and (row["video"]["bytes"] or row["video"]["path"])
                name = f"video {number} of the split {hf_split} of {task_metadata.name}"
                if not source:
                    raise DecodeError(name, "the row has no video")
                try:
                    vectors.append(embed(source, self.encoder, batch_size=batch_size))
                except DecodeError as error:
                    raise DecodeError(name, error.reason) from error
                bar.update()
        return np.stack(vectors)

    def similarity(self, embeddings1, embeddings2):
        """Returns the cosine of each vector of [n, D] with each of [m, D], a tensor of torch [n, m]."""
        from mteb.similarity_functions import cos_sim

        return cos_sim(embeddings1, embeddings2)

    def similarity_pairwise(self, embeddings1, embeddings2):
        """Returns the cosine of each pair of vectors of [n, D] and [n, D], a tensor of torch [n]."""
        from mteb.similarity_functions import pairwise_cos_sim

        return pairwise_cos_sim(embeddings1, embeddings2)


def model_meta(encoder: VideoEncoder, name: str) -> Any:
    """Returns mteb's `ModelMeta` of an encoder, without what the weights do not record. Raises: see `MTEBEncoder`."""
    ModelMeta = _mteb().models.ModelMeta
    processing = encoder.preprocessing
    if processing.mean is None or processing.std is None:
        raise ValueError(
            f"{name} does not record the mean and standard deviation of its pixels: in Python, set mean and std of "
            "encoder.preprocessing by dataclasses.replace, and give mteb.evaluate an MTEBEncoder"
        )
    clip = jax.ShapeDtypeStruct((1, encoder.num_frames, processing.height, processing.width, 3), np.float32)
    pooled = jax.eval_shape(lambda params, clips: encoder.module.apply({"params": params}, clips).pooled, encoder.params, clip)
    parameters = jax.tree.leaves(encoder.params)
    return ModelMeta.create_empty(
        overwrites={
            "name": name,
            "revision": revision(encoder),
            "n_parameters": sum(leaf.size for leaf in parameters),
            "memory_usage_mb": sum(leaf.nbytes for leaf in parameters) / 2**20,
            "embed_dim": pooled.shape[-1],
            "framework": ["JAX"],
            "similarity_fn_name": _mteb().models.model_meta.ScoringFunction.COSINE,
            "use_instructions": False,
            "modalities": ["video"],
        }
    )


def revision(encoder: VideoEncoder) -> str:
    """Returns a hash of all that an encoder's vectors depend on: weights, module, clip sampling, preprocessing and version."""
    settings = {field.name: getattr(encoder, field.name) for field in dataclasses.fields(encoder) if field.name != "params"}
    text = f"{fingerprint(encoder.params)} {settings} {__version__}"
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


def find_tasks(names: Sequence[str]) -> list:
    """Returns mteb's tasks of these names, those of a benchmark for its name, each once.

    Raises:
      ImportError: mteb is not installed.
      ValueError: there is no task or benchmark of a name, or it is not of videos alone.
    """
    mteb, tasks = _mteb(), {}
    for name in names:
        try:
            group = [mteb.get_task(name)]
        except KeyError:
            try:
                group = mteb.get_benchmark(name).tasks
            except KeyError:
                known = mteb.get_tasks(modalities=["video"], exclusive_modality_filter=True)
                choices = ["MVEB(video)", *(task.metadata.name for task in known)]
                raise ValueError(f"mteb has no task or benchmark {name!r}: {nearest(name, choices)}") from None
        for task in group:
            if set(task.metadata.modalities) != {"video"}:
                kinds = ", ".join(task.metadata.modalities)
                raise ValueError(f"{task.metadata.name} is a task of {kinds}: an encoder of videos takes tasks of videos alone")
            tasks[task.metadata.name] = task
    return list(tasks.values())


def default_name(path: str) -> str:
    """Returns the name of an encoder in mteb's results: `cvmae/` and the last part of its path, `WORKDIR-STEP` for a checkpoint."""
    parts = pathlib.PurePath(os.path.abspath(path)).parts
    return f"cvmae/{parts[-3]}-{parts[-1]}" if parts[-2] == "checkpoints" else f"cvmae/{parts[-1]}"


def _mteb():
    """Returns mteb. Raises: ImportError, it is not installed."""
    try:
        import mteb
        import mteb.models.model_meta
    except ImportError as error:
        raise ImportError(f"{_EXTRA} ({error})") from error
    return mteb


def evaluate() -> list[str]:
    """Runs the tasks of --tasks, and returns the lines to print: the main score of each split of each task."""
    tasks = find_tasks(FLAGS.tasks)
    model = MTEBEncoder(load_encoder(FLAGS.encoder, branch=FLAGS.branch), FLAGS.name or default_name(FLAGS.encoder))
    cache = _mteb().ResultCache(FLAGS.out)
    options: dict[str, Any] = {"encode_kwargs": {"batch_size": FLAGS.batch_size}, "co2_tracker": False}
    metrics = {task.metadata.name: task.metadata.main_score for task in tasks}
    lines = []
    for result in _mteb().evaluate(model, tasks, cache=cache, **options).task_results:
        for split, scores in result.scores.items():
            for score in scores:
                subset = "" if score["hf_subset"] == "default" else f" {score['hf_subset']}"
                lines.append(f"{result.task_name} {split}{subset} {metrics[result.task_name]} {score['main_score']:.4f}")
    path = cache.get_task_result_path(tasks[0].metadata.name, model.mteb_model_meta)
    return [*lines, f"scores: {path.parent}"]


def parse(argv: list[str]) -> list[str]:
    """Parses the command line; an error ends the process with one line."""
    try:
        rest = parse_own(argv, FLAGS, __doc__, reads=("encoder",), local=("out",))
        if len(rest) > 1:
            raise ValueError(f"unexpected argument {rest[1]!r}: options start with --")
        for name in ("encoder", "tasks", "out"):
            if not FLAGS[name].value:
                raise ValueError(f"--{name} is missing: {FLAGS[name].help}")
        return rest
    except (flags.Error, ValueError) as error:
        fail(error, 2)


def main(argv: list[str]) -> None:
    """Runs the tasks and prints the scores."""
    logging.set_verbosity(logging.WARNING)
    try:
        print(*evaluate(), sep="\n")
    except (ImportError, FileNotFoundError, ValueError) as error:
        fail(error, 2)
    except (OSError, DecodeError) as error:
        fail(error, 1)


if __name__ == "__main__":
    app.run(main, flags_parser=parse)
