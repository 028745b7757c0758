"""A wheel with the modules of `[tool.noctule] compiled` as extension modules: `NOCTULE_COMPILED=1 pip install .`."""

import os
import sys
import tomllib
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

HERE = Path(__file__).resolve().parent
COMPILERS = ["mypy[mypyc]>=1.14", "setuptools"]


class CompiledWheel(BuildHookInterface[Any]):
    """Puts the extension modules into a wheel, when the environment asks for it."""

    PLUGIN_NAME = "custom"

    def dependencies(self) -> list[str]:
        """Also all that the package imports, whose types decide what the compiler may rely on."""
        project = tomllib.loads((HERE.parent / "pyproject.toml").read_text())["project"]
        return [*COMPILERS, *project["dependencies"]] if _is_wanted() else []

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """An editable install stays interpreted, for nothing would tell that what was compiled is older."""
        if not _is_wanted() or version == "editable":
            return
        sys.path.insert(0, str(HERE))
        from compile import TARGET, compile_package

        compile_package()
        build_data["force_include"].update({str(path): str(path.relative_to(TARGET)) for path in TARGET.rglob("*.so")})
        build_data.update(pure_python=False, infer_tag=True)


def _is_wanted() -> bool:
    return os.environ.get("NOCTULE_COMPILED", "") not in ("", "0")
