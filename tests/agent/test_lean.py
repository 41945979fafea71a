"""Stand-ins for modules that are hardly ever used: absent until then, real from then on."""

from __future__ import annotations

import subprocess
import sys

PRELUDE = """
import sys
from trimtab_agent.lean import import_lean
import_lean("shutil", "urllib.parse", "msgspec", "paho.mqtt.client")
"""
UNUSED = (
    *("urllib.request", "ipaddress", "bz2", "lzma", "zlib", "http.client", "email"),
    "typing_extensions",
)
USES = f"""
print([name for name in {UNUSED} if name in sys.modules])

# Through the library that got the stand-in.
import urllib.parse
print(urllib.parse.urlsplit("http://[::1]:8/").port)
from paho.mqtt import client
print(client.urllib.request.Request("http://h/").host)

# By an import of one's own, of the module and of a name.
import lzma
print(lzma.decompress(lzma.compress(b"abc")))
from bz2 import compress
print(compress(b"")[:2])
import zlib
print(zlib.__spec__.name)
import urllib.request
print(urllib.request is sys.modules["urllib.request"] is client.urllib.request)

# What was hidden is there again, and both know the same names.
import msgspec, typing_extensions
print(msgspec.json.decode(b"1", type=typing_extensions.Annotated[int, msgspec.Meta(gt=0)]))

# What no module has is missing as ever.
print(hasattr(urllib.request, "no_such"))
"""


def python(code: str) -> list[str]:
    """Runs code in a process of its own, and returns the lines that it prints."""
    done = subprocess.run(
        [sys.executable, "-I", "-c", code], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.splitlines()


def test_what_is_left_out_can_be_used_all_the_same():
    assert python(PRELUDE + USES) == [
        "[]",
        "8",
        "h",
        "b'abc'",
        "b'BZ'",
        "zlib",
        "True",
        "1",
        "False",
    ]


def test_modules_that_are_loaded_already_stay(tmp_path):
    (tmp_path / "in").mkdir()
    code = f"""
import shutil, zlib, urllib.request as first
{PRELUDE}
import urllib.request as second
print(first is second, zlib.crc32(b""))
print(shutil.make_archive({str(tmp_path / "a")!r}, "xztar", {str(tmp_path / "in")!r})[-8:])
"""
    assert python(code) == ["True 0", "a.tar.xz"]
