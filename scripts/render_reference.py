"""Write the reference pages anew from the code; tests/docs fails while one of them is not current."""

from pathlib import Path

from noctule.cli.reference import render_cli, render_exit_codes, render_settings
from noctule.core.keyspace.reference import render_commands
from noctule.core.migration.stages import render_diagram
from noctule.gateway.model_reference import render_gateway_reference
from noctule.servers.consul.reference import render_consul_reference
from noctule.servers.http_metrics import render_metrics_reference
from noctule.servers.http_reference import render_http_reference

REFERENCE = Path(__file__).parents[1] / "docs" / "reference"
PAGES = {
    "cli.md": render_cli,
    "commands.md": render_commands,
    "consul-api.md": render_consul_reference,
    "exit-codes.md": render_exit_codes,
    "gateway.md": render_gateway_reference,
    "http.md": render_http_reference,
    "metrics.md": render_metrics_reference,
    "settings.md": render_settings,
}

for name, render in PAGES.items():
    (REFERENCE / name).write_text(render(), encoding="utf-8")
    print(f"docs/reference/{name}")

# A page of prose with one diagram that is drawn.
page = REFERENCE.parent / "concepts" / "migration.md"
before, _, rest = page.read_text(encoding="utf-8").partition("```mermaid\n")
after = rest[rest.index("```\n") + len("```\n") :]
page.write_text(before + render_diagram() + after, encoding="utf-8")
print("docs/concepts/migration.md")
