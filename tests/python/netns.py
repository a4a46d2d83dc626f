"""Network namespaces on one bridge, one for each process: cables to pull, ways to close, packets to lose. Only for root on Linux."""

from __future__ import annotations

import contextlib
import os
import subprocess


class Network:
    """A bridge with a namespace for each name that is added. Without the rights or the tools ``missing`` says what is missing."""

    def __init__(self, kind: str = "tn") -> None:
        self.tag = f"{kind}{os.getpid() % 100000:x}"
        self.subnet = f"10.{100 + os.getpid() % 100}.{os.getpid() // 100 % 250}"
        self.names: list[str] = []
        self.missing: str | None = None
        if os.geteuid() != 0:
            self.missing = "network namespaces need root"
        elif not self._ip("link", "add", f"{self.tag}b", "type", "bridge"):
            self.missing = "network namespaces need iproute2 and a kernel with bridges"
        elif not (
            self._ip("addr", "add", f"{self.subnet}.254/24", "dev", f"{self.tag}b") and self._ip("link", "set", f"{self.tag}b", "up")
        ):
            self.missing = f"the bridge has no address in {self.subnet}.0/24"
        elif self._added("probe") is None:
            self.missing = "this kernel makes no network namespaces with veth devices"

    @property
    def usable(self) -> bool:
        return self.missing is None

    @property
    def cannot_filter(self) -> str | None:
        """Why single ways cannot be closed here."""
        if self.missing is not None:
            return self.missing
        works = self._nft("probe", "add table inet tenure; add chain inet tenure in { type filter hook input priority 0; }")
        works = works and self._nft("probe", "add rule inet tenure in numgen random mod 100 < 1 drop")
        return None if works else "one-way cuts and losses need nftables (nft) and a kernel with NF_TABLES and NFT_NUMGEN"

    @staticmethod
    def _run(*words: str) -> bool:
        with contextlib.suppress(OSError):
            return subprocess.run(words, capture_output=True, check=False).returncode == 0
        return False

    def _ip(self, *words: str) -> bool:
        return self._run("ip", *words)

    def _nft(self, name: str, rules: str) -> bool:
        return self._run(*self._inside(name), "nft", rules)

    def _space(self, name: str) -> str:
        return f"{self.tag}-{name}"

    def _inside(self, name: str) -> list[str]:
        # Not `ip netns exec`: that copies all mounts, and keeps the failed disks of other tests alive.
        return ["nsenter", f"--net=/run/netns/{self._space(name)}"]

    def _outer(self, name: str) -> str:
        return f"{self.tag}o{self.names.index(name)}"

    def address(self, name: str) -> str:
        return f"{self.subnet}.{self.names.index(name) + 1}"

    def prefix(self, name: str) -> list[str]:
        """What the command line of a process in this namespace begins with; of a name without one, nothing."""
        return self._inside(name) if name in self.names else []

    def _added(self, name: str) -> str | None:
        self.names.append(name)
        space, outer, inner = self._space(name), self._outer(name), f"{self.tag}i{len(self.names) - 1}"
        made = (
            self._ip("netns", "add", space)
            and self._ip("link", "add", outer, "type", "veth", "peer", "name", inner)
            and self._ip("link", "set", inner, "netns", space)
            and self._ip("link", "set", outer, "master", f"{self.tag}b")
            and self._ip("link", "set", outer, "up")
            and self._ip("-n", space, "addr", "add", f"{self.address(name)}/24", "dev", inner)
            and self._ip("-n", space, "link", "set", inner, "up")
            and self._ip("-n", space, "link", "set", "lo", "up")
        )
        return self.address(name) if made else None

    def add(self, name: str) -> tuple[str, list[str]]:
        """The address of a new namespace, and what a command line in it begins with; without namespaces, loopback."""
        if not self.usable:
            return "127.0.0.1", []
        address = self._added(name)
        if address is None:
            raise RuntimeError("the network namespace could not be made")
        return address, self.prefix(name)

    def cut(self, name: str, cut: bool) -> None:
        """Pulls the cable of a namespace, or puts it back."""
        self._ip("link", "set", self._outer(name), "down" if cut else "up")

    def filter(self, name: str, lost: dict[str, int]) -> None:
        """What reaches ``name`` from each of these is lost with this many percent; 100 closes the way. Nothing: all arrives again."""
        rules = ["add table inet tenure; delete table inet tenure; add table inet tenure"]
        rules.append("add chain inet tenure in { type filter hook input priority 0; }")
        for source, percent in lost.items():
            chance = "" if percent == 100 else f"numgen random mod 100 < {percent} "
            rules.append(f"add rule inet tenure in ip saddr {self.address(source)} {chance}drop")
        if not self._nft(name, "; ".join(rules)):
            raise RuntimeError(f"nft refused: {rules}")

    def heal(self) -> None:
        """All cables are in, all ways are open."""
        for name in self.names:
            self.cut(name, False)
            self._nft(name, "add table inet tenure; delete table inet tenure")

    def close(self) -> None:
        for name in self.names:
            self._ip("link", "del", self._outer(name))
            self._ip("netns", "del", self._space(name))
        self._ip("link", "del", f"{self.tag}b")
