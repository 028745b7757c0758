"""Compile what a command passes through: the same modules, by mypyc, as extension modules beside their source.

`python scripts/compile.py` makes the whole package anew in build/compiled, which goes first on PYTHONPATH where it is
wanted. ADR 0040 tells why, and what a compiled module may not contain. Needs mypy, setuptools, a C compiler and
Python's headers.
"""

import os
import shutil
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SOURCE = ROOT / "src"
TARGET = ROOT / "build" / "compiled"
C_CODE = ROOT / "build" / "c"


def compile_package() -> None:
    """Make the copy anew and compile it in place; about a minute."""
    from mypyc.build import mypycify
    from setuptools import setup

    for directory in (TARGET, C_CODE):
        shutil.rmtree(directory, ignore_errors=True)
    shutil.copytree(SOURCE, TARGET, ignore=shutil.ignore_patterns("__pycache__", "*.so"))
    before = Path.cwd()
    os.chdir(TARGET)
    try:
        modules: list[str] = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["noctule"]["compiled"]
        extensions = mypycify(modules, opt_level="2", debug_level="0", multi_file=True, target_dir=str(C_CODE))
        arguments = ["--quiet", "build_ext", "--inplace", "--parallel", str(os.cpu_count() or 1)]
        places = {"build": {"build_base": str(C_CODE)}}
        setup(name="noctule", script_args=arguments, options=places, ext_modules=extensions)
    finally:
        os.chdir(before)


if __name__ == "__main__":
    if shutil.which("cc") is None and shutil.which("gcc") is None:
        sys.exit("error: no C compiler is there to compile with; install one: sudo apt-get install gcc python3-dev")
    compile_package()
