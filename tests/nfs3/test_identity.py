"""Under whose ids a call runs: AUTH_SYS fields, squashing, and that no identity leaks into another's call."""
from __future__ import annotations

import os
import random
from collections.abc import Iterator

import pytest

from tests.tools.nfs3 import (
    ACCES,
    INVAL,
    NFS,
    PERM,
    UNSTABLE,
    Nfs3,
    Proc,
    Sattr3,
    pack_diropargs3,
    pack_opaque,
    pack_READ3args,
    unpack_result,
)
from tests.tools.rpc import (
    AUTH_BADCRED,
    AUTH_REJECTEDCRED,
    AUTH_TOOWEAK,
    NONE,
    Auth,
    Call,
    Tcp,
    auth_sys,
    pipeline,
)

from .conftest import ANON_GID, ANON_UID, Exports, Spot, make_spot

pytestmark = pytest.mark.root
NOBODY = 0xFFFFFFFF


@pytest.fixture(params=["squash", "all"])
def squashed(request: pytest.FixtureRequest, exports: Exports, nfs: Nfs3, spot: Spot) -> Spot:
    """A fresh directory in an export with root_squash, and in one with all_squash."""
    return make_spot(spot.server, exports.base / request.param, nfs, spot.server.root(exports.base / request.param))


def owner(spot: Spot, name: bytes) -> tuple[int, int]:
    info = spot.local(name).lstat()
    return info.st_uid, info.st_gid


# --- squashing ------------------------------------------------------------------------------------------------------------

def test_squash_root_becomes_the_anonymous_user(squashed: Spot) -> None:
    squashed.nfs.create(squashed.fh, b"new").must()
    assert owner(squashed, b"new") == (ANON_UID, ANON_GID)


def test_squash_root_may_not_read_a_0600_file_of_root(squashed: Spot) -> None:
    squashed.local(b"secret").write_bytes(b"x")
    squashed.local(b"secret").chmod(0o600)
    fh = squashed.nfs.lookup(squashed.fh, b"secret").must().h
    assert squashed.nfs.read(fh).status == ACCES
    assert squashed.nfs.write(fh, b"y").status == ACCES
    assert squashed.nfs.setattr(fh, Sattr3(mode=0o666)).status == PERM
    assert squashed.nfs.access(fh).must().access == 0


def test_squash_of_users_depends_on_the_export(exports: Exports, spot: Spot) -> None:
    for name, want in (("rw", (1000, 2000)), ("squash", (1000, 2000)), ("all", (ANON_UID, ANON_GID))):
        export = exports.base / name
        here = make_spot(spot.server, export, spot.nfs, spot.server.root(export))
        here.as_(auth_sys(1000, 2000)).create(here.fh, b"new").must()
        assert owner(here, b"new") == want


def test_squash_maps_gid_0_of_a_user_too(exports: Exports, spot: Spot) -> None:
    """root_squash also takes gid 0 and gid 0 inside the list of groups away."""
    export = exports.base / "squash"
    here = make_spot(spot.server, export, spot.nfs, spot.server.root(export))
    here.local(b"g").write_bytes(b"x")
    here.local(b"g").chmod(0o040)
    fh = here.nfs.lookup(here.fh, b"g").must().h
    for cred in (auth_sys(1000, 0), auth_sys(1000, 1000, (0,)), auth_sys(1000, 1000, (5, 0, 7))):
        assert here.as_(cred).read(fh).status == ACCES
    here.as_(auth_sys(1000, 0)).create(here.fh, b"new").must()
    assert owner(here, b"new")[1] != 0


def test_squash_all_drops_the_callers_groups(exports: Exports, spot: Spot) -> None:
    export = exports.base / "all"
    here = make_spot(spot.server, export, spot.nfs, spot.server.root(export))
    here.local(b"g").write_bytes(b"x")
    os.chown(here.local(b"g"), 0, 4242)
    here.local(b"g").chmod(0o040)
    fh = here.nfs.lookup(here.fh, b"g").must().h
    assert here.as_(auth_sys(1000, 4242, (4242,))).read(fh).status == ACCES


