"""Colours and layout of all figures. The colours are Okabe and Ito's, which colour-blind readers tell apart."""

from collections.abc import Mapping, Sequence
from html import escape

import plotly.graph_objects as go

HELD_OUT = "#0072B2"
SELECTION = "#E69F00"
TRUTH = "#222222"
OTHER = "#999999"
FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, sans-serif"


def learning_curve(
    epochs: Sequence[int], losses: Mapping[str, Sequence[float | None]], level: float | None
) -> go.Figure:
    """The loss over epochs: of faces trained on, and of held-out ones; `level` is what guessing nothing costs."""
    figure = go.Figure()
    colours = dict(zip(losses, (SELECTION, HELD_OUT), strict=False))
    for name, values in losses.items():
        line = {"color": colours[name], "width": 2}
        mode = "lines" if len(epochs) > 1 else "markers"
        hover = f"{escape(name)}, epoch %{{x}}: %{{y:.4f}}<extra></extra>"
        figure.add_scatter(x=list(epochs), y=list(values), mode=mode, name=name, line=line, hovertemplate=hover)
    if level is not None:
        figure.add_hline(y=level, line={"color": OTHER, "dash": "dash", "width": 1})
    figure.update_xaxes(title_text="epoch", **({"dtick": 1} if len(epochs) <= 12 else {}))  # no half epochs
    figure.update_yaxes(title_text="mean squared error of masked patches")
    return finished(figure, height=420)


def finished(figure: go.Figure, height: int, left: int = 60, legend: bool = True) -> go.Figure:
    figure.update_layout(
        template="simple_white",
        height=height,
        margin={"l": left, "r": 16, "t": 60 if legend else 12, "b": 56},
        font={"family": FONT, "size": 13, "color": "#222222"},
        legend={"orientation": "h", "x": 0, "xanchor": "left", "y": 1, "yref": "container", "yanchor": "top"},
        paper_bgcolor="white",
        plot_bgcolor="white",
        hoverlabel={"font": {"family": FONT}},
    )
    figure.update_xaxes(showgrid=True, gridcolor="#eeeeee", automargin=True)
    figure.update_yaxes(automargin=True, gridcolor="#eeeeee")
    return figure
