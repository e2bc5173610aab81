"""Imports, exports and uploads weights:

    python -m cvmae.interop import --from=mae --weights=mae_pretrain_vit_base_full.pth --out=DIR
    python -m cvmae.interop export --to=hf-videomae --checkpoint=WORKDIR --out=DIR
    python -m cvmae.interop push DIR --to=hf:USER/NAME

`import` checks every key of a file, a transformers folder or a hub id and writes it in this package's own format, for `init_from`
of any config and `cvmae.load`. `export` takes a workdir, or anything that `import` takes. `push` uploads what either wrote
to the Hugging Face hub: it lists repository, visibility, files and sizes, and asks before anything goes. Exit codes: 0 done; 1 the
disk failed, or the hub did not take it; 2 the command is wrong or the weights do not fit.
"""

import dataclasses
import pathlib
import sys
from typing import NoReturn

from absl import app, flags, logging

from cvmae.cli import parse_own
from cvmae.config import did_you_mean
from cvmae.interop import push
from cvmae.interop.hints import ModelHints
from cvmae.interop.huggingface import write_hf_videomae
from cvmae.interop.inflate import KINDS as INFLATIONS
from cvmae.interop.inflate import inflate
from cvmae.interop.key_maps import KINDS
from cvmae.interop.load import read
from cvmae.interop.model_card import Run
from cvmae.interop.native import ARRAYS, write_archive
from cvmae.interop.onnx_export import write_onnx
from cvmae.interop.pretrained import PARTS, Pretrained
from cvmae.interop.stablehlo import export_stablehlo
from cvmae.models.patches import Grid
from cvmae.storage.client import scheme_of
from cvmae.workdir import PROBES

FORMATS = ("hf-videomae", *ARRAYS, "stablehlo", "onnx")
FLAGS = flags.FlagValues()  # this command's own, so that other commands may have flags of the same names in one process
flags.DEFINE_enum("from", "auto", KINDS, "import: the kind of the weights; auto detects it from the keys.", flag_values=FLAGS)
flags.DEFINE_string("weights", None, "import: a file, a folder, or a hub id owner/name[@revision].", flag_values=FLAGS)
flags.DEFINE_enum("format", "safetensors", tuple(ARRAYS), "import: the format of the arrays that are written.", flag_values=FLAGS)
flags.DEFINE_string("to", None, f"export: the format to write: {', '.join(FORMATS)}; push: hf:USER/NAME.", flag_values=FLAGS)
flags.DEFINE_string(
    "checkpoint", None, "export: a workdir, WORKDIR/checkpoints/STEP, or anything that import takes.", flag_values=FLAGS
)
flags.DEFINE_enum(
    "part", "", ("", *PARTS), "export: the part to write; empty: the most that the format can express.", flag_values=FLAGS
)
flags.DEFINE_enum("branch", "video", ("video", "image"), "The branch of a pre-training workdir.", flag_values=FLAGS)
flags.DEFINE_string(
    "license",
    "",
    "Id of the license of the weights for the model card, such as apache-2.0, cc-by-nc-4.0 or other; empty: not stated.",
    flag_values=FLAGS,
)
flags.DEFINE_string("out", None, "The folder to write; not there yet, or empty.", flag_values=FLAGS)
flags.DEFINE_integer(
    "heads",
    0,
    "Attention heads, if the file does not record them and they are not those of the published sizes.",
    lower_bound=0,
    flag_values=FLAGS,
)
flags.DEFINE_integer("decoder_heads", 0, "Attention heads of the decoder, likewise.", lower_bound=0, flag_values=FLAGS)
flags.DEFINE_integer(
    "num_frames",
    0,
    "Frames of a clip: those of a file that does not record them, 0: 16; of others the encoder is made for that number; or for --inflate.",
    lower_bound=0,
    flag_values=FLAGS,
)
flags.DEFINE_list(
    "image_size",
    [],
    "Side of a frame, or HEIGHT,WIDTH: that of a file that does not record it, empty: 224; of others the encoder is made for that size.",
    flag_values=FLAGS,
)
flags.DEFINE_enum("inflate", "none", INFLATIONS, "Turns an image encoder into a video encoder.", flag_values=FLAGS)
flags.DEFINE_integer("tubelet", 2, "Frames of a tubelet, for --inflate.", lower_bound=1, flag_values=FLAGS)
flags.DEFINE_bool("private", False, "push: only you and those you let in see the new repository.", flag_values=FLAGS)
flags.DEFINE_bool("dry_run", False, "push: lists what would go, and ends.", flag_values=FLAGS)
flags.DEFINE_bool("yes", False, "push: uploads without asking, for scripts.", flag_values=FLAGS)
flags.DEFINE_bool("update", False, "push: replaces files of a repository that is there already.", flag_values=FLAGS)
NEEDED = {"import": ("weights", "out"), "export": ("checkpoint", "to", "out"), "push": ("to",)}


