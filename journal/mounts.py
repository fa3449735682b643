"""Whether a path lies on a disk that one kernel owns. SQLite's WAL needs memory shared by all that open it.

Pure functions over the text of /proc/self/mountinfo (proc_pid_mountinfo(5)), and one that reads it.
"""

from __future__ import annotations

from pathlib import Path

SHARED_TYPES = frozenset(
    "9p afs beegfs ceph cifs coda glusterfs gfs2 lustre ncpfs nfs nfs4 ocfs2 orangefs prl_fs smb3 smbfs"
    " vboxsf virtiofs vmhgfs".split()
)
"""File systems that another kernel may write to behind this one's back: there a WAL is lost or torn."""

SANDBOX_TYPES = frozenset({"9p", "virtiofs"})
"""Of these, those that a sandbox (gVisor, Kata) has for its root: there its one kernel owns all of them."""

LOCAL_FUSE_TYPES = frozenset({"fuse.fuse-overlayfs"})
"""FUSE that is known to be a local disk, the root of rootless containers. All other FUSE is refused: most of
it is a network (sshfs, s3fs, gcsfuse), and whether shared memory works there cannot be told."""


def shared_type(path: str, mountinfo: str) -> str | None:
    """The type of the file system of `path` (absolute, links resolved) if it is to be refused, else None."""
    found = _type_at(path, mountinfo)
    if found in SANDBOX_TYPES and found == _type_at("/", mountinfo):
        return None
    if found in SHARED_TYPES or (found.startswith("fuse.") and found not in LOCAL_FUSE_TYPES):
        return found
    return None


def shared_type_of(path: Path) -> str | None:
    """As `shared_type`, for this process's mounts; None where the system does not list them (not Linux)."""
    try:
        mountinfo = Path("/proc/self/mountinfo").read_text(errors="surrogateescape")
    except FileNotFoundError:
        return None
    return shared_type(str(path.resolve()), mountinfo)


def _type_at(path: str, mountinfo: str) -> str:
    """The type of the mount that `path` lies on; empty when none is listed."""
    found, longest = "", -1
    for line in mountinfo.splitlines():
        fields, _, about = line.partition(" - ")
        if len(fields.split()) < 5 or not about:
            continue
        point = _unescape(fields.split()[4])
        # Later lines lie on top of earlier ones with the same mount point.
        if (path == point or path.startswith(point.rstrip("/") + "/")) and len(point) >= longest:
            found, longest = about.split()[0], len(point)
    return found


def _unescape(field: str) -> str:
    for code, character in (("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")):
        field = field.replace(code, character)
    return field
