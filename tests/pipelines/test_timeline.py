"""The timeline: what is packed comes back, videos are told apart, no text of a user becomes markup or an address."""

import base64
import json
import re
import zlib
from importlib.resources import files
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cache.labels import ABAW, DISFA, SCHEMAS, Schema, schema_of
from helpers.made_timeline import HOSTILE, frames_with_gap, made_video
from pipelines.html import Markup
from pipelines.predict.pictures import write_timeline
from pipelines.report.pages import Pictures, Report, Section, Timeline, write_page
from pipelines.timeline import section
from pipelines.timeline.figure import timeline_figure
from pipelines.timeline.packing import PROBABILITY_STEP, RANGE_STEPS, packed
from pipelines.timeline.palette import class_colours
from pipelines.timeline.section import timeline_page, timeline_section, write_sidecars, write_timeline_page
from pipelines.timeline.videos import TimelineVideo, face_address, gap_limit, relative_folder, videos_of

SIZES = {"u8": 1, "u16": 2, "u32": 4, "u56": 7}


def unpacked(text: str) -> tuple[dict[str, np.ndarray], list[str]]:
    """What `packed` packed, as `assets/unpack.js` reads it."""
    data = zlib.decompress(base64.b64decode(text))
    end = 4 + int.from_bytes(data[:4], "little")
    head, columns = json.loads(data[4:end]), {}
    for column in head["columns"]:
        size, count = SIZES[column["type"]], head["frames"]
        planes = np.frombuffer(data[end : end + size * count], np.uint8).reshape(size, count).astype(np.int64)
        steps = sum(plane << (8 * k) for k, plane in enumerate(planes))
        whole = np.cumsum(steps) % 2 ** (8 * size)
        values = column["low"] + column["step"] * whole
        missing = whole == 2 ** (8 * size) - 1 if column["key"] != "frame" else np.zeros(count, bool)
        columns[column["key"]] = np.where(missing, np.nan, values)
        end += size * count
    return columns, json.loads(data[end : end + head["faces"]] or b"[]")


@pytest.mark.parametrize("schema", SCHEMAS.values(), ids=lambda schema: schema.name)
def test_what_is_packed_comes_back_within_half_a_step(schema: Schema) -> None:
    video = made_video(schema=schema, faces=["./a/1.jpg"] * 60)
    columns, faces = unpacked(packed(video, schema))
    assert faces == ["./a/1.jpg"] * 60
    np.testing.assert_array_equal(columns["frame"], video.frames)
    np.testing.assert_allclose(columns["time"], video.time_s, atol=0.00051)
    np.testing.assert_array_equal(columns["valid"], video.valid)
    assert video.smoothed is not None
    for group in schema:
        step = (group.high - group.low) / RANGE_STEPS if group.kind == "continuous" else 0
        for name in group.columns:
            np.testing.assert_allclose(columns[f"predicted/{name}"], video.smoothed[name], atol=step * 0.51)
            np.testing.assert_allclose(columns[f"label/{name}"], video.labels[name], atol=step * 0.51)
        for name, output in zip(group.names, group.output_columns, strict=True):
            if group.kind == "continuous":
                np.testing.assert_allclose(columns[f"raw/{name}"], video.predicted[name], atol=2 * step)
            else:
                found = columns[f"p/{name}"]
                np.testing.assert_allclose(found, video.smoothed[output], atol=PROBABILITY_STEP * 0.51)


@given(
    values=st.lists(st.floats(-3, 3) | st.just(float("nan")), min_size=1, max_size=9),
    steps=st.lists(st.integers(1, 2**49), min_size=9, max_size=9),
    first=st.integers(0, 2**50),
)
def test_values_beyond_the_range_missing_ones_and_any_frame_numbers_come_back(values, steps, first) -> None:
    frames = first + np.cumsum(steps[: len(values)])
    video = TimelineVideo(name="v", frames=frames, predicted={"valence": np.array(values)})
    columns, _ = unpacked(packed(video, ABAW))
    np.testing.assert_array_equal(columns["frame"], frames)
    found = columns.get("predicted/valence", np.full(len(values), np.nan))
    np.testing.assert_allclose(found, values, atol=6 / RANGE_STEPS)
    assert "predicted/arousal" not in columns


def test_a_column_without_a_number_is_left_out() -> None:
    nothing = np.full(3, np.nan)
    video = TimelineVideo(
        name="v", frames=np.arange(3), predicted={"valence": np.zeros(3)}, labels={"valence": nothing, "AU1": nothing}
    )
    assert list(unpacked(packed(video, ABAW))[0]) == ["frame", "predicted/valence"]


