"""An instance's response as its client gets it: by the rules of its route, with what the gateway has to say, packed."""

from typing import TYPE_CHECKING

from noctule.gateway.compress import Compressor
from noctule.gateway.h1 import date, has_body
from noctule.gateway.heads import ResponseHead, apply_rules, response_headers
from noctule.gateway.model import HeaderRules
from noctule.gateway.traffic import Plan

if TYPE_CHECKING:
    from noctule.gateway.exchange import Exchange

_NO_RULES = HeaderRules()


def deliver_head(exchange: "Exchange", plan: Plan, head: ResponseHead, set_cookie: str | None) -> Compressor | None:
    """Tell the client the response's head; its body goes through what is returned, or as it is."""
    plane, request, client = exchange.plane, exchange.head, exchange.client
    compressor = None
    if plane.model.compression.enabled and has_body(request.method, head.status):
        compressor = plane.compressor_for(request.accept_encoding, head)
    headers = response_headers(head, request_id=exchange.request_id, attempts=exchange.attempts)
    if plan.route.response_headers != _NO_RULES:
        headers = apply_rules(headers, plan.route.response_headers)
    if not head.has_date:
        headers.append((b"Date", date()))
    if set_cookie is not None:
        headers.append((b"Set-Cookie", set_cookie.encode()))
    is_last = not exchange.body.is_complete or plane.is_stopping
    client.begin_response(head.status, head.reason, headers, head.content_length, is_last=is_last)
    return compressor
