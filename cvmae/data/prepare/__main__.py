"""Command `python -m cvmae.data.prepare --dataset=ssv2 --videos=DIR --labels=DIR --out=DIR`; the package's docstring lists
the files that it writes. `--dataset=metaworld --out=DIR` renders a set instead: see cvmae/data/metaworld. Tar shards:
`--shards=webdataset --manifest=FILE --out=DIR` writes them, `--index=PATTERN` makes the index of those that are there.

Exit codes: 0 done; 1 the disk failed; 2 an error in the command or its input files; 130 interrupted, 143 ended by SIGTERM:
after both, the same command continues the run.
"""

import dataclasses
import signal
import sys
from typing import TypeVar

from absl import app, flags

from cvmae.cli import fail, parse_own
from cvmae.config import ConfigError
from cvmae.data import metaworld
from cvmae.data.prepare import Options, PrepareError, StopRun, prepare
from cvmae.data.prepare.options import DATASETS, RUNNERS
from cvmae.data.prepare.tar_writer import index_shards, write_shards
from cvmae.data.prepare.work import CHECKS
from cvmae.storage.path import join

FLAGS = flags.FlagValues()  # not the global flags, so that commands with the same names can be imported in one process
METAWORLD = "metaworld"
_AnyOptions = TypeVar("_AnyOptions", Options, metaworld.Options)
flags.DEFINE_enum(
    "dataset",
    None,
    (*DATASETS, METAWORLD),
    "Data set. imagenet: folders of pictures. folder: VIDEOS/CLASS/* or VIDEOS/{train,val,test}/CLASS/*, without --labels. metaworld: rendered here, without --videos.",
    flag_values=FLAGS,
)
flags.DEFINE_string("videos", None, "Folder with the videos; never written to.", flag_values=FLAGS)
flags.DEFINE_string(
    "labels",
    "",
    "Folder with the label files as published; for Kinetics also a single CSV file; for imagenet only where val is no class folders.",
    flag_values=FLAGS,
)
flags.DEFINE_string("out", None, "Folder to write to; a repeated run continues from its files.", flag_values=FLAGS)
flags.DEFINE_integer(
    "transcode",
    0,
    "Re-encode to this short side in pixels with frequent keyframes, for fast reading; 0: do not re-encode.",
    flag_values=FLAGS,
)
flags.DEFINE_enum(
    "check",
    "quick",
    CHECKS,
    "full: decode every frame; quick: the first, middle and last; none: no frame. --transcode decodes all.",
    flag_values=FLAGS,
)
flags.DEFINE_bool("pack", False, "Also pack the videos into array_record shards.", flag_values=FLAGS)
flags.DEFINE_bool("pictures", False, "For folder: take pictures too, each a clip of one frame.", flag_values=FLAGS)
flags.DEFINE_enum("runner", "local", RUNNERS, "local: processes on this machine; beam: Apache Beam.", flag_values=FLAGS)
flags.DEFINE_string("beam_options", "", "Options of Apache Beam in one string; empty: its local runner.", flag_values=FLAGS)
flags.DEFINE_integer("workers", 0, "Processes; 0: one per core.", flag_values=FLAGS)
flags.DEFINE_alias("processes", "workers", flag_values=FLAGS)
flags.DEFINE_float(
    "timeout_s",
    600.0,
    "Seconds after which a file, or the rendering of 10 clips, counts as failed; 0: no limit.",
    flag_values=FLAGS,
)
flags.DEFINE_float(
    "val_share", 0.1, "For folder without split folders: share of each class's videos that becomes val.", flag_values=FLAGS
)
flags.DEFINE_integer(
    "seed", 0, "Seed of the draw of val, for folder without split folders, or of the episodes of metaworld.", flag_values=FLAGS
)
flags.DEFINE_enum("shards", None, ("webdataset",), "Write the videos of --manifest into tar shards in --out.", flag_values=FLAGS)
flags.DEFINE_string("manifest", "", "For --shards: CSV or JSON-lines file with path,label,split.", flag_values=FLAGS)
flags.DEFINE_string("root", "", "For --shards: folder of the manifest's relative paths; empty: its own.", flag_values=FLAGS)
flags.DEFINE_string(
    "index", "", "Pattern of tar shards whose missing indices to make: DIR/train-{0000..0099}.tar", flag_values=FLAGS
)
_RENDERED = metaworld.Options(out="OUT")
flags.DEFINE_integer("clips", _RENDERED.clips, "For metaworld: training clips of each task.", flag_values=FLAGS)
flags.DEFINE_integer("val_clips", _RENDERED.val_clips, "For metaworld: validation clips of each task.", flag_values=FLAGS)
flags.DEFINE_integer(
    "test_clips",
    _RENDERED.test_clips,
    "For metaworld: test clips of each task, in each of the two test splits.",
    flag_values=FLAGS,
)
flags.DEFINE_integer("side", _RENDERED.side, "For metaworld: side of the frames in pixels.", flag_values=FLAGS)
flags.DEFINE_integer("frames", _RENDERED.frames, "For metaworld: frames of a clip.", flag_values=FLAGS)
flags.DEFINE_string(
    "tasks", _RENDERED.tasks, "For metaworld: names of tasks, separated by commas; empty: all 50.", flag_values=FLAGS
)


