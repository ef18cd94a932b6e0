"""A certificate authority made with the openssl program: EC P-256, leaves with CA:FALSE and SANs."""

import ssl
import subprocess
from dataclasses import dataclass
from pathlib import Path

CA_CONFIG = """
[req]
distinguished_name = dn
x509_extensions = ext
prompt = no
[dn]
CN = Blackbox Root
[ext]
basicConstraints = critical, CA:TRUE
keyUsage = critical, keyCertSign, cRLSign
subjectKeyIdentifier = hash
"""

LEAF_CONFIG = """
[req]
distinguished_name = dn
prompt = no
[dn]
CN = {name}
[ext]
basicConstraints = critical, CA:FALSE
keyUsage = critical, digitalSignature
extendedKeyUsage = serverAuth
subjectAltName = DNS:localhost, DNS:{name}, IP:127.0.0.1, IP:::1
"""


@dataclass
class Pair:
    """A certificate and its private key, as PEM files."""

    cert: Path
    key: Path

    @property
    def der(self):
        pem = self.cert.read_text()
        end = "-----END CERTIFICATE-----"
        return ssl.PEM_cert_to_DER_cert(pem[: pem.index(end) + len(end)])


def openssl(*arguments):
    subprocess.run(["openssl", *map(str, arguments)], check=True, capture_output=True)


class Authority:
    """One root and the leaves it signs."""

    def __init__(self, folder):
        self.folder = Path(folder)
        self.root = self.folder / "ca.pem"
        config = self.folder / "ca.cnf"
        config.write_text(CA_CONFIG)
        openssl("req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", 30,
                "-config", config, "-keyout", self.folder / "ca.key", "-out", self.root)

    def issue(self, name):
        """A new leaf for localhost and `name`."""
        config, request = self.folder / f"{name}.cnf", self.folder / f"{name}.csr"
        pair = Pair(self.folder / f"{name}.pem", self.folder / f"{name}.key")
        config.write_text(LEAF_CONFIG.format(name=name))
        openssl("req", "-new", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes",
                "-config", config, "-keyout", pair.key, "-out", request)
        openssl("x509", "-req", "-in", request, "-CA", self.root, "-CAkey", self.folder / "ca.key",
                "-CAcreateserial", "-days", 20, "-extfile", config, "-extensions", "ext", "-out", pair.cert)
        return pair

    def client_context(self):
        """TLS settings of a client that trusts this root and nothing else."""
        return ssl.create_default_context(cafile=str(self.root))
