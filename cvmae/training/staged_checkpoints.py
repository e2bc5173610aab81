"""Checkpoints in S3, to which Orbax has no way of its own: written on this machine and uploaded whole.

Orbax 0.12 takes gs:// alone for a bucket, and refuses s3:// as a path that is not absolute. So a checkpoint is written into a
temporary folder and its files are uploaded, and last `commit_success.txt`, the marker that Orbax uses on gs://: a folder without
it does not count (see `saved_steps`). It is deleted in the opposite order.
"""

import concurrent.futures
import contextlib
import pathlib
import shutil
import tempfile
from collections.abc import Iterator
from typing import TypeGuard

import orbax.checkpoint as ocp

from cvmae.storage.path import AnyPath
from cvmae.storage.remote_path import RemotePath
from cvmae.workdir.saved_steps import COMMITTED, is_step, saved_steps

_UPLOADS = 8  # files at a time


def is_staged(path: AnyPath) -> TypeGuard[RemotePath]:
    """Returns True for a folder of checkpoints, or one of them, in a bucket that Orbax has no driver for."""
    return isinstance(path, RemotePath) and not str(path).startswith("gs://")


class StagedManager:
    """The part of `ocp.CheckpointManager` that runs use, over a folder in S3, of one process.

    Args:
      folder: of the checkpoints.
      keep: how many of the newest stay.
      permanent: steps that stay, which grow as they are saved.
      handlers: of the items, see `ocp.CheckpointManager`.
    """

    def __init__(self, folder: RemotePath, keep: int, permanent: set[int], handlers: dict):
        self._folder, self._keep, self._permanent = folder, keep, permanent
        self._staging = pathlib.Path(tempfile.mkdtemp(prefix="cvmae-checkpoints-"))
        options = ocp.CheckpointManagerOptions(max_to_keep=1, lightweight_initialize=True)
        self._manager = ocp.CheckpointManager(self._staging, options=options, item_handlers=handlers)
        self._pool = concurrent.futures.ThreadPoolExecutor(1)
        self._upload: concurrent.futures.Future | None = None
        self._steps = saved_steps(folder)
        for name, status in folder.listing().items():  # of uploads that a kill cut short
            if status is None and is_step(name) and int(name) not in self._steps:
                (folder / name).remove_tree()

    def latest_step(self) -> int | None:
        """Returns the newest step that is complete in the bucket."""
        return max(self._steps, default=None)

    def save(self, step: int, args, force: bool = False) -> None:
        """Starts writing and uploading a checkpoint; raises the error of the one before."""
        self.wait_until_finished()
        if step in self._steps:
            self._delete(step)  # of other data or of another seed; the checkpoint of the same run is never saved twice
        self._manager.save(step, args=args, force=force)
        self._upload = self._pool.submit(self._finish, step)

    def _finish(self, step: int) -> None:
        """Uploads a checkpoint once it is complete here, and deletes those that are not kept."""
        self._manager.wait_until_finished()
        local, remote = self._staging / str(step), self._folder / str(step)
        # Orbax's own marker stays here: in the bucket it would lie beside half of the files while they are uploaded.
        files = [file for file in sorted(local.rglob("*")) if file.is_file() and file != local / COMMITTED]
        with concurrent.futures.ThreadPoolExecutor(_UPLOADS) as pool:
            list(pool.map(lambda file: (remote / file.relative_to(local)).upload(file), files))
        (remote / COMMITTED).write_text(f"{len(files)} files\n")
        self._steps = sorted({*self._steps, step})
        newest = set(self._steps[-self._keep :])
        for old in [old for old in self._steps if old not in newest | self._permanent]:
            self._delete(old)

    def _delete(self, step: int) -> None:
        (self._folder / str(step) / COMMITTED).unlink(missing_ok=True)
        (self._folder / str(step)).remove_tree()
        self._steps = [other for other in self._steps if other != step]

    def wait_until_finished(self) -> None:
        """Blocks until the checkpoint that was started is complete. Raises: what its writing raised."""
        upload, self._upload = self._upload, None
        if upload is not None:
            upload.result()

    def close(self) -> None:
        """Frees the writer's threads and the temporary folder."""
        self._pool.shutdown()
        self._manager.close()
        shutil.rmtree(self._staging, ignore_errors=True)


@contextlib.contextmanager
def local_copy(checkpoint: RemotePath) -> Iterator[pathlib.Path]:
    """Gives a temporary local copy of a checkpoint in S3. Raises: OSError, it cannot be read."""
    with tempfile.TemporaryDirectory(prefix="cvmae-checkpoint-") as folder:
        local = pathlib.Path(folder) / checkpoint.name

        def copy(file: RemotePath) -> None:
            target = local / file.relative_to(checkpoint)
            target.parent.mkdir(parents=True, exist_ok=True)
            file.download(target)

        with concurrent.futures.ThreadPoolExecutor(_UPLOADS) as pool:
            list(pool.map(copy, checkpoint.files()))
        yield local
