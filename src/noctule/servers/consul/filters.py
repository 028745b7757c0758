"""The filter of a query: the boolean expressions of hashicorp/go-bexpr, over what an endpoint answers.

    expression = term {("and" | "or") term}           "and" binds closer, "not" closer still; (…) groups
    match      = selector ("==" | "!=") value | value ["not"] "in" selector | selector ["not"] "contains" value
               | selector "is" ["not"] "empty"
    selector   = name {"." name | "[" "name" "]"}

A selector that goes through a list means any element of it. A name that the objects do not have is refused, and so is
`matches`: Go's patterns take time in proportion to the text, Python's may take years, and this is the thread that
serves everybody.
"""

import re
from collections.abc import Callable, Iterator, Mapping
from typing import TypeAlias

from noctule.servers.consul.errors import ConsulError, refused

FILTER_CHARACTERS_MAX = 4_096
DEPTH_MAX = 64

Test: TypeAlias = Callable[[object], bool]
Names: TypeAlias = Mapping[str, "Names | None"]
"""What objects have, by name: None is a value or a list of them, and an empty mapping has whatever names it likes."""

ANY: Names = {}
_TOKEN = re.compile(
    r'\s*(?:(?P<op>==|!=|[().\[\]])|"(?P<quoted>(?:[^"\\]|\\.)*)"|`(?P<raw>[^`]*)`|(?P<word>[^\s()=!"`.\[\]]+))'
)


def load_filter(expression: str, names: Names) -> Test | None:
    """The test that an expression means, None for an empty one; `names` are those that the objects have.

    Raises `ConsulError`, with 500 as Consul does.
    """
    if not expression.strip():
        return None
    if len(expression) > FILTER_CHARACTERS_MAX:
        raise _wrong(f"the expression is over {FILTER_CHARACTERS_MAX} characters")
    return _Parser(expression, names).whole()


def _wrong(why: str) -> ConsulError:
    return refused(f"Failed to create boolean expression evaluator: {why}")


