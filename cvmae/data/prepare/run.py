"""Complete run of the preparation: read label files, locate videos, check or re-encode each, write manifests, pack."""

import functools
import os
import sys

from tqdm import tqdm

from cvmae.data import worker_pool
from cvmae.data.lines import has_line_break
from cvmae.data.prepare import beam, outputs, places, val_split, work
from cvmae.data.prepare.frame_folders import FPS, FrameFolders, open_folders
from cvmae.data.prepare.labels import folder, imagenet
from cvmae.data.prepare.listing import Listing, Video
from cvmae.data.prepare.options import READERS, Options
from cvmae.data.prepare.outputs import Row
from cvmae.data.prepare.pack import pack
from cvmae.data.prepare.state import State
from cvmae.data.prepare.text import PrepareError
from cvmae.data.video_files import FolderError, VideoFiles
from cvmae.storage.path import is_remote, join

# A file that is longer than the annotated part by more than this is taken for the uncut video.
_SLACK_S = 1.0


def prepare(options: Options) -> dict[str, str]:
    """Prepares a data set in the folder `out`, and prints counts and a summary.

    Returns:
      The paths of the manifests by name: "manifest", or "split1" to "split3".

    Raises:
      PrepareError: an option or input file cannot be used, or no video is usable.
      StopRun: files cannot be written.
    """
    places.check_places(options.videos, options.out, options.transcode, options.pack)
    files = _open_files(options)
    listing = _read_listing(options, files)
    located, problems = _locate(options, listing, files)
    with State(options.out) as state:
        usable = _check_videos(options, listing, located, problems, state)
        if listing.is_undrawn:
            _draw_splits(options, listing, usable, state)
        elif options.dataset == "folder":
            print("split: that of the folders in --videos; none is drawn, so --val_share and --seed do not apply")
        problems += outputs.row_problems(listing, usable, str(options.out))
        manifests = outputs.write_manifests(options.out, listing, usable)
        outputs.write_classes(options.out, listing.classes)
        report = outputs.write_report(options.out, problems)
        print(outputs.counts(options.dataset, listing, usable))
        if options.dataset == "folder" and listing.classes and usable:
            print(outputs.class_counts(listing, usable))
        elif listing.classes and usable:
            for line in outputs.untrained_classes(listing, usable):
                print(line)
        print(outputs.summary(listing, usable, problems, report))
        if not usable:
            raise PrepareError(f"no video is usable; {report} says why")
        print("\n".join(f"manifest: {path}" for path in manifests.values()))
        if options.pack:
            _pack(options, listing, usable, state)
    return manifests


def _open_files(options) -> VideoFiles | FrameFolders:
    """Returns the videos or pictures below --videos. Raises: PrepareError if they cannot be read."""
    try:
        folders = open_folders(options.videos) if options.dataset == "jester" and not is_remote(options.videos) else None
        if folders and not options.transcode:
            raise PrepareError(
                f"--videos={options.videos} has folders of frames such as {folders.paths[0]}/00001.jpg: --transcode=256 makes a video "
                f"of each (frames of less than 256 keep their size), as does `ffmpeg -framerate {FPS} -i ID/%05d.jpg ID.mp4`"
            )
        return folders or VideoFiles(options.videos, options.pictures or options.dataset == "imagenet")
    except FolderError as error:
        raise PrepareError(f"--videos: {error}") from error


def _read_listing(options, files) -> Listing:
    if options.dataset == "folder":
        listing = folder.read(files)
    elif options.dataset == "imagenet":
        listing = imagenet.read(files, options.labels)
    else:
        listing = READERS[options.dataset](options.labels)
    if broken := next(filter(has_line_break, listing.classes), ""):
        raise PrepareError(f"{options.labels or options.videos}: class {broken[:40]!r} has a line break; write it in one line")
    return listing