def test_no_root_squash_keeps_root(spot: Spot) -> None:
    fh = spot.file(data=b"x", mode=0)
    os.chown(spot.local(b"file"), 1000, 1000)
    assert spot.nfs.read(fh).ok and spot.nfs.setattr(fh, Sattr3(uid=0)).ok


# --- odd credentials (attacks B01, B03, B05) --------------------------------------------------------------------------------

@pytest.mark.parametrize("cred", [
    auth_sys(NOBODY, 1000), auth_sys(NOBODY, NOBODY), auth_sys(NOBODY, 0), auth_sys(NOBODY, NOBODY, (NOBODY,)),
], ids=["uid", "uid-gid", "uid-gid0", "all"])
def test_uid_minus_one_is_never_root(spot: Spot, cred: Auth) -> None:
    """B01: setfsuid(-1) is a silent no-op; the call must not run under the ids that were there before."""
    fh = spot.file(data=b"secret", mode=0o600)
    assert spot.nfs.read(fh).ok  # the worker runs as root now
    reply = spot.as_(cred).raw(Proc.READ, pack_READ3args(fh, 0, 10))
    assert reply.auth_error == AUTH_BADCRED or unpack_result(Proc.READ, reply.body).status == ACCES
    reply = spot.as_(cred).raw(Proc.MKDIR, pack_diropargs3(spot.fh, b"d") + bytes(24))
    if reply.auth_error is None:
        assert owner(spot, b"d")[0] not in (0, NOBODY)


@pytest.mark.parametrize("cred", [auth_sys(1000, NOBODY), auth_sys(1000, 1000, (NOBODY,)), auth_sys(1000, NOBODY, (5,))],
                         ids=["gid", "list", "gid-list"])
def test_gid_minus_one_is_never_gid_0(spot: Spot, cred: Auth) -> None:
    fh = spot.file(data=b"secret", mode=0o060)
    assert spot.nfs.read(fh).ok
    reply = spot.as_(cred).raw(Proc.READ, pack_READ3args(fh, 0, 10))
    assert reply.auth_error == AUTH_BADCRED or unpack_result(Proc.READ, reply.body).status == ACCES


@pytest.mark.parametrize("uid", [65536, 1 << 31, (1 << 32) - 2])
def test_large_uid_is_not_cut(spot: Spot, uid: int) -> None:
    """B05: 65536 cut to 16 bits would be root."""
    fh = spot.file(data=b"secret", mode=0o600)
    assert spot.as_(auth_sys(uid, uid)).read(fh).status == ACCES
    spot.as_(auth_sys(uid, uid)).create(spot.fh, b"new").must()
    assert owner(spot, b"new") == (uid, uid)


def test_sixteen_groups_all_count(spot: Spot) -> None:
    fh = spot.file(data=b"x", mode=0o040)
    gids = tuple(range(5000, 5016))
    for gid in (gids[0], gids[7], gids[15]):
        os.chown(spot.local(b"file"), 0, gid)
        assert spot.as_(auth_sys(1000, 1000, gids)).read(fh).ok
    os.chown(spot.local(b"file"), 0, 5016)
    assert spot.as_(auth_sys(1000, 1000, gids)).read(fh).status == ACCES


def test_seventeen_groups_are_badcred(spot: Spot) -> None:
    """RFC 5531 appendix A: gids<16>; never cut silently."""
    reply = spot.as_(auth_sys(1000, 1000, tuple(range(17)))).raw(Proc.GETATTR, pack_opaque(spot.fh))
    assert reply.auth_error == AUTH_BADCRED


@pytest.mark.parametrize("machine", [b"n" * 256, b"n" * 300])
def test_machine_name_beyond_255_is_badcred(spot: Spot, machine: bytes) -> None:
    reply = spot.as_(auth_sys(0, 0, machine=machine)).raw(Proc.GETATTR, pack_opaque(spot.fh))
    assert reply.auth_error == AUTH_BADCRED


