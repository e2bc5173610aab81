"""The packages and the system library that rendering needs: which are there, and how to install those that are missing."""

import importlib.util
import os
import sys

from cvmae.data.prepare.text import PrepareError
from cvmae.data.worker_pool import Failure, Worker

# Debian's and Ubuntu's packages of each library that renders without a screen.
LIBRARIES = {"egl": "libegl1 libegl-mesa0 libgl1-mesa-dri", "osmesa": "libosmesa6"}
PACKAGES = ("metaworld", "mujoco", "packaging")  # gymnasium's part for MuJoCo imports packaging without declaring it
PROBE = f"{__name__}:probe"


def choose_backend() -> str:
    """Returns the value of MUJOCO_GL to render with: that of the environment, else the first library that works.

    On systems other than Linux it is "", which leaves the choice to MuJoCo.

    Raises:
      PrepareError: a package or every library is missing; the message says how to install it.
    """
    missing = [name for name in PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        raise PrepareError(f"--dataset=metaworld needs {', '.join(missing)}: pip install 'crossvideomae[metaworld]'")
    wanted = os.environ.get("MUJOCO_GL", "").lower()
    candidates = (wanted,) if wanted or sys.platform != "linux" else tuple(LIBRARIES)
    reasons = {}
    for backend in candidates:
        if not (reason := _problem(backend)):
            return backend
        reasons[backend] = reason
    tried = "; ".join(f"{backend or 'MuJoCo'}: {reason}" for backend, reason in reasons.items())
    raise PrepareError(
        f"--dataset=metaworld renders without a screen, and no library for it works here ({tried}): {_remedy(wanted)}"
    )


def _problem(backend: str) -> str:
    """Renders a picture in a process of its own, since a process can load one library only; returns why it cannot, else ''."""
    worker = Worker(PROBE, limit_s=120)
    try:
        answer = worker.call({"backend": backend})
    finally:
        worker.close()
    return str(answer) if isinstance(answer, Failure) else answer["problem"]


def _remedy(wanted: str) -> str:
    if wanted and wanted not in LIBRARIES:
        return f"unset MUJOCO_GL={wanted}, or set it to {' or '.join(LIBRARIES)}"
    choices = " or ".join(f"`apt-get install {packages}`" for packages in ([LIBRARIES[wanted]] if wanted else LIBRARIES.values()))
    return f"install one, on Debian or Ubuntu by {choices}" + (", or unset MUJOCO_GL" if wanted else "")


def set_backend(backend: str) -> None:
    """Sets the environment of a process that renders; to be called before it imports mujoco."""
    if backend:
        os.environ["MUJOCO_GL"] = backend
        os.environ.pop("PYOPENGL_PLATFORM", None)
    os.environ.setdefault("LP_NUM_THREADS", "0")  # Mesa's threads only delay each other where every core has a process


def probe(job: dict) -> dict:
    """Renders an empty scene with the backend of a job of the worker pool; returns {"problem": why it failed, or ""}."""
    set_backend(job["backend"])
    try:
        import mujoco

        renderer = mujoco.Renderer(mujoco.MjModel.from_xml_string("<mujoco/>"), 16, 16)
        renderer.update_scene(mujoco.MjData(renderer.model))
        renderer.render()
    # What PyOpenGL raises where a library lacks is of many types: AttributeError, TypeError, ImportError, errors of its own.
    except Exception as error:
        return {"problem": f"{type(error).__name__}: {error}"}
    return {"problem": ""}
