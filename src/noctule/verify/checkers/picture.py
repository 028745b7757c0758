"""A violation as a picture: an SVG file that needs nothing else, a row for each process, a bar for each operation."""

from xml.sax.saxutils import escape

from noctule.verify.checkers.history import Operation
from noctule.verify.checkers.violation import Violation, text_of

BARS_MAX = 200
"""Operations drawn: the offending one and those just before it. More is no picture."""

_MARGIN, _LABEL_WIDTH, _ROW_HEIGHT, _BAR_HEIGHT, _HEAD = 16, 110, 46, 26, 84
_CHARACTER_WIDTH = 7.3
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
    rows = {process: number for number, process in enumerate(dict.fromkeys(each.process for each in operations))}
    width = max(right + _MARGIN, _MARGIN * 2 + len(violation.explanation) * _CHARACTER_WIDTH)
    height = _HEAD + len(rows) * _ROW_HEIGHT + _MARGIN
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width:.0f}" height="{height}" role="img">',
        f"<title>{_text(violation.kind)} at key {_text(violation.key)}</title>",
        f"<style>{_STYLE}</style>",
        f'<rect width="{width:.0f}" height="{height}" fill="#fff"/>',
        f'<text class="head" x="{_MARGIN}" y="26">{_text(violation.kind)}: key {_text(violation.key)}</text>',
        f'<text class="why" x="{_MARGIN}" y="48">{_text(violation.explanation)}</text>',
    ]
    if violation.initial:
        lines.append(f'<text class="why" x="{_MARGIN}" y="66">It begins as {_text(violation.initial)}.</text>')
    for process, row in rows.items():
        middle = _HEAD + row * _ROW_HEIGHT + _ROW_HEIGHT / 2
        lines.append(f'<line class="row" x1="{_LABEL_WIDTH}" y1="{middle}" x2="{right:.1f}" y2="{middle}"/>')
        lines.append(f'<text x="{_MARGIN}" y="{middle + 4}">process {_text(str(process))}</text>')
    for each in operations:
        end = _end(each)
        bar_right = right if end is None else place[end]
        is_offending = each is violation.offending
        lines += _bar(each, place[each.start], bar_right, _HEAD + rows[each.process] * _ROW_HEIGHT, is_offending)
    return "\n".join([*lines, "</svg>", ""])


def _drawn(violation: Violation) -> list[Operation]:
    others = [each for each in violation.operations if each is not violation.offending]
    return sorted([*others[-(BARS_MAX - 1) :], violation.offending], key=lambda each: each.start)


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
