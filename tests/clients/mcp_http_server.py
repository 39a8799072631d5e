"""An MCP server over streamable HTTP, with the official library. Prints its port; ends when standard input ends."""

import os
import socket
import sys
import threading

import uvicorn
from mcp.server import MCPServer

server = MCPServer("independent")


@server.tool()
def add(a: int, b: int) -> dict[str, int]:
    """Adds two numbers"""
    return {"sum": a + b}


def exit_with_parent():
    sys.stdin.read()
    os._exit(0)


listener = socket.socket()
listener.bind(("127.0.0.1", 0))
threading.Thread(target=exit_with_parent, daemon=True).start()
print(listener.getsockname()[1], flush=True)
uvicorn.Server(uvicorn.Config(server.streamable_http_app(), log_level="warning")).run(sockets=[listener])
