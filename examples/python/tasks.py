"""asyncio: a queue of tasks for one lock, a cancelled one, a limit of two at once."""

import asyncio

import tenure.aio


async def main() -> None:
    """Waiting tasks are served in order; a cancelled one leaves nothing behind."""
    async with tenure.aio.Node(node_id="n1") as node:
        held = await node.acquire("turn")
        served: list[int] = []

        async def take_turn(number: int) -> None:
            async with node.lock("turn"):
                served.append(number)

        tasks = [asyncio.create_task(take_turn(n)) for n in range(5)]
        await asyncio.sleep(0)
        tasks[2].cancel()
        await held.release()
        await asyncio.gather(*tasks, return_exceptions=True)
        print("served:", served)

        busy, most = 0, 0

        async def limited() -> None:
            nonlocal busy, most
            async with node.lock("pool", mode="semaphore", limit=2):
                busy += 1
                most = max(most, busy)
                await asyncio.sleep(0.01)
                busy -= 1

        await asyncio.gather(*(limited() for _ in range(6)))
        print("at most at once:", most)
        print("left behind:", await node.locks())


if __name__ == "__main__":
    asyncio.run(main())