def parse(argv: list[str]) -> list[str]:
    """Parses the command line; an error in it ends the program with one line on stderr and exit code 2."""
    try:
        rest = parse_own(argv, FLAGS, __doc__)
        for name in _required():
            if not FLAGS[name].value:
                raise PrepareError(f"--{name} is missing: {FLAGS[name].help}")
        _check_alone() if FLAGS.shards or FLAGS.index else _check_applicable()
        return rest
    except (flags.Error, PrepareError) as error:
        fail(error, 2)


def _required() -> tuple[str, ...]:
    if FLAGS.index:
        return ()
    if FLAGS.shards:
        return "manifest", "out"
    return ("dataset", "out") if FLAGS.dataset == METAWORLD else ("dataset", "videos", "out")


def _check_alone() -> None:
    """Raises PrepareError if a flag is given that --index or --shards does not read."""
    option, read = ("index", {"index"}) if FLAGS.index else ("shards", {"shards", "manifest", "root", "out"})
    for name in sorted(set(FLAGS) - read - {"help"}):
        if FLAGS[name].present:
            raise PrepareError(f"--{name} does not apply to --{option}: leave it out")


def _check_applicable() -> None:
    """Raises PrepareError if a flag is given that applies to other data sets only."""
    videos, rendered = ({field.name for field in dataclasses.fields(kind)} for kind in (Options, metaworld.Options))
    is_rendered = FLAGS.dataset == METAWORLD
    for name in ("manifest", "root"):
        if FLAGS[name].present:
            raise PrepareError(f"--{name} is an option of --shards: leave it out")
    for name in ("val_share", "seed"):
        if FLAGS[name].present and FLAGS.dataset not in ("folder", METAWORLD):
            raise PrepareError(f"--{name} does not apply to --dataset={FLAGS.dataset}, which has its own splits; leave it out")
    for name in sorted((videos - rendered if is_rendered else rendered - videos) - {"dataset"}):
        if FLAGS[name].present:
            remedy = "its videos are rendered" if is_rendered else f"it is an option of --dataset={METAWORLD}"
            raise PrepareError(f"--{name} does not apply to --dataset={FLAGS.dataset}: {remedy}; leave it out")


def main(argv: list[str]) -> None:
    """Runs `prepare` with the flags, and turns its errors into one line on stderr and an exit code."""
    try:
        if len(argv) > 1:
            raise PrepareError(f"unexpected argument {argv[1]!r}: options start with --")
        if FLAGS.index:
            shards, videos = index_shards(FLAGS.index)
            print(f"{shards:,} shards with {videos:,} videos have an index")
        elif FLAGS.shards:
            paths = write_shards(FLAGS.manifest, FLAGS.out, FLAGS.root)
            pattern = join(FLAGS.out, "{split}-*.tar")
            print(
                f"{len(paths):,} shards: {FLAGS.out} (--config.data.source=webdataset --config.data.webdataset.shards='{pattern}')"
            )
        elif FLAGS.dataset == METAWORLD:
            metaworld.prepare(_options(metaworld.Options))
        else:
            prepare(_options(Options))
    except (PrepareError, ConfigError) as error:
        fail(error, 2)
    except (StopRun, OSError) as error:
        fail(error, 1)
    except KeyboardInterrupt:
        print("interrupted: the same command resumes", file=sys.stderr)
        sys.exit(130)


def _options(kind: type[_AnyOptions]) -> _AnyOptions:
    """Returns options with the values of the flags of their fields' names."""
    values = FLAGS.flag_values_dict()
    return kind(**{field.name: values[field.name] for field in dataclasses.fields(kind)})


def cli() -> None:
    """Runs the command, `cvmae-prepare`."""
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))  # ends processes and removes temporary files
    app.run(main, flags_parser=parse)


if __name__ == "__main__":
    cli()
