"""What the libraries of object stores log on the way does not reach the user; errors of others do."""

import asyncio
import gc
import logging

import pytest

from cvmae.storage.remote_path import RemotePath
from tests.servers import serving


def leave_unread(error: Exception) -> None:
    """Runs a task that raises, and deletes it without a look at its error, as asyncio then logs."""

    async def fail():
        raise error

    async def begin():
        task = asyncio.ensure_future(fail())
        await asyncio.sleep(0)
        del task

    asyncio.run(begin())
    gc.collect()


def test_libraries_are_quiet_on_the_way(caplog):
    aiohttp = pytest.importorskip("aiohttp")
    caplog.set_level(logging.INFO)
    with serving("s3") as bucket:
        RemotePath(f"{bucket}/a").write_bytes(b"x")
        assert RemotePath(f"{bucket}/a").is_file()
        leave_unread(aiohttp.ClientConnectionResetError("Cannot write to closing transport"))
        assert [record for record in caplog.records if "boto" in record.name or record.name == "asyncio"] == []
        leave_unread(ValueError("of this program"))
        assert [record.name for record in caplog.records if record.exc_info] == ["asyncio"]
