"""Video tasks of mteb on a tiny set of H.264 files, loaded as those of the hub are: vectors and scores are those of the files by hand."""

import contextlib
import dataclasses
import json
import pathlib
import sys
from types import SimpleNamespace

import jax
import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import accuracy_score, average_precision_score, f1_score
from sklearn.metrics.pairwise import cosine_similarity, paired_cosine_distances, paired_euclidean_distances

import cvmae
from cvmae.data.video_input import DecodeError
from cvmae.evaluation import mteb as command
from cvmae.evaluation.embed import load_encoder
from cvmae.interop.native import write_archive
from cvmae.models.patches import Grid
from tests.commands import run_own
from tests.data.videos import write_video
from tests.interop.pretrained_models import pretrained, videomae
from tests.requirements import missing

TRAIN, TEST = range(8), range(8, 20)  # numbers of the files
DIGITS = 1e-6  # mteb writes six of them
LABELS = [number % 2 for number in range(20)]
PAIRS = [(a, b, int(LABELS[a] == LABELS[b])) for a, b in zip(TEST, np.random.default_rng(0).permutation(TEST).tolist())]


@pytest.fixture(scope="module", autouse=True)
def mteb(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MTEB_CACHE", str(tmp_path_factory.mktemp("mteb")))
        try:
            import mteb
        except ImportError as error:
            missing("mteb", str(error))
        import datasets.config

        patch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield mteb


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    folder = tmp_path_factory.mktemp("weights") / "tiny"
    write_archive(pretrained(videomae(grid=Grid(4, 32, 32, 2, 8))), folder)
    return folder


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Videos of one to three windows; those of one class are larger."""
    folder = tmp_path_factory.mktemp("videos")
    sizes = [(32, 64), (48, 64)]
    return [
        write_video(folder / f"{number}.mp4", 5 + 2 * number, first=7 * number, size=sizes[LABELS[number]])
        for number in range(20)
    ]


def write(parquet, files, others, **videos):
    """Writes a Parquet file with columns of videos, given as numbers of files, and other columns."""
    import datasets

    stored = {
        name: [{"bytes": pathlib.Path(files[n]).read_bytes(), "path": f"{n}.mp4"} for n in numbers]
        for name, numbers in videos.items()
    }
    rows = datasets.Dataset.from_dict(stored | others)
    for name in videos:
        rows = rows.cast_column(name, datasets.Video())  # which torchcodec would decode
    parquet.parent.mkdir(parents=True, exist_ok=True)
    rows.to_parquet(parquet)


def task(kind, name, path, task_type, score, split="test", **fields):
    """Makes a class of tasks on a folder of Parquet files."""
    from mteb.abstasks.task_metadata import TaskMetadata

    metadata = TaskMetadata(
        name=name,
        description="Tiny videos.",
        dataset={"path": str(path), "revision": "1"},
        type=task_type,
        category="v2c" if "Class" in task_type and "Pair" not in task_type else "v2v",
        modalities=["video"],
        eval_splits=[split],
        eval_langs=["eng-Latn"],
        main_score=score,
    )
    return type(name, (kind,), {"metadata": metadata, **fields})


@pytest.fixture(scope="module")
def tasks(mteb, files, tmp_path_factory):
    """The names of two tasks, which mteb has for the time of these tests: of classes, and of pairs of videos."""
    from mteb.abstasks import AbsTaskClassification
    from mteb.abstasks.pair_classification import AbsTaskPairClassification

    folder = tmp_path_factory.mktemp("hub")
    write(folder / "classes/data/train-0.parquet", files, {"label": [LABELS[n] for n in TRAIN]}, video=TRAIN)
    write(folder / "classes/data/test-0.parquet", files, {"label": [LABELS[n] for n in TEST]}, video=TEST)
    first, second, same = zip(*PAIRS)
    write(folder / "pairs/data/test-0.parquet", files, {"labels": list(same)}, video1=first, video2=second)
    classes = task(
        AbsTaskClassification,
        "TinyVideoClassification",
        folder / "classes",
        "VideoClassification",
        "accuracy",
        input_column_name="video",
        n_experiments=1,
    )
    pairs = task(
        AbsTaskPairClassification,
        "TinyVideoPairs",
        folder / "pairs",
        "VideoPairClassification",
        "max_ap",
        input1_column_name="video1",
        input2_column_name="video2",
    )
    with registered(classes, pairs):
        yield "TinyVideoClassification,TinyVideoPairs"


@contextlib.contextmanager
def registered(*tasks):
    """Has mteb find tasks by their names."""
    with pytest.MonkeyPatch.context() as patch:
        for one in tasks:
            patch.setitem(sys.modules["mteb.get_tasks"]._TASKS_REGISTRY, one.metadata.name, one)
        yield


@pytest.fixture(scope="module")
def by_hand(files, weights):
    """The vector of each file, float32 [20, D]."""
    encoder = load_encoder(weights)
    return np.stack([cvmae.embed(file, encoder) for file in files])


def scores_of(out, name):
    """What mteb wrote of a task, {metric: value}."""
    [file] = out.glob(f"results/*/*/{name}.json")
    [scores] = json.loads(file.read_text())["scores"]["test"]
    return scores


@pytest.fixture(scope="module")
def out(weights, tasks, tmp_path_factory):
    out = tmp_path_factory.mktemp("scores")
    assert run_own(command, f"--encoder={weights}", f"--tasks={tasks}", f"--out={out}") == 0
    return out


def test_classes_score_as_logistic_regression_on_the_files(out, by_hand):
    labels = np.asarray(LABELS)
    expected = LogisticRegression(max_iter=100).fit(by_hand[TRAIN], labels[TRAIN]).predict(by_hand[TEST])
    scores = scores_of(out, "TinyVideoClassification")
    assert 0.5 < scores["accuracy"] < 1
    assert scores["accuracy"] == pytest.approx(accuracy_score(labels[TEST], expected), abs=DIGITS)
    assert scores["f1"] == pytest.approx(f1_score(labels[TEST], expected, average="macro"), abs=DIGITS)


def test_pairs_score_as_cosines_of_the_files(out, by_hand):
    first, second, same = (list(column) for column in zip(*PAIRS))
    cosines = 1 - paired_cosine_distances(by_hand[first], by_hand[second])
    scores = scores_of(out, "TinyVideoPairs")
    expected = average_precision_score(same, cosines)
    assert np.mean(same) < expected < 1
    for name in ("cosine_ap", "similarity_ap"):  # computed by mteb, and by way of the encoder
        assert scores[name] == pytest.approx(expected, abs=DIGITS)
    distances = paired_euclidean_distances(by_hand[first], by_hand[second])
    assert scores["euclidean_ap"] == pytest.approx(average_precision_score(same, -distances), abs=DIGITS)


def test_a_second_run_takes_the_scores_that_are_there(out, weights, tasks, capsys, monkeypatch):
    monkeypatch.setattr(command, "embed", None)
    assert run_own(command, f"--encoder={weights}", f"--tasks={tasks}", f"--out={out}") == 0
    accuracy = scores_of(out, "TinyVideoClassification")["accuracy"]
    assert f"TinyVideoClassification test accuracy {accuracy:.4f}\n" in capsys.readouterr().out


def test_scores_are_of_the_weights_and_of_the_sampling(weights):
    encoder = load_encoder(weights)
    same = [command.revision(e) for e in (encoder, load_encoder(weights))]
    other = jax.tree.map(lambda a: a + 1, encoder.params)
    changed = [dataclasses.replace(encoder, **field) for field in ({"stride": 2}, {"fps": 5.0}, {"params": other})]
    revisions = [command.revision(e) for e in changed]
    assert same[0] == same[1] and len({same[0], *revisions}) == 4


def test_the_metadata_says_what_the_encoder_is(weights):
    encoder = load_encoder(weights)
    meta = command.MTEBEncoder(encoder, "me/tiny").mteb_model_meta
    values = jax.tree.leaves(encoder.params)
    assert (meta.name, meta.modalities, meta.embed_dim) == ("me/tiny", ["video"], 48)
    assert meta.n_parameters == sum(value.size for value in values)
    assert meta.memory_usage_mb == pytest.approx(meta.n_parameters * 4 / 2**20)


def test_rows_are_paths_or_bytes_and_one_without_a_video_is_named(mteb, files, weights, by_hand):
    import datasets

    encoder = command.MTEBEncoder(load_encoder(weights), "me/tiny")
    assert isinstance(encoder, mteb.EncoderProtocol)

    def encode(videos):
        rows = datasets.Dataset.from_dict({"video": videos, "label": list(range(len(videos)))})
        words = {"hf_split": "test", "hf_subset": "default", "show_progress_bar": False}
        return encoder.encode(SimpleNamespace(dataset=rows), task_metadata=SimpleNamespace(name="Rows"), **words)

    vectors = encode(files[:3])
    assert vectors.dtype == np.float32
    np.testing.assert_array_equal(vectors, by_hand[:3])
    np.testing.assert_array_equal(encode([pathlib.Path(file).read_bytes() for file in files[:3]]), by_hand[:3])
    with pytest.raises(DecodeError, match="video 1 of the split test of Rows: the row has no video"):
        encode([files[0], None])


def test_videos_retrieve_by_cosine(mteb, files, weights, by_hand, tmp_path, monkeypatch):
    """mteb has the first row decoded for a line of its log: that takes torchcodec, in whose place the bytes are kept here."""
    import datasets
    from mteb.abstasks import AbsTaskRetrieval

    monkeypatch.setattr(datasets.Video, "decode_example", lambda self, value, token_per_repo_id=None: value)
    queries, corpus = [*TEST][:4], [*TEST][4:]
    relevant = {q: [c for c in corpus if (q + c) % 3 == 0] for q in queries}
    write(tmp_path / "set/queries/test-0.parquet", files, {"id": [f"q{n}" for n in queries]}, video=queries)
    write(tmp_path / "set/corpus/test-0.parquet", files, {"id": [f"c{n}" for n in corpus]}, video=corpus)
    rows = [(f"q{q}", f"c{c}", 1) for q, documents in relevant.items() for c in documents]
    columns = dict(zip(("query-id", "corpus-id", "score"), map(list, zip(*rows))))
    write(tmp_path / "set/qrels/test-0.parquet", files, columns)
    names = [{"config_name": name, "data_files": f"{name}/*.parquet"} for name in ("queries", "corpus", "qrels")]
    (tmp_path / "set" / "README.md").write_text(f"---\nconfigs: {json.dumps(names)}\n---\n")
    kind = task(AbsTaskRetrieval, "TinyVideoRetrieval", tmp_path / "set", "Any2AnyRetrieval", "map_at_10")
    with registered(kind):
        words = f"--encoder={weights}", "--tasks=TinyVideoRetrieval", f"--out={tmp_path / 'out'}", "--name=me/tiny"
        assert run_own(command, *words) == 0
    cosines = cosine_similarity(by_hand[queries], by_hand[corpus])
    truth = [[c in relevant[q] for c in corpus] for q in queries]
    expected = np.mean([average_precision_score(*row) for row in zip(truth, cosines)])
    assert 0 < expected < 1
    assert scores_of(tmp_path / "out", "TinyVideoRetrieval")["map_at_10"] == pytest.approx(expected, abs=1e-5)  # which has five
    assert [path.name for path in tmp_path.glob("out/results/*")] == ["me__tiny"]


def test_a_video_that_cannot_be_read_is_named(files, weights, tmp_path, capsys):
    from mteb.abstasks import AbsTaskClassification

    broken = tmp_path / "broken.mp4"
    broken.write_bytes(pathlib.Path(files[3]).read_bytes()[:200])
    write(tmp_path / "set/train-0.parquet", [*files[:3], broken], {"label": [0, 1, 0, 1]}, video=range(4))
    write(tmp_path / "set/test-0.parquet", files, {"label": [0, 1]}, video=range(2))
    fields = {"input_column_name": "video", "n_experiments": 1}
    kind = task(AbsTaskClassification, "Broken", tmp_path / "set", "VideoClassification", "accuracy", **fields)
    with registered(kind):
        assert run_own(command, f"--encoder={weights}", "--tasks=Broken", f"--out={tmp_path / 'out'}") == 1
    [line] = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error:")]
    assert "video 3 of the split train of Broken: " in line
    assert not list(tmp_path.glob("out/**/Broken.json"))


@pytest.mark.parametrize(
    "words, message",
    [
        (["--tasks=MVEB(video)", "--out=o"], "--encoder is missing"),
        (["--encoder=e", "--out=o"], "--tasks is missing"),
        (["--encoder=e", "--tasks=HMDB51Clasification", "--out=o"], "did you mean 'HMDB51Classification'?"),
        (["--encoder=e", "--tasks=MVEB(text, video)", "--out=o"], "no task or benchmark 'MVEB(text'"),
        (["--encoder=e", "--tasks=UCF101VideoAudioClassification", "--out=o"], "is a task of video, audio"),
        (["--encoder=nothing/here/at/all", "--tasks=HMDB51Classification", "--out=o"], "nothing/here/at/all"),
        (["e", "--tasks=HMDB51Classification", "--out=o"], "unexpected argument 'e'"),
    ],
)
def test_a_wrong_command_is_one_line(mteb, words, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert run_own(command, *words) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and message in error and error.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_a_benchmark_is_its_tasks(mteb):
    tasks = command.find_tasks(["MVEB(video)", "HMDB51Classification"])
    assert [t.metadata.name for t in tasks] == [t.metadata.name for t in mteb.get_benchmark("MVEB(video)").tasks]
    assert "HMDB51Classification" in [t.metadata.name for t in tasks]


def test_weights_without_normalization_are_refused(mteb, tmp_path):
    write_archive(pretrained(videomae(), normalization={}), tmp_path / "w")
    with pytest.raises(ValueError, match="w does not record the mean and standard deviation of its pixels"):
        command.MTEBEncoder(load_encoder(tmp_path / "w"), "cvmae/w")


@pytest.mark.parametrize(
    "path, name",
    [
        ("runs/b16", "cvmae/b16"),
        ("runs/b16/", "cvmae/b16"),
        ("runs/b16/checkpoints/500", "cvmae/b16-500"),
        ("MCG-NJU/videomae-base", "cvmae/videomae-base"),
    ],
)
def test_the_name_is_that_of_the_weights(path, name):
    assert command.default_name(path) == name


def test_without_mteb_the_extra_is_named(weights, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "mteb", None)
    assert run_own(command, f"--encoder={weights}", "--tasks=HMDB51Classification", "--out=o") == 2
    assert "the benchmark needs mteb: pip install 'crossvideomae[mteb]'" in capsys.readouterr().err
