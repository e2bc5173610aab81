"""The one way in: weights from a file, a folder, a hub id, a workdir or an export of ours, as `Pretrained`."""

import os

from cvmae.interop import hub
from cvmae.interop.archive import is_archive, read_archive
from cvmae.interop.describe import Hints
from cvmae.interop.foreign import read_file
from cvmae.interop.kinds import KINDS, OURS
from cvmae.interop.preprocessing import preprocessing_of
from cvmae.interop.pretrained import Pretrained, WeightsError
from cvmae.interop.workdir import is_workdir, load_workdir


def read(path, kind: str = "auto", *, branch: str = "video", step: int | None = None, hints: Hints = Hints()) -> Pretrained:
    """Weights from anywhere.

    Args:
      path: a file (.safetensors, .npz, .pth), a folder that holds one, a hub id `owner/name` or `owner/name@revision`, a
        workdir of ours (WORKDIR, or WORKDIR/checkpoints/STEP), or what `python -m cvmae.interop` wrote.
      kind: one of `kinds.KINDS`; `auto` tells it from what is there.
      branch: `video` or `image`, of a workdir.
      step: of a workdir's checkpoint; None takes the newest complete one.
      hints: what a file may leave open.

    Raises:
      FileNotFoundError: there is nothing, or the hub cannot be reached and nothing is cached.
      WeightsError, WorkdirError: what is there is damaged or does not fit; all problems are listed.
      ValueError: the kind is unknown.
    """
    if kind not in KINDS:
        raise ValueError(f"weights kind is {kind!r}; expected one of {', '.join(KINDS)}")
    path = os.path.expanduser(os.fspath(path))
    local = hub.fetch(path) if hub.is_hub_id(path) else path
    ours = is_archive(local) or is_workdir(local)
    if ours != (kind == OURS) and kind != "auto" and os.path.exists(local):
        what = "weights of ours" if ours else "no workdir and no export of ours"
        raise WeightsError(path, [f"it is {what}, which kind {kind!r} is not"])
    if is_archive(local):
        return read_archive(local)
    return load_workdir(local, branch, step) if is_workdir(local) else read_file(local, kind, hints)


def load(path, part: str = "", kind: str = "auto", *, branch: str = "video", step: int | None = None, hints: Hints = Hints()):
    """A module, its parameters, and what makes clips for it, ready to use.

        module, params, preprocessing = cvmae.load("WORKDIR")
        tokens = module.apply({"params": params}, preprocessing(frames)).tokens

    Args:
      part: `encoder`, `autoencoder` or `classifier`; empty takes the classifier where there is a head, else the encoder.
      path, kind, branch, step, hints: see `read`.

    Returns:
      (a Flax module, its parameters as numpy arrays, a `preprocessing.Preprocessing`).

    Raises:
      ValueError: there is no such part; else see `read`.
    """
    found = read(path, kind, branch=branch, step=step, hints=hints)
    module, params = found.take(part)
    return module, params, preprocessing_of(found)
