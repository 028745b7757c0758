"""Durations as Go writes and reads them (time.ParseDuration): "15s", "1m30s", "0.5ms"."""

import re

NS_PER_S = 1_000_000_000
NS_PER_MS = 1_000_000

_UNITS_NS = {
    "ns": 1,
    "us": 1_000,
    "µs": 1_000,
    "μs": 1_000,
    "ms": NS_PER_MS,
    "s": NS_PER_S,
    "m": 60 * NS_PER_S,
    "h": 3_600 * NS_PER_S,
}
_NS_MAX = 2**63 - 1
_TERM = r"([0-9]{1,19}(?:\.[0-9]{0,19})?|\.[0-9]{1,19})(ns|us|µs|μs|ms|s|m|h)"
_DURATION = re.compile(rf"[+-]?(?:{_TERM})+", re.ASCII)
_TERMS = re.compile(_TERM, re.ASCII)
_CHARACTERS_MAX = 100


def parse_duration_ns(text: str) -> int:
    """Nanoseconds, negative ones too. Raises ValueError for what Go would not read either."""
    if text in ("0", "+0", "-0"):
        return 0
    if len(text) > _CHARACTERS_MAX or not _DURATION.fullmatch(text):
        raise ValueError(text)
    total = 0
    for number, unit in _TERMS.findall(text):
        whole, _, fraction = number.partition(".")
        scale = _UNITS_NS[unit]
        total += int(whole or 0) * scale
        if fraction:
            total += int(fraction) * scale // 10 ** len(fraction)
    if total > _NS_MAX:
        raise ValueError(text)
    return -total if text.startswith("-") else total


def render_duration(ns: int) -> str:
    """As Go prints one: "1m30s", "15s", "1.5ms", "0s"."""
    if ns == 0:
        return "0s"
    sign, ns = ("-", -ns) if ns < 0 else ("", ns)
    if ns < NS_PER_S:
        unit = "ms" if ns >= NS_PER_MS else "µs" if ns >= 1_000 else "ns"
        return sign + _decimal(ns, _UNITS_NS[unit]) + unit
    hours, rest = divmod(ns, _UNITS_NS["h"])
    minutes, rest = divmod(rest, _UNITS_NS["m"])
    text = _decimal(rest, NS_PER_S) + "s"
    if hours or minutes:
        text = f"{minutes}m{text}"
    return sign + (f"{hours}h{text}" if hours else text)


def _decimal(value: int, scale: int) -> str:
    whole, rest = divmod(value, scale)
    if not rest:
        return str(whole)
    return f"{whole}." + str(rest).rjust(len(str(scale)) - 1, "0").rstrip("0")
