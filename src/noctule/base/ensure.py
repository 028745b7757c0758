"""Invariants that stay on in production."""

from noctule.base.errors import InternalError


def ensure(condition: object, sentence: str, **facts: object) -> None:
    """Raise `InternalError` with the sentence and the facts unless the condition holds.

    The caller's state is then not to be trusted: the machine that raised is stopped, never retried.
    """
    if not condition:
        raise InternalError(sentence + "".join(f", {name}={value!r}" for name, value in facts.items()))
