"""Jobs under Apache Beam (the extra `beam`), on a cluster or on its local runner, instead of the worker pool."""

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
    """Calls a function for every job like worker_pool.run, but yields the pairs (job, answer) after all jobs are done.

    Args:
      function: see worker_pool.run.
      jobs: see worker_pool.run.
      workers: number of jobs at a time with Beam's local runner, 0 for one per core.
      limit_s: seconds for a job, 0 for no limit.
      folder: for the files of jobs and answers, on a file system that all machines share. They also need to share the
        videos, and to have this package installed.
      options: options of Beam as on a command line; "" for its local runner.

    Raises:
      PrepareError: Beam is not installed.
      StopRun: the function raised it.
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
        # Jobs are read from a file because runners limit the size of a pipeline's own data.
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
                job, status, answer = json.loads(line)
                if status == "stop":
                    raise StopRun(answer)
                yield job, answer if status == "answer" else Failure(answer)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _calling(base, function, limit_s):
    """Returns the DoFn. It calls the function in a separate process, so that a crashing decoder does not end Beam's worker."""

    class Call(base):
        def setup(self):
            self._worker = Worker(function, limit_s)

        def process(self, line):
            job = json.loads(line)
            try:
                answer = self._worker.call(job)
                status = "failure" if isinstance(answer, Failure) else "answer"
            except StopRun as error:
                status, answer = "stop", str(error)
            yield json.dumps([job, status, answer])

        def teardown(self):
            self._worker.close()

    return Call()
