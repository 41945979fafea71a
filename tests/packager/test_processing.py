"""What an application must do around a model: by the data or a file, and in the manifest."""

from __future__ import annotations

import json
from typing import get_args

import msgspec
import numpy as np
import pytest

from support.packages import describe, golden, make_package
from trimtab.evaluate.data import Dataset, Split
from trimtab.evaluate.preprocess import read_preprocessing
from trimtab.package.build import build_package
from trimtab.package.read import open_package
from trimtab.workflow.processing import declare, read_processing
from trimtab_agent.contract import codec
from trimtab_agent.contract.manifest import GoldenTask, TensorSpec, parse_manifest
from trimtab_agent.contract.processing import (
    Argmax,
    Colour,
    Crop,
    InputStep,
    Layout,
    Nms,
    Normalize,
    OutputStep,
    Resample,
    Resize,
    Scale,
    Sigmoid,
    Softmax,
    Threshold,
    Window,
    faults,
)
from trimtab_agent.errors import CallerError, FormatError

INPUTS = (TensorSpec(name="image", shape=(None, 8, 8, 3), dtype="float32"),)
OUTPUTS = (
    TensorSpec(name="boxes", shape=(None, 5, 4), dtype="float32"),
    TensorSpec(name="scores", shape=(None, 5), dtype="float32"),
)

DETECTOR = """
inputs:
  image:
    - {do: colour, order: bgr}
    - {do: resize, height: 8, width: 8, fit: pad, method: area, fill: 114}
    - {do: normalize, mean: [0.5], std: [0.25]}
outputs:
  boxes:
    - {do: nms, scores: scores, boxes: xyxy, iou: 0.5, score: 0.25, most: 100}
"""


def read(tmp_path, text: str):
    path = tmp_path / "processing.yaml"
    path.write_text(text)
    return read_processing(path, INPUTS, OUTPUTS)


def test_a_file_names_the_steps_in_order(tmp_path):
    (image,), (boxes, scores) = read(tmp_path, DETECTOR)
    assert image.processing == (
        Colour(order="bgr"),
        Resize(height=8, width=8, fit="pad", method="area", fill=114.0),
        Normalize(mean=(0.5,), std=(0.25,)),
    )
    assert boxes.processing == (Nms(scores="scores", boxes="xyxy", iou=0.5, score=0.25, most=100),)
    assert scores == OUTPUTS[1]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("inputs: [", "processing.yaml"),
        ("steps: {}", "unknown field `steps`"),
        ("inputs: {video: []}", "the model has no input 'video'; it has image"),
        ("inputs: {image: [{do: blur}]}", "input 'image', step 1: Invalid value 'blur'"),
        ("inputs: {image: [{height: 3, width: 3}]}", "missing required field `do`"),
        ("inputs: {image: [{do: resize, height: 3}]}", "missing required field `width`"),
        ("inputs: {image: [{do: resize, height: 0, width: 3}]}", "`int` >= 1 - at `\\$.height`"),
        ("inputs: {image: [{do: scale, faktor: 3, factor: 1}]}", "'scale' has no faktor"),
        ("inputs: {image: [{do: softmax}]}", "'softmax': it is for the other side"),
        ("outputs: {scores: [{do: crop, height: 1, width: 1}]}", "'crop': it is for the other"),
        ("inputs: {image: [{do: normalize, mean: [1, 2], std: [1]}]}", "2 means, 1 stds"),
        ("inputs: {image: [{do: normalize, mean: [1], std: [0]}]}", "divides by a std of 0"),
        (DETECTOR.replace("scores: scores", "scores: score"), "'score', which is no output"),
    ],
)
def test_files_that_are_wrong(tmp_path, text, message):
    with pytest.raises(CallerError, match=message):
        read(tmp_path, text)


def test_all_faults_are_named_at_once(tmp_path):
    with pytest.raises(CallerError) as caught:
        read(tmp_path, "inputs: {video: [], image: [{do: blur}, {do: scale}]}")
    message = str(caught.value)
    assert all(part in message for part in ("'video'", "'blur'", "`factor`")), message


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(CallerError, match=r"cannot read .*absent\.yaml"):
        read_processing(tmp_path / "absent.yaml", INPUTS, OUTPUTS)