@pytest.mark.parametrize("machine", [b"", b"n" * 255, b"\xff\xfe", b"a\nb", b"\x1b[31m", b"%n%s%x", b"a\0b"])
def test_machine_name_of_any_bytes_is_served(spot: Spot, machine: bytes) -> None:
    assert spot.as_(auth_sys(0, 0, machine=machine)).getattr(spot.fh).ok
    assert b"\x1b[31m" not in spot.server.log_file.read_bytes()


@pytest.mark.parametrize("body", [b"", b"\0" * 4, auth_sys(0, 0).body[:-1], auth_sys(0, 0).body + bytes(4),
                                  bytes(8) + b"\xff" * 12, bytes(4) + b"\xff\xff\xff\xfc" + bytes(12)],
                         ids=["empty", "short", "cut", "long", "groups", "name"])
def test_malformed_authsys_body_is_badcred(spot: Spot, body: bytes) -> None:
    reply = spot.as_(Auth(1, body)).raw(Proc.GETATTR, pack_opaque(spot.fh))
    assert reply.auth_error == AUTH_BADCRED


def test_every_cut_of_an_authsys_body_is_badcred(spot: Spot) -> None:
    whole = auth_sys(1000, 1000, (1, 2, 3), machine=b"machine").body
    for size in range(0, len(whole), 4):
        reply = spot.as_(Auth(1, whole[:size])).raw(Proc.GETATTR, pack_opaque(spot.fh))
        assert reply.auth_error == AUTH_BADCRED, size


def test_auth_none_is_anonymous_or_too_weak(spot: Spot) -> None:
    fh = spot.file(data=b"secret", mode=0o600)
    reply = spot.as_(NONE).raw(Proc.READ, pack_READ3args(fh, 0, 10))
    refused = reply.auth_error in (AUTH_TOOWEAK, AUTH_REJECTEDCRED)
    assert refused or unpack_result(Proc.READ, reply.body).status == ACCES


@pytest.mark.parametrize("flavor", [2, 3, 6, 7, 390003, 0xFFFFFFFF])
def test_unknown_flavor_is_refused(spot: Spot, flavor: int) -> None:
    reply = spot.as_(Auth(flavor, bytes(8))).raw(Proc.GETATTR, pack_opaque(spot.fh))
    assert reply.auth_error in (AUTH_BADCRED, AUTH_REJECTEDCRED, AUTH_TOOWEAK)


@pytest.mark.parametrize("cred", [NONE, Auth(6, bytes(8)), Auth(1, b""), Auth(99, bytes(400))], ids=["none", "gss", "bad", "99"])
def test_null_is_answered_for_any_flavor(spot: Spot, cred: Auth) -> None:
    """Protocol note of RFC 5531: clients probe with what they have."""
    reply = spot.as_(cred).raw(Proc.NULL, b"")
    assert reply.ok or reply.auth_error is not None
    if cred == NONE:
        assert reply.ok


# --- no leak between calls (B07) --------------------------------------------------------------------------------------------

@pytest.fixture
def users_dirs(spot: Spot) -> Iterator[dict[int, bytes]]:
    """A 0700 directory for each of several users; uid -> handle."""
    dirs = {}
    for uid in (0, 1000, 1001, 2000, 65536):
        name = b"u%d" % uid
        fh = spot.dir(name, 0o700)
        os.chown(spot.local(name), uid, uid)
        dirs[uid] = fh
    yield dirs


def test_mixed_callers_on_one_connection_each_run_as_themselves(spot: Spot, users_dirs: dict[int, bytes]) -> None:
    """2,000 pipelined calls of five users, right and wrong directories mixed: each is judged by its own ids."""
    rng = random.Random(7)
    calls, wants = [], []
    for number in range(2000):
        uid, target = rng.choice(list(users_dirs)), rng.choice(list(users_dirs))
        name = b"%d" % number
        calls.append(Call(NFS, 3, Proc.MKDIR, pack_diropargs3(users_dirs[target], name) + bytes(24), auth_sys(uid, uid)))
        wants.append((uid, target, name))
    transport = Tcp(spot.server.address, timeout_s=30)
    for start in range(0, len(calls), 50):
        for reply, (uid, target, name) in zip(pipeline(transport, calls[start:start + 50]), wants[start:start + 50], strict=True):
            res = unpack_result(Proc.MKDIR, reply.body)
            path = b"u%d/%s" % (target, name)
            if uid in (0, target):
                assert res.ok and owner(spot, path) == (uid, uid)
            else:
                assert res.status == ACCES and not spot.local(path).exists()
    transport.close()


