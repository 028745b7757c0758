"""What subscribers of +switch-master are told."""

from noctule.node.cluster_view import ClusterMember, ClusterView
from noctule.servers.master_watch import CHANNEL, MasterWatch

from .test_resp_cluster import SketchedView, member


class ChangingView(SketchedView):
    """Whose master the test chooses."""

    def __init__(self) -> None:
        super().__init__()
        self.chosen = 1

    def master_id(self) -> int:
        return self.chosen

    def master(self) -> ClusterMember:
        return member(self.chosen)


def test_a_switch_is_told_once_under_each_name() -> None:
    view, told = ChangingView(), list[tuple[bytes, bytes]]()
    assert isinstance(view, ClusterView)
    watch = MasterWatch(view, lambda channel, message: told.append((channel, message)))
    watch.look()
    watch.look()
    assert told == [], "whom the first look finds was no other's before"
    view.chosen = 2
    watch.look()
    watch.look()
    assert told == [
        (CHANNEL, b"noctule 10.0.0.1 7401 10.0.0.2 7402"),
        (CHANNEL, b"colony 10.0.0.1 7401 10.0.0.2 7402"),
    ]
    view.chosen = 1
    watch.look()
    assert told[2] == (CHANNEL, b"noctule 10.0.0.2 7402 10.0.0.1 7401")
