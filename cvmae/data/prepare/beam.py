"""The same function for each job, under Apache Beam (the extra `beam`): on a cluster, or on its local runner."""

import json
import os
import pathlib
import shlex
import shutil
from collections.abc import Iterable, Iterator

from cvmae.data.prepare.text import PrepareError
from cvmae.data.worker_pool import Failure, StopRun, Worker, available_cores


def run(
    function: str, jobs: Iterable[dict], workers: int, limit_s: float, *, folder: str, options: str = ""
) -> Iterator[tuple[dict, dict | Failure]]:
    """Calls a function for every job like worker_pool.run, but yields all pairs (job, answer) at the end.

    folder: for the jobs and the answers, on a file system that all machines share, as they must the videos; and each needs
    this package. options: Beam's own, as on a command line; "" runs `workers` (0: one per core) at a time on this machine.
    Raises: PrepareError without Beam; StopRun if the function did.
    """
    try:
        import apache_beam as beam
        from apache_beam.options.pipeline_options import PipelineOptions
    except ImportError as error:
        raise PrepareError(f"--runner=beam needs Apache Beam ({error}): pip install 'crossvideomae[beam]'") from error
    folder = os.path.join(folder, "beam")
    os.makedirs(folder, exist_ok=True)
    num_workers = workers or available_cores()
    options = options or f"--runner=DirectRunner --direct_running_mode=multi_threading --direct_num_workers={num_workers}"
    try:
        # By way of a file: runners limit the size of what a pipeline itself may hold.
        with open(os.path.join(folder, "jobs.jsonl"), "w", encoding="utf-8") as file:
            file.writelines(json.dumps(job) + "\n" for job in jobs)
        with beam.Pipeline(options=PipelineOptions(shlex.split(options))) as pipeline:
            (
                pipeline
                | beam.io.ReadFromText(file.name)
                | beam.Reshuffle()
                | beam.ParDo(_calling(beam.DoFn, function, limit_s))
                | beam.io.WriteToText(os.path.join(folder, "answers"))
            )
        for path in sorted(pathlib.Path(folder).glob("answers-*")):
            for line in path.read_text(encoding="utf-8").splitlines():
                job, kind, answer = json.loads(line)
                if kind == "stop":
                    raise StopRun(answer)
                yield job, answer if kind == "answer" else Failure(answer)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _calling(base, function, limit_s):
    """The DoFn. It calls by way of a process of its own, so that a decoder that dies does not take Beam's worker with it."""

    class Call(base):
        def setup(self):
            self._worker = Worker(function, limit_s)

        def process(self, line):
            job = json.loads(line)
            try:
                answer = self._worker.call(job)
                kind = "failure" if isinstance(answer, Failure) else "answer"
            except StopRun as error:
                kind, answer = "stop", str(error)
            yield json.dumps([job, kind, answer])

        def teardown(self):
            self._worker.close()

    return Call()