def test_user_after_root_on_the_same_connection_is_not_root(spot: Spot) -> None:
    fh = spot.file(data=b"secret", mode=0o600)
    transport = Tcp(spot.server.address)
    for _ in range(50):
        assert Nfs3(transport).read(fh).ok
        assert Nfs3(transport, auth_sys(1000, 1000)).read(fh).status == ACCES
        assert Nfs3(transport, auth_sys(1000, 1000)).write(fh, b"x").status == ACCES
    transport.close()


def test_failed_call_of_a_user_leaves_root_root(spot: Spot) -> None:
    """After an error path the next call still has its own ids."""
    fh = spot.dir(mode=0o700)
    transport = Tcp(spot.server.address)
    for number in range(50):
        user = Nfs3(transport, auth_sys(1000, 1000))
        assert user.create(fh, b"no").status == ACCES
        assert user.lookup(fh, b"no").status == ACCES
        assert user.symlink(fh, b"no", b"").status in (ACCES, INVAL)
        assert Nfs3(transport).create(fh, b"%d" % number).must().a.uid == 0
    transport.close()


def test_groups_of_one_call_do_not_reach_the_next(spot: Spot) -> None:
    fh = spot.file(data=b"x", mode=0o040)
    os.chown(spot.local(b"file"), 0, 4242)
    transport = Tcp(spot.server.address)
    for _ in range(50):
        assert Nfs3(transport, auth_sys(1000, 1000, (4242,))).read(fh).ok
        assert Nfs3(transport, auth_sys(1000, 1000)).read(fh).status == ACCES
        assert Nfs3(transport, auth_sys(1001, 1001, (4243,))).read(fh).status == ACCES
    transport.close()


def test_writers_of_one_file_lose_their_right_when_its_mode_changes(spot: Spot) -> None:
    """What is known of the rights to a file that many write is kept over their own WRITEs, not over a chmod between two."""
    fh = spot.file(mode=0o666)
    transport = Tcp(spot.server.address)
    users = [Nfs3(transport, auth_sys(uid, uid)) for uid in range(1000, 1010)]
    for number in range(100):
        assert users[number % 10].write(fh, b"x", number, stable=UNSTABLE).ok
    spot.local(b"file").chmod(0o600)
    assert [user.write(fh, b"y", stable=UNSTABLE).status for user in users] == [ACCES] * 10
    spot.local(b"file").chmod(0o606)
    os.chown(spot.local(b"file"), 0, 1003)
    assert [user.write(fh, b"z", stable=UNSTABLE).ok for user in users] == [uid != 1003 for uid in range(1000, 1010)]
    assert spot.local(b"file").read_bytes() == b"z" + b"x" * 99
    transport.close()


def test_write_of_a_user_clears_setuid_whoever_wrote_before(spot: Spot) -> None:
    """The kernel takes the setuid bit when a user writes, not when root does, whoever wrote before."""
    fh = spot.file(data=b"data", mode=0o4777)
    transport = Tcp(spot.server.address)
    root, user, other = (Nfs3(transport, auth_sys(uid, uid)) for uid in (0, 1000, 1001))
    for before in (root, other, user):
        spot.local(b"file").chmod(0o4777)
        assert before.getattr(fh).ok and root.write(fh, b"r", stable=UNSTABLE).ok
        assert spot.local(b"file").stat().st_mode & 0o7777 == 0o4777
        assert before.lookup(spot.fh, b"file").ok and user.write(fh, b"u", stable=UNSTABLE).ok
        assert spot.local(b"file").stat().st_mode & 0o7777 == 0o777
    transport.close()
