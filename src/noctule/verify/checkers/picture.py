"""A violation as a picture: an SVG file that needs nothing else, rows for each process, a bar for each operation."""

import math
import textwrap
from xml.sax.saxutils import escape

from noctule.verify.checkers.history import Operation
from noctule.verify.checkers.violation import Violation, begins, text_of

BARS_MAX = 200
"""Operations drawn: the offending one and those just before it. More is no picture."""

_MARGIN, _LABEL_WIDTH, _ROW_HEIGHT, _BAR_HEIGHT, _LINE_HEIGHT = 16, 110, 46, 26, 18
_CHARACTER_WIDTH = 7.3
_LINE_CHARACTERS_MAX = 100
_STEP_WIDTH_MIN = 26.0

_STYLE = """\
text { font: 12px monospace; fill: #222; }
.head { font-size: 15px; font-weight: bold; }
.why { fill: #555; }
.row { stroke: #ddd; }
.ok { fill: #cfe3f7; stroke: #3b76ad; }
.unknown { fill: #eee; stroke: #888; stroke-dasharray: 4 3; }
.fail { fill: #fff; stroke: #bbb; stroke-dasharray: 2 3; }
.offending { fill: #f9c9c9; stroke: #b3261e; stroke-width: 2.5; }
"""


def render_picture(violation: Violation) -> str:
    """The text of an SVG file.

    Times are drawn in their order and not to scale, so that a millisecond beside an hour can be read; pointing at a bar
    shows them. An operation without an answer stays open to the right. The offending bar is red and says so.
    """
    operations = _drawn(violation)
    times = sorted({time for each in operations for time in (each.start, _end(each)) if time is not None})
    place = _places(operations, times)
    right = max(place[each.start] + _label_width(each) for each in operations)
    right = max(right, place[times[-1]] + _STEP_WIDTH_MIN)
    labels, row_of = _rows(operations)
    said = [*textwrap.wrap(violation.explanation, _LINE_CHARACTERS_MAX), begins(violation), ""]
    legend = textwrap.wrap(_legend(operations), _LINE_CHARACTERS_MAX)
    head = _MARGIN + _LINE_HEIGHT * (1 + len(said))
    foot = head + len(labels) * _ROW_HEIGHT + _MARGIN
    width = max(right + _MARGIN, _MARGIN * 2 + max(map(len, [*said, *legend])) * _CHARACTER_WIDTH)
    height = foot + len(legend) * _LINE_HEIGHT
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width:.0f}" height="{height}" role="img">',
        f"<title>{_text(violation.kind)} at key {_text(violation.key)}</title>",
        f"<style>{_STYLE}</style>",
        f'<rect width="{width:.0f}" height="{height}" fill="#fff"/>',
        f'<text class="head" x="{_MARGIN}" y="26">{_text(violation.kind)}: key {_text(violation.key)}</text>',
        *_paragraph(said, 26 + _LINE_HEIGHT),
        *_paragraph(legend, foot),
    ]
    for row, label in enumerate(labels):
        middle = head + row * _ROW_HEIGHT + _ROW_HEIGHT / 2
        lines.append(f'<line class="row" x1="{_LABEL_WIDTH}" y1="{middle}" x2="{right:.1f}" y2="{middle}"/>')
        lines.append(f'<text x="{_MARGIN}" y="{middle + 4}">{_text(label)}</text>')
    for each, row in zip(operations, row_of, strict=True):
        end = _end(each)
        bar_right = right if end is None else place[end]
        is_offending = each is violation.offending
        lines += _bar(each, place[each.start], bar_right, head + row * _ROW_HEIGHT, is_offending)
    return "\n".join([*lines, "</svg>", ""])


def _paragraph(sentences: list[str], top: float) -> list[str]:
    return [
        f'<text class="why" x="{_MARGIN}" y="{top + number * _LINE_HEIGHT}">{_text(line)}</text>'
        for number, line in enumerate(sentences)
        if line
    ]


def _legend(operations: list[Operation]) -> str:
    """What the kinds of bars that are there mean; colour alone would not tell."""
    outcomes = {each.outcome for each in operations}
    parts = ["Times go from left to right, in order and not to scale. Thick and red: the answer that cannot be."]
    if "unknown" in outcomes:
        parts.append("Dashed and grey: not answered so far, may have taken effect or not.")
    if "fail" in outcomes:
        parts.append("Dashed and white: failed.")
    return " ".join(parts)


def _drawn(violation: Violation) -> list[Operation]:
    others = [each for each in violation.operations if each is not violation.offending]
    return sorted([*others[-(BARS_MAX - 1) :], violation.offending], key=lambda each: each.start)


def _rows(operations: list[Operation]) -> tuple[list[str], list[int]]:
    """The labels of the rows, and the row of each operation; what never ended has the rest of its row to itself."""
    lanes: dict[int | str, list[float]] = {}
    lane_of = []
    for each in operations:
        ends = lanes.setdefault(each.process, [])
        lane = next((number for number, end in enumerate(ends) if end <= each.start), len(ends))
        ends[lane : lane + 1] = [math.inf if (end := _end(each)) is None else end]
        lane_of.append((each.process, lane))
    rows = [(process, lane) for process, ends in lanes.items() for lane in range(len(ends))]
    number_of = {row: number for number, row in enumerate(rows)}
    return [f"process {process}" for process, _ in rows], [number_of[row] for row in lane_of]


def _end(operation: Operation) -> float | None:
    return None if operation.outcome == "unknown" else operation.end


def _places(operations: list[Operation], times: list[float]) -> dict[float, float]:
    """Where each time is drawn: in order, with room for the label of every bar that ends there."""
    place: dict[float, float] = {}
    at = float(_LABEL_WIDTH)
    ending: dict[float | None, list[Operation]] = {}
    for each in operations:
        ending.setdefault(_end(each), []).append(each)
    for time in times:
        at += _STEP_WIDTH_MIN
        spans = [each for each in ending.get(time, ()) if each.start < time]
        place[time] = max([at, *(place[each.start] + _label_width(each) for each in spans)])
        # What takes no time has its label to the right of it.
        points = [each for each in ending.get(time, ()) if each.start == time]
        at = max([place[time], *(place[time] + _label_width(each) for each in points)])
    return place


def _label_width(operation: Operation) -> float:
    return len(text_of(operation)) * _CHARACTER_WIDTH + 12


def _bar(operation: Operation, left: float, right: float, top: float, is_offending: bool) -> list[str]:
    y = top + (_ROW_HEIGHT - _BAR_HEIGHT) / 2
    width = max(right - left, 4.0)
    kind = "offending" if is_offending else operation.outcome
    end = "never answered" if _end(operation) is None else f"to {_end(operation)} s"
    mark = "offending: " if is_offending else ""
    return [
        f"<g><title>{mark}{_text(text_of(operation))}, {operation.start} s {end}</title>",
        f'<rect class="{kind}" x="{left:.1f}" y="{y:.1f}" width="{width:.1f}" height="{_BAR_HEIGHT}" rx="4"/>',
        f'<text x="{left + 6:.1f}" y="{y + _BAR_HEIGHT / 2 + 4:.1f}">{_text(text_of(operation))}</text></g>',
    ]


def _text(text: str) -> str:
    return escape(text, {'"': "&quot;"})
