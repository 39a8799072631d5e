"""What programs with the official MCP client for Python do, with and without a handshake.

Arguments: the address of the gateway, and the program `phoenix`.
"""

import asyncio
import sys

from mcp import Client, StdioServerParameters

url, phoenix = sys.argv[1:]
MODERN = "2026-07-28"


async def use(target, mode):
    reports = []

    async def progress(value, total, message):
        reports.append((value, total, message))

    async with Client(target, mode=mode) as client:
        assert (client.protocol_version == MODERN) == (mode == "auto"), client.protocol_version
        names = [tool.name for tool in (await client.list_tools()).tools]
        assert "chat" in names and "git_agent.git_status" in names, names
        answer = await client.call_tool("chat", {"message": "hello", "agent": "echo_agent"}, progress_callback=progress)
        assert not answer.is_error and answer.content[0].text == "hello", answer
        assert reports and "is accepted" in reports[0][2], reports
        wrong = await client.call_tool("chat", {"message": ""})
        assert wrong.is_error and "`message`" in wrong.content[0].text, wrong


async def main():
    for mode in ("auto", "legacy"):
        await use(f"{url}/mcp", mode)
        await use(StdioServerParameters(command=phoenix, args=["mcp", "--url", url]), mode)


asyncio.run(main())
