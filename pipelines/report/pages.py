"""A report as data, and what is made of it: the page, figures and tables as files. Each figure is drawn once."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cache.durable import write_whole
from cache.labels import Schema
from extract.faces.pictures import png
from pipelines.charts import Chart, Drawn, draw
from pipelines.html import Markup, figure_html, join, page, sortable_table, table, tag
from pipelines.json_files import write_text
from pipelines.report.tables import Table
from pipelines.timeline.section import timeline_section, write_sidecars
from pipelines.timeline.videos import TimelineVideo

FIGURES, TABLES, PAGE = "figures", "tables", "report.html"
SORTABLE_ROWS = 6


@dataclass(frozen=True, slots=True)
class Figure:
    """A chart with the caption that says of which rows it is."""

    chart: Chart
    caption: str


@dataclass(frozen=True, slots=True)
class Timeline:
    """The explorer of `videos`; a report has one at most. Many frames lie in files beside the page."""

    videos: tuple[TimelineVideo, ...]
    schema: Schema


Part = Markup | Figure | Table | Timeline


@dataclass(frozen=True, slots=True)
class Section:
    """A heading and what stands below it; without parts it is left out."""

    title: str
    parts: tuple[Part, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """`opening` stands above the sections; `style` and `script` are what the page needs besides its own. `tables` are
    for files alone: the page has them in another form."""

    title: str
    opening: Markup
    sections: tuple[Section, ...]
    style: str = ""
    script: str = ""
    tables: tuple[Table, ...] = ()

    @property
    def parts(self) -> list[Part]:
        return [part for section in self.sections for part in section.parts]


@dataclass(frozen=True, slots=True)
class Pictures:
    """The figures of a report, drawn; by the name of their chart."""

    drawn: dict[str, Drawn]


def draw_figures(report: Report) -> Pictures:
    """All figures of `report`."""
    charts = [part.chart for part in report.parts if isinstance(part, Figure)]
    assert len({chart.name for chart in charts}) == len(charts), [chart.name for chart in charts]
    return Pictures({drawn.name: drawn for drawn in draw(charts)})


def page_of(report: Report, pictures: Pictures, data_urls: Sequence[str] = ()) -> str:
    """The page as HTML. `data_urls` are where the data of its timeline lie, where they are not in the page."""
    sections = [
        join([tag("h2", section.title), *(_part(part, pictures, data_urls) for part in section.parts)])
        for section in report.sections
        if section.parts
    ]
    content = join([tag("h1", report.title), report.opening, *sections])
    return page(report.title, content, style=report.style, script=report.script)


def write_page(report: Report, pictures: Pictures, path: Path) -> None:
    """The page at `path`, with data files beside it where its timeline has many frames."""
    timelines = [part for part in report.parts if isinstance(part, Timeline)]
    urls = [url for one in timelines for url in write_sidecars(one.videos, one.schema, path)]
    write_text(path, page_of(report, pictures, urls))


def write_files(report: Report, pictures: Pictures, folder: Path) -> None:
    """`FIGURES` as SVG and PNG, and `TABLES` as Markdown, LaTeX and CSV, in `folder`; earlier ones are replaced."""
    made: dict[str, bytes] = {}
    for name, drawn in pictures.drawn.items():
        made[f"{FIGURES}/{name}.svg"] = drawn.svg()
        made[f"{FIGURES}/{name}.png"] = png(drawn.picture())
    for part in (*report.parts, *report.tables):
        if isinstance(part, Table):
            texts = {"md": part.markdown(), "tex": part.latex(), "csv": part.csv()}
            made |= {f"{TABLES}/{part.name}.{ending}": text.encode() for ending, text in texts.items()}
    _replace_all(folder, made)


def _replace_all(folder: Path, made: dict[str, bytes]) -> None:
    """The files `made` in `folder`, each whole, and none of an earlier report beside them. Not synced: they can be made
    again."""
    for name in (FIGURES, TABLES):
        (folder / name).mkdir(parents=True, exist_ok=True)
        for path in (folder / name).iterdir():
            if path.is_file() and f"{name}/{path.name}" not in made and path.suffix in ENDINGS[name]:
                path.unlink()
    for name, data in made.items():
        write_whole(folder / name, data)


ENDINGS = {FIGURES: (".svg", ".png"), TABLES: (".md", ".tex", ".csv")}


def _part(part: Part, pictures: Pictures, data_urls: Sequence[str]) -> Markup:
    if isinstance(part, Timeline):
        return timeline_section(part.videos, part.schema, data_urls=data_urls)
    if isinstance(part, Figure):
        return figure_html(Markup(pictures.drawn[part.chart.name].inline()), part.chart.name, part.caption)
    if isinstance(part, Table):
        heads, rows = part.cells()
        caption = tag("p", part.caption, css="muted")
        if len(rows) < SORTABLE_ROWS:
            return join([caption, table(heads, rows)])
        return join([caption, sortable_table(heads, rows, f"table-{part.name}")])
    return part


def paragraphs(words: Sequence[str], css: str = "") -> list[Markup]:
    return [tag("p", sentence, css=css) for sentence in words if sentence]
