"""Members of a zip archive, looked at before they are unpacked; nothing is written to disk."""

import pathlib
import zipfile

ENCRYPTED = 0x1
PLAIN_OR_DEFLATED = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)


def list_members(source):
    """Returns {name: `zipfile.ZipInfo`}, each with a name and sizes that can be true.

    Raises:
        WeightsFileError: a name is absolute, climbs out or stands twice; a member is encrypted, or
            compressed in another way than deflate; sizes contradict each other or the file's.
    """
    members = {}
    with zipfile.ZipFile(source.stream) as archive:
        for info in archive.infolist():
            path = pathlib.PurePosixPath(info.filename.replace("\\", "/"))
            if path.is_absolute() or ".." in path.parts or "\\" in info.filename:
                raise source.error(
                    f"has a member that would leave its folder: {info.filename[:100]!r}"
                )
            if info.filename in members:
                raise source.error(f"has two members of the name {info.filename[:100]!r}")
            if info.flag_bits & ENCRYPTED or info.compress_type not in PLAIN_OR_DEFLATED:
                raise source.error(
                    f"member {info.filename[:100]!r} is encrypted, or compressed in a rare way"
                )
            if info.compress_type == zipfile.ZIP_STORED and info.file_size != info.compress_size:
                raise source.error(f"member {info.filename[:100]!r} declares two sizes")
            members[info.filename] = info
    if sum(info.compress_size for info in members.values()) > source.size:
        raise source.error("has members that overlap, or end behind the file's end")
    return members


def read_member(source, archive, info):
    """Returns a member's bytes, as many as it declares; `zipfile` checks their checksum."""
    if info.compress_type != zipfile.ZIP_STORED:
        source.allow(info.file_size, info.filename)
    with archive.open(info) as member:
        data = member.read(info.file_size)
    if len(data) != info.file_size:
        raise source.error(
            f"member '{info.filename}' ends after {len(data)} of {info.file_size} bytes"
        )
    return data