def parse(argv: list[str]) -> list[str]:
    """Parses the command line; an error ends the program with one line."""
    try:
        rest = parse_own(argv, FLAGS, __doc__, reads=("weights", "checkpoint"), local=("out",))
        if len(rest) < 2 or rest[1] not in NEEDED or (rest[1] != "push" and len(rest) > 2):
            raise ValueError(f"give what to do: {' or '.join(NEEDED)} (then options, which start with --)")
        if rest[1] == "push" and (len(rest) != 3 or scheme_of(rest[2])):
            raise ValueError(
                "push takes one folder of this machine that export wrote: python -m cvmae.interop push DIR --to=hf:USER/NAME"
            )
        for name in NEEDED[rest[1]]:
            if not FLAGS[name].value:
                raise ValueError(f"--{name} is missing: {FLAGS[name].help}")
        if rest[1] == "export" and FLAGS.to not in FORMATS:
            raise ValueError(f"--to={FLAGS.to}: {unwritten(FLAGS.to)}")
        return rest
    except (flags.Error, ValueError) as error:
        fail(error, 2)


def unwritten(name: str) -> str:
    """Returns why there is no format of a name, and which there are."""
    formats = f"expected one of {', '.join(FORMATS)}"
    if name in KINDS:
        return f"{formats}; {name} is read and not written: --to=stablehlo takes any ViT, --to=safetensors any encoder"
    close = did_you_mean(name, FORMATS)
    return f"{close} {formats}" if close else formats


def fail(error: Exception, code: int) -> NoReturn:
    """Ends the program with the error on stderr, a problem a line."""
    print(f"error: {error}", file=sys.stderr)
    sys.exit(code)


def read_weights(path: str, kind: str) -> Pretrained:
    """Reads weights with the hints of the flags, and inflates them if --inflate is given."""
    size = tuple(map(int, FLAGS.image_size)) * (2 if len(FLAGS.image_size) == 1 else 1) or (0, 0)
    if len(size) != 2:
        raise ValueError(f"--image_size={','.join(FLAGS.image_size)}: expected one number or HEIGHT,WIDTH")
    num_frames = FLAGS.num_frames if FLAGS.inflate == "none" else 0  # an image encoder has one, and is inflated to that number
    hints = ModelHints(FLAGS.heads, FLAGS.decoder_heads, num_frames, size)
    pretrained = dataclasses.replace(read(path, kind, branch=FLAGS.branch, hints=hints), license=FLAGS.license)
    if FLAGS.inflate == "none":
        return pretrained
    grid = pretrained.encoder.grid
    return inflate(pretrained, Grid(FLAGS.num_frames or 16, grid.height, grid.width, FLAGS.tubelet, grid.patch), FLAGS.inflate)


def export(pretrained: Pretrained) -> list[str]:
    """Writes the format of --to; returns notes for the user."""
    if FLAGS.to == "hf-videomae":
        return write_hf_videomae(pretrained, FLAGS.out, FLAGS.part)
    if FLAGS.to == "onnx":
        return write_onnx(pretrained, FLAGS.out, FLAGS.part)
    if FLAGS.to == "stablehlo":
        export_stablehlo(pretrained, FLAGS.out, FLAGS.part)
    else:
        write_archive(pretrained, FLAGS.out, FLAGS.to)
    return []


def left_behind(pretrained: Pretrained) -> list[str]:
    """Returns a note if the run of these weights trained a probe, which no export holds; else nothing."""
    run = Run.of(pretrained)
    if run is None or run.task not in PROBES:
        return []
    return [f"the {run.task} probe of {run.workdir.path} is not part of this: it is the encoder alone, without classes"]


def push_folder(folder: str) -> None:
    """Lists what goes to the hub, asks, and uploads it; an error ends the program with one line."""
    try:
        upload = push.Upload.of(folder, FLAGS.to, FLAGS.private)
        print(*upload.lines(), sep="\n")
        if FLAGS.dry_run:
            print("dry run: nothing was uploaded")
            return
        if not FLAGS.yes and not (sys.stdin.isatty() and input("upload? [y/N] ").strip().lower() in ("y", "yes")):
            raise ValueError("not confirmed, nothing was uploaded: answer y in a terminal, or give --yes")
    except (ValueError, FileNotFoundError) as error:
        fail(error, 2)
    try:
        print(f"uploaded: {push.push(upload, FLAGS.update)}")
    except push.PushError as error:
        fail(error, 1)


def main(argv: list[str]) -> None:
    """Reads, writes, and prints what was written."""
    logging.set_verbosity(logging.WARNING)
    if argv[1] == "push":
        push_folder(argv[2])
        return
    try:
        if argv[1] == "import":
            kind = FLAGS.flag_values_dict()["from"]  # `from` is a word of Python, so it is no attribute
            pretrained, notes = read_weights(FLAGS.weights, kind), []
            origin = f"made from {pretrained.name}"
            write_archive(dataclasses.replace(pretrained, notes=(origin, *pretrained.notes)), FLAGS.out, FLAGS.format)
        else:
            pretrained = read_weights(FLAGS.checkpoint, "auto")
            pretrained = pretrained.only(FLAGS.part) if FLAGS.part else pretrained
            notes = export(pretrained)
        notes = notes + left_behind(pretrained)
    except (ValueError, FileNotFoundError, FileExistsError, ImportError) as error:
        fail(error, 2)
    except OSError as error:
        fail(error, 1)
    files = ", ".join(sorted(p.name for p in pathlib.Path(FLAGS.out).iterdir()))
    print(*pretrained.summary(), *notes, f"written: {files}", sep="\n")


def cli() -> None:
    """Runs the command, `cvmae-weights`."""
    app.run(main, flags_parser=parse)


if __name__ == "__main__":
    cli()