def test_an_empty_list_takes_steps_away_and_silence_keeps_them(tmp_path):
    path = tmp_path / "processing.yaml"
    own = tuple(msgspec.structs.replace(spec, processing=(Softmax(),)) for spec in OUTPUTS)
    path.write_text("outputs: {boxes: []}")
    boxes, scores = read_processing(path, INPUTS, own)[1]
    assert (boxes.processing, scores.processing) == ((), (Softmax(),))


def test_a_folder_of_images_says_what_was_done_to_them(tmp_path):
    (tmp_path / "data.yaml").write_text("{mean: [0.1, 0.2, 0.3], std: 0.5}")
    steps = read_preprocessing(tmp_path, INPUTS[0]).steps
    assert steps == (
        Colour(order="rgb"),
        Resize(height=8, width=8),
        Scale(factor=1 / 255),
        Normalize(mean=(0.1, 0.2, 0.3), std=(0.5, 0.5, 0.5)),
        Layout(order="nhwc"),
    )
    split = Split(inputs=[np.zeros((2, 8, 8, 3))])
    dataset = Dataset(source="", train=split, test=split, processing=steps)
    task = GoldenTask(metric="top1", value=1.0, limit=0.9)
    (image,), (first, second) = declare(INPUTS, OUTPUTS, dataset, task)
    assert (image.processing, first.processing, second.processing) == (steps, (Argmax(),), ())
    one = msgspec.structs.replace(task, threshold=0.5)
    assert declare(INPUTS, OUTPUTS, None, one)[1][0].processing == (Threshold(above=0.5),)
    assert declare(INPUTS, OUTPUTS, None, None) == (INPUTS, OUTPUTS)


def test_a_package_carries_its_processing(tmp_path):
    plain = open_package(make_package(tmp_path))
    assert b"processing" not in plain.manifest_bytes
    spec = TensorSpec(
        name="x", shape=(None, 4), dtype="float32", processing=(Window(length=4, hop=2),)
    )
    source = tmp_path / "model"
    source.write_bytes(b"model")
    path = build_package(
        tmp_path / "two", description=describe(inputs=(spec,)), files={"model.tflite": source},
        golden=golden(),
    )  # fmt: skip
    package = open_package(path)
    assert package.manifest.inputs == (spec,)
    written = json.loads(package.manifest_bytes)["inputs"][0]["processing"]
    assert written == [{"do": "window", "length": 4, "hop": 2}]


def test_a_manifest_with_steps_that_cannot_be_done_is_refused(tmp_path):
    manifest = json.loads(open_package(make_package(tmp_path)).manifest_bytes)
    manifest["inputs"][0]["processing"] = [{"do": "argmax"}]
    with pytest.raises(FormatError, match="input 'x' cannot have the step 'argmax'"):
        parse_manifest(json.dumps(manifest).encode())
    manifest["inputs"][0]["processing"] = [{"do": "scale", "factor": 2.0, "of_tomorrow": 1}]
    assert parse_manifest(json.dumps(manifest).encode()).inputs[0].processing == (
        Scale(factor=2.0),
    )


STEPS = (
    Resize(height=2, width=3, fit="crop"),
    Crop(height=2, width=3),
    Colour(order="grey"),
    Scale(factor=0.5),
    Normalize(mean=(1.0, 2.0), std=(3.0, -4.0)),
    Layout(order="nchw"),
    Resample(rate_hz=16000.0),
    Window(length=4, hop=2, function="hann"),
    Softmax(axis=1),
    Sigmoid(),
    Argmax(),
    Threshold(above=0.0),
    Nms(scores="s", boxes="yxyx", iou=0.5, score=0.1, most=9),
)


def test_every_step_survives_a_manifest_and_has_one_side():
    assert {type(step) for step in STEPS} == {*get_args(InputStep), *get_args(OutputStep)}
    spec = TensorSpec(name="x", shape=(), dtype="int8", processing=STEPS)
    assert codec.decode(codec.encode(spec), TensorSpec, what="spec") == spec
    for step in STEPS:
        sides = [
            faults("here", (step,), of_input=of_input, outputs=frozenset({"s"}))
            for of_input in (True, False)
        ]
        assert sorted(map(len, sides)) == [0, 1]
