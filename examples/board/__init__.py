"""The board: a guestbook with sign-in. ``examples.board:app`` is the app; read app.py."""

from examples.board.app import app

__all__ = ["app"]
