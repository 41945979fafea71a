"""Hardware profiles: every shipped one is sound; a bad one is refused at the place of its fault."""

from __future__ import annotations

import re
from pathlib import Path

import msgspec
import pytest

from trimtab.errors import ProfileError
from trimtab.hardware import detect_profile, list_profiles, load_profile
from trimtab_agent.contract.profile import Figure, Profile

GOOD = """
id: board
title: A board
architecture: aarch64
channel_multiple: {value: 8, source: a choice, confidence: assumed}
runtimes: [{name: tflite, dtypes: [int8, float32]}]
"""

BAD = {
    "unknown field": (GOOD + "tops: 40\n", r"unknown field `tops`"),
    "figure without a source": (
        GOOD + "ram_bytes: {value: 1, confidence: measured}\n",
        r"required field `source` - at `\$.ram_bytes`",
    ),
    "figure without units": (GOOD + "throttle_c: 80\n", r"at `\$.throttle_c`"),
    "zero is not absent": (
        GOOD + "ram_bytes: {value: 0, source: x, confidence: measured}\n",
        r"> 0.* - at `\$.ram_bytes.value`",
    ),
    "unknown confidence": (
        GOOD + "ram_bytes: {value: 1, source: x, confidence: sure}\n",
        r"'sure' - at `\$.ram_bytes.confidence`",
    ),
    "unknown architecture": (GOOD.replace("aarch64", "riscv"), r"'riscv' - at `\$.architecture`"),
    "unknown runtime": (GOOD.replace("tflite", "coreml"), r"'coreml' - at `\$.runtimes\[0\].name`"),
    "no runtime": (GOOD.replace("[{name: tflite, dtypes: [int8, float32]}]", "[]"), "no runtime"),
    "runtime twice": (
        GOOD.replace("[{name", "[{name: tflite, dtypes: [int8]}, {name"),
        r"listed twice - at `\$.runtimes`",
    ),
    "another id": (GOOD.replace("id: board", "id: plank"), r"id is 'plank'.* - at `\$.id`"),
    "half a channel": (GOOD.replace("value: 8", "value: 8.5"), r"no whole number - at `\$.channel"),
    "unknown option": (
        GOOD.replace("32]}", "32], options: {turbo: 1}}"),
        r"tflite does not know the option 'turbo'.* - at `\$.runtimes\[0\].options`",
    ),
    "option of another type": (
        GOOD.replace("tflite", "onnxruntime").replace("32]}", "32], options: {provider: 1}}"),
        r"option 'provider' takes one text, got 1 - at `\$.runtimes\[0\].options`",
    ),
    "unknown provider": (
        GOOD.replace("tflite", "onnxruntime").replace("32]}", "32], options: {provider: GPU}}"),
        r"provider 'GPU' is none of CPUExecutionProvider, CUDA.* - at `\$.runtimes\[0\].options`",
    ),
    "option in a list": (GOOD.replace("32]}", "32], options: {delegate: [a]}}"), r"got `array`"),
    "no YAML": ("{[", "malformed"),
    "no mapping": ("- 1\n", r"Expected `object`, got `array`"),
}


@pytest.mark.parametrize("name", list_profiles())
def test_every_shipped_profile_loads_and_names_its_sources(name):
    profile = load_profile(name)
    assert profile.id == name
    for figure in figures(profile):
        assert len(figure.source) > 10


def figures(value: object) -> list[Figure]:
    """Returns every figure anywhere in a profile."""
    if isinstance(value, Figure):
        return [value]
    if isinstance(value, msgspec.Struct):
        return figures([getattr(value, field) for field in value.__struct_fields__])
    if isinstance(value, list | tuple):
        return [figure for item in value for figure in figures(item)]
    return []


def test_the_profiles_that_are_promised_are_there():
    assert set(list_profiles()) >= {
        "generic-x86-64", "generic-aarch64", "raspberry-pi-4b", "raspberry-pi-5",
        "raspberry-pi-zero-2w", "jetson-orin-nano", "android-arm64",
    }  # fmt: skip


@pytest.mark.parametrize("name", sorted(BAD))
def test_bad_profile(tmp_path, name):
    text, message = BAD[name]
    path = tmp_path / "board.yaml"
    path.write_text(text)
    with pytest.raises(ProfileError, match=message) as caught:
        load_profile(path)
    assert str(path) in str(caught.value)


def test_a_board_with_an_accelerator_says_how_to_reach_it():
    runtimes = {
        runtime.name: runtime.options for runtime in load_profile("jetson-orin-nano").runtimes
    }
    assert runtimes["onnxruntime"]["provider"] == "TensorrtExecutionProvider,CUDAExecutionProvider"
    assert runtimes["tflite"] == {}


def test_a_profile_of_ones_own(tmp_path):
    path = tmp_path / "board.yaml"
    path.write_text(GOOD)
    assert isinstance(load_profile(str(path)), Profile)


def test_missing_file():
    with pytest.raises(ProfileError, match=r"no\.yaml cannot be read: No such file"):
        load_profile(Path("no.yaml"))


def test_bytes_that_are_no_text(tmp_path):
    path = tmp_path / "board.yaml"
    path.write_bytes(b"id: \xff\xfe\x00")
    with pytest.raises(ProfileError, match="malformed"):
        load_profile(path)


def test_unknown_name_gets_the_nearest_and_the_list():
    with pytest.raises(ProfileError) as caught:
        load_profile("rasberry-pi5")
    message = str(caught.value)
    assert re.search(r"did you mean raspberry-pi-5 or raspberry-pi-4b", message)
    assert all(name in message for name in list_profiles())


def test_nothing_near():
    with pytest.raises(ProfileError, match=r"unknown profile 'zzz': The profiles are android-"):
        load_profile("zzz")


@pytest.mark.parametrize(
    ("machine", "name"), [("x86_64", "generic-x86-64"), ("aarch64", "generic-aarch64")]
)
def test_detection_goes_by_architecture_alone(machine, name):
    assert detect_profile(machine).id == name


def test_detection_refuses_what_it_does_not_know():
    with pytest.raises(ProfileError, match="architecture 'riscv64'"):
        detect_profile("riscv64")
