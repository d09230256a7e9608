"""Signers by URI: encrypted files, and a real PKCS#11 token (SoftHSM)."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from sdx_hub.domain.errors import BadInput, NotFound, TrustError
from sdx_hub.trust import keys, pkcs8, signers

PASSPHRASE = "a long passphrase"
PIN = "987654"
LABEL = "sdx test"
MODULES = ("/usr/lib/softhsm/libsofthsm2.so", "/usr/lib/x86_64-linux-gnu/softhsm/libsofthsm2.so")


@pytest.fixture(autouse=True)
def cheap_scrypt(monkeypatch: pytest.MonkeyPatch) -> None:
    """The cost is the point of scrypt, but not of most tests here."""
    monkeypatch.setattr(pkcs8, "SCRYPT_N", 16)


class Secrets:
    """Answers with one secret, and remembers what was asked for."""

    def __init__(self, secret: str) -> None:
        self.secret = secret
        self.asked: list[str] = []

    def __call__(self, name: str) -> str:
        self.asked.append(name)
        return self.secret


@pytest.fixture
def key(tmp_path: Path) -> Path:
    keys.create_pair(tmp_path / "alice.key", "alice", PASSPHRASE)
    return tmp_path / "alice.key"


@pytest.mark.parametrize("form", ["{}", "encrypted-file:{}"])
def test_an_encrypted_file_signs(key: Path, form: str) -> None:
    secrets = Secrets(PASSPHRASE)
    signer = signers.open_signer(form.format(key), secrets)
    signature = signer.sign(b"data")
    signer.public_key.verify_signature(signature, b"data")
    assert keys.owner_of(signer.public_key) == "alice"
    assert secrets.asked == ["passphrase of alice.key"]
    assert PASSPHRASE not in repr(signer)


def test_the_public_key_is_known_without_the_passphrase(key: Path) -> None:
    secrets = Secrets(PASSPHRASE)
    assert signers.public_key(str(key), secrets).keyid == keys.read_public(key.with_suffix(".pub")).keyid
    assert secrets.asked == []


def test_a_wrong_passphrase_is_said_so_and_not_repeated(key: Path) -> None:
    with pytest.raises(TrustError) as refused:
        signers.open_signer(str(key), Secrets("not this one"))
    assert refused.value.code == "passphrase_wrong"
    assert "not this one" not in str(refused.value)


def test_a_pair_of_two_different_keys_is_refused(key: Path, tmp_path: Path) -> None:
    keys.create_pair(tmp_path / "bob.key", "bob", PASSPHRASE)
    shutil.copy(tmp_path / "bob.pub", tmp_path / "alice.pub")
    with pytest.raises(TrustError) as refused:
        signers.open_signer(str(key), Secrets(PASSPHRASE))
    assert refused.value.code == "key_mismatch"


def test_a_plain_private_key_is_not_for_people(tmp_path: Path) -> None:
    private, public = keys.generate("alice")
    pem = private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    keys.write_new(tmp_path / "alice.key", pem, 0o600)
    keys.write_public(public, tmp_path / "alice.pub")
    with pytest.raises(TrustError) as refused:
        signers.open_signer(str(tmp_path / "alice.key"), Secrets(""))
    assert refused.value.code == "key_file_invalid"


def test_missing_files_and_unknown_schemes(tmp_path: Path) -> None:
    secrets = Secrets(PASSPHRASE)
    with pytest.raises(NotFound) as missing:
        signers.open_signer(str(tmp_path / "nobody.key"), secrets)
    assert missing.value.code == "key_file_missing"
    with pytest.raises(BadInput) as unknown:
        signers.open_signer("carrier-pigeon:alice", secrets)
    assert unknown.value.code == "signer_unknown"
    with pytest.raises(BadInput) as public:
        signers.open_signer("gcpkms:projects/x", secrets)
    assert public.value.code == "public_key_missing"
    with pytest.raises(BadInput) as number:
        signers.import_hsm("hsm:two", "alice", secrets)
    assert number.value.code == "signer_unknown"
    assert secrets.asked == []


@pytest.fixture
def token(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A SoftHSM token with an EC key of id 2; gives its URI."""
    module = next((path for path in MODULES if Path(path).exists()), None)
    if shutil.which("softhsm2-util") is None or module is None:
        pytest.skip("softhsm2 is not installed")
    (tmp_path / "tokens").mkdir()
    config = tmp_path / "softhsm2.conf"
    config.write_text(f"directories.tokendir = {tmp_path / 'tokens'}\nobjectstore.backend = file\n")
    monkeypatch.setenv("SOFTHSM2_CONF", str(config))
    monkeypatch.setenv("PYKCS11LIB", module)
    made = tmp_path / "ec.pem"
    _ec_key(made)
    for command in (
        ["--init-token", "--free", "--label", LABEL, "--pin", PIN, "--so-pin", "12345678"],
        ["--import", str(made), "--token", LABEL, "--label", "sign", "--id", "02", "--pin", PIN],
    ):
        subprocess.run(["softhsm2-util", *command], check=True, capture_output=True)
    yield f"hsm:2?label={LABEL.replace(' ', '+')}"


def _ec_key(path: Path) -> None:
    from cryptography.hazmat.primitives.asymmetric import ec

    private = ec.generate_private_key(ec.SECP256R1())
    path.write_bytes(private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))


def in_a_process_of_its_own(code: str) -> str:
    """A PKCS#11 module reads its configuration once for each process."""
    import sys

    program = f"import sys\nsys.path.insert(0, {str(Path.cwd())!r})\n{code}"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_pkcs11_token_signs_and_keeps_its_owners_name(token: str) -> None:
    out = in_a_process_of_its_own(
        f"""
from sdx_hub.domain.errors import TrustError
from sdx_hub.trust import keys, signers
from tests.unit.sdx_hub.trust.test_signers import Secrets
secrets = Secrets({PIN!r})
uri, public = signers.import_hsm({token!r}, "bob", secrets)
assert public.owner == "bob" and public.key.scheme == "ecdsa-sha2-nistp256", public
assert keys.parse_public(public.document(), "x").keyid == public.keyid
signer = signers.open_signer(uri, secrets, candidates=[public.key])
assert keys.owner_of(signer.public_key) == "bob"
signature = signer.sign(b"data")
public.key.verify_signature(signature, b"data")
assert secrets.asked and set(secrets.asked) == {{"pin"}}, secrets.asked
try:
    signers.open_signer({token!r}, Secrets("000000")).sign(b"data")
except Exception as error:
    print("refused", type(error).__name__)
try:
    signers.import_hsm("hsm:7?label=sdx+test", "bob", secrets)
except TrustError as error:
    print(error.code)
try:
    signers.import_hsm("hsm:2?label=other", "bob", secrets)
except TrustError as error:
    print(error.code)
print(uri)
"""
    )
    lines = out.splitlines()
    assert lines[0].startswith("refused")
    assert lines[1:3] == ["hsm_failed", "hsm_failed"]
    assert lines[3] == token


def test_without_a_module_the_sentence_says_what_to_do() -> None:
    environment = os.environ.pop("PYKCS11LIB", None)
    try:
        with pytest.raises(TrustError, match="PYKCS11LIB") as refused:
            signers.import_hsm("hsm:2", "bob", Secrets(PIN))
        assert refused.value.code == "hsm_failed"
    finally:
        if environment is not None:
            os.environ["PYKCS11LIB"] = environment
