"""A lock with a fencing token: the store refuses what a former holder still sends."""

import tenure


class Store:
    """Stands for what the lock protects. It remembers the largest token that it has seen."""

    def __init__(self) -> None:
        self.seen = 0
        self.value = ""

    def put(self, value: str, token: int) -> bool:
        """Takes the value, unless a later holder has written already."""
        if token < self.seen:
            return False
        self.seen, self.value = token, value
        return True


def main() -> None:
    """Two workers, one lock; the first is pushed aside while it works."""
    store = Store()
    with tenure.Node(node_id="n1") as node:
        slow, quick = node.session("slow"), node.session("quick")
        grant = slow.acquire("report", ttl=5)
        print("slow holds it:", node.holder("report") is not None)
        print("quick tries:", quick.try_acquire("report"))

        node.force_release("report")
        with quick.lock("report", timeout=1) as later:
            print("quick has a larger token:", later.token > grant.token)
            print("quick writes:", store.put("quick's", later.token))
        print("slow knows:", grant.lost.wait(5), grant.lost.reason)
        print("slow writes:", store.put("slow's", grant.token))
        print("the store holds:", store.value)


if __name__ == "__main__":
    main()
