"""Files that all instances of an app share, on S3-compatible stores, or a folder while there is one instance.

Read file_store.py, then what it stands on: keys.py (names), content.py (what a file really is), endpoints.py (URLs of
stores), sigv4.py and local_urls.py (links that expire), journal.py (what a second store has and the first lacks).
serving.py answers links into a folder.
"""

from noctule.kits.files.file_store import FileStore, StoredFile

__all__ = ["FileStore", "StoredFile"]
