"""Requests that nobody thought of, made by schemathesis from the two OpenAPI documents, at a node of its own.

None may be answered with what its document does not tell of, show anything of the inside, or end the node. It is long
enough to find what is wrong in what a parser makes of a request; what is wrong in the order of requests is for others.
"""

from collections.abc import Iterator
from typing import Any

import pytest
import schemathesis
from cluster_processes import SEGMENT_BYTES_MAX, NodeCluster, print_logs, write_settings
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis import Case, GenerationMode
from schemathesis.schemas import APIOperation

from noctule.servers.consul.openapi import consul_document
from noctule.servers.http_routes import ROUTES
from noctule.servers.openapi import openapi_document

pytest_plugins = ("cluster_processes",)
pytestmark = pytest.mark.integration

EXAMPLES = 25
"""Of each operation, so that all of them together take half a minute."""
ANSWER_S_MAX = 20.0
NEVER_ENDS = ("/api/events", "/api/services/{name}/watch")
INSIDE = (b"because of a bug", b"Traceback", b'File "', b"site-packages", b"noctule.servers", b"0x7f")
"""What an answer that shows something of the inside has in it."""
UNDECLARED = {
    400: "a query that its route does not take, or a body that is not what its header says",
    405: "a method that the path does not take",
    431: "headers that are too long",
    503: "more requests than are answered at once",
}
"""What any path may answer, and no document repeats for each."""

FUZZED = settings(
    max_examples=EXAMPLES,
    deadline=None,
    derandomize=True,
    database=None,
    phases=[Phase.generate],
    suppress_health_check=list(HealthCheck),
)


@pytest.fixture(scope="module")
def node_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A cluster of one node, which must live until the end, and have had no bug to tell of."""
    directory = tmp_path_factory.mktemp("fuzzed")
    write_settings(directory, segment_bytes_max=SEGMENT_BYTES_MAX)
    cluster = NodeCluster(directory, partitions=1, nodes=1)
    try:
        life = cluster.start(1)
        yield life.wait_serving().url
        assert life.process.poll() is None
        bugs = life.events("http_request_failed")
        assert bugs == []
        life.stop()
    finally:
        cluster.close()
        print_logs(directory)


def operations_of(document: dict[str, Any]) -> list[APIOperation]:
    """Every operation that ends."""
    document["paths"] = {path: methods for path, methods in document["paths"].items() if path not in NEVER_ENDS}
    return [each.ok() for each in schemathesis.openapi.from_dict(document).get_all_operations()]


OPERATIONS = operations_of(openapi_document(ROUTES, "")) + operations_of(consul_document(""))


@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda operation: operation.label)
def test_an_answer_is_one_that_was_told_of(operation: APIOperation, node_url: str) -> None:
    told = {int(status) for status in operation.definition.raw["responses"]} | UNDECLARED.keys()

    @FUZZED
    @given(case=operation.as_strategy() | operation.as_strategy(generation_mode=GenerationMode.NEGATIVE))
    def ask(case: Case) -> None:
        # One that waits is given a moment: it is no news that minutes pass.
        case.query = {**(case.query or {}), "wait": "1ms"} if operation.path.startswith("/v1/") else case.query
        response = case.call(base_url=node_url, timeout=ANSWER_S_MAX, allow_redirects=False)
        assert response.status_code in told, (response.status_code, response.content[:500])
        for part in INSIDE:
            assert part not in response.content, response.content[:500]

    ask()
