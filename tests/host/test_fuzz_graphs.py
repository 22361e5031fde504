"""Random graphs through the real server, in small; `python scripts/fuzz_graphs.py` is the large one."""

from client import Client
from fuzz_graphs import fuzz
from host_server import Server


def test_random_graphs_end_in_finite_latents_or_in_a_message(server: Server) -> None:
    counted, wrong = fuzz(Client(server.url), server.log.parent / "output", 25, 1, print)
    assert not wrong, "\n\n".join(wrong)
    assert counted["finite"], "none of them ran"
    assert counted["refused by this pack"], "none of them reached this pack"
