"""The replicated state of the *meta* group: roster, partition map, migrations, settings. Read operations.py."""