def _locate(options, listing, files) -> tuple[dict[str, str], list[tuple[str, str, str]]]:
    """Returns ({name of a video: path of its file below --videos}, [(path, problem, detail)])."""
    located, problems = {}, [(name, "not UTF-8", "its name cannot stand in a manifest; rename it") for name in files.odd]
    problems += [(path, "left out", reason) for path, reason in files.left_out]
    for name, video in listing.videos.items():
        paths = files.find(video)
        if not paths:
            problems.append((name, "missing", files.missing(video)))
            continue
        located[name] = paths[0]
        if len(paths) > 1:
            problems.append((paths[0], "ambiguous", f"taken for {name}; {', '.join(paths[1:])} might as well be it"))
    problems += listing.repeats + listing.remarks
    if not located:
        example = f"the files there are such as {files.paths[0]}" if files.paths else "there is no video file"
        raise PrepareError(
            f"{options.videos}: none of the {len(listing.videos)} videos that {options.labels} lists is in --videos, "
            f"such as {next(iter(listing.videos), 'none: the lists are empty')}; {example}"
        )
    return located, problems


def _check_videos(options, listing, located, problems, state) -> dict[str, Row]:
    """Checks or re-encodes all videos; returns the usable ones by name, and adds the problems of the others to `problems`."""
    uncut = {name for name, path in located.items() if _may_be_uncut(listing.videos[name], path)}
    one_of = _one_of_each(options, located.values())
    jobs, paths = _jobs(options, one_of.values(), {one_of[located[name]] for name in uncut}, state)
    answers = _answers(options, jobs, state)
    usable = {}
    for name, path in located.items():
        answer = answers[one_of[path]]
        problem, detail, (start, end) = _judge(answer, listing.videos[name].span if name in uncut else None)
        if problem or isinstance(answer, worker_pool.Failure):
            problems.append((path, problem, detail))
        else:
            if answer.get("cut"):  # answers of earlier versions lack it
                problems.append((path, "looks cut", answer["cut"]))
            # That of a video in a bucket was asked for when it was checked.
            in_bucket = is_remote(options.videos) and not options.transcode
            size = answer["file"][0] if in_bucket else os.path.getsize(os.path.join(options.out, paths[one_of[path]]))
            usable[name] = Row(name, paths[one_of[path]], listing.videos[name].label, start, end, size)
    return usable


def _draw_splits(options, listing, usable, state) -> None:
    """Draws the splits of a listing that has none, over its usable videos, and keeps them for later runs.

    Videos that were drawn by an earlier run with the same --val_share and --seed keep their split. If the manifest is from an
    earlier version of this package, its way of drawing is kept.
    """
    labels = {val_split.split_key(name): row.label for name, row in usable.items()}
    if state.has_older_split:
        splits = val_split.draw_each(labels, options.val_share, options.seed)
        print(
            f"split: {options.out}/manifest.csv is from an earlier version, which drew each video by itself; this is kept. "
            "To draw the share in each class, remove that file and run again"
        )
    else:
        draw = f"val_share={float(options.val_share)} seed={options.seed}"
        earlier = state.splits(draw)
        splits = val_split.draw(labels, options.val_share, options.seed, earlier)
        state.keep_splits(draw, splits)
        if kept := sum(key in earlier for key in splits):
            print(f"split: {kept:,} videos keep the split of earlier runs, {len(splits) - kept:,} are new")
    (pairs,) = listing.manifests.values()
    # Videos that are not usable are in no manifest; the printed counts list them as train.
    pairs[:] = [(name, splits.get(val_split.split_key(name), "train")) for name, _ in pairs]


def _one_of_each(options, paths) -> dict[str, str]:
    """Returns the path that stands for each of `paths`, which are below --videos.

    What links give several names is re-encoded once: copies would hide from later runs that their rows have the same frames.
    """
    if options.transcode and not is_remote(options.videos):
        return places.same_files(options.videos, paths)
    return {path: path for path in paths}


