"""The names of classes of a transformers folder: what agrees with the classifier is read, anything else is named at import."""

import json

import pytest
from safetensors.numpy import load_file, save_file

from cvmae.interop import WeightsError
from cvmae.interop.huggingface import write_hf_videomae
from cvmae.interop.huggingface_config import class_names
from cvmae.interop.load import read, read_file
from cvmae.interop.native import read_archive, write_archive
from cvmae.interop.pretrained import Head
from tests.interop.pretrained_models import pretrained, videomae, videomae_decoder

CLASSES = 12
RIGHT = {str(i): f"class {i}" for i in range(CLASSES)}


@pytest.fixture
def folder(tmp_path):
    write_hf_videomae(pretrained(videomae(final_norm=False), head=Head(CLASSES)), tmp_path / "in")
    return tmp_path / "in"


def change(folder, **fields):
    file = folder / "config.json"
    file.write_text(json.dumps({key: v for key, v in (json.loads(file.read_text()) | fields).items() if v is not ...}))


@pytest.mark.parametrize(
    "names, expected",
    [
        (RIGHT, tuple(RIGHT.values())),
        (dict(reversed(RIGHT.items())), tuple(RIGHT.values())),
        (RIGHT | {"3": "ö, Ж"}, (*list(RIGHT.values())[:3], "ö, Ж", *list(RIGHT.values())[4:])),
        (RIGHT | {"1": "class 0"}, ("class 0", "class 0", *list(RIGHT.values())[2:])),
        ({}, ()),
        (None, ()),
        (..., ()),
    ],
    ids=["right", "another order", "unicode", "two alike", "empty", "null", "absent"],
)
def test_names_that_agree(names, expected, folder, tmp_path):
    change(folder, id2label=names)
    loaded = read(folder)
    assert loaded.head.names == expected and loaded.head.classes == CLASSES
    write_archive(loaded, tmp_path / "out")
    assert read_archive(tmp_path / "out").head == loaded.head


WRONG = {
    "too few": ({str(i): f"c{i}" for i in range(5)}, "has 5 names for 12 classes"),
    "too many": ({str(i): f"c{i}" for i in range(400)}, "has 400 names for 12 classes"),
    "gaps": ({str(2 * i): f"c{2 * i}" for i in range(CLASSES)}, "has no name for class 1, and one for class 22"),
    "from one": ({str(i + 1): f"c{i}" for i in range(CLASSES)}, "has no name for class 0, and one for class 12"),
    "words": ({"a": "x"}, "has the key 'a', which is no id"),
    "label2id": ({f"c{i}": i for i in range(CLASSES)}, "has the key 'c0', which is no id"),
    "floats": ({f"{i}.0": f"c{i}" for i in range(CLASSES)}, "has the key '0.0', which is no id"),
    "negative": (RIGHT | {"-1": "x"}, "has the key '-1', which is no id"),
    "two ways": (RIGHT | {"01": "x"}, "has the key '01', which is no id"),
    "other digits": (RIGHT | {"٣": "x"}, "has the key '٣', which is no id"),
    "spaces": (RIGHT | {" 3": "x"}, "has the key ' 3', which is no id"),
    "huge": (RIGHT | {"9" * 5000: "x"}, "has the key '999"),
    "numbers": ({str(i): i for i in range(CLASSES)}, "names class 0 0, which is no text"),
    "no name": (RIGHT | {"4": None}, "names class 4 None, which is no text"),
    "a list": (list(RIGHT.values()), "is ['class 0'"),
    "a text": ("names.txt", "is 'names.txt'"),
    "a number": (3, "is 3"),
    "false": (False, "is False"),
}


@pytest.mark.parametrize("name", WRONG)
def test_names_that_do_not(name, folder):
    names, message = WRONG[name]
    change(folder, id2label=names)
    with pytest.raises(WeightsError) as caught:
        read(folder)
    (problem,) = caught.value.problems
    assert problem.startswith(f"config.json: id2label {message}") and "\n" not in problem and len(problem) < 350
    assert "expected a name for each id in 0..11, the classes of classifier.weight" in problem
    assert problem.endswith("or remove id2label to read them without names")
    change(folder, id2label=...)
    assert read(folder).head.names == ()


def test_names_of_an_encoder_are_not_looked_at(tmp_path):
    """Published pre-trained models keep the names of a class that has a head."""
    write_hf_videomae(pretrained(videomae(), videomae_decoder(), target_norm="patch_channel"), tmp_path / "in")
    change(tmp_path / "in", id2label={"a": 3})
    assert read(tmp_path / "in").head is None


def test_what_could_not_be_read_is_not_written(tmp_path):
    source = pretrained(videomae(final_norm=False), head=Head(CLASSES, names=("a", "b")))
    with pytest.raises(WeightsError, match="head.names has 2 names; head.classes is 12"):
        write_archive(source, tmp_path / "out")
    assert not list(tmp_path.iterdir())


