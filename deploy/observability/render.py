"""Draws the dashboards as SVG, from Grafana's JSON and the answers of a real Prometheus.

Grafana was not to be had: these pictures show what each panel holds, not how Grafana draws it.
"""

import json
import math
import re
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from deploy.observability.queries import DASHBOARDS
from deploy.observability.server import PrometheusServer

COLUMN_PX = 56
ROW_PX = 30
MARGIN_PX = 12
SERIES_SHOWN_MAX = 6
COLOURS = ("#3274d9", "#e0752d", "#37872d", "#c4162a", "#8f3bb8", "#b8860b")
STYLE = (
    "text{font-family:system-ui,sans-serif;fill:#222}.t{font-size:13px;font-weight:600}"
    ".a{font-size:10px;fill:#666}.l{font-size:10px}.r{font-size:15px;font-weight:700}"
    ".s{font-size:34px;font-weight:600}.p{fill:#fff;stroke:#d8d8d8}.g{stroke:#ececec}"
    ".x{stroke:#c4162a;stroke-dasharray:5 4}"
)
UNITS: Mapping[str, tuple[float, str]] = {"percentunit": (100, " %"), "s": (1, " s")}


def render_dashboards(
    *, prometheus: PrometheusServer, since: float, until: float, folder: Path
) -> list[Path]:
    """Write one picture for each dashboard; return their paths.

    Args:
        prometheus: what answers the queries.
        since: Unix time of the left edge.
        until: of the right edge.
        folder: where to; made if need be.
    """
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for path in sorted(DASHBOARDS.glob("*.json")):
        dashboard = json.loads(path.read_text())
        parts = [
            _panel(panel, prometheus=prometheus, since=since, until=until)
            for panel in dashboard["panels"]
        ]
        height = max(p["gridPos"]["y"] + p["gridPos"]["h"] for p in dashboard["panels"])
        width_px, height_px = 24 * COLUMN_PX + 2 * MARGIN_PX, height * ROW_PX + 60
        picture = folder / f"{path.stem}.svg"
        picture.write_text(
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width_px} {height_px}"'
            f' width="{width_px}" height="{height_px}"><style>{STYLE}</style>'
            f'<rect width="100%" height="100%" fill="#f7f8fa"/>'
            f'<text x="{MARGIN_PX}" y="26" style="font-size:20px">{escape(dashboard["title"])}'
            f'</text><text class="a" x="{MARGIN_PX}" y="44">{escape(dashboard["description"])}'
            f"</text>{''.join(parts)}</svg>\n"
        )
        written.append(picture)
    return written


def _panel(
    panel: Mapping[str, Any], *, prometheus: PrometheusServer, since: float, until: float
) -> str:
    place = panel["gridPos"]
    x, y = MARGIN_PX + place["x"] * COLUMN_PX, 50 + place["y"] * ROW_PX
    width, height = place["w"] * COLUMN_PX - 8, place["h"] * ROW_PX - 8
    if panel["type"] == "row":
        return f'<text class="r" x="{x}" y="{y + 20}">{escape(panel["title"])}</text>'
    lines = _answers(panel, prometheus=prometheus, since=since, until=until)
    defaults = panel["fieldConfig"]["defaults"]
    draw = _number if panel["type"] == "stat" else _lines
    return (
        f'<g transform="translate({x},{y})"><rect class="p" rx="3" width="{width}"'
        f' height="{height}"/><text class="t" x="10" y="20">{escape(panel["title"])}</text>'
        f"{draw(lines, defaults, width, height)}</g>"
    )


Line = tuple[str, list[tuple[float, float]]]


def _answers(
    panel: Mapping[str, Any], *, prometheus: PrometheusServer, since: float, until: float
) -> list[Line]:
    found: list[Line] = []
    for target in panel["targets"]:
        # A short window, so that a minute's load is seen as it was.
        expr = target["expr"].replace("$__rate_interval", "10s")
        step = max(1.0, (until - since) / 180)
        for series in prometheus.query_range(expr, since=since, until=until, step_seconds=step):
            points = [
                ((at - since) / (until - since), float(value))
                for at, value in series["values"]
                if not math.isnan(float(value))
            ]
            if points:
                found.append((_legend(target["legendFormat"], series["metric"]), points))
    return sorted(found, key=lambda line: -max(value for _, value in line[1]))


def _legend(form: str, labels: Mapping[str, str]) -> str:
    return re.sub(r"\{\{\s*(\w+)\s*\}\}", lambda m: labels.get(m.group(1), ""), form)


def _number(lines: Sequence[Line], defaults: Mapping[str, Any], width: int, height: int) -> str:
    if not lines:
        text = "-"
    else:
        legend, points = lines[0]
        # Of what only names something, such as a version, the name is the answer.
        is_name = defaults["unit"] == "short" and legend and points[-1][1] == 1
        text = legend if is_name else _said(points[-1][1], defaults["unit"])
    return (
        f'<text class="s" x="{width / 2}" y="{height / 2 + 20}" text-anchor="middle">'
        f"{escape(text)}</text>"
    )


def _lines(lines: Sequence[Line], defaults: Mapping[str, Any], width: int, height: int) -> str:
    left, right, top, bottom = 62, width - 12, 34, height - 42
    limits = [step["value"] for step in defaults["thresholds"]["steps"] if step["value"]]
    values = [value for _, points in lines for _, value in points]
    # A limit far above what was measured would flatten everything to a line.
    limits = [each for each in limits if each <= 3 * max(values, default=0)]
    highest = max([*values, *limits], default=1) or 1
    lowest = min([0.0, *values])

    def at(value: float) -> float:
        return bottom - (value - lowest) / (highest - lowest) * (bottom - top)

    parts = []
    for share in (0.0, 0.5, 1.0):
        value = lowest + share * (highest - lowest)
        parts.append(
            f'<line class="g" x1="{left}" x2="{right}" y1="{at(value):.0f}" y2="{at(value):.0f}"/>'
            f'<text class="a" x="{left - 6}" y="{at(value) + 3:.0f}" text-anchor="end">'
            f"{escape(_said(value, defaults['unit']))}</text>"
        )
    parts += [
        f'<line class="x" x1="{left}" x2="{right}" y1="{at(each):.0f}" y2="{at(each):.0f}"/>'
        for each in limits
    ]
    x = float(left)
    for index, (legend, points) in enumerate(lines[:SERIES_SHOWN_MAX]):
        colour = COLOURS[index]
        path = " ".join(
            f"{left + share * (right - left):.0f},{at(value):.1f}" for share, value in points
        )
        parts.append(
            f'<polyline fill="none" stroke="{colour}" stroke-width="1.6" points="{path}"/>'
            f'<rect x="{x:.0f}" y="{height - 26}" width="9" height="3" fill="{colour}"/>'
            f'<text class="l" x="{x + 12:.0f}" y="{height - 21}">{escape(legend[:34])}</text>'
        )
        x += 20 + 5.6 * len(legend[:34])
    more = len(lines) - SERIES_SHOWN_MAX
    if more > 0:
        parts.append(
            f'<text class="a" x="{right}" y="{height - 8}" text-anchor="end">'
            f"and {more} smaller ones</text>"
        )
    return "".join(parts)


def _said(value: float, unit: str) -> str:
    factor, suffix = UNITS.get(unit, (1, ""))
    number = value * factor
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e4, "k")):
        if abs(number) >= size:
            thousand = size if letter != "k" else 1e3
            return f"{number / thousand:.1f} {letter}{suffix}"
    return f"{number:.3g}{suffix}"
