"""An app that lets its users, and other apps on their behalf, sign in: see app.py."""
