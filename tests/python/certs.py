"""Certificates of a cluster, made with the openssl command as docs/cluster.md shows."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path


def openssl(*words: str, given: str = "") -> None:
    subprocess.run(["openssl", *words], input=given, text=True, check=True, capture_output=True, timeout=60)


class Authority:
    """A certificate authority in a directory, and the certificates that it signs."""

    def __init__(self, where: Path, name: str = "ca") -> None:
        where.mkdir(parents=True, exist_ok=True)
        self.where = where
        self.certificate = where / f"{name}.pem"
        self._key = where / f"{name}.key"
        openssl(
            *("req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "3650"),
            *("-subj", f"/CN={name}", "-keyout", str(self._key), "-out", str(self.certificate)),
        )

    def issue(self, name: str, *uris: str, days: int = 30) -> dict[str, str]:
        """Files of a certificate with these names; they take the place of what was issued under ``name`` before, one after the other."""
        key, request, certificate, names = (self.where / f"{name}.{end}" for end in ("key", "csr", "pem", "ext"))
        fresh_key, fresh = self.where / f"{name}.key.new", self.where / f"{name}.pem.new"
        alternatives = ",".join(f"URI:{uri}" for uri in uris)
        usage = "extendedKeyUsage = serverAuth, clientAuth\n"
        names.write_text(usage + (f"subjectAltName = {alternatives}\n" if uris else ""))
        openssl(
            *("req", "-new", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"),
            *("-subj", f"/CN={name}", "-keyout", str(fresh_key), "-out", str(request)),
        )
        openssl(
            *("x509", "-req", "-in", str(request), "-CA", str(self.certificate), "-CAkey", str(self._key), "-CAcreateserial"),
            *("-days", str(days), "-extfile", str(names), "-out", str(fresh)),
        )
        fresh_key.chmod(0o600)
        os.replace(fresh_key, key)
        os.replace(fresh, certificate)
        return {"tls_ca": str(self.certificate), "tls_cert": str(certificate), "tls_key": str(key)}

    def member(self, node: str, days: int = 30) -> dict[str, str]:
        return self.issue(node, f"tenure://tenure/{node}", days=days)

    def client(self, name: str) -> dict[str, str]:
        return self.issue(f"client-{name}", f"tenure://tenure/client/{name}")
