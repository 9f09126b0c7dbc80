"""The file system under a folder: whether it is another machine's, as Linux tells."""

from __future__ import annotations

import re
from pathlib import Path

_MOUNTS = Path("/proc/self/mountinfo")
_NETWORK = re.compile(
    r"nfs\d?|cifs|smb\w*|9p|afs|ncpfs|lustre|gpfs|ceph|glusterfs|beegfs\w*|pvfs2|orangefs|panfs|"
    r"ocfs2|gfs2?|moosefs|juicefs|drvfs|vboxsf|"
    r"fuse\.(sshfs|s3fs|gcsfuse|goofys|rclone|glusterfs|ceph\S*|juicefs|mfs|davfs\S*|smbnetfs|"
    r"blobfuse\S*|lustre|beegfs\S*|gvfsd-fuse)"
)
"""Types of file systems that another machine, or the host of a virtual one, keeps."""


def network_file_system(folder: Path) -> str:
    """The type of the file system under a folder, where it is of a network; else empty.

    It is empty, too, where nothing tells: on other systems than Linux.
    """
    try:
        mounts = _MOUNTS.read_text(encoding="utf-8", errors="surrogateescape").splitlines()
    except OSError:
        return ""
    found, kind = -1, ""
    place = folder.resolve()
    for mount in mounts:
        before, _, after = mount.partition(" - ")
        fields, types = before.split(" "), after.split(" ")
        if len(fields) < 5:
            continue
        point = Path(re.sub(r"\\(\d{3})", lambda code: chr(int(code[1], 8)), fields[4]))
        if place.is_relative_to(point) and len(point.parts) >= found:  # the last one lies on top
            found, kind = len(point.parts), types[0]
    return kind if _NETWORK.fullmatch(kind) else ""