def test_the_widest_step_that_is_no_gap() -> None:
    assert gap_limit(np.array([7])) == 1
    assert gap_limit(frames_with_gap()) == 1
    assert gap_limit(np.array([1, 5, 9, 13, 40])) == 12


def table_of(rows: list[tuple], names: list[str]) -> pl.DataFrame:
    return pl.DataFrame(rows, schema=names, orient="row")


def test_a_table_is_told_apart_by_part_video_and_face() -> None:
    rows = [
        ("b", 2, 0, "report", 0.2),
        ("b", 1, 0, "report", 0.1),
        ("b", 1, 1, "report", 0.3),
        ("a", 1, 0, "select", 0.4),
        ("b", 3, None, "report", None),
        ("empty", 4, None, "report", None),
    ]
    table = table_of(rows, ["video", "frame", "face", "part", "valence"])
    smoothed = table.with_columns(pl.col("valence") + 1)
    labels = table_of([("b", 2, "b/2.jpg", -0.5), ("b", 9, "b/9.jpg", 0.9)], ["video", "frame", "path", "valence"])
    videos = {video.name: video for video in videos_of(table, ABAW, smoothed=smoothed, labels=labels, faces="../f")}
    assert set(videos) == {"b, face 0", "b, face 1", "a, face 0", "empty"}
    one = videos["b, face 0"]
    assert (one.part, one.frames.tolist(), one.predicted["valence"].tolist()) == ("report", [1, 2], [0.1, 0.2])
    assert one.smoothed is not None
    assert one.smoothed["valence"].tolist() == [1.1, 1.2]
    np.testing.assert_array_equal(one.labels["valence"], [np.nan, -0.5])
    assert one.faces == ["", "./../f/b/2.jpg"]
    assert np.isnan(videos["empty"].predicted["valence"]).all()


@pytest.mark.parametrize("name", [*HOSTILE, "//host/x.jpg", "http://host/x.jpg", "a\\b.jpg", "ä 1.jpg", "a?b#c.jpg"])
def test_an_address_of_a_face_is_always_a_place_beside_the_page(name: str) -> None:
    for folder in ("", "..", "/faces"):
        address = face_address(folder, name)
        assert re.fullmatch(r"(\./|/(?!/))[A-Za-z0-9_.~/%-]*", address), address


def test_the_folder_of_faces_as_a_page_elsewhere_sees_it(tmp_path: Path) -> None:
    assert relative_folder(tmp_path / "faces", tmp_path / "out" / "page.html") == "../faces"
    assert relative_folder(tmp_path, tmp_path / "page.html") == "."


def test_no_text_of_a_user_is_markup_or_ends_the_script() -> None:
    classes = {"name": "mood", "kind": "classes", "columns": ["mood"], "classes": [HOSTILE[0], HOSTILE[1], "calm"]}
    schema = schema_of({"name": "x", "groups": [classes]}, "x")
    page = timeline_page(HOSTILE[0], [made_video(name, schema=schema) for name in HOSTILE], schema, note=HOSTILE[1])
    assert "<img" not in page
    assert page.count("<script") == page.count("</script>") == 2 + len(HOSTILE) + 1  # table, explorer; data; index
    index = re.search(r'class="timeline-index">(.*?)</script>', page, re.S)
    assert index is not None
    assert index[1].isascii()
    assert [video["name"] for video in json.loads(index[1])["videos"]] == list(HOSTILE)


def test_few_frames_stand_in_the_page_and_many_beside_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    videos = [made_video("one"), made_video("two", seed=1)]
    path = tmp_path / "my page #1.html"
    assert write_sidecars(videos, ABAW, path) == ()
    assert not list(tmp_path.iterdir())
    monkeypatch.setattr(section, "MAX_FRAMES", 119)
    write_timeline_page(path, "many", videos, ABAW)
    before = sorted(each.name for each in (tmp_path / "my page #1-timeline").iterdir())
    assert [name[:5] for name in before] == ["0001-", "0002-"]
    page = path.read_text()
    assert "timeline-data" not in re.sub(r"<script>.*?</script>", "", page, flags=re.S)
    assert f'"./my%20page%20%231-timeline/{before[0]}"' in page
    data = (tmp_path / "my page #1-timeline" / before[0]).read_text()
    assert packed(videos[0], ABAW) in data
    (tmp_path / "my page #1-timeline" / "0002-mine.js").write_text("a user's")
    write_timeline_page(path, "fewer", [made_video("one", np.arange(200))], ABAW)
    after = sorted(each.name for each in (tmp_path / "my page #1-timeline").iterdir())
    assert after[0] == "0001-" + after[0][5:17] + ".js"
    assert after[1:] == ["0002-mine.js"]


