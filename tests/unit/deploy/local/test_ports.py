"""Free ports."""

import socket

from deploy.local.ports import free_ports


def test_preferred_ports_are_used_while_they_are_free() -> None:
    ports = free_ports(3)
    assert len(set(ports)) == 3
    assert free_ports(3, preferred=ports) == ports
    with socket.socket() as other:
        other.bind(("127.0.0.1", ports[1]))
        other.listen()
        assert ports[1] not in free_ports(3, preferred=ports)
