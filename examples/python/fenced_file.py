"""A file that refuses late writers: each write carries its epoch, and a lower one than seen before is refused."""

import pathlib
import tempfile

import tenure


class FencedFile:
    """A file, and beside it the highest epoch that has written it."""

    def __init__(self, path: pathlib.Path) -> None:
        self._path = path
        self._fence = tenure.EpochFence(path.with_suffix(".epochs"))

    @classmethod
    def create(cls, path: pathlib.Path) -> "FencedFile":
        """Makes the file and its fence together: a fence made later would have forgotten the epochs before."""
        path.touch()
        tenure.EpochFence.create(path.with_suffix(".epochs"))
        return cls(path)

    def append(self, line: str, epoch: int) -> str:
        """Checks the epoch and writes, in one step as far as any other epoch can tell."""
        try:
            with self._fence.enter(epoch), self._path.open("a") as file:
                file.write(f"{epoch}: {line}\n")
        except tenure.FencedError as fenced:
            return f"refused, epoch {fenced.token} is in office"
        return "written"

    def close(self) -> None:
        """Lets others open it."""
        self._fence.close()


def main() -> None:
    """Two holders of one lock: the first one stops for too long, and comes back."""
    with tempfile.TemporaryDirectory() as folder, tenure.Node() as node:
        path = pathlib.Path(folder, "journal")
        file = FencedFile.create(path)

        first = node.acquire("journal", ttl=10)
        print("the first holder:", file.append("a", first.token))

        # The first holder is stopped; an operator, or time, takes its lock away.
        node.force_release("journal")
        second = node.acquire("journal", ttl=10)
        print("the second holder:", file.append("b", second.token))

        # The first one goes on where it was, and believes to hold the lock.
        print("the first one comes back:", file.append("c", first.token))

        file.close()
        file = FencedFile(path)
        print("after a restart:", file.append("d", first.token))
        file.close()
        print(path.read_text(), end="")
        path.with_suffix(".epochs").unlink()
        try:
            FencedFile(path)
        except tenure.DataLostError:
            print("without its epochs the file is not opened")


if __name__ == "__main__":
    main()
