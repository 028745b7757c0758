"""Stores that were away get what they missed: copies of what was saved elsewhere, and deletions.

A copy is checked against its SHA-256 on the way, so that a damaged file is not spread. Repeating a repair changes
nothing, so it does no harm when two instances do the same.
"""

import asyncio
import logging

from noctule.base.clock import Clock
from noctule.base.errors import NoctuleError, StorageError
from noctule.base.ids import Instant
from noctule.kits.files.chain import Chain, EndpointAwayError, FileNotFoundInStoreError, StoredFile, stored_file
from noctule.kits.files.content import sniff
from noctule.kits.files.endpoints import Endpoint
from noctule.kits.files.journal import Journal, Repair
from noctule.kits.files.spool import Spool
from noctule.kits.files.uploads import Uploads
from noctule.kits.locks import Lease, Locks

PAUSE_S = 5.0
"""Between two looks whether something waits for a repair."""
PAGES_MAX = 10
"""Of the journal, in one round."""
SWEEP_S = 3600.0
"""Between two looks for uploads that were left alone."""

log = logging.getLogger("noctule.kits.files")


class Repairs:
    """The repairs of one `FileStore`."""

    def __init__(self, chain: Chain, journal: Journal, uploads: Uploads, bytes_max: int, clock: Clock) -> None:
        self._chain = chain
        self._journal = journal
        self._uploads = uploads
        self._bytes_max = bytes_max
        self._clock = clock
        self.mended = 0
        """Files, since the beginning, by this instance."""

    async def run(self) -> int:
        """One round: what waits for a store that answers is done; how many files are mended.

        Raises `UnavailableError` when the journal does not answer.
        """
        mended = 0
        for _ in range(PAGES_MAX):
            for key, repair in (await self._journal.page()).items():
                mended += await self._mend(key, repair)
            if self._journal.is_at_end:
                break
        if mended:
            self.mended += mended
            log.info("files_repaired", extra={"count": mended})
        return mended

    async def keep(self, locks: Locks, name: str) -> None:
        """Until cancelled: one of all instances repairs what there is, and removes uploads that were left alone."""

        async def work(_: Lease) -> None:
            sweep_at = self._clock.now()
            while True:
                try:
                    await self.run()
                    if self._clock.now() >= sweep_at:
                        sweep_at = Instant(self._clock.now() + SWEEP_S)
                        await self._uploads.sweep()
                except NoctuleError as error:
                    log.warning("repair_delayed", extra={"reason": str(error)})
                await asyncio.sleep(PAUSE_S)

        await locks.lead(f"files:{name}:repairs", work)

    async def _mend(self, key: str, repair: Repair) -> bool:
        """Whether it is done everywhere. An endpoint that this instance does not have is left to those that do."""
        named = {each.name: each for each in self._chain.endpoints}
        is_done = True
        for endpoint in (named.get(name) for name in repair.at):
            if endpoint is None or self._chain.is_away(endpoint):
                is_done = False
                continue
            try:
                await self._mend_at(endpoint, key, repair)
            except NoctuleError as error:
                log.warning("repair_delayed", extra={"reason": str(error)})
                is_done = False
        if not is_done:
            return False
        if not await self._journal.strike(key, repair) and repair.op == "copy":
            await self._take_back(key, [named[name] for name in repair.at])
        return True

    async def _mend_at(self, endpoint: Endpoint, key: str, repair: Repair) -> None:
        if repair.op == "delete":
            await self._chain.remove(endpoint, key)
            return
        try:
            source, result = await self._chain.open(key, skip=repair.at)
        except FileNotFoundInStoreError:
            return  # Deleted meanwhile.
        known = stored_file(key, source, result)
        with Spool() as spool:
            pieces = self._chain.pieces(key, 0, known.size_bytes, (source, result))
            await spool.take(pieces, max(self._bytes_max, known.size_bytes))
            if (repair.sha256 or known.sha256) not in ("", spool.sha256):
                log.error("file_damaged", extra={"key": key, "endpoint": source.name})
                raise StorageError("a file is not as it was saved, and not copied")
            name = known.name or repair.name
            saved = StoredFile(key, sniff(spool.head).name, spool.size_bytes, spool.sha256, name)
            await self._chain.put(endpoint, saved, spool.body)

    async def _take_back(self, key: str, endpoints: list[Endpoint]) -> None:
        """The note was struck while the file was copied: if it was deleted meanwhile, the copy goes, too."""
        try:
            await self._chain.open(key, head=True, skip=[each.name for each in endpoints])
        except FileNotFoundInStoreError:
            for endpoint in endpoints:
                try:
                    await self._chain.remove(endpoint, key)
                except EndpointAwayError:
                    await self._journal.note(key, Repair("delete", (endpoint.name,)))
        except NoctuleError as error:
            log.warning("repair_delayed", extra={"reason": str(error)})
            await self._journal.note(key, Repair("copy", tuple(each.name for each in endpoints)))
