"""From ``module:attribute`` to the app, with one clear line for everything that can be wrong with it."""

import difflib
import importlib
import os
import re
import sys
import traceback
from typing import cast

from noctule.base.errors import ConfigError
from noctule.kits.asgi import App

_MESSAGE_CHARACTERS_MAX = 300


def load_app(spec: str) -> App:
    """Import the app; the working directory is importable, as it is for ``python -m``.

    Raises `ConfigError` in one line for a malformed spec, a module or attribute that is not there, something that
    cannot be called, and an app that raises while it is imported (with the last line of its own code that ran).
    """
    if not re.fullmatch(r"[^\W\d]\w*(\.[^\W\d]\w*)*:[^\W\d]\w*(\.[^\W\d]\w*)*", spec):
        raise ConfigError(f"app {spec!r} is not of the form module:attribute, as in main:app")
    module_name, _, attribute = spec.partition(":")
    directory = os.getcwd()
    if directory not in sys.path:
        sys.path.insert(0, directory)
    try:
        found: object = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name and f"{module_name}.".startswith(f"{error.name}."):
            raise ConfigError(
                f"app {spec!r}: there is no module {error.name!r} in {directory} or among the installed packages"
            ) from None
        raise _crashed(spec, error) from None
    except (Exception, SystemExit) as error:
        # Importing runs the app's own code, which may raise anything.
        raise _crashed(spec, error) from None
    for name in attribute.split("."):
        if not hasattr(found, name):
            similar = difflib.get_close_matches(name, dir(found), n=1)
            hint = f"; did you mean {similar[0]!r}?" if similar else ""
            raise ConfigError(f"app {spec!r}: module {module_name!r} has no attribute {attribute!r}{hint}")
        found = getattr(found, name)
    if not callable(found):
        raise ConfigError(f"app {spec!r} is a {type(found).__name__}, which cannot be called as an ASGI app")
    return cast("App", found)


def _crashed(spec: str, error: BaseException) -> ConfigError:
    message = " ".join(str(error).split())[:_MESSAGE_CHARACTERS_MAX]
    where = _where(error)
    return ConfigError(f"app {spec!r} crashed at import: {type(error).__name__}: {message}{where and f' ({where})'}")


def _where(error: BaseException) -> str:
    """File and line in the app's own code where the import went wrong; empty when no such line ran."""
    if isinstance(error, SyntaxError) and error.filename:
        return f"{error.filename}:{error.lineno}"
    directory = os.getcwd() + os.sep
    frames = [f for f in traceback.extract_tb(error.__traceback__) if not f.filename.startswith("<frozen")]
    # An app's environment often lies inside its directory; what is installed there is not its own code.
    own = [f for f in frames if f.filename.startswith(directory) and f"{os.sep}site-packages{os.sep}" not in f.filename]
    # The first frame is this file's call of importlib.
    own = [f for f in own if f.filename != __file__]
    last = own[-1] if own else None
    return f"{last.filename}:{last.lineno}" if last else ""
