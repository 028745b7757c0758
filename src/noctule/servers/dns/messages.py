"""One query as bytes, its reply as bytes: what is refused, what EDNS agrees on, where an answer is cut.

dnspython reads and writes the messages. Pure but for the counts it keeps.
"""

import struct
from collections import Counter
from enum import Enum

import dns.exception
import dns.flags
import dns.message
import dns.opcode
import dns.rcode
import dns.rdataclass
import dns.rdatatype
import dns.renderer

from noctule.servers.dns.zone import Found, Zone

QUERY_BYTES_MAX = 4_096
"""A longer query is malformed: one with the longest name and all options that there are is far below this."""

ADDITIONAL_MAX = 2
"""Records beside the question: EDNS and a signature. Of more, each could send the parser all over the message."""

PLAIN_BYTES_MAX = 512
"""Of a reply by UDP to a client that does not say what it can take (RFC 1035 4.2.1)."""

UDP_BYTES_MAX = 1_232
"""Of any reply by UDP. It crosses every network in one packet, and is all that a forged question makes us send."""

TCP_ANSWERS_MAX = 256
"""Records that answer one question, of more instances some by chance; it takes some milliseconds to write them."""

_RECORD_BYTES_MIN = 16
_OPT_BYTES = 11
_HEADER = struct.Struct("!HHHHHH")
_TYPES_COUNTED = {"A", "AAAA", "SRV", "TXT", "NS", "SOA", "ANY"}


class Via(Enum):
    """How a query came."""

    UDP = "udp"
    TCP = "tcp"


class Replier:
    """Answers queries from a zone, and counts them."""

    def __init__(self, zone: Zone) -> None:
        self._zone = zone
        self.answers: Counter[tuple[str, str]] = Counter()
        """By the question's type, where it is one of a few, and the reply's code."""

    def reply(self, query: bytes, via: Via) -> bytes | None:
        """The reply; None for what must not be answered: another reply, or less than a header. Never raises."""
        if len(query) < _HEADER.size:
            return None
        flags = dns.flags.Flag(_HEADER.unpack_from(query)[1])
        if flags & dns.flags.QR:
            return None
        if dns.opcode.from_flags(flags) != dns.opcode.QUERY:
            return self._bare(query, dns.rcode.NOTIMP)
        *_, questions, answers, authority, additional = _HEADER.unpack_from(query)
        is_query = (questions, answers, authority) == (1, 0, 0) and additional <= ADDITIONAL_MAX
        if not is_query or len(query) > QUERY_BYTES_MAX:
            return self._bare(query, dns.rcode.FORMERR)
        try:
            asked = dns.message.from_wire(query)
        except dns.exception.DNSException:
            return self._bare(query, dns.rcode.FORMERR)
        return self._answer(asked, via)

    def _bare(self, query: bytes, rcode: dns.rcode.Rcode) -> bytes:
        """A header alone, since nothing else of the query is understood."""
        number, flags, *_ = _HEADER.unpack_from(query)
        self.answers["", dns.rcode.to_text(rcode)] += 1
        kept = flags & (0x7800 | dns.flags.RD)  # The opcode is sent back, too.
        return _HEADER.pack(number, dns.flags.QR | kept | rcode, 0, 0, 0, 0)

    def _answer(self, asked: dns.message.Message, via: Via) -> bytes:
        question = asked.question[0]
        kind = question.rdtype
        bytes_max = _bytes_max(asked, via)
        reply = dns.message.make_response(asked, our_payload=UDP_BYTES_MAX)
        found = Found()
        if asked.edns > 0:
            reply.set_rcode(dns.rcode.BADVERS)
        elif question.rdclass != dns.rdataclass.IN or _is_refused(kind) or not self._zone.contains(question.name):
            reply.set_rcode(dns.rcode.REFUSED)
        else:
            answers_max = TCP_ANSWERS_MAX if via is Via.TCP else bytes_max // _RECORD_BYTES_MIN
            found = self._zone.find(question.name, kind, answers_max)
            reply.flags |= dns.flags.AA
            reply.set_rcode(found.rcode)
            if found.is_partial and via is Via.UDP:
                reply.flags |= dns.flags.TC  # By TCP there would be no more either.
        text = dns.rdatatype.to_text(kind)
        self.answers[text if text in _TYPES_COUNTED else "other", dns.rcode.to_text(reply.rcode())] += 1
        return _render(reply, found, bytes_max)


def _render(reply: dns.message.Message, found: Found, bytes_max: int) -> bytes:
    """As many of the records as fit, and TC if answers are missing. Records that only save a question may be.

    (dnspython would do the same with a message that has the records in it, in twice the time.)
    """
    question = reply.question[0]
    renderer = dns.renderer.Renderer(reply.id, reply.flags, bytes_max)
    renderer.add_question(question.name, question.rdtype, question.rdclass)
    renderer.reserve(_OPT_BYTES)
    try:
        for name, data in found.answer:
            renderer.add_rdataset(dns.renderer.ANSWER, name, data)
        for name, data in found.authority:
            renderer.add_rdataset(dns.renderer.AUTHORITY, name, data)
        for name, data in found.additional:
            renderer.add_rdataset(dns.renderer.ADDITIONAL, name, data)
    except dns.exception.TooBig:
        if renderer.section != dns.renderer.ADDITIONAL:
            renderer.flags |= dns.flags.TC
    renderer.release_reserved()
    if reply.opt is not None:
        renderer.add_opt(reply.opt)
    renderer.write_header()
    return bytes(renderer.get_wire())


def _is_refused(kind: dns.rdatatype.RdataType) -> bool:
    """Whole zones and the types that are none; ANY is answered."""
    return kind != dns.rdatatype.ANY and (kind == dns.rdatatype.NONE or dns.rdatatype.is_metatype(kind))


def _bytes_max(asked: dns.message.Message, via: Via) -> int:
    if via is Via.TCP:
        return 65_535
    if asked.edns < 0:
        return PLAIN_BYTES_MAX
    return min(max(asked.payload, PLAIN_BYTES_MAX), UDP_BYTES_MAX)