class _Parser:
    def __init__(self, text: str, names: Names) -> None:
        self._tokens = list(_tokens(text))
        self._names = names
        self._next = 0
        self._depth = 0

    def whole(self) -> Test:
        test = self._or()
        if self._next < len(self._tokens):
            raise _wrong(f"no match found at {self._tokens[self._next][1]!r}")
        return test

    def _peek(self) -> tuple[str, str]:
        return self._tokens[self._next] if self._next < len(self._tokens) else ("end", "the end")

    def _take(self, *wanted: str) -> bool:
        if self._peek()[0] in ("op", "word") and self._peek()[1] in wanted:
            self._next += 1
            return True
        return False

    def _or(self) -> Test:
        tests = [self._and()]
        while self._take("or"):
            tests.append(self._and())
        return tests[0] if len(tests) == 1 else lambda value: any(test(value) for test in tests)

    def _and(self) -> Test:
        tests = [self._not()]
        while self._take("and"):
            tests.append(self._not())
        return tests[0] if len(tests) == 1 else lambda value: all(test(value) for test in tests)

    def _not(self) -> Test:
        self._depth += 1
        if self._depth > DEPTH_MAX:
            raise _wrong(f"more than {DEPTH_MAX} levels")
        try:
            if self._take("not"):
                return _negated(self._not())
            if self._take("("):
                test = self._or()
                if not self._take(")"):
                    raise _wrong(f'no match found at {self._peek()[1]!r}, expected: ")"')
                return test
            return self._match()
        finally:
            self._depth -= 1

    def _match(self) -> Test:
        kind, text = self._peek()
        if kind in ("quoted", "raw"):
            self._next += 1
            return self._in(text)
        if kind != "word":
            raise _wrong(f"no match found at {text!r}")
        path = self._path()
        if len(path) == 1 and self._peek()[1] in ("in", "not") and self._peek()[0] == "word":
            here = self._next
            negated = self._take("not")
            if self._take("in"):
                self._next = here
                return self._in(path[0])
            self._next = here if negated else self._next
        self._check_path(path)
        return self._of_selector(path)

    def _in(self, value: str) -> Test:
        negated = self._take("not")
        if not self._take("in"):
            raise _wrong(f'no match found at {self._peek()[1]!r}, expected: "in"')
        path = self._path()
        self._check_path(path)
        test = _contains(path, value)
        return _negated(test) if negated else test

    def _of_selector(self, path: tuple[str, ...]) -> Test:
        if self._take("=="):
            return _equals(path, self._value())
        if self._take("!="):
            return _negated(_equals(path, self._value()))
        if self._take("is"):
            negated = self._take("not")
            if not self._take("empty"):
                raise _wrong(f'no match found at {self._peek()[1]!r}, expected: "empty"')
            return _negated(_is_empty(path)) if negated else _is_empty(path)
        negated = self._take("not")
        if self._take("matches"):
            raise _wrong('this node does not know "matches"; use ==, in, contains or is empty')
        if not self._take("contains"):
            expected = '"!=", "==", "contains", "in", "is" or "not"'
            raise _wrong(f"no match found at {self._peek()[1]!r}, expected: {expected}")
        test = _contains(path, self._value())
        return _negated(test) if negated else test

    def _path(self) -> tuple[str, ...]:
        path = [self._name()]
        while True:
            if self._take("."):
                path.append(self._name())
            elif self._take("["):
                path.append(self._name())
                if not self._take("]"):
                    raise _wrong(f'no match found at {self._peek()[1]!r}, expected: "]"')
            else:
                return tuple(path)

    def _name(self) -> str:
        kind, text = self._peek()
        if kind not in ("word", "quoted", "raw"):
            raise _wrong(f"no match found at {text!r}, expected a name")
        self._next += 1
        return text

    def _value(self) -> str:
        value = self._name()
        while self._peek() == ("op", "."):  # A number or an address without quotes.
            self._next += 1
            value += "." + self._name()
        return value

    def _check_path(self, path: tuple[str, ...]) -> None:
        names: Names | None = self._names
        for step in path:
            if names is None or (names and step not in names):
                raise _wrong(f'Selector "{".".join(path)}" is not valid')
            names = names.get(step, ANY if not names else None)


def _tokens(text: str) -> Iterator[tuple[str, str]]:
    at, text = 0, text.rstrip()
    while at < len(text):
        match = _TOKEN.match(text, at)
        if match is None or match.lastgroup is None:
            raise _wrong(f"1:{at + 1} ({at}): no match found")
        token = match[match.lastgroup]
        yield match.lastgroup, re.sub(r"\\(.)", r"\1", token) if match.lastgroup == "quoted" else token
        at = match.end()


def _found(value: object, path: tuple[str, ...]) -> Iterator[object]:
    """What a selector leads to; nothing where there is nothing."""
    if not path:
        yield value
    elif isinstance(value, dict):
        if path[0] in value:
            yield from _found(value[path[0]], path[1:])
    elif isinstance(value, list | tuple):
        for each in value:
            yield from _found(each, path)


def _text(value: object) -> str:
    return ("true" if value else "false") if isinstance(value, bool) else str(value)


def _negated(test: Test) -> Test:
    return lambda value: not test(value)


def _equals(path: tuple[str, ...], wanted: str) -> Test:
    return lambda value: any(_text(each) == wanted for each in _found(value, path))


def _contains(path: tuple[str, ...], wanted: str) -> Test:
    def test(value: object) -> bool:
        for each in _found(value, path):
            if isinstance(each, dict | list | tuple):
                if wanted in each:
                    return True
            elif each is not None and wanted in _text(each):
                return True
        return False

    return test


def _is_empty(path: tuple[str, ...]) -> Test:
    return lambda value: all(each in (None, "", 0) or each == {} or each in ((), []) for each in _found(value, path))
