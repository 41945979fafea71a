"""The report: one HTML page that needs nothing else, the JSON beside it, and the terminal table."""

from __future__ import annotations

import io
import re
from html.parser import HTMLParser

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from support.search import World
from trimtab.errors import ExportError
from trimtab.hardware import load_profile
from trimtab.search import plot, units
from trimtab.search.candidates import ladder
from trimtab.search.loop import search
from trimtab.search.report import render_html, write_report
from trimtab.search.summary import About, Summary, build_summary
from trimtab.search.table import build_table
from trimtab_agent.contract.manifest import Budget
from trimtab_agent.contract.measurement import Energy
from trimtab_agent.errors import StorageError

ABOUT = About(
    model="watch <1>.keras",
    profile="generic-x86-64",
    device="bench & co",
    seed=7,
    created="2026-11-22T10:00:00Z",
    tools={"onnxruntime": "1.31.1", "trimtab": "0.1.0"},
)
BUDGET = Budget(wire_bytes=70_000, latency_p95_us=420.0, accuracy_drop=0.015)


@pytest.fixture
def summarize(tmp_path):
    """Runs a search in a simulated world and returns its summary."""

    def go(world: World, budget: Budget = BUDGET) -> Summary:
        world.directory = tmp_path
        result = search(
            ladder(load_profile("generic-x86-64")),
            budget,
            builder=world,
            device=world,
            path=tmp_path / "search.json",
            subject={},
        )
        return build_summary(result, budget, ABOUT)

    return go


@pytest.fixture
def summary(summarize):
    return summarize(World(failing={"tflite-float32": ExportError("differs by <0.5> [bold]")}))


class Page(HTMLParser):
    """Collects the text and the addresses of a page, and checks that its tags are balanced."""

    VOID = frozenset({"meta", "br", "link", "img", "input", "hr"})
    LINKS = frozenset({"src", "href", "xlink:href", "data", "action", "poster", "srcset"})

    def __init__(self, html: str) -> None:
        super().__init__()
        self.text: list[str] = []
        self.links: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.feed(html)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        self.links += [value or "" for name, value in attrs if name in self.LINKS]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] != "style":
            self.text.append(data)

    def all_of(self, tag: str) -> list[dict[str, str | None]]:
        return [attrs for name, attrs in self.tags if name == tag]

    @property
    def words(self) -> str:
        return " ".join(" ".join(self.text).split())


def test_the_page_is_whole_and_needs_no_network(summary):
    html = render_html(summary)
    page = Page(html)
    assert page.open == []
    assert page.links == []
    assert not re.search(r"https?:|url\(|@import|<script|<link", html)
    assert len(html) < 100_000


def test_every_figure_of_the_json_is_on_the_page(summary, tmp_path):
    html_path, json_path = write_report(summary, tmp_path / "out")
    again = msgspec.json.decode(json_path.read_bytes(), type=Summary)
    assert again == summary
    words = Page(html_path.read_text()).words
    for row in again.rows:
        assert row.id in words
        for shown in figures(row):
            assert shown in words
        assert all(reason in words for reason in row.reasons)
    assert again.conclusion in words
    assert all(sentence in words for sentence in again.unchecked)
    assert all(version in words for version in again.about.tools.values())


def figures(row) -> list[str]:
    shown = [units.show_energy(row.energy), units.show_bytes(row.peak_memory_bytes)]
    if row.sizes:
        sizes = (row.sizes.wire_bytes, row.sizes.file_bytes, row.sizes.weight_bytes)
        shown += map(units.show_bytes, sizes)
    if row.latency:
        shown += [units.show_us(row.latency.p50_us), units.show_us(row.latency.p95_us)]
    if row.evaluation:
        shown += [units.show_share(row.evaluation.value), units.show_points(-row.accuracy_drop)]
    return shown


def test_names_and_messages_are_never_markup(summary):
    html = render_html(summary)
    assert "watch &lt;1&gt;.keras" in html
    assert "bench &amp; co" in html
    assert "differs by &lt;0.5&gt; [bold]" in html
    assert "Simulated &lt;CPU&gt; &amp; more" in html


def test_both_plots_show_every_trial_that_has_both_figures(summary):
    page = Page(render_html(summary))
    assert [attrs["aria-labelledby"] for attrs in page.all_of("figure")] == [
        "latency_p95_us-title", "wire_bytes-title",
    ]  # fmt: skip
    marks = [attrs["aria-label"] for attrs in page.all_of("g")]
    drawn = [row for row in summary.rows if row.outcome != "failed"]
    assert len(marks) == 2 * len(drawn) > 2
    assert all(any(mark.startswith(f"{row.id}: ") for mark in marks) for row in drawn)
    assert "lowest allowed" in page.words
    rings = [attrs for attrs in page.all_of("circle") if attrs["class"] == "ring"]
    assert len([ring for ring in rings if ring["r"] == "11"]) == 2  # the chosen one, in each plot


def test_every_label_that_is_referred_to_is_there(summary):
    page = Page(render_html(summary))
    ids = {attrs["id"] for _, attrs in page.tags if "id" in attrs}
    for _, attrs in page.tags:
        assert set((attrs.get("aria-labelledby") or "").split()) <= ids


