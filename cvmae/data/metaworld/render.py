"""Frames of an episode under a random camera, light and colors. Needs the extra `metaworld` and a library that renders."""

from typing import Any

import numpy as np

from cvmae.data.metaworld.spec import Look

_CELL = 0.012  # meters; vertices of a large mesh that share a cell are merged, which shows in no picture of this size
_LARGE = 1500  # faces
_CENTER = (0.0, 0.66, 0.12)  # of what happens, in the world's coordinates
_VARIED = ("mat_rgba", "geom_matid", "geom_rgba", "light_diffuse", "light_pos")
_TABLE = "table_wood"  # Meta-World's name of the material of the table's top and body


class Studio:
    """A renderer of the states of one model. Making it takes about a second, so it is kept for all clips of a task.

    Args:
      model: MuJoCo's model, whose large meshes are thinned in place. Physics reads their convex hulls, not their faces.
      data: its data, which rendering overwrites.
      side: of the frames, pixels.
    """

    def __init__(self, model: Any, data: Any, side: int):
        import mujoco

        self._mujoco, self._model, self._data = mujoco, model, data
        thin_meshes(model, _CELL)
        # Rendering in software takes 190 ms a frame with shadows, reflections, multisampling and all faces, and 7 ms without.
        model.vis.quality.offsamples, model.vis.quality.shadowsize = 0, 512
        model.vis.global_.offwidth = model.vis.global_.offheight = side
        self._base = {name: getattr(model, name).copy() for name in _VARIED}
        self._renderer = mujoco.Renderer(model, side, side)
        for flag in (mujoco.mjtRndFlag.mjRND_SHADOW, mujoco.mjtRndFlag.mjRND_REFLECTION):
            self._renderer.scene.flags[flag] = 0
        self._options, self._camera = mujoco.MjvOption(), mujoco.MjvCamera()
        self._options.sitegroup[:] = 0  # sites mark the goal, which would name the task

    def close(self) -> None:
        """Frees the renderer, of which a process should have one at a time."""
        self._renderer.close()

    def draw_look(self, look: Look, rng: np.random.Generator) -> None:
        """Draws the camera, light and colors of the following frames from the ranges of a look."""
        model = self._model
        for name, values in self._base.items():
            getattr(model, name)[:] = values
        turn = int(rng.choice(look.turns))
        for colors in (model.mat_rgba, model.geom_rgba):
            turned = np.roll(colors[:, :3], turn, 1)
            scale = rng.uniform(*look.gain, (len(colors), 1)) * rng.uniform(*look.tint, (len(colors), 3))
            colors[:, :3] = np.clip(turned * scale, 0, 1)
        plain = rng.uniform(*look.plain, 3)
        if not look.is_wooden:
            material = self._mujoco.mj_name2id(model, self._mujoco.mjtObj.mjOBJ_MATERIAL, _TABLE)
            table = model.geom_matid == material
            model.geom_matid[table], model.geom_rgba[table, :3] = -1, plain
        model.light_diffuse[:] = np.clip(model.light_diffuse * rng.uniform(*look.light, (model.nlight, 1)), 0, 1)
        model.light_pos[:] += rng.uniform(-look.lamp_shift, look.lamp_shift, (model.nlight, 3))
        model.vis.headlight.diffuse[:] = rng.uniform(*look.headlight)
        model.vis.headlight.ambient[:] = rng.uniform(*look.headlight)
        camera = self._camera
        camera.lookat[:] = np.array(_CENTER) + rng.uniform(-look.shift, look.shift, 3)
        camera.distance, camera.azimuth, camera.elevation = (
            rng.uniform(*bounds) for bounds in (look.distance, look.azimuth, look.elevation)
        )

    def render(self, states: np.ndarray) -> np.ndarray:
        """Renders states, float64 [T, nq], to frames, uint8 [T, side, side, 3]."""
        frames = []
        for state in states:
            self._data.qpos[:] = state
            # As much of the physics as the positions of what is drawn depend on.
            self._mujoco.mj_kinematics(self._model, self._data)
            self._mujoco.mj_camlight(self._model, self._data)
            self._renderer.update_scene(self._data, self._camera, self._options)
            frames.append(self._renderer.render())
        return np.stack(frames)


def thin_meshes(model: Any, cell: float) -> None:
    """Merges the vertices of large meshes that share a cell of the given side in meters, and drops faces without an area."""
    for mesh in range(model.nmesh):
        start, count = model.mesh_faceadr[mesh], model.mesh_facenum[mesh]
        if count < _LARGE:
            continue
        first = model.mesh_vertadr[mesh]
        vertices = model.mesh_vert[first : first + model.mesh_vertnum[mesh]]
        span = slice(start, start + count)
        merged = _representatives(vertices, cell)[model.mesh_face[span]]
        has_area = (merged != np.roll(merged, 1, 1)).all(1)
        _, kept = np.unique(np.sort(merged, 1)[has_area], axis=0, return_index=True)  # each face once
        kept = np.flatnonzero(has_area)[kept]
        normals = model.mesh_facenormal[span][kept]
        model.mesh_facenum[mesh] = len(kept)
        model.mesh_face[start : start + len(kept)] = merged[kept]
        model.mesh_facenormal[start : start + len(kept)] = normals


def _representatives(vertices: np.ndarray, cell: float) -> np.ndarray:
    """Returns for each vertex, [N, 3], the number of the vertex that stands for its cell: the nearest to the cell's mean."""
    cells = np.floor((vertices - vertices.min(0)) / cell).astype(np.int64)
    _, group, sizes = np.unique(cells, axis=0, return_inverse=True, return_counts=True)
    group = group.reshape(-1)
    means = np.stack([np.bincount(group, column) for column in vertices.T], 1) / sizes[:, None]
    order = np.lexsort((((vertices - means[group]) ** 2).sum(1), group))
    return order[np.concatenate([[0], np.cumsum(sizes)[:-1]])][group]
