"""What certificates decide: who is a peer, and whether slices are sealed."""

from __future__ import annotations

import socket
import ssl
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from prefillshare.errors import (
    ConfigError,
    TransferError,
    TransferIdentityError,
    TransferRefused,
)
from prefillshare.transfer.secure.authority import issue, make_authority
from prefillshare.transfer.secure.channel import TlsChannel
from prefillshare.transfer.secure.contexts import Security, SecuritySettings
from prefillshare.transfer.secure.identity import PeerIdentity
from prefillshare.transfer.tcp import frames
from prefillshare.transfer.tcp.sockets import parse_address
from tests.transfer.networked import security
from tests.transfer.pairs import SECONDS, nothing_left_behind
from tests.transfer.tcp.middleman import Unit
from tests.transfer.tcp.rig import SETTINGS, Rig, engine, rig, served


@pytest.fixture(autouse=True)
def nothing_left() -> Iterator[None]:
    with nothing_left_behind():
        yield


@pytest.fixture
def lender(tmp_path: Path) -> Iterator[Rig]:
    """One with a certificate, to which its rightful peer still has a way afterwards."""
    with rig(tmp_path / "ours", sealed=True) as made:
        yield made
        made.works()


def test_a_peer_of_a_foreign_authority_is_refused(lender: Rig, tmp_path: Path) -> None:
    with engine(security(tmp_path / "theirs", "b", "site-b")) as mover:
        with pytest.raises(TransferRefused, match="not of this authority"):
            mover.connect(lender.lender.address)


def test_a_lender_of_a_foreign_authority_is_refused(tmp_path: Path) -> None:
    theirs, ours = (security(tmp_path / n, n, "site") for n in ("theirs", "ours"))
    with engine(theirs) as lender, engine(ours) as mover:
        with pytest.raises(TransferRefused, match="not of this authority"):
            mover.connect(lender.address)


def test_a_peer_who_does_not_trust_this_authority_is_refused(tmp_path: Path) -> None:
    ours, theirs = (security(tmp_path / n, n, "site") for n in ("ours", "theirs"))
    # Its own certificate is of the lender's authority, but it trusts another.
    known = issue(tmp_path / "ours", PeerIdentity("eu", "site", "b"))
    odd = SecuritySettings(ca=theirs.ca, certificate=known.certificate, key=known.key)
    with engine(ours) as lender, engine(odd) as mover:
        with pytest.raises(TransferRefused, match="not of this authority"):
            mover.connect(lender.address)


def expired(folder: Path, host: str) -> SecuritySettings:
    """A certificate whose time is over."""
    made = issue(folder, PeerIdentity("eu", "site", host), days=-1)
    return SecuritySettings(
        ca=folder / "ca.pem", certificate=made.certificate, key=made.key
    )


def context(keys: SecuritySettings, protocol: int) -> ssl.SSLContext:
    """What an engine would not take on, since it looks at its own certificate first."""
    made = ssl.SSLContext(protocol)
    made.check_hostname = False
    made.verify_mode = ssl.CERT_REQUIRED
    made.load_verify_locations(keys.ca)
    made.load_cert_chain(keys.certificate, keys.key)
    return made


def test_an_expired_certificate_is_a_configuration_error(tmp_path: Path) -> None:
    make_authority(tmp_path)
    with pytest.raises(ConfigError, match="has expired on"):
        Security(expired(tmp_path, "old"))


def test_a_peer_with_an_expired_certificate_is_refused(
    lender: Rig, tmp_path: Path
) -> None:
    shown = context(expired(tmp_path / "ours", "old"), ssl.PROTOCOL_TLS_CLIENT)
    where = parse_address(lender.lender.address)
    with socket.create_connection(where, SECONDS) as sock:
        deadline = time.monotonic() + SECONDS
        with pytest.raises(TransferRefused, match="expired"):
            channel = TlsChannel(sock, shown, server_side=False, deadline=deadline)
            channel.recv(1)


