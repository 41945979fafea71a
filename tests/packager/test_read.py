"""Reading packages: every named corruption is refused, and no flipped byte goes through."""

from __future__ import annotations

import io
import shutil
import zipfile

import msgspec
import pytest

from support.packages import MODEL, make_package, model_bytes
from trimtab.package import read
from trimtab.package.archive import write_archive
from trimtab.package.coding.planes import zstd_frame
from trimtab.package.read import open_package
from trimtab_agent.contract import chunks
from trimtab_agent.errors import CallerError, FormatError, IntegrityError, PackageError


@pytest.fixture
def package(tmp_path):
    return make_package(tmp_path)


def entries_of(path):
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def rewrite(path, entries):
    with path.open("wb") as stream:
        write_archive(stream, entries.items())


def edit_manifest(path, edit):
    """Applies `edit` to the manifest as plain JSON, and puts it back with a right checksum."""
    entries = entries_of(path)
    manifest = msgspec.json.decode(entries["manifest.json"])
    edit(manifest)
    rewrite(path, {**entries, "manifest.json": msgspec.json.encode(manifest)})


def flip(path, at):
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)


def data_start(path, name):
    with zipfile.ZipFile(path) as archive:
        info = archive.getinfo(name)
    return info.header_offset + 30 + len(name)


