"""Every refusal that the OAuth 2 RFCs name, one class for each code; pure.

RFC 6749 4.1.2.1 and 5.2, RFC 7009 2.2.1, RFC 6750 3.1, RFC 8707 2. RFC 7662, 8414, 9068 and 9207 name no others.
`code` is the value of ``error``; the sentence is the ``error_description``, so it never quotes what a client sent, and
holds no quotation mark and no backslash (RFC 6749 5.2). A code that the app or its users must not see the reason of has
the same sentence for every reason.
"""

from typing import ClassVar

from noctule.base.errors import RequestError


class OAuth2Error(RequestError):
    """The root of them."""

    code: ClassVar[str] = "invalid_request"
    status: ClassVar[int] = 400
    """Of the HTTP answer where it is not sent by redirection."""


class InvalidRequestError(OAuth2Error):
    """A parameter is missing, unknown in value, or there twice."""

    code = "invalid_request"


class InvalidClientError(OAuth2Error):
    """The client is not known, or did not prove to be itself."""

    code = "invalid_client"
    status = 401


class InvalidGrantError(OAuth2Error):
    """The code or refresh token is not valid: unknown, used, expired, revoked, or another client's."""

    code = "invalid_grant"


class UnauthorizedClientError(OAuth2Error):
    """The client may not use this grant."""

    code = "unauthorized_client"


class UnsupportedGrantTypeError(OAuth2Error):
    """This server does not know the grant."""

    code = "unsupported_grant_type"


class UnsupportedResponseTypeError(OAuth2Error):
    """This server gives codes only: ``response_type=code``."""

    code = "unsupported_response_type"


class InvalidScopeError(OAuth2Error):
    """The scope is malformed, or more than the client or the grant allows."""

    code = "invalid_scope"


class AccessDeniedError(OAuth2Error):
    """The user, or the app, said no."""

    code = "access_denied"
    status = 403


class ServerError(OAuth2Error):
    """The server met something it did not expect."""

    code = "server_error"
    status = 500


class TemporarilyUnavailableError(OAuth2Error):
    """The store is away; the same request may succeed shortly, and asking again is the same operation."""

    code = "temporarily_unavailable"
    status = 503
    retryable = True


class UnsupportedTokenTypeError(OAuth2Error):
    """This kind of token cannot be revoked here."""

    code = "unsupported_token_type"


class InvalidTargetError(OAuth2Error):
    """No such resource, or none that the client may ask for (RFC 8707)."""

    code = "invalid_target"


class InvalidTokenError(OAuth2Error):
    """The access token is malformed, expired, revoked, or not for this resource."""

    code = "invalid_token"
    status = 401


class InsufficientScopeError(OAuth2Error):
    """The access token is good and not enough."""

    code = "insufficient_scope"
    status = 403


GRANT_IS_INVALID = "the grant is invalid, expired, revoked or was issued to another client"
"""The one sentence of `InvalidGrantError`: which of these it is would help only who guesses."""
