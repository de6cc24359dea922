"""`rescind stop` to a switch from a cold start, and what the gate costs a guard that follows one."""

import datetime
import ipaddress
import subprocess
import sys
import tempfile
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from bench.cold import environment
from bench.form import Row, interleaved, row, seconds_of
from bench.gate import per_call
from bench.switch import Service
from rescind.config import SwitchConfig
from rescind.guard.guard import Guard

ROUNDS = 25
GATE_ROUNDS = 9
GATE_TARGET = 1.1


def measure() -> list[Row]:
    with tempfile.TemporaryDirectory() as folder:
        return [*_stops(Path(folder)), _gate(Path(folder))]


def _stops(folder: Path) -> list[Row]:
    certificate, key = _certificate(folder)
    plain = Service(folder / "plain")
    secure = Service(folder / "secure", "--cert", str(certificate), "--key", str(key))
    try:
        return [
            _stop("rescind stop to a switch", plain.url, environment(), 8),
            _stop("… with TLS", secure.url, environment() | {"SSL_CERT_FILE": str(certificate)}, 12),
        ]
    finally:
        plain.kill()
        secure.kill()


def _stop(name: str, url: str, variables: dict[str, str], target: float) -> Row:
    rescind = str(Path(sys.executable).with_name("rescind"))
    command = [rescind, "stop", "run:nobody", "--reason", "bench"]
    named = variables | {"RESCIND_URL": url}

    def run(*words: str) -> float:
        with tempfile.TemporaryDirectory() as elsewhere:  # where no other configuration is found
            done = lambda: subprocess.run(words, check=True, capture_output=True, env=named, cwd=elsewhere)  # noqa: E731
            return seconds_of(done) * 1000

    ours, nothing = interleaved(lambda: run(*command), lambda: run(sys.executable, "-c", "pass"), rounds=ROUNDS)
    note = "cold process, until the switch has it on disk and has said so, against python -c pass"
    return row(name, ours=ours, reference=nothing, unit="ms", target=target, n=ROUNDS, note=note)


def _gate(folder: Path) -> Row:
    service = Service(folder / "gate")
    following = Guard.at(folder / "following", switch=SwitchConfig(urls=(service.url,)))
    embedded = Guard.at(folder / "embedded")
    try:
        return _compare(following, embedded)
    finally:
        following.close()
        embedded.close()
        service.kill()


def _compare(following: Guard, embedded: Guard) -> Row:
    def read(item: str) -> int:
        return 1

    through_switch, through_file = following.read("price.read")(read), embedded.read("price.read")(read)

    def of(guard: Guard, call: object) -> float:
        with guard.run("bench@1", calls_max=10**12, timeout_s=3600):
            return per_call(call)  # type: ignore[arg-type]

    ours, reference = interleaved(
        lambda: of(following, through_switch), lambda: of(embedded, through_file), rounds=GATE_ROUNDS
    )
    note = "an allowed read of a guard that follows a switch, against one with a local store only"
    return row(
        "gate, following a switch", ours=ours, reference=reference, unit="µs", target=GATE_TARGET, n=GATE_ROUNDS,
        note=note,
    )  # fmt: skip


def _certificate(folder: Path) -> tuple[Path, Path]:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "bench")])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    certificate_file, key_file = folder / "tls.pem", folder / "tls.key"
    certificate_file.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    key_file.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return certificate_file, key_file