def test_a_flipped_byte_in_a_chunk_names_the_chunk(package):
    chunk = open_package(package).manifest.file(MODEL).chunks[1]
    flip(package, data_start(package, f"chunks/{chunk.sha256}") + chunk.wire_bytes // 2)
    with pytest.raises(IntegrityError, match=rf"demo-1\.trimtab: chunk {chunk.sha256[:12]}: "):
        open_package(package)


def test_a_flipped_byte_in_the_manifest_names_it(package):
    flip(package, data_start(package, "manifest.json") + 30)
    with pytest.raises(IntegrityError, match=r"demo-1\.trimtab: manifest\.json: Bad CRC-32"):
        open_package(package)


def test_no_flipped_byte_changes_what_is_read(tmp_path):
    """Wherever it falls: the package is refused, or every chunk and the manifest are intact.

    The second happens in fields that nothing reads, such as an entry's date.
    """
    path = make_package(tmp_path, data=b"x" * 50)
    good = open_package(path)
    content = (good.manifest_bytes, list(good.wire_chunks()))
    original = path.read_bytes()
    refused = 0
    for at in range(len(original)):
        flip(path, at)
        try:
            read_back = open_package(path)
        except PackageError:
            refused += 1
        else:
            assert (read_back.manifest_bytes, list(read_back.wire_chunks())) == content, at
        path.write_bytes(original)
    assert refused > 0.85 * len(original)


@pytest.mark.parametrize("keep", [0, 1, 21, 100, 5000, -1, -22, -300])
def test_a_truncated_package_is_refused(package, keep):
    package.write_bytes(package.read_bytes()[:keep])
    with pytest.raises(FormatError, match=r"demo-1\.trimtab is no package, or is cut short"):
        open_package(package)


def drop_chunk(path):
    entries = entries_of(path)
    del entries[min(entries)]
    rewrite(path, entries)


def swap_chunks(path):
    entries = entries_of(path)
    first, second = sorted(entries)[:2]
    entries[first], entries[second] = entries[second], entries[first]
    rewrite(path, entries)


def add_entry(name):
    return lambda path: rewrite(path, {**entries_of(path), name: b"x"})


def drop_manifest(path):
    entries = entries_of(path)
    del entries["manifest.json"]
    rewrite(path, entries)


def deflate(path):
    entries = entries_of(path)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in entries.items():
            archive.writestr(name, data)


def duplicate(path):
    with pytest.warns(UserWarning, match="Duplicate"), zipfile.ZipFile(path, "a") as archive:
        archive.writestr("manifest.json", b"{}")


def set_field(*where, value):
    def edit(manifest):
        for key in where[:-1]:
            manifest = manifest[key]
        manifest[where[-1]] = value

    return lambda path: edit_manifest(path, edit)


def replace_manifest(data):
    return lambda path: rewrite(path, {**entries_of(path), "manifest.json": data})


def name_a_chunk_many_times(path):
    """A few kilobytes that ask for terabytes of decoding."""

    def edit(manifest):
        entry = manifest["files"][1]
        entry["chunks"] = entry["chunks"][:1] * 50_000
        entry["size_bytes"] *= 50_000

    edit_manifest(path, edit)


CORRUPTIONS = {
    "chunk missing": (drop_chunk, FormatError, "is listed but not there"),
    "chunks swapped": (swap_chunks, IntegrityError, "chunk [0-9a-f]{12} has"),
    "chunk too many": (add_entry("chunks/" + "0" * 64), FormatError, "is there but not listed"),
    "foreign entry": (add_entry("readme.txt"), FormatError, "'readme.txt' does not belong"),
    "path upwards": (add_entry("../evil"), FormatError, "'../evil' does not belong"),
    "no manifest": (drop_manifest, FormatError, "it has no manifest.json"),
    "compressed": (deflate, FormatError, "is compressed or encrypted, not stored"),
    "manifest twice": (duplicate, FormatError, "'manifest.json' occurs twice"),
    "no JSON": (replace_manifest(b"{"), FormatError, r"manifest\.json cannot be read"),
    "wrong type": (set_field("name", value=3), FormatError, r"\$\.name"),
    "newer format": (set_field("format", value=3), FormatError, "has format 3; .*update Trimtab"),
    "unknown need": (set_field("requires", value=["x"]), FormatError, "requires x, unknown here"),
    "path outside": (
        set_field("files", 1, "path", value="../m"),
        FormatError,
        "leaves the package",
    ),
    "size of a file": (
        set_field("files", 1, "size_bytes", value=5),
        FormatError,
        "a segment of 300000 bytes where 5 are left",
    ),
    "hash of a file": (
        set_field("files", 1, "sha256", value="0" * 64),
        IntegrityError,
        r"file 'model\.tflite' has the SHA-256",
    ),
    "length on the wire": (
        set_field("files", 1, "chunks", 0, "wire_bytes", value=1),
        IntegrityError,
        "bytes, not 1",
    ),
    "endless work": (name_a_chunk_many_times, FormatError, "files of .* bytes, more than"),
}


@pytest.mark.parametrize("case", CORRUPTIONS)
def test_a_corruption_is_named(package, case):
    corrupt, error, message = CORRUPTIONS[case]
    corrupt(package)
    with pytest.raises(error, match=rf"^demo-1\.trimtab.*{message}"):
        open_package(package)


def test_a_huge_manifest_is_refused_unread(package, monkeypatch):
    monkeypatch.setattr(read, "MAX_MANIFEST_BYTES", 100)
    with pytest.raises(FormatError, match=r"manifest\.json has \d+ bytes, more than 100"):
        open_package(package)


def test_a_zstd_bomb_stops_at_the_promised_size(package):
    """The stream is a true frame of 64 MiB; the manifest promises 1,000 bytes of it."""
    bomb = b"\0" + zstd_frame(bytes(64 * 1024 * 1024), level=3)
    entries = entries_of(package)
    manifest = msgspec.json.decode(entries.pop("manifest.json"))
    file = manifest["files"][1]
    sha256 = chunks.sha256_hex(bomb)
    file["chunks"] = [{"sha256": sha256, "wire_bytes": len(bomb)}]
    file["size_bytes"] = 1000
    golden = manifest["files"][0]["chunks"][0]["sha256"]
    kept = {f"chunks/{sha256}": bomb, f"chunks/{golden}": entries[f"chunks/{golden}"]}
    rewrite(package, {**kept, "manifest.json": msgspec.json.encode(manifest)})
    with pytest.raises(FormatError, match="zstd frame in the coded stream is longer than its file"):
        open_package(package)


def test_a_package_that_changes_after_it_was_opened_is_noticed(package, tmp_path):
    opened = open_package(package)
    swap_chunks(package)
    with pytest.raises(IntegrityError, match=r"^demo-1\.trimtab: chunk"):
        opened.read_file(MODEL)
    with pytest.raises(IntegrityError, match=r"^demo-1\.trimtab: chunk"):
        list(opened.wire_chunks())
    drop_chunk(package)
    with pytest.raises(IntegrityError, match="is gone"):
        list(opened.wire_chunks())


def test_a_package_with_bytes_before_it_still_reads(package):
    """A ZIP file is found from its end; what stands before it is never read."""
    package.write_bytes(b"#!prefix\n" + package.read_bytes())
    assert open_package(package).read_file(MODEL) == model_bytes()


@pytest.mark.parametrize("what", ["missing", "a directory"])
def test_a_file_that_cannot_be_read_is_the_callers_error(what, tmp_path):
    path = tmp_path if what == "a directory" else tmp_path / "gone.trimtab"
    with pytest.raises(CallerError, match=r"cannot read .*: (No such file|Is a directory)"):
        open_package(path)


def test_a_file_that_is_no_zip_is_no_package(tmp_path):
    path = tmp_path / "photo.trimtab"
    path.write_bytes(io.BytesIO(b"\xff\xd8\xff" * 1000).read())
    with pytest.raises(FormatError, match=r"photo\.trimtab is no package"):
        open_package(path)


def test_an_unknown_file_is_named_with_those_there_are(package):
    with pytest.raises(CallerError, match=r"no file 'labels\.txt': it has golden\.npz, model"):
        open_package(package).read_file("labels.txt")


def test_the_name_in_messages_is_the_files(package, tmp_path):
    other = shutil.copy(package, tmp_path / "x.trimtab")
    flip(other, data_start(other, "manifest.json"))
    with pytest.raises(IntegrityError, match=r"^x\.trimtab: manifest\.json"):
        open_package(other)
