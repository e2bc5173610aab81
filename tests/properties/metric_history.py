"""One run of the command that is stopped and goes on, in any number of processes and devices, and what it read."""

import json
import pathlib

from tests.commands import arguments, host_devices
from tests.multiprocess import flags, free_address, run_all

HERE = pathlib.Path(__file__).parent
TOTAL = 8
SIMPLE = {
    "report__pictures": 0, "video_branch__decoder__depth": 0, "eval_every": "3_steps",
    **{f"loss__{term}": 0.0 for term in ("mse_image", "intra_frame", "cross_video", "cross_frame")},
    # Steps large enough to tell gradients apart, and none of what Adam makes of a gradient that is nothing but rounding.
    "optimizer__warmup": "1_steps", "optimizer__base_lr": 0.3, "optimizer__eps": 1e-3,
}  # fmt: skip


class History:
    """One run, interrupted or not."""

    def __init__(self, folder: pathlib.Path):
        self.workdir, self.notes = folder / "run", folder / "notes"

    def go(self, count: int, end=(0, 0, 0), devices: int = 1, **overrides) -> list:
        """Starts it, or goes on with it, in `count` processes of so many devices each; `end`: signal, process, step."""
        program = [str(HERE / "multiprocess_worker.py"), str(self.notes), *map(str, map(int, end))]
        address = free_address()
        ends = [[*program, *flags(address, count, one), *arguments(self.workdir, **(SIMPLE | overrides))] for one in range(count)]
        return run_all(ends, host_devices(devices))

    def clips(self) -> dict[int, dict[int, list]]:
        """{step: {devices: clips of the global batch}}; a step that was done again with fewer devices has several."""
        found: dict[int, dict[int, list]] = {}
        for step, count, process, clips in sorted(map(json.loads, self.notes.read_text().splitlines())):  # noqa: B007
            found.setdefault(step, {}).setdefault(count, []).extend(clips)
        return found
