"""The command: `python -m cvmae.main --config=configs/ssv2.py:variant=B/16 --workdir=DIR [--config.data.workers=4 ...]`.

Exit codes: 0 done, or stopped by a signal with the state saved; 1 the run failed; 2 the command or config is wrong.
"""

import pathlib
import re

from absl import app, flags, logging

from cvmae import command_line
from cvmae.command_line import FLAGS, config_path, fail, parse, refuse_arguments
from cvmae.config import ConfigError

flags.adopt_module_key_flags(command_line)
flags.DEFINE_string(
    "workdir", None, "Folder for checkpoints, metrics and pictures; a rerun goes on from it. Default: workdir/NAME-OF-THE-CONFIG."
)


def default_workdir(config: str) -> str:
    """`workdir/ssv2-variant=L_16` for the config `configs/ssv2.py:variant=L/16`."""
    file, _, arg = config.partition(":")
    name = "-".join(filter(None, [pathlib.Path(file).stem, re.sub(r"[^\w=.-]+", "_", arg)]))
    return str(pathlib.Path("workdir") / name)


def main(argv: list[str]) -> None:
    """Hands the config over to its task."""
    refuse_arguments(argv)
    logging.set_verbosity(logging.WARNING)  # jax and orbax say a lot at the level of information
    from cvmae.data.bad_files import BadDataError
    from cvmae.run import run
    from cvmae.training.metrics import NonFiniteError

    try:
        run(FLAGS.config, FLAGS.workdir or default_workdir(config_path()))
    except ConfigError as error:
        fail(error, 2)
    except (BadDataError, NonFiniteError) as error:
        fail(error, 1)


if __name__ == "__main__":
    app.run(main, flags_parser=parse)
