"""Changes of any kind about few names, so that they meet."""

from hypothesis import strategies as st

from noctule.core.registry import changes as asked
from noctule.core.registry.objects import (
    NODE_CHECK,
    Check,
    CheckStatus,
    RegistryNode,
    ServiceInstance,
    Session,
    SessionBehavior,
)

NODES = st.sampled_from("ab")
INSTANCES = st.sampled_from(["1", "2"])
SERVICES = st.sampled_from(["web", "db"])
CHECKS = st.sampled_from([NODE_CHECK, "c", "d"])
SESSIONS = st.sampled_from(["s", "t"])
KEYS = st.sampled_from(["k", "k/1", "k/2", "l"])
VALUES = st.sampled_from([b"", b"x"])
STATUSES = st.sampled_from([CheckStatus.PASSING, CheckStatus.PASSING, CheckStatus.WARNING, CheckStatus.CRITICAL])
CAS = st.none() | st.integers(0, 30)
REMOVED_AT = st.sampled_from([0, 0, 0]) | st.integers(1, 30)
TIMES = st.integers(0, 60)

NODE = st.builds(asked.PutNode, st.builds(RegistryNode, NODES, st.sampled_from(["10.0.0.1", "10.0.0.2"])))
SERVICE = st.builds(
    asked.PutService,
    st.builds(ServiceInstance, NODES, INSTANCES, SERVICES, st.sampled_from([(), ("t",)]), port=st.just(80)),
)
CHECK = st.builds(
    asked.PutCheck,
    st.builds(
        Check,
        NODES,
        CHECKS,
        st.just("name"),
        STATUSES,
        service_id=st.sampled_from(["", "1", "2"]),
        ttl_ms=st.sampled_from([0, 10]),
        deregister_after_ms=st.sampled_from([0, 15]),
    ),
)
SESSION = st.builds(
    asked.CreateSession,
    st.builds(
        Session,
        SESSIONS,
        NODES,
        ttl_ms=st.sampled_from([0, 10]),
        lock_delay_ms=st.sampled_from([0, 15]),
        behavior=st.sampled_from(SessionBehavior),
        node_checks=st.sampled_from([(), (NODE_CHECK,)]),
        service_checks=st.sampled_from([(), ("c",)]),
    ),
)
ACQUIRE = st.builds(asked.AcquireKey, KEYS, VALUES, SESSIONS)
SET = st.builds(asked.SetKey, KEYS, VALUES, st.integers(0, 1), CAS)
ANY = st.one_of(
    NODE,
    SERVICE,
    CHECK,
    SESSION,
    ACQUIRE,
    SET,
    st.builds(asked.TellCheck, NODES, CHECKS, STATUSES, st.sampled_from(["", "said"])),
    st.builds(asked.ExpireCheck, NODES, CHECKS, TIMES),
    st.builds(asked.RemoveCritical, NODES, CHECKS, TIMES),
    st.builds(asked.RemoveNode, NODES, REMOVED_AT),
    st.builds(asked.RemoveService, NODES, INSTANCES, REMOVED_AT),
    st.builds(asked.RemoveCheck, NODES, CHECKS, REMOVED_AT),
    st.builds(asked.ReleaseKey, KEYS, VALUES, SESSIONS),
    st.builds(asked.DeleteKey, KEYS, CAS),
    st.builds(asked.DeleteTree, st.sampled_from(["", "k", "k/", "x"])),
    st.builds(asked.CheckIndex, KEYS, st.integers(0, 30)),
    st.builds(asked.CheckSession, KEYS, SESSIONS),
    st.builds(asked.RenewSession, SESSIONS),
    st.builds(asked.ExpireSession, SESSIONS, TIMES),
    st.builds(asked.EndSession, SESSIONS),
)
BASICS: list[asked.Change] = [
    asked.PutNode(RegistryNode("a", "10.0.0.1")),
    asked.PutCheck(Check("a", NODE_CHECK, "name", CheckStatus.PASSING)),
    asked.PutService(ServiceInstance("a", "1", "web")),
    asked.PutCheck(Check("a", "c", "name", CheckStatus.PASSING, service_id="1", ttl_ms=10, deregister_after_ms=15)),
]
