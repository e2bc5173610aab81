"""Run by several processes: what they read, count and say together, as npz. Then the last one falls silent.

python multiprocess_run.py OUT COORDINATOR PROCESSES PROCESS
"""

import os
import signal
import sys
import types

import jax
import numpy as np

from cvmae.data.bad_files import BadFiles
from cvmae.data.clip_views import TestViews
from cvmae.data.pipeline import make_loader
from cvmae.data.sources import Record, Source, make_source
from cvmae.evaluation.heldout import HeldOut
from cvmae.evaluation.multi_view import predict_views
from cvmae.parallel import launch, processes
from cvmae.parallel.mesh import Placement, make_mesh
from tests.multiprocess import share_programs
from tests.tiny_configs import config

BAD = 17  # a record that cannot be read
HEARTBEAT_S = 6


class Holed:
    """A source with a record that is no video."""

    def __init__(self, source: Source):
        self.source = source
        self.class_names, self.labels, self.identity = source.class_names, source.labels, source.identity

    def __len__(self):
        return len(self.source)

    def __getitem__(self, index: int) -> Record:
        found = self.source[index]
        return found if index != BAD else Record("broken.mp4", found.label, None, None, b"no video")

    def key(self, index: int) -> str:
        return self.source.key(index)


class Few(Holed):
    """The records around the one that is no video, an odd number, and with it an even one below the batch size."""

    def __len__(self):
        return 7

    def __getitem__(self, index: int) -> Record:
        return super().__getitem__(BAD - 3 + index)


class Reports(BadFiles):
    """A list of bad files that keeps the reports of every batch as they come."""

    def __init__(self, total: int):
        super().__init__(OUT + ".list", total, 1.0, writes=False)
        self.batches: list[np.ndarray] = []

    def update(self, reports: np.ndarray) -> int:
        self.batches.append(reports)
        return super().update(reports)


def read_together(c, placement) -> dict[str, np.ndarray]:
    """Predictions, held-out batches and bad files of a source that this process reads a part of."""
    holed = Holed(make_source(c.data, "train"))
    predict = jax.jit(lambda batch: batch["video"].astype(np.float32).mean((1, 2, 3, 4)))
    reports = Reports(len(holed))
    found = predict_views(predict, c, holed, TestViews(2, 1), placement, reports)
    arrays = {f"views/{name}": getattr(found, name) for name in ("probabilities", "labels", "readable")}
    arrays["views/failed"] = np.array([(failures[:, 0] != 0).sum() for failures in reports.batches])
    held_out = HeldOut(types.SimpleNamespace(config=c), holed, placement)
    batches = [processes.to_host(placement.put(batch)) for batch in held_out.batches()]
    arrays["heldout/video"] = np.stack([batch["video"][:, 0, 0, 0, 0] for batch in batches])
    small = HeldOut(types.SimpleNamespace(config=c), Few(holed.source), placement)  # of less readable clips than one batch
    small.bad_files = Reports(len(small.source))
    arrays["few/video"] = np.stack([placement.gather_rows(batch)["video"][:, 0, 0, 0, 0] for batch in small.batches()])
    arrays["few/bad"] = np.array(small.bad_files.pairs)
    bad = BadFiles(OUT + ".list", len(holed), 1.0, writes=processes.is_main_process())
    counts = []
    with make_loader(c, holed, process_index=placement.shard.index, process_count=placement.shard.count) as loader:
        for _ in range(2 * len(holed) // c.batch_size):
            counts.append(bad.update(placement.gather_reports(next(loader)["failures"])()))
    return arrays | {"bad/counts": np.array(counts), "bad/pairs": np.array(bad.pairs)}


def fall_silent() -> None:
    """The last process stops, as a machine that hangs does; the others find themselves waiting for it."""
    if jax.process_index() == jax.process_count() - 1:
        os.kill(os.getpid(), signal.SIGSTOP)
    while True:
        processes.allgather_json("still here")


if __name__ == "__main__":
    OUT, address, count, process = sys.argv[1:]
    several = int(count) > 1
    share_programs()
    if several:
        launch.initialize(address, int(count), int(process), connect_s=60, heartbeat_s=HEARTBEAT_S)
    os.makedirs(OUT + ".list", exist_ok=True)
    c = config(data__synthetic__clips=44, batch_size=8)
    placement = Placement(make_mesh(c.mesh))
    assert placement.shard == processes.ProcessShard(int(process), int(count))
    arrays = read_together(c, placement)
    said = processes.allgather_json({"process": jax.process_index(), "name": "é" * jax.process_index()})
    np.savez(
        f"{OUT}.{process}.npz", allow_pickle=False, said=np.array([f"{one['process']}{one['name']}" for one in said]), **arrays
    )
    if several:
        fall_silent()