def test_the_key_that_shows_the_classes_is_named():
    assert class_names({"0": "a"}, 2, "module.head.weight")[1][0].endswith("names")
    assert "0..1, the classes of module.head.weight" in class_names({"0": "a"}, 2, "module.head.weight")[1][0]


# Field of config.json, a wrong value, and what the message says.
FIELDS = [
    ("hidden_size", "48", "hidden_size is '48'; expected a whole number from 1 to"),
    ("hidden_size", 0, "hidden_size is 0; expected a whole number"),
    ("hidden_size", 1 << 40, "expected a whole number from 1 to 65536"),
    ("hidden_size", 64, "config.json: hidden_size is 64; expected 48, the width of the arrays"),
    ("num_hidden_layers", 12, "config.json: num_hidden_layers is 12; expected 2, the number of blocks in the file"),
    ("num_hidden_layers", True, "num_hidden_layers is True; expected a whole number"),
    ("num_attention_heads", 5, "config.json: num_attention_heads is 5; expected a number that divides 48"),
    ("num_attention_heads", None, "num_attention_heads is None"),
    ("intermediate_size", 2.5, "intermediate_size is 2.5"),
    ("intermediate_size", 100, r"intermediate.dense.weight is \[96, 48\], expected \[100, 48\]"),
    ("cvmae", 4, "cvmae is 4; expected an object"),
    ("cvmae", {"sampling": {"stride": 0, "fps": 0.0, "square_pixels": True}}, "cvmae.sampling.stride is 0; expected a whole"),
    ("image_size", [32], r"image_size is \[32\]; expected a whole number from 1 to 65536, or two"),
    ("image_size", "224", "image_size is '224'"),
    ("image_size", 33, "not a multiple of the patch size 8"),
    ("image_size", 65536, "more than fit in memory"),
    ("patch_size", 16, "its patches are 2x8x8, and the model's 2x16x16: correct config.json"),
    ("tubelet_size", 4, "its patches are 2x8x8, and the model's 4x8x8: correct config.json"),
    ("num_frames", -4, "num_frames is -4"),
    ("num_frames", {}, "num_frames is {}"),
    ("num_channels", 1, "num_channels is 1; this package's models take 3, RGB"),
    ("num_channels", "3", "num_channels is '3'; expected a whole number"),
    ("layer_norm_eps", "1e-12", "layer_norm_eps is '1e-12'; expected a number in 0..1"),
    ("layer_norm_eps", 0, "layer_norm_eps is 0"),
    ("layer_norm_eps", float("nan"), "layer_norm_eps is nan"),
    ("qv_bias", "yes", "qv_bias is 'yes'; expected true or false"),
    ("qv_bias", False, "config.json: qv_bias is False; the file has biases of queries and values"),
    ("qkv_bias", False, "config.json: qkv_bias is False; the file has biases of queries and values"),
    ("qkv_bias", "true", "qkv_bias is 'true'; expected true or false"),
    ("qkv_bias", None, "qkv_bias is None; expected true or false"),
    ("use_mean_pooling", 1, "use_mean_pooling is 1; expected true or false"),
    ("model_type", ["videomae"], "model_type is"),
]


@pytest.mark.parametrize("field, value, message", FIELDS, ids=lambda value: str(value)[:30])
def test_fields_of_config_are_checked(field, value, message, folder):
    change(folder, **{field: value})
    with pytest.raises(WeightsError, match=message) as caught:
        read_file(folder)
    assert str(folder) in str(caught.value)


@pytest.mark.parametrize("field", ["image_mean", "image_std"])
@pytest.mark.parametrize("value", ["0.5", True, [0.5], ["a", "b", "c"], [0.5, 0.5, float("nan")], None, {"r": 1}])
def test_the_normalization_is_checked(field, value, folder):
    file = folder / "preprocessor_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {field: value}))
    with pytest.raises(WeightsError, match=f"preprocessor_config.json does not fit:\n  {field} is .*; expected three numbers"):
        read_file(folder)


@pytest.mark.parametrize(
    "field, value", [("do_rescale", "no"), ("do_normalize", "no"), ("do_normalize", None), ("do_rescale", 1)]
)
def test_the_switches_of_the_normalization_are_checked(field, value, folder):
    file = folder / "preprocessor_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {field: value}))
    with pytest.raises(WeightsError, match=f"preprocessor_config.json does not fit:\n  {field} is .*; expected true or false"):
        read_file(folder)


@pytest.mark.parametrize("value", ["a", 0, -1, None, [1], True, float("inf")])
def test_the_factor_of_pixels_is_checked(value, folder):
    file = folder / "preprocessor_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"rescale_factor": value}))
    with pytest.raises(WeightsError, match="_config.json does not fit:\n  rescale_factor is .*; expected a number above 0"):
        read_file(folder)
    file.write_text('{"rescale_factor": 1}')
    with pytest.raises(WeightsError, match="multiply pixels by 1, not 1/255, without image_mean and image_std: add these"):
        read_file(folder)


