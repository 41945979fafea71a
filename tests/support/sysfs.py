"""Trees of the kernel's files, as boards have them, written into a folder.

Values are public captures unless a comment says that they are made up. Boards and releases:
jetson_stats 7.2 test data (AGX Orin, Jetson Nano), mainline device trees (shunts), forum posts
and pull requests where named.
"""

from __future__ import annotations

from pathlib import Path

SHUNT_SUM = {"in7_label": "sum of shunt voltages", "in7_input": 14600}

# Orin Nano / Orin NX, JetPack 6: VDD_IN is a capture; the other channels are made up on the 8 mA
# grid of its 5 milliohm shunts.
ORIN_NX = {
    "sys/class/hwmon/hwmon1": {
        "name": "ina3221",
        "in1_label": "VDD_IN", "in1_input": 5016, "curr1_input": 1856, "shunt1_resistor": 5000,
        "in2_label": "VDD_CPU_GPU_CV", "in2_input": 5016, "curr2_input": 504,
        "in3_label": "VDD_SOC", "in3_input": 5008, "curr3_input": 560,
        **SHUNT_SUM,
    },
    "sys/class/hwmon/hwmon3": {
        "name": "soctherm_oc", "oc1_event_cnt": 1, "oc2_event_cnt": 0, "oc3_event_cnt": 2,
    },
    "sys/class/thermal/thermal_zone0": {"type": "cpu-thermal", "temp": 63625},
}  # fmt: skip

# AGX Orin: 6 and 2 steps of 398 mW on the first two rails. VDDQ_VDD2_1V8AO lies inside
# VIN_SYS_5V0 (its value is from another capture); channels named NC fail when read.
AGX_ORIN = {
    "sys/class/hwmon/hwmon2": {
        "name": "ina3221",
        "in1_label": "VDD_GPU_SOC", "in1_input": 19916, "curr1_input": 120, "shunt1_resistor": 2000,
        "in2_label": "VDD_CPU_CV", "in2_input": 19900, "curr2_input": 40, "shunt2_resistor": 2000,
        "in3_label": "VIN_SYS_5V0", "in3_input": 5032, "curr3_input": 700, "shunt3_resistor": 2000,
        **SHUNT_SUM,
    },
    "sys/class/hwmon/hwmon3": {
        "name": "ina3221",
        "in1_label": "NC",
        "in2_label": "VDDQ_VDD2_1V8AO", "in2_input": 4960, "curr2_input": 220,
        "in3_label": "NC",
    },
}  # fmt: skip

# Jetson Nano, JetPack 4: an IIO driver. Voltage and current are made up.
NANO = {
    "sys/bus/i2c/drivers/ina3221x/6-0040/iio:device0": {
        "rail_name_0": "POM_5V_IN", "in_power0_input": 933,
        "in_voltage0_input": 4998, "in_current0_input": 187,
        "rail_name_1": "POM_5V_GPU", "in_power1_input": 0,
        "rail_name_2": "POM_5V_CPU", "in_power2_input": 84,
    },
}  # fmt: skip

# Thor developer kit (jetson_stats pull request 900): the board's input through an INA238, and a
# rail that reads one step below zero (-20 mA at 19.6 V).
THOR = {
    "sys/class/hwmon/hwmon4": {
        "name": "ina3221",
        "in1_label": "VDD_GPU", "in1_input": 19600, "curr1_input": -20,
        "in2_label": "VDD_CPU_SOC_MSS", "in2_input": 19600, "curr2_input": 332,
        "in3_label": "VIN_SYS_5V0", "in3_input": 5015, "curr3_input": 1300,
    },
    "sys/class/hwmon/hwmon5": {"name": "ina238", "label": "VIN", "power1_input": 23000000},
}  # fmt: skip

# An INA226 in the supply of a Raspberry Pi (made up).
INA226 = {
    "sys/class/hwmon/hwmon0": {
        "name": "ina226", "in1_input": 5104, "curr1_input": 1240, "power1_input": 6329000,
        "shunt_resistor": 10000, "update_interval": 35,
    },
}  # fmt: skip

RAPL_RANGE_UJ = 262143328850

# An N100 whose package counter is about to wrap; psys, core and the memory-mapped twin are there
# to be left out.
RAPL = {
    "sys/class/powercap/intel-rapl:0": {
        "name": "package-0", "max_energy_range_uj": RAPL_RANGE_UJ, "energy_uj": 262143328000,
    },
    "sys/class/powercap/intel-rapl:0:0": {
        "name": "core", "max_energy_range_uj": RAPL_RANGE_UJ, "energy_uj": 5,
    },
    "sys/class/powercap/intel-rapl:0:2": {
        "name": "dram", "max_energy_range_uj": 65712999613, "energy_uj": 1000,
    },
    "sys/class/powercap/intel-rapl:1": {
        "name": "psys", "max_energy_range_uj": RAPL_RANGE_UJ, "energy_uj": 7,
    },
    "sys/class/powercap/intel-rapl-mmio:0": {
        "name": "package-0", "max_energy_range_uj": RAPL_RANGE_UJ, "energy_uj": 262143328000,
    },
}  # fmt: skip


def write_tree(root: Path, *trees: dict[str, dict[str, object]]) -> Path:
    """Writes folders of files, each value as the kernel prints it, and returns `root`."""
    for tree in trees:
        for folder, files in tree.items():
            (root / folder).mkdir(parents=True, exist_ok=True)
            for name, value in files.items():
                (root / folder / name).write_text(f"{value}\n")
    return root
