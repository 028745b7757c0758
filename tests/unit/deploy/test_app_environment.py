"""What instances find in their environment beside the store: files that all see, and one secret."""

import stat
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from noctule.base.errors import ConfigError
from noctule.deploy.local.app_environment import SECRET_FILE, app_environment, kept_secret
from noctule.deploy.local.plan import UpConfig, cluster_file_for, free_ports_count, make_plan, with_gateway_port
from noctule.kits.files.endpoints import load_endpoints


@pytest.fixture
def config(tmp_path: Path) -> UpConfig:
    return UpConfig(app="main:app", data_dir=tmp_path)


def test_the_secret_is_made_once_and_for_its_owner_alone(config: UpConfig) -> None:
    first = app_environment(config, {})["NOCTULE_APP_SECRET"]
    assert len(first) >= 43
    path = config.data_dir / SECRET_FILE
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert app_environment(config, {})["NOCTULE_APP_SECRET"] == first
    assert [each.name for each in config.data_dir.iterdir()] == [SECRET_FILE]
    path.unlink()
    assert app_environment(config, {})["NOCTULE_APP_SECRET"] != first


def test_files_are_in_the_data_folder_which_all_instances_see(config: UpConfig) -> None:
    config = replace(config, data_dir=config.data_dir / "a, b?&é")
    config.data_dir.mkdir()
    found = app_environment(config, {})
    assert found["NOCTULE_INSTANCES"] == "3"
    (endpoint,) = load_endpoints(found["NOCTULE_FILES_URL"])
    assert endpoint.is_shared
    assert endpoint.name == f"file://{config.data_dir}/files"
    assert (config.data_dir / "files").is_dir()


def test_what_the_user_says_wins_and_no_secret_is_made_then(config: UpConfig) -> None:
    given = {
        "NOCTULE_FILES_URL": "s3://bucket",
        "NOCTULE_APP_SECRET": "s" * 32,
        "NOCTULE_PUBLIC_URL": "https://board.example",
    }
    assert app_environment(config, given) == {"NOCTULE_INSTANCES": "3"}
    assert list(config.data_dir.iterdir()) == []
    assert app_environment(config, dict.fromkeys(given, "")).keys() > given.keys(), "empty is as good as not there"


def test_instances_know_the_origin_of_the_gateway_before_it_listens(config: UpConfig) -> None:
    def origin(**changes: Any) -> str:
        chosen = with_gateway_port(replace(config, **changes), iter([20_001]))
        return app_environment(chosen, {})["NOCTULE_PUBLIC_URL"]

    assert origin() == "http://127.0.0.1:8080"
    assert origin(port=0) == "http://127.0.0.1:20001"
    assert origin(host="0.0.0.0", port=81) == "http://127.0.0.1:81", "nobody can go to all addresses"
    assert origin(host="::1") == "http://[::1]:8080"
    only_nodes = replace(config, app=None, port=0)
    assert with_gateway_port(only_nodes, iter([])) == only_nodes


def test_without_an_app_nothing_is_made(config: UpConfig) -> None:
    assert app_environment(replace(config, app=None), {}) == {}
    assert list(config.data_dir.iterdir()) == []


def test_a_secret_that_others_may_read_or_that_is_none_is_refused(config: UpConfig) -> None:
    path = config.data_dir / SECRET_FILE
    kept = kept_secret(path)
    path.chmod(0o640)
    with pytest.raises(ConfigError, match=r"mode 640.*chmod 600") as caught:
        kept_secret(path)
    assert kept not in str(caught.value)
    path.chmod(0o600)
    assert kept_secret(path) == kept
    path.write_text("short\n")
    with pytest.raises(ConfigError, match="damaged"):
        kept_secret(path)
    path.unlink()
    path.mkdir()
    with pytest.raises(ConfigError, match="--data-dir"):
        kept_secret(path)
    with pytest.raises(ConfigError, match="--data-dir"):
        kept_secret(config.data_dir / "gone" / SECRET_FILE)


def test_every_instance_gets_the_same_and_no_plan_shows_the_secret(config: UpConfig) -> None:
    cluster = cluster_file_for(config, None, "1")
    shared = app_environment(config, {})
    ports = iter(range(20_001, 20_001 + free_ports_count(config, cluster)))
    plan = make_plan(config, cluster, ports, "/python", app_environment=shared)
    assert all(each.process.environment.items() >= shared.items() for each in plan.instances)
    assert not any("NOCTULE_APP_SECRET" in node.process.environment for node in plan.nodes)
    assert shared["NOCTULE_APP_SECRET"] not in repr(plan)
