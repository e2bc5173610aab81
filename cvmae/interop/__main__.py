"""The command, weights in and out:

    python -m cvmae.interop import --from=mae --weights=mae_pretrain_vit_base_full.pth --out=DIR
    python -m cvmae.interop export --to=hf-videomae --checkpoint=WORKDIR --out=DIR

`import` checks a file, a folder of transformers or a hub id to the last key and writes it in our own format, for `init_from` of any
config and `cvmae.load`. `export` takes a workdir of ours, or anything that `import` takes. Exit codes: 0 done; 1 the disk failed;
2 the command is wrong or the weights do not fit.
"""

import dataclasses
import pathlib
import sys

from absl import app, flags, logging

from cvmae.cli import parse_own
from cvmae.interop.huggingface import write_hf_videomae
from cvmae.interop.infer_modules import ModelHints
from cvmae.interop.inflate import KINDS as INFLATIONS
from cvmae.interop.inflate import inflate
from cvmae.interop.key_maps import KINDS
from cvmae.interop.load import read
from cvmae.interop.native import ARRAYS, write_archive
from cvmae.interop.pretrained import PARTS, Pretrained
from cvmae.interop.stablehlo import export_stablehlo
from cvmae.models.patches import Grid

FORMATS = ("hf-videomae", *ARRAYS, "stablehlo")
FLAGS = flags.FlagValues()  # of this command alone, so that other commands' may have the same names in one process
flags.DEFINE_enum("from", "auto", KINDS, "import: the kind of the weights; auto tells it from the keys.", flag_values=FLAGS)
flags.DEFINE_string("weights", None, "import: a file, a folder, or a hub id owner/name[@revision].", flag_values=FLAGS)
flags.DEFINE_enum("format", "safetensors", tuple(ARRAYS), "import: of the arrays that are written.", flag_values=FLAGS)
flags.DEFINE_enum("to", None, FORMATS, "export: the format to write.", flag_values=FLAGS)
flags.DEFINE_string(
    "checkpoint", None, "export: a workdir, WORKDIR/checkpoints/STEP, or anything that import takes.", flag_values=FLAGS
)
flags.DEFINE_enum(
    "part", "", ("", *PARTS), "export: what of it to write; empty: the most that the format can express.", flag_values=FLAGS
)
flags.DEFINE_enum("branch", "video", ("video", "image"), "Which branch of a workdir of pre-training.", flag_values=FLAGS)
flags.DEFINE_string("out", None, "Folder to write; not there yet, or empty.", flag_values=FLAGS)
flags.DEFINE_integer(
    "heads", 0, "Attention heads, where neither the file nor the published sizes say.", lower_bound=0, flag_values=FLAGS
)
flags.DEFINE_integer("decoder_heads", 0, "The decoder's.", lower_bound=0, flag_values=FLAGS)
flags.DEFINE_integer(
    "num_frames", 0, "Frames of a clip, where the file does not say or for --inflate; 0: 16.", lower_bound=0, flag_values=FLAGS
)
flags.DEFINE_list(
    "image_size", [], "Side of a frame, or HEIGHT,WIDTH, where the file does not say; empty: 224.", flag_values=FLAGS
)
flags.DEFINE_enum("inflate", "none", INFLATIONS, "Makes a video encoder of an image encoder.", flag_values=FLAGS)
flags.DEFINE_integer("tubelet", 2, "Frames of a tubelet, for --inflate.", lower_bound=1, flag_values=FLAGS)
NEEDED = {"import": ("weights", "out"), "export": ("checkpoint", "to", "out")}


def parse(argv: list[str]) -> list[str]:
    """Parses the command line; what is wrong with it is said in one line."""
    try:
        rest = parse_own(argv, FLAGS, __doc__)
        if len(rest) != 2 or rest[1] not in NEEDED:
            raise ValueError(f"say what to do: {' or '.join(NEEDED)} (then options, which start with --)")
        for name in NEEDED[rest[1]]:
            if not FLAGS[name].value:
                raise ValueError(f"--{name} is missing: {FLAGS[name].help}")
        return rest
    except (flags.Error, ValueError) as error:
        fail(error, 2)


def fail(error: Exception, code: int) -> None:
    """Ends the program with what is wrong on stderr, a problem a line."""
    print(f"error: {error}", file=sys.stderr)
    sys.exit(code)


def take_in(path: str, kind: str) -> Pretrained:
    """The weights that the flags name, inflated where they say so."""
    size = tuple(map(int, FLAGS.image_size)) * (2 if len(FLAGS.image_size) == 1 else 1) or (0, 0)
    if len(size) != 2:
        raise ValueError(f"--image_size={','.join(FLAGS.image_size)}: expected one number or HEIGHT,WIDTH")
    hints = ModelHints(FLAGS.heads, FLAGS.decoder_heads, FLAGS.num_frames, size)
    found = read(path, kind, branch=FLAGS.branch, hints=hints)
    if FLAGS.inflate == "none":
        return found
    grid = found.encoder.grid
    return inflate(found, Grid(FLAGS.num_frames or 16, grid.height, grid.width, FLAGS.tubelet, grid.patch), FLAGS.inflate)


def give_out(found: Pretrained) -> list[str]:
    """Writes what --to says; returns what a user should know."""
    if FLAGS.to == "hf-videomae":
        return write_hf_videomae(found, FLAGS.out, FLAGS.part)
    if FLAGS.to == "stablehlo":
        export_stablehlo(found, FLAGS.out, FLAGS.part)
    else:
        write_archive(found, FLAGS.out, FLAGS.to)
    return []


def main(argv: list[str]) -> None:
    """Reads, writes, and says what went where."""
    logging.set_verbosity(logging.WARNING)
    try:
        if argv[1] == "import":
            found, notes = take_in(FLAGS.weights, FLAGS["from"].value), []
            origin = dataclasses.replace(found, notes=(f"made from {found.name}", *found.notes))
            write_archive(origin, FLAGS.out, FLAGS.format)
        else:
            found = take_in(FLAGS.checkpoint, "auto")
            found = found.only(FLAGS.part) if FLAGS.part else found
            notes = give_out(found)
    except (ValueError, FileNotFoundError, FileExistsError, ImportError) as error:
        fail(error, 2)
    except OSError as error:
        fail(error, 1)
    print(*found.summary(), *notes, f"written: {', '.join(sorted(p.name for p in pathlib.Path(FLAGS.out).iterdir()))}", sep="\n")


def cli() -> None:
    """Runs the command, `cvmae-weights`."""
    app.run(main, flags_parser=parse)


if __name__ == "__main__":
    cli()
