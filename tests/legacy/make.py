"""Makes what this folder keeps, with the code of the commit that README.md names; no other code can make it.

    PYTHONPATH=. python tests/legacy/make.py NEW-FOLDER      # where it works; what is kept is put beside this file

Trained parameters do not compress. So every checkpoint is read, its arrays are replaced by a short pattern of about the same mean and
deviation, and it is written again, by the code's own `Checkpoints`; what a run leaves at its end is then made anew of it by the same
command. Pictures are shrunk; TensorBoard's files, whose names hold a host's, and the checkpoints of a study's runs are left out.
"""

# The types are those of the code of that commit.
# mypy: ignore-errors

import io
import json
import os
import pathlib
import shutil
import subprocess
import sys
import tarfile
import zlib

import jax
import numpy as np
from cvmae.training.sharding import make_mesh
from PIL import Image
from tests.command import QUICK

import cvmae
from cvmae import config as config_lib
from cvmae.data.sources import make_source
from cvmae.evaluation.feature_files import FeatureFolder
from cvmae.training.checkpoint import Checkpoints
from cvmae.training.loop import TASKS, Plan
from cvmae.training.optimizer import path_of
from tests.data.videos import write_video
from tests.legacy.runs import RUNS

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parent.parent
ARCHIVE, NUMBERS, ARRAYS = HERE / "legacy.tar.xz", HERE / "expected.json", HERE / "expected.npz"
PATTERN = np.float32([1, -1, 1, 1, -1, -1, -1, 1, -1, 1, -1, 1, 1])  # its length divides no width, so neighbouring rows differ
TRIES = 12


