"""The reference pages of the HTTP API and of the metrics are what the code says today."""

from pathlib import Path

import pytest

from noctule.servers.consul.openapi import consul_document
from noctule.servers.consul.reference import render_consul_reference
from noctule.servers.consul.routes import ENDPOINTS
from noctule.servers.http_errors import ERROR_STATUS
from noctule.servers.http_metrics import METRICS, PROCESS_METRICS, render_metrics_reference
from noctule.servers.http_reference import render_http_reference
from noctule.servers.http_routes import ROUTES
from noctule.servers.openapi import openapi_document

REFERENCE = Path(__file__).parents[2] / "docs" / "reference"


@pytest.mark.parametrize(
    ("page", "rendered", "module"),
    [
        ("http.md", render_http_reference(), "noctule.servers.http_reference"),
        ("consul-api.md", render_consul_reference(), "noctule.servers.consul.reference"),
        ("metrics.md", render_metrics_reference(), "noctule.servers.http_metrics"),
    ],
)
def test_the_page_is_current(page: str, rendered: str, module: str) -> None:
    written = (REFERENCE / page).read_text(encoding="utf-8")
    assert written == rendered, f"write it anew: scripts/render_reference.py (from {module})"


def test_the_page_tells_of_every_route_parameter_type_and_error() -> None:
    page = render_http_reference()
    for route in ROUTES:
        assert f"\n## {route.method} {route.path}\n" in page
        for parameter in route.parameters:
            assert f"| `{parameter.name}` | {parameter.place} |" in page
    for name in openapi_document(ROUTES, "")["components"]["schemas"]:
        assert f"\n### {name}\n" in page
    for kind in ERROR_STATUS:
        assert f"| `{kind.code}` |" in page


def test_every_link_on_the_page_leads_somewhere() -> None:
    page = render_http_reference()
    anchors = {line.removeprefix("### ").lower() for line in page.splitlines() if line.startswith("### ")}
    linked = {part.partition(")")[0] for part in page.split("](#")[1:]}
    assert linked
    assert linked <= anchors


def test_tables_are_whole() -> None:
    """A bar inside a cell would tear its row apart."""
    for page in (render_consul_reference(), render_http_reference(), render_metrics_reference()):
        width = 0
        for line in page.splitlines():
            if not line.startswith("|"):
                width = 0
                continue
            width = width or line.count("|")
            assert line.count("|") == width, line


def test_every_metric_is_listed_once() -> None:
    page = render_metrics_reference()
    for name in [metric.name for metric in METRICS] + [row[0] for row in PROCESS_METRICS]:
        assert page.count(f"| `{name}` |") == 1


def test_every_endpoint_of_consul_is_listed_with_what_it_does() -> None:
    page, paths = render_consul_reference(), consul_document("")["paths"]
    for endpoint in ENDPOINTS:
        assert f"{endpoint.path}` | {endpoint.summary} |" in page
        assert endpoint.summary.endswith("."), endpoint.path
        assert endpoint.method.lower() in paths[endpoint.path]