def test_a_lender_with_an_expired_certificate_is_refused(tmp_path: Path) -> None:
    ours = security(tmp_path, "a", "site")
    shown = context(expired(tmp_path, "old"), ssl.PROTOCOL_TLS_SERVER)

    def greet(sock: socket.socket) -> None:
        deadline = time.monotonic() + SECONDS
        with pytest.raises(TransferError):
            TlsChannel(sock, shown, server_side=True, deadline=deadline)

    with served(greet) as address, engine(ours) as mover:
        with pytest.raises(TransferRefused, match="expired"):
            mover.connect(address)


def test_a_peer_of_a_foreign_region_is_refused(lender: Rig, tmp_path: Path) -> None:
    keys = security(tmp_path / "ours", "far", "site", region="us")
    with engine(keys) as mover:
        with pytest.raises(TransferIdentityError, match="is of region eu"):
            mover.connect(lender.lender.address)
    both = keys.model_copy(update={"regions": ["eu", "us"]})
    with engine(both) as mover:
        with pytest.raises(TransferRefused, match="is of region us"):
            mover.connect(lender.lender.address)


def test_a_peer_of_another_region_that_is_accepted_is_served(tmp_path: Path) -> None:
    both = [
        security(tmp_path, region, "site", region=region).model_copy(
            update={"regions": ["eu", "us"]}
        )
        for region in ("eu", "us")
    ]
    with engine(both[0]) as lender, engine(both[1]) as mover:
        link = mover.connect(lender.address)
        assert link.peer == lender.engine_id
        # Their sites have one name, and are two.
        assert link._session is not None and link._session.agreed.sealed


def test_a_plain_peer_is_refused_where_tls_is_wanted(lender: Rig) -> None:
    with engine(None) as mover, pytest.raises(TransferRefused, match="wants TLS"):
        mover.connect(lender.lender.address)


def test_a_peer_with_tls_is_refused_where_there_is_none(tmp_path: Path) -> None:
    with engine(None) as lender, engine(security(tmp_path, "b", "site")) as mover:
        with pytest.raises(TransferRefused, match="does not speak TLS"):
            mover.connect(lender.address)


@pytest.mark.parametrize(
    ("ours", "theirs", "sites", "sealed"),
    [
        ("auto", "auto", ("a", "b"), True),
        ("auto", "auto", ("a", "a"), False),
        ("always", "never", ("a", "a"), True),
        ("never", "always", ("a", "a"), True),
        # Only both together can declare that the way between sites is trusted.
        ("never", "auto", ("a", "b"), True),
        ("auto", "never", ("a", "b"), True),
        ("never", "never", ("a", "b"), False),
    ],
)
def test_slices_are_sealed_if_either_side_wants_it(
    tmp_path: Path, ours: str, theirs: str, sites: tuple[str, str], sealed: bool
) -> None:
    keys = [security(tmp_path, f"h{i}", site) for i, site in enumerate(sites)]
    wishes = [SETTINGS.model_copy(update={"sealed": each}) for each in (theirs, ours)]
    with engine(keys[0], wishes[0]) as lender, engine(keys[1], wishes[1]) as mover:
        session = mover.connect(lender.address)._session
        assert session is not None and session.agreed.sealed is sealed


def test_a_lender_that_does_not_seal_is_refused_by_who_wants_it(
    tmp_path: Path,
) -> None:
    always = SETTINGS.model_copy(update={"sealed": "always"})
    with rig(tmp_path) as pair, engine(None, always) as mover:

        def opened(unit: Unit) -> Sequence[bytes | None]:
            if unit.way == "to mover" and unit.index == 0 and unit.kind == "control":
                answer = frames.Hello.decode(unit.data[16:])
                fields = answer.magic, answer.version, False, answer.engine
                return [frames.Hello(*fields, answer.session, answer.secret).encode()]
            return [unit.data]

        pair.man.tamper = opened
        with pytest.raises(TransferRefused, match="does not encrypt"):
            mover.connect(pair.man.address)
        pair.man.tamper = lambda unit: [unit.data]
        assert mover.connect(pair.man.address).peer