def command(*words, program=("-m", "cvmae.main")):
    """Runs a command in the folder that everything is made in."""
    environment = os.environ | {"PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"} | QUICK
    done = subprocess.run([sys.executable, *program, *words], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{words}\n{done.stdout}\n{done.stderr[-3000:]}"
    return done.stdout


def arguments(name: str, workdir: str = "") -> list[str]:
    path, fields = RUNS[name]
    return [
        f"--config=configs/{path}",
        f"--workdir={workdir or name}",
        *(f"--config.{key}={value}" for key, value in fields.items()),
    ]


def rounded(value: float) -> np.float32:
    """Two digits of it."""
    return np.float32(f"{value:.1e}")


def pattern(path, leaf) -> np.ndarray:
    """An array of the shape of `leaf` that compresses; what counts steps stays."""
    value = np.asarray(leaf)
    if value.dtype != np.float32:
        return value
    start = zlib.crc32(path.encode()) % len(PATTERN)
    found = rounded(value.mean()) + rounded(value.std()) * np.resize(np.roll(PATTERN, start), value.shape)
    return np.abs(found) if value.min() >= 0 else found  # Adam's second moments


def simplify(config, workdir: str) -> None:
    """Replaces the newest checkpoint by one with other arrays; older ones are left out.

    Orbax leaves more or fewer superseded copies of its index behind, as its threads happen to meet: the smallest of some is taken.
    """
    plan = Plan.of(config, len(make_source(config.data, config.data.split)))
    task = TASKS[config.task](config, make_mesh(config.mesh), plan.total, plan.steps_per_epoch)
    before = Checkpoints(workdir, config.checkpoint_keep)
    state, position = before.restore(task.abstract_state())
    before.close()

    def patterned(name):
        return jax.tree_util.tree_map_with_path(lambda path, leaf: pattern(name + path_of(path), leaf), getattr(state, name))

    new = state.replace(**{name: patterned(name) for name in ("params", "opt_state", "ema")})
    new = jax.tree.map(lambda new, old: jax.device_put(new, old.sharding), new, state)
    written = []
    for number in range(TRIES):
        folder = pathlib.Path(f"{workdir}.{number}")
        after = Checkpoints(str(folder), config.checkpoint_keep)
        after.save(position["step"], new, position)
        after.close()
        written.append((sum(path.stat().st_size for path in folder.rglob("d/*")), folder))
    shutil.rmtree(pathlib.Path(workdir) / "checkpoints")
    os.rename(min(written)[1] / "checkpoints", pathlib.Path(workdir) / "checkpoints")
    for _, folder in written:
        shutil.rmtree(folder)


def lines_of(workdir) -> list[dict]:
    """metrics.jsonl without clocks."""
    lines = map(json.loads, (pathlib.Path(workdir) / "metrics.jsonl").read_text().splitlines())
    return [{name: value for name, value in line.items() if not name.startswith("time/")} for line in lines]


def make_runs() -> dict:
    """Makes the workdirs; returns the metrics of what goes on from `stopped`, by the code that began it."""
    for name, (path, fields) in RUNS.items():
        print(name, flush=True)
        config = config_lib.load(f"configs/{path}", fields)
        if name == "stopped":
            interrupted = str(ROOT / "tests" / "training" / "interrupted.py")
            command("terminate_after_step", "2", *arguments(name), program=(interrupted,))
            simplify(config, name)
            shutil.copytree(name, "ended")
            command(*arguments(name, "ended"))
            continue
        command(*arguments(name))
        if config.task in TASKS:
            simplify(config, name)
            command(*arguments(name))
    return {"ended": lines_of("ended")}


def make_exports() -> None:
    """Weights of both kinds of file: an autoencoder, and a classifier."""
    export = {
        "archive": ("pretrain", "safetensors", "video"),
        "image": ("pretrain", "npz", "image"),
        "classifier": ("finetune", "npz", "video"),
    }
    for out, (workdir, kind, branch) in export.items():
        words = (f"--checkpoint={workdir}", f"--to={kind}", f"--branch={branch}", f"--out={out}")
        command("export", *words, program=("-m", "cvmae.interop"))


def make_videos() -> None:
    """A set of five videos as `cvmae.data.prepare` leaves it, packed too, and a manifest in JSON lines over the same files."""
    for name, count in {"train/up/a": 0, "train/down/b": 60, "train/up/c": 120, "val/down/d": 180, "val/up/e": 200}.items():
        file = pathlib.Path("raw", f"{name}.mp4")
        file.parent.mkdir(parents=True, exist_ok=True)
        write_video(file, 16, first=count, options={"crf": "35", "g": "4"})
    words = ("--dataset=folder", "--videos=raw", "--out=videos", "--transcode=32", "--pack", "--workers=1")
    command(*words, program=("-m", "cvmae.data.prepare"))
    rows = [{"path": "videos32/train/up/a.mp4", "label": "up", "split": "train", "start": 0.5, "end": 1.0}]
    rows += [{"path": "videos32/val/down/d.mp4", "label": "", "split": "test"}]
    pathlib.Path("videos", "manifest.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def outputs() -> dict[str, np.ndarray]:
    """What the weights make of a clip, by way of `cvmae.load`, and the features of the feature folders."""
    found = {"clip": np.random.default_rng(0).integers(0, 256, (4, 20, 20, 3), np.uint8)}
    for name, options in {
        "pretrain": {},
        "pretrain:image": {"branch": "image"},
        "stopped": {},
        "finetune": {},
        "linear": {},
        "attentive": {},
        "archive": {},
        "image": {},
        "classifier": {},
    }.items():
        module, params, preprocessing = cvmae.load(name.partition(":")[0], **options)
        frames = found["clip"][: preprocessing.num_frames]
        output = module.apply({"params": params}, preprocessing(frames))
        found[name] = np.asarray(getattr(output, "tokens", output))
    for name in ("extract", "shards"):
        found |= {f"{name}/{video}": arrays["features"] for video, arrays in FeatureFolder(f"{name}/features").items()}
    return found


def kept(path: pathlib.Path) -> bool:
    if path.parts[0] == "study" and "checkpoints" in path.parts:
        return False  # a study reads what its runs report
    return "tensorboard" not in path.parts and path.parts[0] not in ("configs", "raw", "ended") and ".prepare" not in path.parts


def content(path: pathlib.Path) -> bytes:
    """A file's bytes, without the place it was made in; of a picture those of a small one."""
    if path.suffix != ".png":
        return path.read_bytes().replace(os.fsencode(os.getcwd()), b"/runs")
    out, picture = io.BytesIO(), Image.open(path).convert("L")
    picture.resize((16, 16)).quantize(4).save(out, "png")
    return out.getvalue()


def write_tar(target: pathlib.Path) -> None:
    """Every file that is kept, without times and owners."""
    with tarfile.open(target, "w:xz", preset=9) as archive:
        for path in sorted(pathlib.Path(".").rglob("*")):
            if path.is_file() and kept(path):
                entry, data = tarfile.TarInfo(path.as_posix()), content(path)
                assert os.fsencode(ROOT) not in data, path
                entry.size = len(data)
                archive.addfile(entry, io.BytesIO(data))


def main(folder: str) -> None:
    os.makedirs(folder)
    os.chdir(folder)
    os.symlink(ROOT / "configs", "configs")
    numbers = make_runs()
    make_exports()
    make_videos()
    np.savez_compressed(ARRAYS, **outputs())
    NUMBERS.write_text(json.dumps(numbers, indent=1) + "\n")
    write_tar(ARCHIVE)
    for file in (ARCHIVE, NUMBERS, ARRAYS):
        print(f"{file.name}: {file.stat().st_size} bytes")


if __name__ == "__main__":
    main(sys.argv[1])
