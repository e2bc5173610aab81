"""Rendering of the clips of one task and split, as a job of the worker pool."""

import dataclasses
import os
import platform
import traceback

import numpy as np

from cvmae.data import clip_files
from cvmae.data.metaworld import system
from cvmae.data.metaworld.render import Studio
from cvmae.data.metaworld.simulate import Simulator, generator
from cvmae.data.metaworld.spec import DIRECTIONS, ENTIRE, INSIDE, SPLIT_OF_NAME

FUNCTION = f"{__name__}:render_job"
FPS = 8
# Constant, and every frame by itself: reversed frames are the reversed file, so that coding noise does not tell the direction.
_QUANTIZER = 26


@dataclasses.dataclass(frozen=True)
class Clip:
    """A clip of a task and split, by its number.

    Attributes:
      split, task: see `spec`.
      number: 0, 1, ... in the split and task.
    """

    split: str
    task: str
    number: int

    @property
    def path(self) -> str:
        """Path of the file below the set's folder."""
        return f"clips/{self.split}/{self.task}/{self.number:04d}.mp4"

    def directed_path(self, direction: str) -> str:
        """Returns the path of the clip that is played in one of DIRECTIONS, for the labels `direction`."""
        return f"direction/{self.split}/{directed(self.task, direction)}/{self.number:04d}.mp4"

    @property
    def paths(self) -> tuple[str, ...]:
        """Paths of all files of the clip."""
        return (self.path, *(self.directed_path(direction) for direction in DIRECTIONS))


def directed(task: str, direction: str) -> str:
    """Returns the class name of a task played in one of DIRECTIONS."""
    return f"{task}-{direction}"


@dataclasses.dataclass
class _Stage:
    """The simulator and the renderer of a task, which a worker process keeps until it gets a job of another one."""

    task: str
    side: int
    simulator: Simulator
    studio: Studio


_stages: list[_Stage] = []  # of this process: none or one


def render_job(job: dict) -> dict:
    """Renders the clips of a job and writes their files.

    Args:
      job: {out, temporary: folders; backend, side, frames, seed; split, task; numbers: of the clips}.

    Returns:
      {"facts": [the clips' facts, in the order of `numbers`]}: see `_render`.
    """
    system.set_backend(job["backend"])
    try:
        stage = _stage_of(job["task"], job["side"])
        return {"facts": [_render(stage, job, Clip(job["split"], job["task"], number)) for number in job["numbers"]]}
    except Exception:
        traceback.print_exc()  # the pool passes on the exception's name and text only
        raise


def _stage_of(task: str, side: int) -> _Stage:
    if _stages and (_stages[0].task, _stages[0].side) == (task, side):
        return _stages[0]
    while _stages:
        _stages.pop().studio.close()
    simulator = Simulator(task)
    _stages.append(_Stage(task, side, simulator, Studio(simulator.model, simulator.data, side)))
    return _stages[0]


def _render(stage: _Stage, job: dict, clip: Clip) -> dict:
    """Writes the three files of a clip.

    Returns:
      Facts: {steps: of the episode; attempt: see `Episode`; first, last: steps of the clip's first and last frame;
      inside_first, inside_last: those of the clips that are played in both directions}.
    """
    split = SPLIT_OF_NAME[clip.split]
    episode = stage.simulator.episode(job["seed"], split.episodes, clip.number)
    windows = generator(job["seed"], split.episodes, clip.task, clip.number, "windows")
    entire, inside = (_steps(len(episode.states), job["frames"], bounds, windows) for bounds in (ENTIRE, INSIDE))
    stage.studio.draw_look(split.look, generator(job["seed"], split.name, clip.task, clip.number, "look"))
    frames = stage.studio.render(episode.states[np.concatenate([entire, inside])])
    forwards = frames[len(entire) :]
    for path, shown in zip(clip.paths, (frames[: len(entire)], forwards, forwards[::-1]), strict=True):
        _write(job["temporary"], os.path.join(job["out"], path), shown)
    ends = {"first": entire[0], "last": entire[-1], "inside_first": inside[0], "inside_last": inside[-1]}
    return {"steps": len(episode.states), "attempt": episode.attempt} | {name: int(step) for name, step in ends.items()}


def _steps(num_states: int, num_frames: int, bounds, rng: np.random.Generator) -> np.ndarray:
    """Returns the evenly spaced numbers of the states of a window, int64 [T], between random ends (see ENTIRE)."""
    start, end = (rng.uniform(*bound) for bound in bounds)
    return np.linspace(start * (num_states - 1), end * (num_states - 1), num_frames).round().astype(np.int64)


def _write(temporary: str, path: str, frames: np.ndarray) -> None:
    """Writes a clip, which appears only when it is complete."""
    os.makedirs(os.path.dirname(path), exist_ok=True)
    part = os.path.join(temporary, f"{platform.node()}-{os.getpid()}.mp4")
    clip_files.write(part, np.ascontiguousarray(frames), fps=FPS, quantizer=_QUANTIZER)
    os.replace(part, path)