def test_energy_of_level_none_is_said_and_never_zero(summary):
    page = Page(render_html(summary))
    assert "Energy was not measured: no sensor here." in page.words
    assert " 0 mJ" not in page.words


def test_energy_comes_with_its_level(summarize):
    words = Page(render_html(summarize(World(energy=True)))).words
    assert "mJ (counter rapl:package-0)" in words
    assert "Energy was not measured" not in words


def test_without_labels_agreement_stands_in_and_is_named(summarize):
    summary = summarize(World(labels=False))
    words = Page(render_html(summary)).words
    assert "Agreement with the original against latency" in words
    assert "There were no labels" in words
    assert "agrees" in as_text(summary)


def test_a_search_that_came_to_nothing(summarize):
    failing = {c.id: ExportError("no") for c in ladder(load_profile("generic-x86-64"))}
    summary = summarize(World(failing=failing))
    words = Page(render_html(summary)).words
    assert "No candidate gave a working package." in words
    assert "Nothing to draw" in words
    assert "Nothing was measured on a device." in words
    assert "failed on the host (export): no" in words


@pytest.mark.parametrize(
    ("world", "budget", "said"),
    [
        (World(), Budget(), "tflite-float32 keeps the whole budget, as measured on the device"),
        (World(), Budget(wire_bytes=1), "No candidate keeps the budget. "),
        (
            World(),
            Budget(wire_bytes=1),
            "spent, 6 candidates tried, 48 ruled out untried by what these measured. No",
        ),
        (
            World(),
            Budget(energy_mj=1.0),
            "tflite-float32 misses nothing that was measured, but is not proven: energy",
        ),
    ],
)
def test_the_conclusion(summarize, world, budget, said):
    assert said in summarize(world, budget).conclusion


def as_text(summary: Summary) -> str:
    console = Console(file=io.StringIO(), width=220)
    console.print(build_table(summary))
    return console.file.getvalue()


def test_the_table_has_the_four_sizes_apart_and_the_verdict(summary):
    text = as_text(summary)
    chosen = next(row for row in summary.rows if row.chosen)
    line = next(line for line in text.splitlines() if f"▶ {chosen.id}" in line)
    assert all(shown in line for shown in figures(chosen))
    assert "met" in line
    assert "missed: wire" in text
    failed = next(line for line in text.splitlines() if "failed" in line)
    assert units.ABSENT in failed


def test_a_place_that_cannot_be_written(summary, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match=r"report in .*file cannot be written: File exists"):
        write_report(summary, tmp_path / "file")


# Plots and units


def point(x: float, y: float) -> plot.Point:
    return plot.Point(x=x, y=y, label="", detail="", css="", shape="circle", chosen=False)


@given(st.lists(st.tuples(st.floats(1e-3, 1e9), st.floats(0, 1)), min_size=1, max_size=30))
def test_a_chart_keeps_everything_inside(pairs):
    points = [point(x, y) for x, y in pairs]
    chart = plot.build_chart(points, x_limit=10.0, y_limit=0.5, show_x=str, show_y=str)
    assert chart is not None
    assert all(plot.LEFT <= mark.x <= plot.WIDTH - plot.RIGHT for mark in chart.points)
    assert all(plot.TOP <= mark.y <= plot.HEIGHT - plot.BOTTOM for mark in chart.points)
    assert 2 <= len(chart.x_ticks) <= 8
    assert 2 <= len(chart.y_ticks) <= 9
    front = plot.pareto(points)
    for one in points:
        beaten = any(
            other.x <= one.x and other.y >= one.y and (other.x, other.y) != (one.x, one.y)
            for other in points
        )
        assert beaten == ((one.x, one.y) not in {(f.x, f.y) for f in front})


SHOWN = {
    "bytes": (units.show_bytes(999), "999 B"),
    "kilobytes": (units.show_bytes(31_234), "31.2 kB"),
    "megabytes": (units.show_bytes(1_234_567), "1.23 MB"),
    "gigabytes": (units.show_bytes(8e9), "8.00 GB"),
    "no size": (units.show_bytes(None), units.ABSENT),
    "microseconds": (units.show_us(812.4), "812 µs"),
    "milliseconds": (units.show_us(4091.0), "4.09 ms"),
    "seconds": (units.show_us(2.5e6), "2.50 s"),
    "share": (units.show_share(0.8934), "89.3 %"),
    "points": (units.show_points(-0.0042), "-0.42"),
    "no change": (units.show_points(-1e-9), "+0.00"),
    "never measured": (units.show_energy(None), units.ABSENT),
    "no sensor": (units.show_energy(Energy(level="none")), "none"),
    "energy": (
        units.show_energy(
            Energy(level="counter", source="rapl", net_mj=1.836, net_uncertainty_mj=0.0423)
        ),
        "1.84 ± 0.042 mJ (counter rapl)",
    ),
}


@pytest.mark.parametrize("name", sorted(SHOWN))
def test_units(name):
    shown, expected = SHOWN[name]
    assert shown == expected
