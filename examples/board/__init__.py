"""The board: a guestbook with accounts, pictures and an API. ``examples.board:app`` is the app; read app.py."""

from examples.board.app import app

__all__ = ["app"]
