#!/usr/bin/env python3
"""MCP server with the official SDK (`pip install mcp`): converts lengths. docs/mcp.md says what Phoenix makes of it."""
from typing import Literal

from mcp.server import MCPServer

METRES = {"m": 1.0, "km": 1000.0, "mi": 1609.344, "ft": 0.3048}

server = MCPServer("units")


@server.tool()
def convert_length(value: float, unit: Literal["m", "km", "mi", "ft"], into: Literal["m", "km", "mi", "ft"]) -> dict[str, float]:
    """Converts a length into another unit."""
    return {into: value * METRES[unit] / METRES[into]}


if __name__ == "__main__":
    server.run()