def test_a_report_of_many_frames_has_their_data_beside_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    videos = (made_video("one"), made_video("two", seed=1))
    report = Report(title="r", opening=Markup(""), sections=(Section("Timeline", (Timeline(videos, ABAW),)),))
    write_page(report, Pictures({}), tmp_path / "report.html")
    assert packed(videos[1], ABAW) in (tmp_path / "report.html").read_text()
    monkeypatch.setattr(section, "MAX_FRAMES", 100)
    write_page(report, Pictures({}), tmp_path / "report.html")
    page = (tmp_path / "report.html").read_text()
    assert packed(videos[1], ABAW) not in page
    assert all(f"./report-timeline/{each.name}" in page for each in (tmp_path / "report-timeline").iterdir())
    assert len(list((tmp_path / "report-timeline").iterdir())) == 2


def test_the_library_comes_with_its_licence() -> None:
    assets = files("pipelines.timeline") / "assets"
    assert "The MIT License" in (assets / "uPlot-LICENSE.txt").read_text()
    assert "uPlot" in (assets / section.LIBRARY).read_text()[:100]


@pytest.mark.parametrize("schema", SCHEMAS.values(), ids=lambda schema: schema.name)
def test_no_two_classes_share_a_colour(schema: Schema) -> None:
    for group in schema:
        assert len(set(class_colours(group))) == len(group.classes)


def test_many_classes_have_colours_too() -> None:
    names = ["Anger", "fear", *(f"mood{k}" for k in range(58))]
    group = {"name": "mood", "kind": "classes", "columns": ["mood_of_60"], "classes": names}
    colours = class_colours(schema_of({"name": "x", "groups": [group]}, "x").groups[0])
    assert len(set(colours)) == 60
    assert colours[1] == "#cc79a7"


@pytest.mark.parametrize(("schema", "num_lanes"), [(ABAW, 4), (DISFA, 1)], ids=["abaw", "disfa"])
def test_a_picture_has_a_lane_per_line_ribbon_and_heat_map(schema: Schema, num_lanes: int, tmp_path: Path) -> None:
    figure = timeline_figure(made_video("cost $1 & $2^x_{", schema=schema), schema)
    assert len(figure.axes) == num_lanes
    figure.savefig(tmp_path / "timeline.png", dpi=40)
    assert (tmp_path / "timeline.png").stat().st_size > 1000


def test_a_picture_has_nothing_in_a_gap_and_the_predictions_outside() -> None:
    video = made_video(smoothed=False)
    figure = timeline_figure(video, ABAW)
    ribbon = figure.axes[2].images[0].get_array()
    assert ribbon.shape == (2, 100)
    np.testing.assert_array_equal(ribbon[0, :20], video.predicted["expression"][:20])
    assert np.ma.getmaskarray(np.ma.masked_invalid(ribbon))[:, 20:60].all()
    line = figure.axes[0].lines[0]
    assert np.isnan(line.get_ydata()).sum() == 1


def test_a_page_of_labels_alone_and_of_one_frame_can_be_made() -> None:
    bare = TimelineVideo(name="v", frames=np.array([5]), predicted={}, labels={"AU1": np.array([1.0])})
    assert 'class="timeline"' in timeline_section([bare], ABAW)
    assert len(timeline_figure(bare, ABAW).axes) == 1


def test_a_video_without_a_face_and_no_video_at_all_are_said_in_words() -> None:
    table = table_of([("v", 1, None, None), ("v", 2, None, None)], ["video", "frame", "face", "valence"])
    (video,) = videos_of(table, ABAW)
    assert list(unpacked(packed(video, ABAW))[0]) == ["frame"]
    assert [text.get_text() for text in timeline_figure(video, ABAW).texts][-1].startswith("Neither predictions")
    assert timeline_section([], ABAW) == "<p>There is no frame to show.</p>"


def test_names_of_classes_are_no_formulas(tmp_path: Path) -> None:
    group = {"name": "e", "kind": "classes", "columns": ["e"], "classes": [r"$\frac{$", "other"]}
    table = pl.DataFrame(
        {"video": "v", "frame": [1, 2], "valid": True, "e": [0, 1], r"p_$\frac{$": 0.5, "p_other": 0.5}
    )
    schema = schema_of({"name": "s", "groups": [group]}, "here")
    write_timeline(
        tmp_path / "t.png", "t", table, table, schema, whose="the run r", is_post=False, faces=None, force=False
    )
    assert (tmp_path / "t.png").is_file()
