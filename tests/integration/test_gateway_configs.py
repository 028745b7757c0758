"""Whatever valid model comes, the real HAProxy and nginx take what is rendered, and no text of it becomes syntax."""

import datetime
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.unit.gateway.engines.models import everything, example, models, with_tls

from noctule.adapters.certificates import CertificateAuthority
from noctule.gateway.engines.engine import EnginePaths, Instances
from noctule.gateway.engines.folder import find_program
from noctule.gateway.engines.haproxy import render_haproxy
from noctule.gateway.engines.nginx import STICKY_EXAMPLE, UPSTREAMS, render_nginx
from noctule.gateway.model import GatewayModel

pytestmark = pytest.mark.integration

Check = Callable[[GatewayModel, Instances], str]


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    """Where rendered files are put for the programs."""
    with tempfile.TemporaryDirectory(prefix="gateway") as name:
        yield Path(name)


@pytest.fixture(scope="module")
def certificate(folder: Path) -> tuple[Path, Path]:
    """A certificate and its key."""
    authority = CertificateAuthority("test", datetime.datetime.now(datetime.UTC))
    pem, key = authority.issue(["api.example.com"], datetime.datetime.now(datetime.UTC))
    (folder / "cert.pem").write_bytes(pem)
    (folder / "key.pem").write_bytes(key)
    return folder / "cert.pem", folder / "key.pem"


@pytest.fixture(params=["haproxy", "nginx"], scope="module")
def accepts(request: pytest.FixtureRequest, folder: Path) -> Check:
    """Renders for a real program and asserts that it accepts; gives what it said."""
    engine, place = request.param, folder / request.param
    _engine_or_skip(engine)

    def check(model: GatewayModel, instances: Instances) -> str:
        files = {"haproxy": render_haproxy, "nginx": render_nginx}[engine](model, instances, EnginePaths.within(place))
        if engine == "haproxy" and model.tls_port:
            own = model.certificates[0]
            files["certificates/0.pem"] = Path(own.certificate).read_text() + Path(own.key).read_text()
        return _check(engine, place, files)

    return check


def test_the_named_models_are_accepted(accepts: Check, certificate: tuple[Path, Path]) -> None:
    model, instances = everything()
    accepts(model, instances)
    for redirect in (False, True):
        with_redirect = msgspec.structs.replace(with_tls(model, *certificate, 18_443), redirect_to_tls=redirect)
        accepts(with_redirect, instances)
    accepts(msgspec.structs.replace(model, host="::1"), instances)


def test_the_example_is_accepted(accepts: Check, certificate: tuple[Path, Path]) -> None:
    """Its instances have names that no resolver here knows."""
    model, instances = example()
    model = with_tls(msgspec.structs.replace(model, port=18_080), *certificate, 18_443)
    addresses = [msgspec.structs.replace(each, host=f"127.0.0.{n}") for n, each in enumerate(instances["app"], 1)]
    accepts(model, {"app": addresses})


@settings(max_examples=40)
@given(st.data())
def test_every_valid_model_is_accepted(accepts: Check, data: st.DataObject) -> None:
    said = accepts(*data.draw(models()))
    assert "[warn]" not in said
    assert "WARNING" not in said


def test_the_sticky_example_can_stand_in_for_the_upstreams(folder: Path) -> None:
    _engine_or_skip("nginx")
    model, instances = everything()
    files = render_nginx(model, instances, EnginePaths.within(folder / "sticky"))
    assert "ip_hash;" in files[STICKY_EXAMPLE]
    _check("nginx", folder / "sticky", {**files, UPSTREAMS: files[STICKY_EXAMPLE]})


def _engine_or_skip(engine: str) -> str:
    from engines import engine_or_skip

    return engine_or_skip(engine)


def _check(engine: str, place: Path, files: dict[str, str]) -> str:
    (place / "temporary").mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (place / name).parent.mkdir(parents=True, exist_ok=True)
        (place / name).write_text(text)
    program = find_program(engine)
    command = {
        "haproxy": [program, "-c", "-f", str(place / "haproxy.cfg")],
        "nginx": [program, "-t", "-p", str(place), "-c", str(place / "nginx.conf")],
    }[engine]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr
