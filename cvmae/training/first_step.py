"""The start at step 0 of a workdir without a checkpoint to resume from: allowed, said, or refused where checkpoints seem to be lost."""

from cvmae.config import ConfigError
from cvmae.parallel import processes
from cvmae.workdir import CHECKPOINTS, METRICS, PROVENANCE, Workdir
from cvmae.workdir.metric_lines import last_step, set_lines_aside
from cvmae.workdir.saved_steps import Leftovers, find_leftovers


def check_start(workdir: Workdir, interval: int) -> None:
    """Says why a run without a checkpoint starts at step 0, in the main process, where the folder shows that it had begun before.

    A run that was stopped before its first checkpoint starts again. Where its metrics or starts show that it had one, it is refused,
    unless the folder of the checkpoints was removed: that means to begin again, and the metrics of before are kept under another name.

    Args:
      workdir: of the run.
      interval: steps from one checkpoint to the next.

    Raises:
      ConfigError: checkpoints are lost, or have names that are not read. In all processes.
    """
    refusal, lines = "", []
    if processes.is_main_process():
        try:
            lines = _look(workdir, interval)
        except ConfigError as error:
            refusal = str(error)
    if refusal := processes.allgather_json(refusal)[0]:
        raise ConfigError(refusal)
    processes.log_once(*lines)


def _look(workdir: Workdir, interval: int) -> list[str]:
    folder, left = workdir / CHECKPOINTS, find_leftovers(workdir / CHECKPOINTS)
    reached, resumed = last_step(workdir.path), _resumed(workdir)
    got = f"this run had come to step {max(reached, resumed)} ({METRICS if reached >= resumed else PROVENANCE})"
    again = "to begin again; or give another --workdir"
    if left.misnamed or left.damaged:
        raise ConfigError(
            f"{folder} holds no checkpoint to resume from, only {describe_names(left)}: bring a whole one back; or move that folder away {again}"
        )
    if left.unfinished:
        names = ", ".join(left.unfinished)
        first = min(left.unfinished.values())
        if resumed or first > interval or reached > first + interval:
            raise ConfigError(
                f"{folder} holds only checkpoints that are not complete ({names}), but {got}: bring the others back; or move that folder "
                f"away {again}"
            )
        return [f"{folder} holds no complete checkpoint, only {names}, which a run left unfinished: starting at step 0"]
    seems_lost = resumed > 0 or reached > 2 * interval
    if folder.is_dir() and seems_lost:
        raise ConfigError(
            f"{folder} is empty, but {got}: bring the checkpoints back (is the folder mounted?); or remove that folder {again}"
        )
    if seems_lost and reached:
        new = set_lines_aside(workdir.path)
        return [
            f"{folder} is not there any more: starting at step 0; the metrics of before, up to step {reached}, are in {new.name}"
        ]
    return [f"{folder} holds no checkpoint yet: starting at step 0 again, after step {reached}"] if reached else []


def describe_names(left: Leftovers) -> str:
    """Returns the checkpoints that are not read because of their names, and what to do."""
    wrong = [f"{name} (rename it to {step} if it is whole)" for name, step in left.misnamed.items()]
    return ", ".join([*wrong, *(f"{name} (set aside)" for name in left.damaged)])


def _resumed(workdir: Workdir) -> int:
    """Returns the highest step that a start resumed from since the last one at step 0, so that a checkpoint was there; 0 for none."""
    highest = 0
    for start in workdir.read_starts() or ():
        step = start.get("step")
        highest = max(highest, step) if isinstance(step, int) and step > 0 else 0
    return highest
