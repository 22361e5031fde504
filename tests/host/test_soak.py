"""Many graphs from two clients through the real server, in small; `python scripts/soak.py` is the large one."""

from client import Client
from host_server import Server
from soak import Maker, soak

TURN = 18  # kinds of graphs


def test_nothing_is_lost_or_left_over_and_the_last_picture_is_the_first(server: Server) -> None:
    assert len(Maker(Client(server.url).object_info()).recipes) == TURN
    came = soak(server, server.log.parent / "output", TURN + 8, 1, print, interrupted=0.7)
    assert not came.wrong, "\n\n".join(came.wrong)
    assert came.ended["finite"] >= TURN
    assert came.ended["interrupted"], "no graph was interrupted"
