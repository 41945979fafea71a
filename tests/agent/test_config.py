"""The configuration file, and the example that is shipped."""

from __future__ import annotations

from pathlib import Path

import pytest

from trimtab_agent.adapters import plan_of
from trimtab_agent.bench.plan import NORMAL, QUICK
from trimtab_agent.config import MeasureConfig, load_config
from trimtab_agent.errors import ConfigError, IdentityError

GOOD = """
device = "dev-1"
profile = "generic-x86-64"
broker = "mqtt://127.0.0.1:1884"
state_dir = "state"
root = "/etc/1.root.json"
"""


@pytest.fixture
def file(tmp_path):
    return tmp_path / "agent.toml"


def test_a_short_one(file):
    file.write_text(GOOD)
    config = load_config(file)
    assert config.state_path == file.parent / "state"
    assert config.root_path == Path("/etc/1.root.json")
    assert config.broker_url.port == 1884
    assert config.measure == MeasureConfig()


def test_broker_and_root_come_with_the_enrolment(file):
    file.write_text(
        "\n".join(line for line in GOOD.splitlines() if line[:4] not in {"brok", "root"})
    )
    config = load_config(file)
    with pytest.raises(
        IdentityError, match=r"this device is not enrolled .*: run trimtab-agent enr"
    ):
        _ = config.broker_url
    config.identity.path.mkdir(parents=True)
    (config.identity.path / "broker").write_text("mqtts://plant.local:8883\n")
    assert str(config.broker_url) == "mqtts://plant.local:8883"
    assert config.root_path == file.parent / "state" / "identity" / "1.root.json"


def test_the_example_is_whole_and_valid():
    example = Path(__file__).parents[2] / "firmware" / "agent.example.toml"
    config = load_config(example)
    assert config.state_dir == "/var/lib/trimtab"
    text = example.read_text()
    for name in (*config.__struct_fields__, *MeasureConfig.__struct_fields__):
        assert f"{name} =" in text or f"[{name}]" in text, name


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("profile", "profil"), "unknown field `profil`"),
        (('"dev-1"', "5"), r"Expected `str`, got `int` - at `\$.device`"),
        (('"dev-1"', '"a/b"'), r"device id 'a/b' is not usable: .* - at `\$.device`"),
        (("mqtt://", "amqp://"), r"broker 'amqp:.* is not of the form .* - at `\$.broker`"),
        (('state_dir = "state"', ""), "missing required field `state_dir`"),
        (("device =", "device"), "Expected '='"),
        (('/etc/1.root.json"', '"\ntimeout_s = 0'), r"Expected `float` > 0.0 - at `\$.timeout_s`"),
        (('/etc/1.root.json"', '"\n[measure]\nplan = "slow"'), r"at `\$.measure.plan`"),
    ],
)
def test_faults_are_named_with_file_and_place(file, change, message):
    file.write_text(GOOD.replace(*change))
    with pytest.raises(ConfigError, match=message) as caught:
        load_config(file)
    assert str(file) in str(caught.value)


def test_a_file_that_is_not_there(file):
    with pytest.raises(ConfigError, match=r"cannot read the configuration .*: No such file"):
        load_config(file)


def test_plans():
    assert plan_of(MeasureConfig()) == QUICK
    assert plan_of(MeasureConfig(plan="normal")) == NORMAL
    asked = plan_of(MeasureConfig(duration_s=7.0, energy_s=8.0))
    assert (asked.duration_s, asked.energy_s, asked.warmup_s) == (7.0, 8.0, QUICK.warmup_s)
