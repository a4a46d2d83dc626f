"""A write gate: a database asks it before it acknowledges a write."""

import time

import tenure


def write(gate: tenure.Gate, log: list[tuple[int, str]], value: str) -> str:
    """Writes, and says what the client is told."""
    try:
        with gate.write() as permit:
            log.append((permit.epoch, value))
    except tenure.DeniedError as denied:
        return f"refused: {denied.reason}"
    except tenure.UncertainError:
        return "not acknowledged"
    return "acknowledged"


def main() -> None:
    """A controller grants a lease by heartbeats, then falls silent."""
    log: list[tuple[int, str]] = []
    with tenure.Node(node_id="n1") as node, node.gate("writes") as gate:
        print("before the first heartbeat:", write(gate, log, "a"))

        reply = gate.heartbeat(epoch=7, ttl=0.5, nonce=gate.next_nonce())
        print("lease granted:", reply.accepted, "in epoch", reply.epoch)
        print("with a lease:", write(gate, log, "b"))

        while gate.check():
            time.sleep(0.01)
        print("the heartbeats stopped:", write(gate, log, "c"))

        gate.heartbeat(epoch=8, ttl=5.0, nonce=gate.next_nonce())
        gate.drain(timeout=1.0)
        print("drained for a hand-over:", write(gate, log, "d"))
    print("written:", log)


if __name__ == "__main__":
    main()
