"""Episodes of a task: the robot's states while a scripted policy solves it. Needs the extra `metaworld`."""

import zlib
from typing import Any, NamedTuple

import numpy as np

from cvmae.data.metaworld.spec import MAX_STEPS

_AFTER = (4, 11)  # steps after the success, at least and below
_MAX_ATTEMPTS = 30  # the weakest policy, of push-back, succeeds in two of three


class Episode(NamedTuple):
    """A successful episode.

    Attributes:
      states: positions of all joints after each step, float64 [steps, nq]; the first one is before the first step.
      attempt: number of episodes that were drawn before and failed.
    """

    states: np.ndarray
    attempt: int


class Simulator:
    """Meta-World's environment of a task, with its scripted policy.

    Attributes:
      model: MuJoCo's model.
      data: MuJoCo's data, which a renderer may change between episodes.
    """

    def __init__(self, task: str):
        from metaworld.env_dict import ALL_V3_ENVIRONMENTS
        from metaworld.policies import ENV_POLICY_MAP

        self._task = task
        self._policy: Any = ENV_POLICY_MAP[f"{task}-v3"]
        self._env: Any = ALL_V3_ENVIRONMENTS[f"{task}-v3"](render_mode=None)
        # As for benchmarks, but with a goal of its own in every episode, drawn by the seed, that the policy is shown.
        self._env._set_task_called, self._env._freeze_rand_vec, self._env.seeded_rand_vec = True, False, True
        self._env._partially_observable = False
        # Cached in the constructor, when the goal was still hidden: it would clip the observed goal to 0, and policies would fail.
        self._env.__dict__.pop("sawyer_observation_space", None)
        self.model, self.data = self._env.model, self._env.data

    def episode(self, seed: int, stream: str, number: int) -> Episode:
        """Simulates episodes until one succeeds. The result depends on the arguments and the task alone.

        Args:
          seed: of the set.
          stream: name of the episodes, such as "train".
          number: of the episode in it.

        Raises:
          RuntimeError: the policy fails again and again.
        """
        for attempt in range(_MAX_ATTEMPTS):
            rng = generator(seed, stream, self._task, number, attempt)
            if (states := self._run(rng)) is not None:
                return Episode(states, attempt)
        raise RuntimeError(f"the policy of {self._task} failed {_MAX_ATTEMPTS} times, in episode {number} of {stream}")

    def _run(self, rng: np.random.Generator) -> np.ndarray | None:
        """Returns the states of an episode up to a few steps after its success; None if the policy fails."""
        import mujoco

        mujoco.mj_resetData(self.model, self.data)  # the reset takes some steps first, which depend on what was there before
        self._env.seed(int(rng.integers(2**31)))
        observation, _ = self._env.reset()
        policy, states, steps_left = self._policy(), [self.data.qpos.copy()], None
        for _ in range(MAX_STEPS):
            observation, _, _, _, info = self._env.step(policy.get_action(observation))
            states.append(self.data.qpos.copy())
            if steps_left is None and info["success"]:
                steps_left = int(rng.integers(*_AFTER))
            if steps_left is not None:
                if not steps_left:
                    return np.stack(states)
                steps_left -= 1
        return None


def generator(*key: int | str) -> np.random.Generator:
    """Returns a random generator whose numbers depend on the key alone, such as ("train", "door-open", 3)."""
    return np.random.default_rng([zlib.crc32(part.encode()) if isinstance(part, str) else part for part in key])
