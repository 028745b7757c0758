"""Files that all instances of an app share, on S3-compatible stores, or a folder while there is one instance.

Read file_store.py, then what it stands on: chain.py (stores in order), spool.py (a file on its way), keys.py (names),
content.py (what a file really is), endpoints.py (URLs of stores). links.py makes links by sigv4.py and local_urls.py,
serving.py answers those into a folder. A store that was away: journal.py (what it lacks), repairs.py. Large files:
uploads.py.
"""

from noctule.kits.files.chain import FileNotFoundInStoreError, StoredFile
from noctule.kits.files.file_store import FileStore

__all__ = ["FileNotFoundInStoreError", "FileStore", "StoredFile"]