def _jobs(options, paths, measured, state):
    """Returns {file below --videos: job} and {file below --videos: path in manifests}."""
    files = dict.fromkeys(paths)
    targets = places.targets(options.transcode, files) if options.transcode else {}
    top = places.reach(options.videos, options.out)
    jobs = {
        file: work.make_job(
            join(options.videos, file) if is_remote(options.videos) else os.path.abspath(os.path.join(options.videos, file)),
            options.check,
            side=options.transcode,
            target=os.path.abspath(os.path.join(options.out, targets[file])) if targets else "",
            temporary=os.path.abspath(state.temporary),
            measure=file in measured,
        )
        for file in files
    }
    return jobs, targets or {file: f"{top}/{file}" for file in files}


def _judge(answer, span):
    """Returns (problem, detail, (start, end)) of a video. span: its annotated part in seconds, if its file may be uncut."""
    if isinstance(answer, worker_pool.Failure):
        return "failed", str(answer), (None, None)
    is_uncut = span and not answer["problem"] and answer["seconds"] > span[1] - span[0] + _SLACK_S
    if is_uncut and span[0] >= answer["seconds"]:
        return "too short", f"it lasts {answer['seconds']:.1f} s, its part starts at {span[0]} s", (None, None)
    return answer["problem"], answer["detail"], span if is_uncut else (None, None)


def _may_be_uncut(video: Video, path: str) -> bool:
    return bool(video.span) and os.path.splitext(os.path.basename(path))[0] == video.stems[-1]


def _answers(options, jobs, state) -> dict[str, dict | worker_pool.Failure]:
    """Returns the answers to jobs by the jobs' keys, those of earlier runs included."""
    answers, todo = {}, {}
    for key, job in jobs.items():
        if (earlier := state.find_answer(job)) is not None:
            answers[key] = earlier
        elif work.needs_decoder(job):
            todo[job["path"]] = key
        else:
            answers[key] = work.process(job)
    if todo:
        description = f"transcode {options.transcode}" if options.transcode else f"check {options.check}"
        with _progress(description, "file", len(jobs), len(answers)) as bar:
            for job, answer in _runner(options, state, options.timeout_s)(work.FUNCTION, [jobs[key] for key in todo.values()]):
                if not isinstance(answer, worker_pool.Failure):  # the cause may be the machine: the next run tries again
                    state.keep_answer(job, answer)
                answers[todo[job["path"]]] = answer
                bar.update()
    return answers


def _pack(options: Options, listing: Listing, usable: dict[str, Row], state: State) -> None:
    for manifest, listed in listing.manifests.items():
        rows = [(usable[name], split) for name, split in listed if name in usable]
        if not rows:
            continue
        target = places.packed(options.out, manifest, len(listing.manifests))
        runner = _runner(options, state, limit_s=0)  # the time for a shard depends on the disk

        def run(function, jobs, runner=runner, manifest=manifest):
            with _progress(f"pack {manifest}", "shard", len(jobs)) as bar:
                for item in runner(function, jobs) if jobs else ():
                    yield item
                    bar.update()

        pack(target, options.out, options.dataset, rows, listing.classes, run, os.path.abspath(state.temporary))
        print(f"packed: {target} (--config.data.source=tfds --config.data.tfds.name={target})")


def _runner(options, state, limit_s):
    if options.runner == "beam":
        folder = os.path.abspath(state.temporary)
        return functools.partial(beam.run, workers=options.workers, limit_s=limit_s, folder=folder, options=options.beam_options)
    return functools.partial(worker_pool.run, workers=options.workers, limit_s=limit_s)


def _progress(description, unit, total, done=0):
    seconds = 0.5 if sys.stderr.isatty() else 30  # between updates: in a log file, each is a line
    return tqdm(total=total, initial=done, desc=description, unit=unit, file=sys.stderr, dynamic_ncols=True, mininterval=seconds)
