"""`notes.py` in Django, served through ASGI; its views are synchronous and the sessions do not mind."""

from typing import Any

import django
from django.conf import settings
from django.core.asgi import get_asgi_application
from django.http import HttpResponse, HttpResponseRedirect
from django.urls import path

from examples import notes
from noctule.kits.sessions import Sessions


def create_app(store: str | None = None) -> Sessions:
    """The app; `store` as for `Sessions`."""
    if not settings.configured:  # An app of its own has a module of settings. Django's middleware is not needed here.
        settings.configure(ROOT_URLCONF=__name__, ALLOWED_HOSTS=["*"], SECRET_KEY="unused", MIDDLEWARE=[])
        django.setup()
    return notes.with_sessions(get_asgi_application(), store)


def show(request: Any) -> HttpResponse:
    """The page."""
    return answer(notes.show(request.scope["session"]))


def post(request: Any, action: str) -> HttpResponse:
    """A form."""
    return answer(notes.post(request.scope, request.scope["session"], action, request.POST.dict()))


def answer(page: notes.Page) -> HttpResponse:
    """As a response of this framework."""
    if page.location:
        return HttpResponseRedirect(page.location, status=page.status)
    return HttpResponse(page.html, status=page.status)


urlpatterns = [path("", show), path("<str:action>", post)]
app = create_app()
