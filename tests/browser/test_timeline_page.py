"""The timeline in a browser, opened from a disk: keys, mouse, looks, many frames, hostile names. No WebGL anywhere."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from playwright.sync_api import Browser, Page

from cache.labels import ABAW, DISFA, Schema, schema_of
from helpers.browser import check_looks, opened
from helpers.made_timeline import HOSTILE, made_video
from pipelines.timeline import section
from pipelines.timeline.section import write_timeline_page
from pipelines.timeline.videos import TimelineVideo, face_address

MB = 1_000_000
DRAWN = "() => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(() => setTimeout(done))))"
# The colour at a frame: of the canvas `which` of the page, at `share` of its height.
COLOUR = """
([which, share, at]) => {
  const canvas = [...document.querySelectorAll(".lane-stack canvas")][which];
  const stack = document.querySelector(".lane-stack").getBoundingClientRect();
  const box = canvas.getBoundingClientRect();
  const x = (stack.left + 78 + at * (stack.width - 78 - 14) - box.left) * (canvas.width / box.width);
  return [...canvas.getContext("2d").getImageData(Math.floor(x), canvas.height * share, 1, 1).data];
}
"""


def wait(page: Page, chosen: int = 0) -> None:
    page.wait_for_selector(f'.timeline[data-ready="{chosen}"]')
    page.evaluate(DRAWN)


def heading(page: Page) -> str:
    return page.locator(".frame-heading").inner_text()


def values(page: Page) -> dict[str, list[str]]:
    """The readout: by row its cells."""
    rows = page.locator(".values tbody tr").all()
    return {row.locator("th").inner_text(): row.locator("td").all_inner_texts() for row in rows}


def share_of(page: Page, frame: float, frames: np.ndarray) -> float:
    """Where `frame` is along the whole video."""
    return (frame - frames[0] + 0.5) / (frames[-1] - frames[0] + 1)


def colour_at(page: Page, canvas: int, height: float, along: float) -> list[int]:
    return page.evaluate(COLOUR, [canvas, height, along])


@pytest.fixture(scope="module")
def videos() -> list[TimelineVideo]:
    names = ["anna at work", "bert at home", "carl at work"]
    return [made_video(name, seed=k, part="select" if k else "report") for k, name in enumerate(names)]


@pytest.fixture(scope="module")
def path(videos: list[TimelineVideo], tmp_path_factory: pytest.TempPathFactory) -> Path:
    found = tmp_path_factory.mktemp("timeline") / "page.html"
    write_timeline_page(found, "Three videos", videos, ABAW)
    return found


@pytest.fixture
def page(browser: Browser, path: Path) -> Iterator[Page]:
    with opened(browser, path) as found:
        wait(found.page)
        yield found.page
        assert not found.faults
        assert not found.missing


def test_there_is_no_webgl_here_and_the_page_works(page: Page) -> None:
    assert page.evaluate("() => document.createElement('canvas').getContext('webgl')") is None
    assert page.locator(".uplot").count() == 2
    assert page.locator(".cell-lane").count() == 3


def test_keys_step_frames_and_the_readout_says_their_values(page: Page, videos: list[TimelineVideo]) -> None:
    video = videos[0]
    assert heading(page) == "Frame 1, 0.03 s (1 of 60)"
    page.locator(".lane-stack").focus()
    places = {"ArrowRight": 1, "Shift+ArrowRight": 11, "ArrowLeft": 10, "End": 59, "Shift+ArrowLeft": 49}
    for key, place in places.items():
        page.keyboard.press(key)
        assert heading(page).startswith(f"Frame {video.frames[place]}, "), key
    assert video.smoothed is not None
    valence, raw, label = (part["valence"][49] for part in (video.smoothed, video.predicted, video.labels))
    numbers = [float(text) for text in values(page)["valence"][0].replace("−", "-").replace(")", "").split(" (raw ")]
    np.testing.assert_allclose(numbers, [valence, raw], atol=0.001)
    label_text = values(page)["valence"][1]
    assert label_text == "–" if np.isnan(label) else abs(float(label_text.replace("−", "-")) - label) <= 0.001
    classes = ABAW.group("expr").classes
    assert values(page)["expression"][0] == classes[int(video.smoothed["expression"][49])]
    present = "present" if video.smoothed["AU12"][49] else "absent"
    assert values(page)["AU12"][0] == f"{present} {video.smoothed['p_AU12'][49]:.2f}"
    slider = page.locator(".lane-stack")
    assert slider.get_attribute("role") == "slider"
    assert slider.get_attribute("aria-valuenow") == str(video.frames[49])
    assert "predicted valence" in (slider.get_attribute("aria-valuetext") or "")
    page.keyboard.press("Home")
    assert heading(page).startswith("Frame 1, ")
    page.keyboard.press("ArrowLeft")
    assert heading(page).startswith("Frame 1, ")
    page.keyboard.press("PageUp")
    assert heading(page).startswith(f"Frame {video.frames[59]}, ")


def test_the_mouse_shows_a_frame_zooms_and_shows_all_again(page: Page, videos: list[TimelineVideo]) -> None:
    frames = videos[0].frames
    box = page.locator(".lane-stack").bounding_box()
    assert box is not None
    left, width = box["x"] + 78, box["width"] - 78 - 14
    row = box["y"] + 60
    page.mouse.move(left + width * share_of(page, 15, frames), row)
    assert heading(page).startswith("Frame 15, ")
    page.mouse.move(left + width * share_of(page, 38, frames), row)  # in the gap: the nearest one
    assert heading(page).startswith("Frame 20, ")
    before = page.locator(".tick").all_inner_texts()
    page.mouse.move(left + width * share_of(page, 5, frames), row)
    page.mouse.down()
    page.mouse.move(left + width * share_of(page, 18, frames), row, steps=3)
    page.mouse.up()
    page.evaluate(DRAWN)
    zoomed = page.locator(".tick").all_inner_texts()
    assert zoomed != before
    assert 5 <= int(zoomed[0]) < int(zoomed[-1]) <= 18
    page.mouse.dblclick(left + width / 2, row)
    page.evaluate(DRAWN)
    assert page.locator(".tick").all_inner_texts() == before
    page.locator(".lane-stack").focus()
    page.keyboard.press("+")
    page.evaluate(DRAWN)
    assert page.locator(".tick").all_inner_texts() != before
    page.get_by_role("button", name="All of the video").click()
    page.evaluate(DRAWN)
    assert page.locator(".tick").all_inner_texts() == before


def test_all_lanes_share_the_time_axis_and_gaps_are_empty(page: Page, videos: list[TimelineVideo]) -> None:
    video = videos[0]
    frames, shown = video.frames, video.smoothed
    assert shown is not None
    inside = [page.locator(".u-over").first, page.locator(".cell-lane canvas").first]
    boxes = [each.bounding_box() for each in inside]
    assert boxes[0] is not None
    assert boxes[1] is not None
    assert abs(boxes[0]["x"] - boxes[1]["x"]) <= 1
    assert abs(boxes[0]["width"] - boxes[1]["width"]) <= 1
    colours = section.class_colours(ABAW.group("expr"))
    for place in (3, 17, 25, 50):
        along = share_of(page, frames[place], frames)
        expected = [int(colours[int(shown["expression"][place])][k : k + 2], 16) for k in (1, 3, 5)]
        assert colour_at(page, 2, 0.06, along)[:3] == expected  # the upper ribbon, above the names written on it
    chart = page.evaluate(
        """([from, to]) => {
          const canvas = document.querySelector(".uplot canvas");
          const scale = canvas.width / canvas.getBoundingClientRect().width;
          const [x, end] = [from, to].map((at) => Math.round(scale * (78 + at * (canvas.width / scale - 92))));
          const data = canvas.getContext("2d").getImageData(x, 0, end - x, canvas.height).data;
          let blue = 0;
          for (let i = 0; i < data.length; i += 4) if (data[i + 2] - data[i] > 60 && data[i + 3] > 128) blue++;
          return blue;
        }"""
    , [share_of(page, 23, frames), share_of(page, 58, frames)])  # fmt: skip
    assert chart == 0
    drawn = page.evaluate("() => document.querySelectorAll('.dot')[1].style.transform")
    assert drawn.startswith("translate(")
    assert "no frames" in page.locator(".choices").first.inner_text()


def test_a_video_is_chosen_by_keyboard_and_found_by_a_part_of_its_name(page: Page) -> None:
    select, found = page.get_by_label("Video", exact=True), page.locator(".chooser [role=status]")
    assert found.inner_text() == "3 videos"
    select.focus()
    page.keyboard.press("ArrowDown")
    wait(page, 1)
    assert select.input_value() == "1"
    page.get_by_role("searchbox").focus()
    page.keyboard.type("work SEL")
    wait(page, 2)
    assert found.inner_text() == "1 of 3 videos"
    page.keyboard.press("Enter")
    assert page.evaluate("() => document.activeElement.tagName") == "SELECT"
    page.get_by_role("searchbox").fill("nobody")
    assert found.inner_text() == "0 of 3 videos"
    page.get_by_role("searchbox").fill("")
    page.get_by_role("button", name="Previous video").click()
    wait(page, 1)
    page.get_by_role("button", name="Next video").press("Enter")
    wait(page, 2)
    assert page.get_by_role("button", name="Next video").is_disabled()


def test_lines_are_hidden_by_their_boxes_and_space_plays(page: Page) -> None:
    page.get_by_label("predicted, raw").uncheck()
    assert not page.locator(".dot-raw").first.is_visible()
    page.get_by_role("button", name="Next video").click()
    wait(page, 1)
    assert not page.get_by_label("predicted, raw").is_checked()
    page.locator(".lane-stack").focus()
    page.keyboard.press(" ")
    page.wait_for_function("() => !document.querySelector('.frame-heading').textContent.startsWith('Frame 1,')")
    page.keyboard.press(" ")
    assert page.get_by_role("button", name="Play or stop").inner_text() == "Play"


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
def test_it_is_readable_and_nothing_is_cut_off(browser: Browser, path: Path, width: int, dark: bool) -> None:
    with opened(browser, path, width=width, dark=dark) as found:
        wait(found.page)
        check_looks(found.page)
        surface = found.page.evaluate("() => getComputedStyle(document.body).backgroundColor")
        assert surface == ("rgb(21, 24, 27)" if dark else "rgb(255, 255, 255)")
        before = colour_at(found.page, 3, 0.02, 0.05)
        found.page.emulate_media(color_scheme="light" if dark else "dark")
        found.page.evaluate(DRAWN)
        other = colour_at(found.page, 3, 0.02, 0.05)
        assert other != before  # the heat map follows the system's theme
        found.page.emulate_media(color_scheme="dark", media="print")
        found.page.evaluate(DRAWN)
        assert colour_at(found.page, 3, 0.02, 0.05) == (other if dark else before)  # paper is light
        assert not found.faults


def hostile_page(path: Path) -> None:
    classes = {"name": "mood", "kind": "classes", "columns": ["mood"], "classes": [*HOSTILE[:2], "calm"]}
    values = {"name": "constructor", "kind": "continuous", "columns": ["__proto__"], "range": [0, 5]}
    schema = schema_of({"name": "x", "groups": [classes, values]}, "x")
    addresses = ["javascript:alert(1)", "//nowhere.invalid/x.png", "https://nowhere.invalid/x.png", *HOSTILE]
    places = [face_address("", addresses[k % len(addresses)]) for k in range(60)]
    write_timeline_page(path, HOSTILE[0], [made_video(n, schema=schema, faces=places) for n in HOSTILE], schema)


def test_no_name_label_or_path_runs_a_script(browser: Browser, tmp_path: Path) -> None:
    hostile_page(tmp_path / "page.html")
    with opened(browser, tmp_path / "page.html") as found:
        wait(found.page)
        names = found.page.locator(".chooser option").all_text_contents()
        assert [name.removesuffix(" (60 frames, held out)") for name in names] == list(HOSTILE)
        for chosen in range(len(HOSTILE)):
            found.page.get_by_label("Video", exact=True).select_option(str(chosen))
            wait(found.page, chosen)
            found.page.locator(".lane-stack").focus()
            for _ in range(10):
                found.page.keyboard.press("ArrowRight")
        assert found.page.evaluate("() => window.hacked") is None
        assert "__proto__" in found.page.locator(".lane-title b").all_inner_texts()
        assert not found.faults
        assert all(address.startswith("file:///") for address in found.missing)


def test_an_address_that_leads_elsewhere_is_not_asked_for(browser: Browser, tmp_path: Path) -> None:
    addresses = ["javascript:alert(1)", "//nowhere.invalid/x.png", "https://nowhere.invalid/x.png"] * 20
    write_timeline_page(tmp_path / "page.html", "x", [made_video(faces=addresses)], ABAW)
    with opened(browser, tmp_path / "page.html") as found:
        wait(found.page)
        found.page.locator(".lane-stack").focus()
        for _ in range(3):
            assert found.page.locator(".face").inner_text() == "no face beside this page"
            found.page.keyboard.press("ArrowRight")
        assert not found.faults
        assert not found.missing


def test_faces_are_shown_where_they_lie_and_missed_in_words(browser: Browser, tmp_path: Path) -> None:
    fixture = Path(__file__).parents[2] / "docs" / "report.png"
    (tmp_path / "faces" / "ä b").mkdir(parents=True)
    shutil.copyfile(fixture, tmp_path / "faces" / "ä b" / "00001.png")
    faces = [face_address("faces", f"ä b/{number:05}.png") for number in range(1, 61)]
    write_timeline_page(tmp_path / "page.html", "Faces", [made_video(faces=faces)], ABAW)
    with opened(browser, tmp_path / "page.html", width=390) as found:
        wait(found.page)
        found.page.wait_for_function("() => document.querySelector('.face img').naturalWidth > 0")
        assert found.page.get_by_alt_text("Face of frame 1").is_visible()
        found.page.locator(".lane-stack").focus()
        for number in range(2, 10):
            found.page.keyboard.press("ArrowRight")
            found.page.wait_for_function(
                f"() => document.querySelector('.face p').textContent.endsWith('not there: faces/ä b/{number:05}.png')"
            )
        assert found.page.locator(".face").inner_text() == "The picture is not there: faces/ä b/00009.png"
        assert len(found.missing) == 3  # after three in a row no more are asked for
        check_looks(found.page)
        assert not found.faults


def long_video(num: int, faces: bool = True) -> TimelineVideo:
    """`num` frames with gaps, noisy predictions and a face in each."""
    rng = np.random.default_rng(0)
    frames = np.cumsum(np.where(rng.random(num) < 0.002, 300, 1))
    return made_video(
        "long", frames, faces=[face_address("faces", f"long/{n:06}.jpg") for n in frames] if faces else None
    )


def test_a_hundred_thousand_frames_are_small_and_quick(browser: Browser, tmp_path: Path) -> None:
    path = tmp_path / "page.html"
    write_timeline_page(path, "Long", [long_video(section.MAX_FRAMES)], ABAW)
    assert path.stat().st_size < 3.3 * MB
    with opened(browser, path) as found:
        wait(found.page)
        assert heading(found.page).endswith("of 100,000)")
        found.page.locator(".lane-stack").focus()
        found.page.keyboard.press("End")
        assert "100,000 of 100,000" in heading(found.page)
        found.page.keyboard.press("+")
        found.page.evaluate(DRAWN)
        assert 0.05 < found.busy_s < 5
        assert not found.faults


def test_more_frames_come_from_files_beside_the_page(
    browser: Browser, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(section, "MAX_FRAMES", 100)
    path = tmp_path / "it's #1 & only.html"
    write_timeline_page(path, "Two files", [made_video("one"), made_video("two", seed=1)], ABAW)
    folder = tmp_path / "it's #1 & only-timeline"
    next(folder.glob("0002-*.js")).unlink()
    with opened(browser, path) as found:
        wait(found.page)
        assert heading(found.page) == "Frame 1, 0.03 s (1 of 60)"
        found.page.get_by_role("button", name="Next video").click()
        found.page.wait_for_function("() => document.querySelector('.message').textContent")
        words = found.page.get_by_role("alert").inner_text()
        assert "it's #1 & only-timeline/0002-" in words
        assert words.endswith("is not beside this page.")
        found.page.get_by_role("button", name="Previous video").click()
        wait(found.page, 0)
        assert found.page.get_by_role("slider").is_visible()
        assert not found.faults


MOODS = schema_of(
    {
        "name": "moods",
        "groups": [
            {"name": "pain", "kind": "continuous", "columns": ["PSPI"], "range": [0, 16]},
            {
                "name": "mood",
                "kind": "classes",
                "columns": ["the_mood_of_the_person_in_the_picture"],
                "classes": [f"a mood of many words with number {k}" for k in range(30)],
            },
        ],
    },
    "moods",
)


@pytest.mark.parametrize(("schema", "charts", "cells"), [(DISFA, 1, 1), (MOODS, 1, 1)], ids=["disfa", "moods"])
def test_other_schemas_have_lanes_too(
    browser: Browser, tmp_path: Path, schema: Schema, charts: int, cells: int
) -> None:
    bare = made_video("a name without an end " * 6, np.array([7]), schema, smoothed=False, labelled=False)
    write_timeline_page(tmp_path / "page.html", "Other labels", [made_video(schema=schema), bare], schema)
    with opened(browser, tmp_path / "page.html", width=390) as found:
        wait(found.page)
        assert found.page.locator(".uplot").count() == charts
        assert found.page.locator(".cell-lane").count() == cells + 1  # and the frames without a face
        check_looks(found.page)
        found.page.get_by_role("button", name="Next video").click()
        wait(found.page, 1)
        assert heading(found.page) == "Frame 7, 0.23 s (1 of 1)"
        check_looks(found.page)
        found.page.set_viewport_size({"width": 1280, "height": 900})
        found.page.evaluate(DRAWN)
        check_looks(found.page)
        assert not found.faults


def test_a_video_without_a_face_is_said_in_words(browser: Browser, tmp_path: Path) -> None:
    empty = TimelineVideo(name="nobody", frames=np.arange(9), predicted={"valence": np.full(9, np.nan)})
    write_timeline_page(tmp_path / "page.html", "Faces", [empty, made_video()], ABAW)
    with opened(browser, tmp_path / "page.html") as found:
        wait(found.page)
        assert "no face was found" in found.page.get_by_role("alert").inner_text()
        assert not found.page.get_by_role("slider").is_visible()
        found.page.get_by_role("button", name="Next video").click()
        wait(found.page, 1)
        assert found.page.get_by_role("slider").is_visible()
        assert not found.faults


def test_one_of_many_continuous_columns_is_drawn_as_a_line(browser: Browser, tmp_path: Path) -> None:
    write_timeline_page(tmp_path / "page.html", "Intensities", [made_video(schema=DISFA)], DISFA)
    with opened(browser, tmp_path / "page.html") as found:
        wait(found.page)
        titles = found.page.locator(".lane-title b")
        assert titles.all_inner_texts() == ["AU1", "intensity"]
        found.page.get_by_label("Line of intensity").select_option("AU12")
        found.page.evaluate(DRAWN)
        assert titles.all_inner_texts() == ["AU12", "intensity"]
        assert not found.faults