def test_a_factor_of_fewer_digits_is_the_usual_one(folder):
    file, expected = folder / "preprocessor_config.json", read(folder).normalization
    file.write_text(json.dumps(json.loads(file.read_text()) | {"rescale_factor": 0.003921569}))
    assert read(folder).normalization == expected


def test_one_number_for_all_channels(folder):
    file = folder / "preprocessor_config.json"
    file.write_text(json.dumps({"image_mean": 0.5, "image_std": [0.25, 0.5, 0.75]}))
    assert read(folder).normalization == {"mean": (0.5,) * 3, "std": (0.25, 0.5, 0.75)}
    file.write_text(json.dumps({"image_mean": 0.5, "image_std": 0}))
    with pytest.raises(WeightsError, match="image_std is .*; expected three numbers above 0, of R, G and B, or one for all"):
        read(folder)


@pytest.mark.parametrize("section", ["image_processor", "video_processor"])
def test_a_processor_that_is_a_section_of_a_file(section, folder):
    """It goes before a file of its own, as in transformers."""
    file = folder / "processor_config.json"
    file.write_text(json.dumps({"processor_class": "A", section: {"image_mean": 0.5, "image_std": 0.25}}))
    assert read(folder).normalization == {"mean": (0.5,) * 3, "std": (0.25,) * 3}
    file.write_text(json.dumps({section: {"image_mean": 0.5, "image_std": -1}}))
    with pytest.raises(WeightsError, match=f"processor_config.json does not fit:\n  {section}.image_std is .*; expected three"):
        read(folder)
    file.write_text(json.dumps({section: "A"}))
    with pytest.raises(WeightsError, match=f"processor_config.json does not fit:\n  {section} is 'A'; expected an object"):
        read(folder)


def test_a_file_of_processors_without_one_of_pixels(folder):
    expected = read(folder).normalization
    (folder / "processor_config.json").write_text('{"processor_class": "A", "image_seq_length": 3}')
    assert read(folder).normalization == expected != {}


def test_a_deviation_of_zero(folder):
    file = folder / "preprocessor_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"image_std": [0, 1, 1]}))
    with pytest.raises(WeightsError, match="three numbers above 0"):
        read_file(folder)


@pytest.mark.parametrize("fields", [{"qv_bias": ...}, {"qkv_bias": ...}, {"qv_bias": True}])
def test_a_model_without_biases(fields, tmp_path):
    """Whichever name a version of transformers gives the field, and whatever the other one says."""
    folder = tmp_path / "in"
    write_hf_videomae(pretrained(videomae(bias="none", final_norm=False), head=Head(CLASSES)), folder)
    change(folder, **fields)
    assert read(folder).encoder.trunk.qkv_bias == "none"


def test_an_id_that_is_there_twice(folder):
    config = (folder / "config.json").read_text()
    (folder / "config.json").write_text(config.replace("{", '{"id2label": {"0": "a", "1": "b", "0": "c"}, ', 1))
    with pytest.raises(
        WeightsError, match=r"config.json does not fit:\s+the key '0' is there twice in one object; leave one of the two"
    ):
        read_file(folder)


def test_a_config_of_brackets(folder):
    (folder / "config.json").write_text("[" * 100000)
    with pytest.raises(WeightsError, match="it is not JSON"):
        read_file(folder)


def test_all_problems_at_once(folder):
    change(folder, id2label={"0": "a"})
    arrays = load_file(folder / "model.safetensors")
    arrays["classifier.bias"] = arrays["classifier.bias"][:-1].copy()
    save_file(arrays, folder / "model.safetensors")
    with pytest.raises(WeightsError) as caught:
        read_file(folder)
    assert len(caught.value.problems) == 2


@pytest.mark.parametrize("loss", ["softmax", "sigmoid"])
def test_a_head_of_several_labels_a_clip_is_read_back(loss, tmp_path):
    source = pretrained(videomae(final_norm=False), head=Head(CLASSES, names=tuple(RIGHT.values()), loss=loss))
    write_hf_videomae(source, tmp_path / "hf")
    written = json.loads((tmp_path / "hf" / "config.json").read_text()).get("problem_type")
    assert written == ("multi_label_classification" if loss == "sigmoid" else None)
    assert read(tmp_path / "hf").head.loss == loss
    write_archive(source, tmp_path / "own")
    assert read_archive(tmp_path / "own").head == source.head
    # Archives of heads with one class a clip are those of earlier versions.
    assert ("loss" in json.loads((tmp_path / "own" / "cvmae.json").read_text())["head"]) == (loss == "sigmoid")


def test_an_unknown_loss_of_an_archive_is_refused(tmp_path):
    write_archive(pretrained(videomae(final_norm=False), head=Head(CLASSES, loss="sigmoid")), tmp_path / "own")
    file = tmp_path / "own" / "cvmae.json"
    file.write_text(file.read_text().replace('"sigmoid"', '"hinge"'))
    with pytest.raises(WeightsError, match="head.loss is 'hinge'; expected one of 'softmax', 'sigmoid'"):
        read_archive(tmp_path / "own")
