"""What stands for a file system in handles (fsid.c): its UUID, not the number of the device that it lies on today."""
from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from nfsserver._vnode import ffi, lib

from tests.tools.nfs3 import Nfs3
from tests.tools.worker import OneWorker, export_of

EXPORT = 1
SIZE = 320 << 20   # sparse; mkfs.xfs makes nothing below 300 MB


def run(*words: str) -> str:
    done = subprocess.run(words, capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"{words[0]}: {(done.stderr or done.stdout).strip().splitlines()[-1]}")
    return done.stdout.strip()


class Disks:
    """Images as loop devices, each attached after those that are there."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.devices: dict[Path, str] = {}
        self.mounted: list[Path] = []

    def image(self, name: str, *mkfs: str) -> Path:
        path = self.directory / name
        with path.open("wb") as file:
            file.truncate(SIZE)
        if mkfs:
            run(*mkfs, str(path))
        return path

    def attach(self, image: Path) -> str:
        self.devices[image] = run("losetup", "-f", "--show", str(image))
        return self.devices[image]

    def detach(self, image: Path) -> None:
        subprocess.run(["losetup", "-d", self.devices.pop(image)], check=True)

    def mount(self, image: Path, place: Path) -> None:
        run("mount", self.attach(image), str(place))
        self.mounted.append(place)

    def unmount(self, image: Path, place: Path) -> None:
        subprocess.run(["umount", str(place)], check=True)
        self.mounted.remove(place)
        self.detach(image)

    def clear(self) -> None:
        for place in self.mounted:
            subprocess.run(["umount", str(place)], check=True)
        for image in list(self.devices):
            self.detach(image)


@pytest.fixture
def disks(tmp_path: Path) -> Iterator[Disks]:
    made = Disks(tmp_path)
    yield made
    made.clear()


def ask(directory: Path, place: Path, question: Callable[[Nfs3, bytes], tuple[int, bytes]]) -> tuple[int, bytes]:
    """A worker of its own asks one thing and ends; its key stays in `directory`."""
    with OneWorker(directory, [export_of(place, EXPORT)]) as worker:
        nfs = Nfs3(worker.tcp())
        try:
            return question(nfs, worker.root(EXPORT))
        finally:
            nfs.close()


@pytest.mark.root
@pytest.mark.skipif(not shutil.which("mkfs.xfs"), reason="needs mkfs.xfs")
def test_handles_and_fsid_of_xfs_stand_when_the_disk_has_another_number(disks: Disks, tmp_path: Path) -> None:
    """xfs has the device number as f_fsid (statfs(2)), which another order of disks changes."""
    place, image, other = tmp_path / "mnt", disks.image("xfs", "mkfs.xfs", "-q"), disks.image("other")
    place.mkdir()
    disks.mount(image, place)
    (place / "file").write_bytes(b"data")
    device = place.stat().st_dev

    def first(nfs: Nfs3, root: bytes) -> tuple[int, bytes]:
        res = nfs.lookup(root, b"file").must()
        return res.a.fsid, res.h

    fsid, fh = ask(tmp_path, place, first)
    disks.unmount(image, place)
    disks.attach(other)
    disks.mount(image, place)
    if place.stat().st_dev == device:
        pytest.skip("the disk has its old number")
    again = ask(tmp_path, place, lambda nfs, root: (nfs.getattr(fh).must().a.fsid, nfs.read(fh).must().data))
    assert again == (fsid, b"data")


def uuid_by(directory: Path, device: int) -> bytes:
    out = ffi.new("u8[16]")
    return bytes(ffi.buffer(out)[:lib.uuid_of_device(os.fsencode(directory), device, out)])


@pytest.mark.root
@pytest.mark.parametrize(("name", "uuid"), [
    ("0f1e2d3c-4b5a-6978-8796-a5b4c3d2e1f0", "0f1e2d3c4b5a69788796a5b4c3d2e1f0"), ("6A3F-92C1", "6a3f92c1"), ("not-a-uuid", ""),
    ("0f1e2d3c-4b5a-6978-8796-a5b4c3d2e1f0-11", ""), ("abc", "")])
def test_uuid_of_a_device_is_found_by_udevs_link(disks: Disks, tmp_path: Path, name: str, uuid: str) -> None:
    """Where the kernel does not tell (before Linux 6.9)."""
    links = tmp_path / "by-uuid"
    links.mkdir()
    device = disks.attach(disks.image("disk"))
    (links / "0000-0000").symlink_to("/dev/null")
    (links / "dead").symlink_to("nowhere")
    (links / name).symlink_to(device)
    assert uuid_by(links, os.stat(device).st_rdev).hex() == uuid
    assert uuid_by(links, os.makedev(400, 1)) == b"" == uuid_by(tmp_path / "absent", 1)
